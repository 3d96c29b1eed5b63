// What is shown: hits, the way they took through the stages, timings, the index itself.

import { el, languageName, marked, milliseconds, tongue, unseen, whole } from "./dom.js";

export const STRATEGIES = {
  "two-stage": "Two-stage",
  rerank: "Reranker only",
  dense: "Embedding only",
  hybrid: "Hybrid",
  bm25: "BM25",
};
const STAGES = { bm25: "BM25", dense: "embedding", hybrid: "first stage", rerank: "reranker" };
const TIMES = {
  load_ms: "load",
  analyze_ms: "analyse",
  bm25_ms: "BM25",
  encode_ms: "encode",
  dense_ms: "scan",
  fuse_ms: "fuse",
  rerank_ms: "rerank",
  explain_ms: "sentences",
};
const UNITS = { dense: "cosine", bm25: "BM25", hybrid: "fused", "two-stage": "fused" };

// --- a hit

let made = 0; // ids of elements

/** One passage of a reply, as a list item. `compact` is that of the side-by-side view, with `badge` and `elsewhere` in it. */
export function hit(reply, one, place, { compact = false, badge = null, elsewhere = [] } = {}) {
  const id = `passage-${++made}`;
  const text = el("p", { class: "text", id, ...tongue(one.lang) });
  const more = el("div", { class: "more", hidden: true });
  const button = el("button", { type: "button", class: "title", "aria-expanded": "false", "aria-controls": id });
  button.append(...(one.title ? marked(one.title, one.highlights?.title) : [one.id]));
  const show = (open) => {
    button.setAttribute("aria-expanded", String(open));
    text.replaceChildren(...marked(one.text, one.highlights?.text, one.explain, !open));
    more.hidden = !open;
    if (open && !more.hasChildNodes()) more.append(details(reply, one, place));
  };
  button.addEventListener("click", () => show(button.getAttribute("aria-expanded") === "false"));
  show(false);
  return el(
    "li",
    { class: compact ? "hit compact" : "hit", "data-passage": one.id },
    el(
      "div",
      { class: "rank" },
      unseen("Place "),
      String(place),
      badge && el("span", { class: "badge", title: "the same passage in another column" }, badge),
    ),
    el(
      "article",
      {},
      el("div", { class: "head" }, el(compact ? "h4" : "h3", { ...tongue(one.lang) }, button), verdict(reply, one)),
      text,
      compact ? whereElse(elsewhere) : journey(reply, one, place),
      compact ? cut(one) : facts(one),
      more,
    ),
  );
}

/** How sure the reranker is, or the score that ordered the list. */
function verdict(reply, one) {
  if (one.probability !== null) {
    const bar = el("span", { class: "meter", "aria-hidden": "true" }, el("span"));
    bar.firstChild.style.inlineSize = `${Math.max(2, 100 * one.probability)}%`;
    return el(
      "p",
      { class: "verdict", title: "what the reranker says of query and passage" },
      el("b", {}, percent(one.probability)),
      " ",
      bar,
      " ",
      el("span", { class: "logit" }, `logit ${signed(one.scores.rerank)}`),
    );
  }
  return el(
    "p",
    { class: "verdict" },
    el("b", {}, one.score.toFixed(one.score >= 10 ? 1 : 3)),
    " ",
    el("span", { class: "logit" }, UNITS[reply.strategy]),
  );
}

export function percent(probability) {
  const value = 100 * probability;
  return value > 99.95
    ? ">99.9%"
    : value < 0.05
      ? "<0.1%"
      : value > 99 || value < 1
        ? `${value.toFixed(1)}%`
        : `${Math.round(value)}%`;
}

const signed = (value) => (value < 0 ? `−${(-value).toFixed(2)}` : value.toFixed(2));

/** Its place in every stage, and how far the last one moved it. */
function journey(reply, one, place) {
  const had = ["bm25", "dense"].filter((stage) => `${stage}_ms` in reply.timings);
  const steps = had.map((stage) => step(STAGES[stage], one.ranks[stage]));
  if (had.length > 1) steps.push(step(STAGES.hybrid, one.ranks.hybrid, "→"));
  if ("rerank" in one.ranks && had.length > 0) steps.push(step(STAGES.rerank, one.ranks.rerank, "→"));
  if (reply.strategy === "two-stage") steps.push(step("final", place, "→"));
  if (steps.length < 2) return null;
  const before = one.ranks.hybrid ?? one.ranks[had[0]];
  const moved = reply.strategy === "two-stage" && before ? movement(before - place) : null;
  return el("div", { class: "journey" }, el("ol", { "aria-label": "Its place in each stage" }, steps), moved);
}

