// The page: what is asked stands in its address, the answer below. See api.js, view.js, columns.js, dom.js.

import { Problem, dropKey, hasKey, indexes, keepKey, search } from "./api.js";
import { sideBySide } from "./columns.js";
import { el, languageName, whole } from "./dom.js";
import { STRATEGIES, about, explained, hit, notes, skeleton, timings } from "./view.js";

const $ = (id) => document.getElementById(id);
const DEBOUNCE_MS = 120;
const SETTLED_MS = 1500; // after which the next letter is a new question in the browser's history
const SIDE_BY_SIDE = "side-by-side";
const K = 10;
const RERANKED = new Set(["two-stage", "rerank"]); // where a sentence can have decided
const HIDDEN_FIELDS = new Set(["and", "or", "not"]); // words of the filter language

let served = []; // what /v1/indexes says
let state = { q: "", index: "", strategy: "", explain: true, where: {} };
let running = null; // AbortController of the questions that are on their way
let typing = null;
let settling = null;
let again = null;
let fresh = true; // whether the next letter begins an entry of the history

const index = () => served.find((one) => one.name === state.index) ?? served[0];

// --- the address holds the state

/** A value in the address: text as it is, unless it reads like a number, true, false or a quoted text. */
const written = (value) => (typeof value === "string" && read(value) === value ? value : JSON.stringify(value));

function read(text) {
  try {
    const value = JSON.parse(text);
    return ["string", "number", "boolean"].includes(typeof value) ? value : text;
  } catch {
    return text;
  }
}

function fromAddress() {
  const asked = new URLSearchParams(location.search);
  const where = {};
  for (const [name, text] of asked) {
    const [kind, field] = [name.slice(0, name.indexOf(".")), name.slice(name.indexOf(".") + 1)];
    if (HIDDEN_FIELDS.has(field)) continue;
    if (kind === "is") where[field] = read(text);
    if (kind === "min" && Number.isFinite(Number(text))) where[field] = { ...where[field], gte: Number(text) };
    if (kind === "max" && Number.isFinite(Number(text))) where[field] = { ...where[field], lte: Number(text) };
  }
  const name = served.some((one) => one.name === asked.get("index")) ? asked.get("index") : served[0].name;
  state = {
    q: asked.get("q") ?? "",
    index: name,
    strategy: asked.get("strategy") ?? "",
    explain: asked.get("explain") !== "off",
    where,
  };
  if (!choices().includes(state.strategy)) state.strategy = choices()[0];
}

function address() {
  const asked = new URLSearchParams();
  if (state.q) asked.set("q", state.q);
  if (served.length > 1) asked.set("index", state.index);
  if (state.strategy !== choices()[0]) asked.set("strategy", state.strategy);
  if (!state.explain) asked.set("explain", "off");
  for (const [field, value] of Object.entries(state.where)) {
    if (typeof value !== "object") asked.set(`is.${field}`, written(value));
    else
      for (const [bound, name] of [
        ["gte", "min"],
        ["lte", "max"],
      ])
        if (bound in value) asked.set(`${name}.${field}`, String(value[bound]));
  }
  const text = asked.toString();
  return text ? `?${text}` : location.pathname;
}

/** Write the state into the address: a new entry of the history, or in place of the newest. */
function remember(entry) {
  history[entry ? "pushState" : "replaceState"](null, "", address());
  document.title = state.q ? `${state.q} – shortlist` : "shortlist";
}

// --- controls

/** The strategies of this index, and side by side where there are several. */
function choices() {
  const own = index().strategies;
  return own.length > 1 ? [...own, SIDE_BY_SIDE] : own;
}

/** The strategies that stand side by side: the three of the notebook, or what there is. */
function compared() {
  const three = ["dense", "rerank", "two-stage"].filter((one) => index().strategies.includes(one));
  return three.length === 3 ? three : index().strategies.slice(0, 3);
}

function drawControls() {
  $("q").value = state.q;
  $("index-choice").hidden = served.length < 2;
  $("index").replaceChildren(
    ...served.map((one) => el("option", { value: one.name, selected: one.name === state.index }, one.name)),
  );
  const legend = $("strategies").firstElementChild;
  $("strategies").replaceChildren(
    legend,
    ...choices().map((one) =>
      el(
        "label",
        {},
        el("input", { type: "radio", name: "strategy", value: one, checked: one === state.strategy }),
        el("span", {}, STRATEGIES[one] ?? "Side by side"),
      ),
    ),
  );
  $("explain").checked = state.explain;
  $("explain").closest("label").hidden = index().reranker === null;
  $("about-open").disabled = false;
  drawFilters();
}

