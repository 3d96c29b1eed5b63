// Elements. Text goes in as text, never as markup.

/** An element with attributes (null and false leave one out, `on…` are listeners) and children. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false && value !== undefined) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child || child === 0));
  return element;
}

export const unseen = (text) => el("span", { class: "unseen" }, text);

/** Language and direction of a text. The language decides where it is known: an Arabic passage may begin with a Latin name. */
export function tongue(lang) {
  return { lang: lang || null, dir: RIGHT_TO_LEFT.has(lang.split("-")[0]) ? "rtl" : "auto" };
}
const RIGHT_TO_LEFT = new Set(["ar", "arc", "ckb", "dv", "fa", "he", "ks", "nqo", "ps", "sd", "syr", "ug", "ur", "yi"]);

const NAMES = new Intl.DisplayNames(["en"], { type: "language", fallback: "code" });

export function languageName(tag) {
  try {
    return tag ? NAMES.of(tag) : "unknown";
  } catch {
    return tag; // no tag of BCP 47
  }
}

export const whole = (number) => number.toLocaleString("en");

export function milliseconds(ms) {
  return ms < 0.05 ? "<0.1" : ms < 99.95 ? ms.toFixed(1) : whole(Math.round(ms));
}

/** A text with matched words marked and the deciding sentence set off. Ranges are [start, stop) in code points. */
export function marked(text, ranges = [], sentence = null, shorten = false) {
  const chars = Array.from(text);
  let [first, last] = sentence?.sentence ?? [0, 0];
  if (first === 0 && last === chars.length) last = 0; // the only sentence decides in any case
  const begin = shorten ? beginning(chars, sentence?.sentence[0] ?? ranges[0]?.[0] ?? 0) : 0;
  const cuts = [begin, chars.length, first, last, ...ranges.flat()].filter((cut) => cut >= begin && cut <= chars.length);
  const edges = [...new Set(cuts)].sort((a, b) => a - b);
  const nodes = begin > 0 ? ["… "] : [];
  let into = nodes;
  edges.slice(0, -1).forEach((start, place) => {
    const stop = edges[place + 1];
    if (start === first && last > start) {
      into = [unseen("Deciding sentence: ")];
      nodes.push(into);
    }
    const piece = chars.slice(start, stop).join("");
    into.push(ranges.some(([a, b]) => a <= start && stop <= b) ? el("mark", {}, piece) : piece);
    if (stop === last && into !== nodes) into = nodes;
  });
  return nodes.map((node) => (Array.isArray(node) ? el("span", { class: "deciding" }, node) : node));
}

/** Where a shortened text begins so that what matters stands near its top. */
function beginning(chars, focus) {
  if (focus < 160) return 0;
  const space = chars.lastIndexOf(" ", focus - 40);
  return space > focus - 120 ? space + 1 : focus;
}
