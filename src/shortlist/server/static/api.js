// The service, as the page calls it.

const KEY = "shortlist-key";

/** What went wrong: `status` of HTTP (0: no answer), the server's own words, seconds after which to try again (0: not said). */
export class Problem extends Error {
  constructor(status, message, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** The key lives as long as this tab. */
export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const keepKey = (key) => sessionStorage.setItem(KEY, key);
export const dropKey = () => sessionStorage.removeItem(KEY);

/** The JSON that a path answers with. Throws Problem, and AbortError when the signal says so. */
async function call(path, signal, body) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  if (hasKey()) headers.Authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
  let response, reply;
  try {
    response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body: JSON.stringify(body), signal });
    reply = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (!response) throw new Problem(0, "The server does not answer. Is shortlist serve still running?");
    reply = { error: { message: response.ok ? "The answer broke off." : response.statusText } };
  }
  if (response.ok && !reply.error) return reply;
  throw new Problem(
    response.status,
    reply.error?.message ?? response.statusText,
    Number(response.headers.get("Retry-After")) || 0,
  );
}

export const indexes = async (signal) => (await call("v1/indexes", signal)).data;
export const search = (body, signal) => call("v1/search", signal, body);