function drawFilters() {
  const fields = Object.entries(index().fields)
    .filter(([name, field]) => !HIDDEN_FIELDS.has(name) && divides(field))
    .sort(([a], [b]) => (b === "lang") - (a === "lang"));
  const clear = el(
    "button",
    { type: "button", class: "plain", onclick: clearFilters, hidden: Object.keys(state.where).length === 0 },
    "Clear filters",
  );
  $("filters").replaceChildren($("filters").firstElementChild, ...fields.map(([name, field]) => filter(name, field)), clear);
  $("filters").hidden = fields.length === 0 && clear.hidden;
}

/** Whether a filter by this field can leave some passages out. */
function divides(field) {
  return field.values.length > 1 || !field.complete || field.values[0].passages < index().passages;
}

function filter(name, field) {
  const now = state.where[name];
  if (field.values.length > 0) {
    const pick = el(
      "select",
      { onchange: () => narrow(name, pick.value === "" ? undefined : JSON.parse(pick.value)) },
      el("option", { value: "" }, "any"),
    );
    const shown = (value) => (name === "lang" ? languageName(value) : String(value));
    for (const { value, passages } of field.values) {
      pick.append(
        el("option", { value: JSON.stringify(value), selected: value === now }, `${shown(value)} (${whole(passages)})`),
      );
    }
    if (now !== undefined && !field.values.some(({ value }) => value === now))
      pick.append(el("option", { value: JSON.stringify(now), selected: true }, shown(now)));
    return el("label", {}, name === "lang" ? "Language" : name, " ", pick);
  }
  if (field.types.length === 1 && field.types[0] === "number" && field.range) return between(name, field.range, now);
  const box = el("input", {
    type: "text",
    size: "12",
    dir: "auto",
    placeholder: "any",
    value: now ?? "",
    onchange: () => narrow(name, box.value || undefined),
  });
  return el("label", {}, name, " ", box);
}

function between(name, [least, most], now) {
  const bounds = ["gte", "lte"].map((bound, place) => {
    const box = el("input", {
      type: "number",
      step: "any",
      min: least,
      max: most,
      placeholder: String([least, most][place]),
      value: now?.[bound] ?? "",
      "aria-label": `${name}, ${["at least", "at most"][place]}`,
    });
    box.addEventListener("change", () => {
      const kept = { ...(typeof state.where[name] === "object" ? state.where[name] : {}) };
      if (box.value === "") delete kept[bound];
      else kept[bound] = Number(box.value);
      narrow(name, Object.keys(kept).length ? kept : undefined);
    });
    return box;
  });
  return el("span", { class: "between" }, name, " ", bounds[0], " – ", bounds[1]);
}

function narrow(name, value) {
  const { [name]: _, ...others } = state.where;
  change({ where: value === undefined ? others : { ...others, [name]: value } });
  $("filters").lastElementChild.hidden = Object.keys(state.where).length === 0;
}

function clearFilters() {
  change({ where: {} });
  drawFilters();
  $("q").focus();
}

/** Another strategy, filter or index: at once, and an entry of the history. */
function change(part) {
  state = { ...state, ...part };
  settle();
  remember(true);
  ask();
}

// --- asking

function typed() {
  state.q = $("q").value;
  remember(fresh);
  fresh = false;
  clearTimeout(typing);
  clearTimeout(settling);
  typing = setTimeout(ask, DEBOUNCE_MS);
  settling = setTimeout(settle, SETTLED_MS);
}

/** What is typed next is another question. */
function settle() {
  clearTimeout(settling);
  fresh = true;
}

