// Strategies side by side: where each passage stands in every column.

import { el } from "./dom.js";
import { STRATEGIES, explained, hit, notes, skeleton, timings } from "./view.js";

/** The columns that have come so far ({reply, roundTrip} or {problem}, null for one on its way), with lines between them. */
export function sideBySide(columns, found) {
  const places = columns.map((_, at) => new Map(found[at]?.reply?.hits.map((one, place) => [one.id, place + 1])));
  const badges = new Map();
  for (const id of [...places].reverse().flatMap((column) => [...column.keys()])) {
    if (!badges.has(id) && places.filter((column) => column.has(id)).length > 1) badges.set(id, letter(badges.size));
  }
  const grid = el(
    "div",
    { class: "columns" },
    columns.map((strategy, at) => column(strategy, at, columns, found[at], places, badges)),
  );
  grid.prepend(lines());
  grid.addEventListener("pointerover", (event) => follow(grid, event.target));
  grid.addEventListener("focusin", (event) => follow(grid, event.target));
  grid.addEventListener("pointerleave", () => follow(grid, null));
  new ResizeObserver(() => drawLines(grid)).observe(grid);
  return grid;
}

function column(strategy, at, columns, found, places, badges) {
  const title = el("h3", { id: `column-${strategy}` }, STRATEGIES[strategy]);
  const rest = el("div", { class: "rest" });
  const section = el("section", { "aria-labelledby": title.id }, title, rest);
  if (!found) rest.append(skeleton());
  else if (found.problem)
    rest.append(el("p", { class: "problem", role: "alert", dir: "auto" }, explained(strategy, found.problem)));
  else {
    const others = columns
      .map((one, place) => [one, place])
      .filter(([one, place]) => one !== strategy && places[place].size > 0);
    const hits = found.reply.hits.map((one, place) =>
      hit(found.reply, one, place + 1, {
        compact: true,
        badge: badges.get(one.id),
        elsewhere: others.map(([other, where]) => [other, places[where].get(one.id)]),
      }),
    );
    rest.before(timings(found.reply, found.roundTrip));
    if (found.reply.notes.length) rest.append(notes(found.reply));
    rest.append(
      hits.length
        ? el("ol", { class: "hits", "aria-label": `${STRATEGIES[strategy]}, best first` }, hits)
        : el("p", { class: "quiet" }, "No passage found."),
    );
  }
  return section;
}

const letter = (place) => (place < 26 ? String.fromCharCode(65 + place) : String(place + 1));

const SVG = "http://www.w3.org/2000/svg";

function lines() {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("aria-hidden", "true");
  drawing.setAttribute("class", "lines");
  return drawing;
}

/** A curve from each passage to itself in the next column that has it; none where the columns stand one above the other. */
function drawLines(grid) {
  const zero = grid.getBoundingClientRect();
  const columns = [...grid.querySelectorAll(":scope > section")];
  const seen = new Map(); // passage -> its box in the last column that had it, and which that was
  const paths = [];
  columns.forEach((column, place) => {
    for (const one of column.querySelectorAll(".hit")) {
      const [id, box] = [one.dataset.passage, one.getBoundingClientRect()];
      const before = seen.get(id);
      seen.set(id, { box, place });
      if (!before || before.box.right > box.left) continue;
      const [x1, y1, x2, y2] = [
        before.box.right - zero.left,
        before.box.top - zero.top + 20,
        box.left - zero.left,
        box.top - zero.top + 20,
      ];
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("d", `M${x1} ${y1}C${x1 + 40} ${y1} ${x2 - 40} ${y2} ${x2} ${y2}`);
      path.dataset.passage = id;
      if (place - before.place > 1) path.setAttribute("class", "far");
      paths.push(path);
    }
  });
  grid.querySelector(".lines").replaceChildren(...paths);
}

/** Bring out one passage in every column. */
function follow(grid, target) {
  const id = target?.closest?.(".hit")?.dataset.passage;
  for (const one of grid.querySelectorAll("[data-passage]")) one.classList.toggle("followed", one.dataset.passage === id);
}