function step(name, rank, joint = null) {
  return el(
    "li",
    {},
    joint && el("span", { class: "joint", "aria-hidden": "true" }, joint),
    el("span", {}, `${name} `),
    el("b", {}, rank ? `#${rank}` : "–"),
    rank ? "" : unseen("not found"),
  );
}

function movement(places) {
  if (places === 0) return el("span", { class: "moved" }, el("span", { "aria-hidden": "true" }, "= "), "stays");
  const [kind, arrow, word] = places > 0 ? ["up", "▲", "up"] : ["down", "▼", "down"];
  return el(
    "span",
    { class: `moved ${kind}` },
    el("span", { "aria-hidden": "true" }, `${arrow} `),
    `${word} ${Math.abs(places)}`,
  );
}

function cut(one) {
  return one.tokens_cut > 0
    ? el(
        "p",
        { class: "facts" },
        el(
          "span",
          { class: "cut", title: "beyond what the reranker reads of a passage" },
          `✂ ${whole(one.tokens_cut)} tokens not read`,
        ),
      )
    : null;
}

/** Language, id and metadata in one line, and what was not read. */
function facts(one) {
  const known = Object.entries(one.meta).slice(0, 6);
  return el(
    "p",
    { class: "facts" },
    one.lang && el("span", {}, languageName(one.lang)),
    one.title && el("span", { class: "mono", dir: "auto" }, one.id),
    known.map(([name, value]) => el("span", { dir: "auto" }, `${name}: ${short(value)}`)),
    one.tokens_cut > 0 &&
      el(
        "span",
        { class: "cut", title: "beyond what the reranker reads of a passage" },
        `✂ ${whole(one.tokens_cut)} tokens not read`,
      ),
  );
}

function short(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 59)}…` : text;
}

/** All that the reply says of one hit, when it is opened. */
function details(reply, one, place) {
  const rows = Object.entries(one.scores).map(([stage, score]) => [stage, one.ranks[stage], signed(score)]);
  const alone =
    one.explain && `The deciding sentence alone: ${percent(one.explain.probability)}, logit ${signed(one.explain.score)}.`;
  return el(
    "div",
    {},
    el(
      "table",
      {},
      el("caption", { class: "unseen" }, "Score and place in each stage"),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          ["stage", "place", "score"].map((name) => el("th", { scope: "col" }, name)),
        ),
      ),
      el(
        "tbody",
        {},
        rows.map(([stage, rank, score]) =>
          el(
            "tr",
            {},
            el("th", { scope: "row" }, STAGES[stage] ?? stage),
            el("td", {}, rank ? String(rank) : "–"),
            el("td", {}, score),
          ),
        ),
        el("tr", {}, el("th", { scope: "row" }, "final"), el("td", {}, String(place)), el("td", {}, signed(one.score))),
      ),
    ),
    alone && el("p", {}, alone),
    weights(reply),
    Object.keys(one.meta).length > 0 &&
      el("pre", { dir: "auto", tabindex: "0", "aria-label": "Metadata" }, JSON.stringify(one.meta, null, 2)),
  );
}

/** The weights of the first stage's parts, where the reply tells them. */
function weights(reply) {
  const parts = Object.entries(reply.weights ?? {});
  return parts.length > 1
    ? el("p", {}, `First stage = ${parts.map(([stage, weight]) => `${weight.toFixed(2)} × ${STAGES[stage]}`).join(" + ")}`)
    : null;
}

function whereElse(elsewhere) {
  return el(
    "ul",
    { class: "elsewhere", "aria-label": "Elsewhere" },
    elsewhere.map(([strategy, place]) =>
      el(
        "li",
        {},
        `${STRATEGIES[strategy].toLowerCase()} `,
        el("b", {}, place ? `#${place}` : "–"),
        place ? "" : unseen("not among those shown"),
      ),
    ),
  );
}

// --- timings