/** Ask what the state says. An answer that another question has overtaken is never shown. */
async function ask() {
  clearTimeout(typing);
  clearTimeout(again);
  running?.abort();
  running = null;
  if (!state.q.trim()) return showEmpty();
  const mine = (running = new AbortController());
  const beside = state.strategy === SIDE_BY_SIDE;
  const columns = beside ? compared() : [state.strategy];
  const found = columns.map(() => null);
  busy(true);
  await Promise.all(
    columns.map(async (strategy, place) => {
      const start = performance.now();
      try {
        const body = {
          query: state.q,
          index: state.index,
          strategy,
          k: K,
          highlights: true,
          explain: state.explain && RERANKED.has(strategy),
        };
        if (Object.keys(state.where).length) body.where = state.where;
        const reply = await search(body, mine.signal);
        found[place] = { reply, roundTrip: performance.now() - start };
      } catch (problem) {
        if (problem.name === "AbortError" || mine !== running) return;
        if (!(problem instanceof Problem)) throw problem;
        found[place] = { problem };
      }
      if (mine === running && beside) show(sideBySide(columns, found));
    }),
  );
  if (mine !== running) return;
  running = null;
  busy(false);
  const all = found.every(({ problem }) => problem);
  if (all) showProblem(found[0].problem, columns[0]);
  else if (!beside) showList(found[0]);
  say(spoken(columns, found));
}

function spoken(columns, found) {
  const problem = found.find((one) => one.problem)?.problem;
  if (problem) return ""; // it is an alert of its own
  const counts = found.map(({ reply }) => reply.hits.length);
  const many = counts[0] === 0 ? "No passage found" : `${counts[0]} passages`;
  return columns.length > 1 ? `${many}, ${columns.length} strategies side by side` : `${many}, ${STRATEGIES[columns[0]]}`;
}

function busy(is) {
  $("results").toggleAttribute("data-busy", is);
  $("view").setAttribute("aria-busy", String(is));
  if (is && !$("view").querySelector(".hits, .columns")) $("view").replaceChildren(skeleton());
}

const say = (text) => ($("status").textContent = text);

// --- showing

function show(...nodes) {
  $("view").replaceChildren(...nodes.filter(Boolean));
}

function showEmpty() {
  busy(false);
  say("");
  show(el("section", { class: "empty", "aria-label": `The index ${state.index}` }, el("h3", {}, state.index), about(index())));
}

function showList({ reply, roundTrip }) {
  if (reply.hits.length === 0) return show(nothing(reply), timings(reply, roundTrip));
  show(
    timings(reply, roundTrip),
    notes(reply),
    el(
      "ol",
      { class: "hits", "aria-label": "Passages, best first" },
      reply.hits.map((one, at) => hit(reply, one, at + 1)),
    ),
  );
}

function nothing(reply) {
  const narrowed = Object.keys(state.where).length > 0;
  return el(
    "section",
    { class: "message" },
    el("h3", {}, "No passage found"),
    notes(reply),
    el(
      "p",
      {},
      narrowed
        ? "The filters leave nothing that fits."
        : "Other words may find one, or another strategy: the embedding needs no word in common.",
    ),
    narrowed && el("button", { type: "button", onclick: clearFilters }, "Clear filters"),
  );
}

/** What went wrong, and what to do: a key, patience, or another try. */
function showProblem(problem, strategy = "") {
  if (problem.status === 401) return showKey();
  const wait = problem.status === 429 || problem.status === 503 ? Math.max(1, problem.retryAfter) : 0;
  const retry = el("button", { type: "button", onclick: () => (served.length ? ask() : begin()) }, "Try again");
  const title = problem.status === 0 ? "No connection" : problem.status === 429 ? "The server is busy" : "That did not work";
  show(
    el(
      "section",
      { class: "message problem", role: "alert" },
      el("h3", {}, title),
      el("p", { dir: "auto" }, explained(strategy, problem)),
      wait > 0 && el("p", {}, `Trying again in ${wait} s.`),
      retry,
    ),
  );
  if (wait) again = setTimeout(() => retry.click(), 1000 * wait);
}

function showKey() {
  const refused = hasKey();
  dropKey();
  const box = el("input", {
    type: "password",
    id: "key",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    pattern: "[\\x21-\\x7e]+",
  });
  const form = el(
    "form",
    { class: "message problem" },
    el("h3", {}, "This server asks for a key"),
    el("p", { role: "alert" }, refused ? "That key is not known here." : "Whoever runs it can give you one that may read."),
    el("label", { for: "key" }, "Key"),
    " ",
    box,
    " ",
    el("button", {}, "Use this key"),
    el("p", { class: "quiet" }, "It is kept in this tab and forgotten with it."),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    keepKey(box.value.trim());
    if (served.length) ask();
    else begin();
  });
  show(form);
  box.focus();
}

// --- keys

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || $("about").open) return;
  const at = event.target;
  const writes = at.matches("input:not([type=radio], [type=checkbox]), select, textarea");
  if (event.key === "/" && !writes) {
    event.preventDefault();
    $("q").focus();
    $("q").select();
  } else if (event.key === "Escape" && (!writes || at === $("q"))) {
    event.preventDefault();
    $("q").value = "";
    $("q").focus();
    if (state.q) typed();
  } else if (
    (event.key === "ArrowDown" || event.key === "ArrowUp") &&
    (at === $("q") || at === document.body || at.closest("#results"))
  ) {
    move(event, at, event.key === "ArrowDown" ? 1 : -1);
  } else if ((event.key === "ArrowLeft" || event.key === "ArrowRight") && at.closest(".columns")) {
    cross(event, at, event.key === "ArrowRight" ? 1 : -1);
  }
}

/** To the next passage of the list, or from the first one back to the question. */
function move(event, at, step) {
  const list = at.closest(".hits") ?? $("view").querySelector(".hits");
  const titles = [...(list?.querySelectorAll(".title") ?? [])];
  const place = titles.indexOf(at.closest(".hit")?.querySelector(".title")) + step;
  if (titles.length === 0 || (at === $("q") && step < 0)) return;
  event.preventDefault();
  const next = place < 0 ? $("q") : titles[Math.min(place, titles.length - 1)];
  next.focus();
  next.closest(".hit")?.scrollIntoView({ block: "nearest" });
}

/** To the same passage in the next column, else to the one in the same place. */
function cross(event, at, step) {
  const here = at.closest(".hit");
  const columns = [...document.querySelectorAll(".columns > section")];
  const next = columns[columns.indexOf(at.closest("section")) + step];
  const hits = [...(next?.querySelectorAll(".hit") ?? [])];
  if (!here || hits.length === 0) return;
  event.preventDefault();
  const place = [...here.parentElement.children].indexOf(here);
  const to = hits.find((one) => one.dataset.passage === here.dataset.passage) ?? hits[Math.min(place, hits.length - 1)];
  to.querySelector(".title").focus();
}

// --- theme

const THEMES = ["auto", "light", "dark"];

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme").textContent = `Theme: ${theme}`;
  try {
    if (theme === "auto") localStorage.removeItem("shortlist-theme");
    else localStorage.setItem("shortlist-theme", theme);
  } catch {
    // storage is switched off: the choice lasts as long as the page
  }
}

// --- the beginning

async function begin() {
  busy(true);
  try {
    served = await indexes();
  } catch (problem) {
    busy(false);
    if (!(problem instanceof Problem)) throw problem;
    return showProblem(problem);
  }
  busy(false);
  if (served.length === 0)
    return show(
      el(
        "section",
        { class: "message" },
        el("h3", {}, "No index is served here"),
        el("p", {}, "Start the server with one: "),
        el("code", {}, "shortlist serve my.idx"),
      ),
    );
  fromAddress();
  drawControls();
  remember(false);
  ask();
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  settle();
  if (served.length) ask();
});
$("q").addEventListener("input", (event) => {
  const spelling = event.isComposing && /^[ -~]*$/.test(event.data ?? ""); // Latin letters on the way to Chinese
  if (served.length && !spelling) typed();
});
$("q").addEventListener("compositionend", () => served.length && $("q").value !== state.q && typed());
$("q").addEventListener("change", settle);
$("strategies").addEventListener("change", (event) => change({ strategy: event.target.value }));
$("explain").addEventListener("change", () => change({ explain: $("explain").checked }));
$("index").addEventListener("change", () => {
  const kept = served.find((one) => one.name === $("index").value);
  const strategy = [...kept.strategies, SIDE_BY_SIDE].includes(state.strategy) ? state.strategy : kept.strategies[0];
  change({ index: kept.name, strategy, where: {} });
  drawControls();
});
$("about-open").addEventListener("click", async () => {
  const dialog = $("about");
  const draw = () => {
    $("about-title").textContent = `The index ${state.index}`;
    $("about-body").replaceChildren(about(index()));
  };
  draw();
  dialog.showModal();
  served = await indexes().catch(() => served); // it may have grown since
  draw();
});
$("about-close").addEventListener("click", () => $("about").close());
$("theme").addEventListener("click", () =>
  setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % THEMES.length]),
);
document.addEventListener("keydown", onKey);
addEventListener("popstate", () => {
  fromAddress();
  drawControls();
  settle();
  ask();
});

setTheme(document.documentElement.dataset.theme ?? "auto");
begin();