/** How many hits, and the time of each stage, as a bar and in words. */
export function timings(reply, roundTrip) {
  const stages = Object.entries(TIMES)
    .filter(([name]) => name in reply.timings)
    .map(([name, label]) => [name, label, reply.timings[name]]);
  const bar = el("div", { class: "bar", "aria-hidden": "true" });
  for (const [name, label, ms] of stages) {
    const part = el("span", { class: name, title: `${label} ${milliseconds(ms)} ms` });
    part.style.flexGrow = String(ms);
    bar.append(part);
  }
  const spent = reply.timings.total_ms + (reply.timings.explain_ms ?? 0);
  return el(
    "div",
    { class: "timings" },
    el(
      "p",
      {},
      el("span", {}, counted(reply)),
      " ",
      el(
        "span",
        {},
        "in all ",
        el("b", {}, milliseconds(spent)),
        " ms, round trip ",
        el("b", {}, milliseconds(roundTrip)),
        " ms",
      ),
    ),
    bar,
    el(
      "ul",
      { "aria-label": "Milliseconds of each stage" },
      stages.map(([name, label, ms]) =>
        el(
          "li",
          {},
          el("span", { class: `swatch ${name}`, "aria-hidden": "true" }),
          `${label} `,
          el("b", {}, milliseconds(ms)),
        ),
      ),
    ),
  );
}

function counted(reply) {
  const many = `${whole(reply.hits.length)} ${reply.hits.length === 1 ? "passage" : "passages"}`;
  return reply.scored.rerank ? `${many} of ${whole(reply.scored.rerank)} that were reranked` : many;
}

/** What the search says of itself in words. */
export function notes(reply) {
  return reply.notes.length
    ? el(
        "ul",
        { class: "notes", "aria-label": "Notes" },
        reply.notes.map((note) => el("li", {}, sentence(`${note}.`))),
      )
    : null;
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// --- the index

/** Size, models, languages, last commit. */
export function about(index) {
  const languages = Object.entries(index.languages).sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
  const bytes = Object.entries(index.bytes);
  const all = bytes.reduce((sum, [, size]) => sum + size, 0);
  const rows = [
    ["Passages", whole(index.passages)],
    [
      "Languages",
      el(
        "ul",
        { class: "tags" },
        languages.map(([tag, count]) => el("li", {}, `${languageName(tag)} `, el("b", {}, whole(count)))),
      ),
    ],
    [
      "Encoder",
      index.encoder
        ? `${index.encoder.name}, ${index.encoder.dims} dimensions, kept as ${index.encoder.vectors}`
        : "none: BM25 alone",
    ],
    ["Reranker", index.reranker ?? "none"],
    ["Analyzer", index.analyzer],
    ["On disk", el("div", {}, megabytes(all), parts(bytes, all))],
    [
      "Last commit",
      el(
        "time",
        { datetime: index.last_commit },
        new Date(index.last_commit).toLocaleString("en", { dateStyle: "long", timeStyle: "short" }),
      ),
    ],
  ];
  return el(
    "dl",
    { class: "about" },
    rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
  );
}

function parts(bytes, all) {
  return el(
    "ul",
    { class: "parts" },
    bytes
      .filter(([, size]) => size > 0)
      .map(([part, size]) => {
        const bar = el("span", { class: "meter", "aria-hidden": "true" }, el("span"));
        bar.firstChild.style.inlineSize = `${(100 * size) / all}%`;
        return el("li", {}, el("span", {}, part), bar, el("b", {}, megabytes(size)));
      }),
  );
}

function megabytes(size) {
  return size < 1e5
    ? `${(size / 1e3).toFixed(1)} kB`
    : size < 1e9
      ? `${(size / 1e6).toFixed(1)} MB`
      : `${(size / 1e9).toFixed(2)} GB`;
}

// --- not yet, and not at all

/** In the place of hits that are on their way. */
export function skeleton() {
  return el(
    "div",
    { class: "skeleton", "aria-hidden": "true" },
    Array.from({ length: 4 }, () => el("div", {}, el("i"), el("i"), el("i"))),
  );
}

/** The server's words, and for a reranker that would have to read too much, what to do. */
export function explained(strategy, problem) {
  const hint =
    problem.status === 413 && strategy === "rerank"
      ? " Reading every passage is for small indexes: a filter leaves fewer."
      : "";
  return sentence(problem.message) + hint;
}
