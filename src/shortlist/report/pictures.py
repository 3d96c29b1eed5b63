"""The pictures of a report as SVG that follows the reader's light or dark setting, in a page or on its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from shortlist.report.model import Batch, Cost, Interval, Manifest, Mean, Overview, Report

# Each kind has a colour and a shape of its own, so that neither is needed alone.
KINDS = {
    "bm25": "BM25",
    "dense": "dense",
    "hybrid": "hybrid",
    "two-stage": "two-stage",
    "cascade": "cascade",
    "other": "other",
}
_LIGHT = {
    "bg": "#ffffff",
    "panel": "#f6f7f9",
    "fg": "#1c2430",
    "muted": "#5d6877",
    "line": "#d9dee5",
    "accent": "#2f6fc4",
    "bm25": "#b96a0b",
    "dense": "#2f6fc4",
    "hybrid": "#7a4fb5",
    "two-stage": "#b8325e",
    "cascade": "#1f7a63",
    "other": "#5d6877",
}
_DARK = {
    "bg": "#14181f",
    "panel": "#1c222b",
    "fg": "#e6eaf0",
    "muted": "#9aa6b5",
    "line": "#353e4b",
    "accent": "#7db1f5",
    "bm25": "#f0a84e",
    "dense": "#7db1f5",
    "hybrid": "#bd9bf0",
    "two-stage": "#f285a6",
    "cascade": "#63cfae",
    "other": "#9aa6b5",
}
COLOURS = (
    ":root{color-scheme:light dark;"
    + "".join(f"--{name}:{value};" for name, value in _LIGHT.items())
    + "}@media(prefers-color-scheme:dark){:root{"
    + "".join(f"--{name}:{value};" for name, value in _DARK.items())
    + "}}"
)
STYLE = (
    "svg text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',Helvetica,Arial,sans-serif;fill:var(--fg)}"
    "svg .muted{fill:var(--muted)}svg .grid{stroke:var(--line);fill:none}svg .axis{stroke:var(--muted);fill:none}"
    "svg .panel{fill:var(--panel)}svg .box{fill:var(--bg);stroke-width:2}"
    "svg .flow{stroke:var(--muted);stroke-width:1.8;fill:none}svg .hollow{fill:var(--bg);stroke-width:2}"
    "svg .strong{font-weight:600}svg .mid{text-anchor:middle}svg .end{text-anchor:end}svg .on{fill:var(--bg)}"
    "svg .label{paint-order:stroke;stroke:var(--bg);stroke-width:3px;stroke-linejoin:round}"
    + "".join(f"svg .f-{k}{{fill:var(--{k})}}svg .s-{k}{{stroke:var(--{k})}}" for k in (*KINDS, "fg", "muted", "line"))
)
Box: TypeAlias = tuple[float, float, float, float]
Scale: TypeAlias = Callable[[float], float]
_SHORTEST = 0.001  # ms; no logarithm of 0
_CHARACTER = 6.7  # mean width of a character at 12 px, for placing labels


@dataclass(frozen=True)
class Picture:
    """`body` is the content of an SVG of this size; `title` and `description` say in words what it shows."""

    key: str
    title: str
    description: str
    width: int
    height: int
    body: str

    def inline(self) -> str:
        """For a page that carries COLOURS and STYLE."""
        return self._svg("")

    def standalone(self) -> str:
        """A file of its own."""
        background = f'<rect width="{self.width}" height="{self.height}" style="fill:var(--bg)"/>'
        return self._svg(f"<style>{COLOURS}{STYLE}</style>{background}") + "\n"

    def _svg(self, before: str) -> str:
        ids = f"{escape(self.key)}-title {escape(self.key)}-text"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" aria-labelledby="{ids}" font-size="12">'
            f'<title id="{escape(self.key)}-title">{escape(self.title)}</title>'
            f'<desc id="{escape(self.key)}-text">{escape(self.description)}</desc>{before}{self.body}</svg>'
        )


def overview_pictures(report: Report, overview: Overview) -> list[Picture]:
    """Quality against time, and where the time goes; none without times."""
    n = len(overview.collections)
    over = overview.collections[0] if n == 1 else f"mean over {n} collections"
    title = f"{report.measure} against time, {over}"
    drawn = (
        pareto(f"pareto-{overview.key}", title, report.measure, report.baseline, overview.means),
        stage_bars(f"stages-{overview.key}", f"Where the time goes, {over}", overview.means),
    )
    return [picture for picture in drawn if picture is not None]


# --- quality against time ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Point:
    name: str
    kind: str
    reduced: bool
    ms: float
    value: float
    bar: Interval
    front: bool


def pareto(key: str, title: str, measure: str, baseline: str, means: Sequence[Mean], *, width: int = 900) -> Picture | None:
    """Quality against milliseconds, the systems that no other one beats in both joined by a line; None without times."""
    points = _points(means)
    if not points:
        return None
    height = round(0.55 * width)
    left, right, top, bottom = frame = (64, width - 24, 56, height - 54)
    low, high = _spread([v for p in points for v in (p.value, *p.bar)])
    fastest, slowest = min(p.ms for p in points) / 1.5, max(p.ms for p in points) * 2.2

    def x(ms: float) -> float:
        return left + math.log(ms / fastest) / math.log(slowest / fastest) * (right - left)

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * (bottom - top)

    body = [
        *_grid(_ticks(low, high), list(_decades(fastest, slowest)), x, y, frame),
        f'<text x="{left}" y="20" class="strong" font-size="14">{escape(title)}</text>',
        _legend(points, left, 40),
        f'<text x="{(left + right) / 2:.0f}" y="{height - 10}" class="mid muted">milliseconds a query, p50</text>',
        f'<text transform="translate(16 {(top + bottom) / 2:.0f}) rotate(-90)" class="mid muted">{escape(measure)}</text>',
        _front([(x(p.ms), y(p.value)) for p in points if p.front], right),
        *(_drawn(p, measure, x, y) for p in points),
        *_labels(points, [(x(p.ms), y(p.value)) for p in points], frame),
    ]
    described = "; ".join(f"{p.name} {p.value:.3f} at {p.ms:.1f} ms" for p in sorted(points, key=lambda p: p.ms))
    text = f"{measure} against the p50 of a search. Bars: 95% interval of the difference from {baseline}. {described}."
    return Picture(key, title, text, width, height, "".join(body))


def _front(corners: Sequence[Interval], right: float) -> str:
    """Steps through the systems that no other one beats."""
    (x, y), *others = sorted(corners)
    steps = f"M{x:.1f} {y:.1f}" + "".join(f"H{px:.1f}V{py:.1f}" for px, py in others)
    return f'<path d="{steps}H{right}" class="axis" stroke-width="1.4" stroke-dasharray="5 4" opacity=".7"/>'


def _drawn(p: _Point, measure: str, x: Scale, y: Scale) -> str:
    bar = f"M{x(p.ms):.1f} {y(p.bar[0]):.1f}V{y(p.bar[1]):.1f}"
    tip = escape(f"{p.name}: {measure} {p.value:.3f}, {p.ms:.1f} ms")
    line = f'<path d="{bar}" class="s-{p.kind}" stroke-width="1.5" opacity=".45"/>'
    return f"<g><title>{tip}</title>{line}{_mark(p.kind, p.reduced, x(p.ms), y(p.value))}</g>"


def _points(means: Sequence[Mean]) -> list[_Point]:
    known = [(mean, max(mean.cost.total[0], _SHORTEST)) for mean in means if mean.cost is not None]
    found = []
    for mean, ms in known:
        beaten = any(o.value >= mean.value and t <= ms and (o.value, -t) != (mean.value, -ms) for o, t in known)
        base = mean.value - (mean.gain or 0.0)
        low, high = (0.0, 0.0) if mean.gain_interval is None else mean.gain_interval
        kind = mean.kind if mean.kind in KINDS else "other"
        found.append(_Point(mean.system, kind, mean.reduced, ms, mean.value, (base + low, base + high), not beaten))
    return found


def _spread(values: Sequence[float]) -> Interval:
    low, high = min(values), max(values)
    room = max(0.08 * (high - low), 0.005)
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between, about six."""
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step = next(step * m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= 7)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> Iterator[float]:
    """1, 2, 5, 10, 20, … between."""
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        yield from (value for m in (1, 2, 5) if low <= (value := m * 10.0**power) <= high)


def _grid(values: Sequence[float], times: Sequence[float], x: Scale, y: Scale, frame: Box) -> Iterator[str]:
    left, right, _, bottom = frame
    decimals = max(2, -math.floor(math.log10(values[1] - values[0]))) if len(values) > 1 else 3
    for value in values:
        yield f'<path d="M{left} {y(value):.1f}H{right}" class="grid"/>'
        yield f'<text x="{left - 8}" y="{y(value) + 4:.1f}" class="end muted">{value:.{decimals}f}</text>'
    for ms in times:
        yield f'<path d="M{x(ms):.1f} {bottom}v5" class="axis"/>'
        yield f'<text x="{x(ms):.1f}" y="{bottom + 19}" class="mid muted">{ms:g}</text>'
    yield f'<path d="M{left} {bottom}H{right}" class="axis"/>'


_CORNERS: Mapping[str, Sequence[Interval]] = {
    "dense": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "hybrid": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
    "two-stage": [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
    "cascade": [(0, 1.2), (1.15, -0.9), (-1.15, -0.9)],
    "other": [(-1, -0.4), (1, -0.4), (1, 0.4), (-1, 0.4)],
}


def _mark(kind: str, reduced: bool, x: float, y: float, size: float = 6.0) -> str:
    """A shape for each kind of system; hollow where the vectors are 1-bit."""
    paint = f'class="hollow s-{kind}"' if reduced else f'class="f-{kind}"'
    s = size
    if kind == "bm25":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s:.1f}" {paint}/>'
    path = "L".join(f"{x + s * dx:.1f} {y + s * dy:.1f}" for dx, dy in _CORNERS[kind])
    return f'<path d="M{path}Z" {paint}/>'


def _legend(points: Sequence[_Point], left: float, y: float) -> str:
    parts, x = [], float(left)
    for kind in (k for k in KINDS if any(p.kind == k for p in points)):
        parts.append(f'{_mark(kind, False, x + 6, y - 4, 5)}<text x="{x + 16:.0f}" y="{y}" class="muted">{KINDS[kind]}</text>')
        x += 32 + _CHARACTER * len(KINDS[kind])
    if any(p.reduced for p in points):
        parts.append(f'<circle cx="{x + 6:.0f}" cy="{y - 4}" r="5" class="hollow s-muted"/>')
        parts.append(f'<text x="{x + 16:.0f}" y="{y}" class="muted">hollow: 1-bit vectors</text>')
        x += 32 + _CHARACTER * 22
    parts.append(f'<path d="M{x:.0f} {y - 4}h22" class="axis" stroke-width="1.4" stroke-dasharray="5 4"/>')
    parts.append(f'<text x="{x + 28:.0f}" y="{y}" class="muted">none is both better and faster</text>')
    return "".join(parts)


def _labels(points: Sequence[_Point], at: Sequence[Interval], frame: Box) -> Iterator[str]:
    """A name beside each point, the best ones first, where it covers least of what is drawn already."""
    taken = [(px - 8, py - 8, px + 8, py + 8) for px, py in at]
    front = sorted(at[i] for i, p in enumerate(points) if p.front)
    taken += [(a[0] + 8, a[1] - 2, b[0] + 2, a[1] + 2) for a, b in pairwise([*front, (frame[1], 0.0)])]
    for i in sorted(range(len(points)), key=lambda i: (not points[i].front, -points[i].value)):
        p, (px, py) = points[i], at[i]
        wide = _CHARACTER * (1.1 if p.front else 1.0) * len(p.name) + 3  # bold is wider
        spots = [
            (px + dx - (wide if side == "end" else wide / 2 if side == "mid" else 0), py + dy, side)
            for dx, dy, side in (
                (11, 4, ""),
                (-11, 4, "end"),
                (0, -12, "mid"),
                (0, 20, "mid"),
                (9, -10, ""),
                (9, 18, ""),
                (-9, -10, "end"),
                (-9, 18, "end"),
                (14, -24, ""),
                (14, 32, ""),
                (-14, -24, "end"),
                (-14, 32, "end"),
                (0, -28, "mid"),
                (0, 36, "mid"),
                (0, -44, "mid"),
                (0, 52, "mid"),
            )
        ]
        boxes = [(bx, by - 10, bx + wide, by + 3) for bx, by, _ in spots]
        best = min(range(len(spots)), key=lambda s: (_covered(boxes[s], taken) + _outside(boxes[s], frame), s))
        taken.append(boxes[best])
        weight = " strong" if p.front else ""
        yield f'<text x="{boxes[best][0]:.1f}" y="{spots[best][1]:.1f}" class="label{weight}">{escape(p.name)}</text>'


def _covered(box: Box, others: Sequence[Box]) -> float:
    return sum(
        max(0.0, min(box[2], o[2]) - max(box[0], o[0])) * max(0.0, min(box[3], o[3]) - max(box[1], o[1])) for o in others
    )


def _outside(box: Box, frame: Box) -> float:
    left, right, top, bottom = frame
    return 50 * (max(0, left - box[0]) + max(0, box[2] - right) + max(0, top - box[1]) + max(0, box[3] - bottom))


# --- where the time goes ----------------------------------------------------------------------------------------------

_STAGE_KINDS = {"bm25": "bm25", "encode": "dense", "dense": "dense", "fuse": "hybrid", "rerank": "two-stage"}
_FAINT = {"encode": ".55", "analyze": ".5", "rest": ".25"}


def stage_bars(key: str, title: str, means: Sequence[Mean], *, width: int = 900) -> Picture | None:
    """A bar a system: the p50 of its stages, and what is left of the p50 of the whole search; None without times."""
    bars = {mean.system: _parts(mean.cost) for mean in means if mean.cost is not None}
    if not bars:
        return None
    stages = list(dict.fromkeys(stage for parts in bars.values() for stage in parts if stage != _REST))
    left, row, top = 24 + _CHARACTER * max(map(len, bars)), 24, 58
    scale = (width - left - 90) / max(_SHORTEST, *(sum(parts.values()) for parts in bars.values()))
    body = [f'<text x="16" y="20" class="strong" font-size="14">{escape(title)}</text>', _stage_legend([*stages, _REST])]
    for place, (name, parts) in enumerate(bars.items()):
        y, x = top + row * place, left
        body.append(f'<text x="{left - 8:.0f}" y="{y + 12}" class="end">{escape(name)}</text>')
        for stage in (s for s in (*stages, _REST) if s in parts):
            body.append(_bar(name, stage, parts[stage], x, y, parts[stage] * scale))
            x += parts[stage] * scale
        body.append(f'<text x="{x + 6:.1f}" y="{y + 12}" class="muted">{sum(parts.values()):.1f} ms</text>')
    described = "; ".join(f"{n}: " + ", ".join(f"{s} {ms:.1f}" for s, ms in parts.items()) for n, parts in bars.items())
    text = f"Milliseconds of each stage, p50. {described}."
    return Picture(key, title, text, width, top + row * len(bars) + 8, "".join(body))


_REST = "rest"


def _parts(cost: Cost) -> dict[str, float]:
    """Stage -> p50, and the rest of the whole."""
    parts = {stage: ms[0] for stage, ms in cost.stages.items() if stage != "total"}
    return {**parts, _REST: max(0.0, cost.total[0] - sum(parts.values()))}


def _bar(name: str, stage: str, ms: float, x: float, y: float, wide: float) -> str:
    tip = escape(f"{name}, {stage}: {ms:.2f} ms")
    label = stage.rpartition(":")[2]
    inside = ""
    if wide > 12 * len(label):
        inside = f'<text x="{x + wide / 2:.1f}" y="{y + 12:.0f}" class="mid on">{escape(label)}</text>'
    shape = f'<rect x="{x:.1f}" y="{y:.0f}" width="{wide:.1f}" height="16" {_stage_paint(stage)}>'
    return f"{shape}<title>{tip}</title></rect>{inside}"


def _stage_paint(stage: str) -> str:
    """A stage's colour; stages that share one differ in strength."""
    if stage.startswith("rerank:"):
        return 'class="f-cascade" style="stroke:var(--bg)"'
    kind, strength = _STAGE_KINDS.get(stage, "other"), _FAINT.get(stage, "1")
    return f'class="f-{kind}" fill-opacity="{strength}" style="stroke:var(--bg)"'


def _stage_legend(stages: Sequence[str]) -> str:
    parts, x = [], 16.0
    for stage in stages:
        parts.append(f'<rect x="{x:.0f}" y="32" width="12" height="12" {_stage_paint(stage)}/>')
        parts.append(f'<text x="{x + 18:.0f}" y="42" class="muted">{escape(stage)}</text>')
        x += 38 + _CHARACTER * len(stage)
    return "".join(parts)


# --- the pipeline -----------------------------------------------------------------------------------------------------


def system_pictures(report: Report) -> list[Picture]:
    """The pipeline of the system that the report looks at, and a batch of its reranker, as far as they are known."""
    drawn = (pipeline(report), None if report.batch is None else batch_picture(report.batch))
    return [picture for picture in drawn if picture is not None]


_ARROW = (
    '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L10 5L0 10z" class="f-muted"/></marker></defs>'
)


def pipeline(report: Report) -> Picture | None:
    """How the system that the report looks at answers a query, with its models and times; what it does without is faint.

    None if it is not known how its runs were made.
    """
    result = next(r for r in (section.of(report.system) for section in report.sections) if r is not None)
    if not result.manifest:
        return None
    mean = next((mean for each in report.overviews if (mean := each.of(report.system)) is not None), None)
    notes = _pipeline_notes(result.manifest, mean.cost if mean is not None else result.cost)
    first = result.manifest.get("first")
    used = {"bm25", "dense"} if first == "hybrid" else {first}
    reranks = bool(result.manifest.get("rerankers"))
    body = [
        '<rect x="16" y="40" width="250" height="330" rx="10" class="panel"/>',
        '<text x="141" y="28" class="mid muted">offline, once</text>',
        '<text x="580" y="28" class="mid muted">online, for every query</text>',
        *(f'<path d="{d}" class="flow" marker-end="url(#tip)"/>' for d in _FLOWS),
        *(f'<path d="{d}" class="flow" stroke-dasharray="5 4" marker-end="url(#tip)"/>' for d in _READS),
        _box(61, 60, 160, 48, "other", "Passages", ["any language"]),
        _box(32, 158, 104, 62, "bm25", "Analyzer", notes["BM25"][:1]),
        _box(146, 158, 104, 62, "dense", "Encoder", notes["Encoder"], used="dense" in used),
        _box(56, 282, 170, 62, "cascade", "Index", ["postings, vectors, texts"]),
        _box(306, 84, 100, 48, "other", "Query", []),
        _box(460, 60, 170, 72, "bm25", "BM25", notes["BM25"], used="bm25" in used),
        _box(460, 172, 170, 72, "dense", "Encoder and scan", notes["Scan"], used="dense" in used),
        _box(690, 84, 190, 72, "hybrid", "Fuse", notes["Fuse"], used=len(used) > 1),
        _box(690, 190, 190, 72, "two-stage", "Reranker", notes["Reranker"], used=reranks),
        _box(690, 296, 190, 62, "other", "Answer", notes["Answer"]),
    ]
    text = f"The stages of {report.system}: BM25 and the encoder search one index, their lists are fused, the reranker reads "
    text += "the best. " + "; ".join(f"{name}: {', '.join(filter(None, lines))}" for name, lines in notes.items())
    return Picture("pipeline", f"How {report.system} answers a query", text, 900, 384, _ARROW + "".join(body))


_FLOWS = (
    "M120 108L90 152",
    "M162 108L192 152",
    "M90 220L118 276",
    "M192 220L164 276",
    "M406 104L454 98",
    "M380 132C395 190 425 207 454 208",
    "M630 98L684 112",
    "M630 206C655 196 664 158 684 138",
    "M785 156L785 184",
    "M785 262L785 290",
)
_READS = ("M221 300C330 290 410 230 426 170C434 140 440 124 454 118", "M221 322C380 320 500 300 540 250")


def _pipeline_notes(manifest: Manifest, cost: Cost | None) -> dict[str, list[str]]:
    """Two lines for each stage: what it is, and its p50."""
    index, fusion, encoder = manifest.get("index") or {}, manifest.get("fusion"), manifest.get("encoder")
    readers = [f"{each['name'].rpartition('-rerank-')[2]} reads {each['reads']}" for each in manifest.get("rerankers") or []]
    rerank_stages = [stage for stage in (cost.stages if cost is not None else ()) if stage.startswith("rerank")]
    return {
        "BM25": [str(index.get("analyzer", "terms")), _spent(cost, "analyze", "bm25")],
        "Encoder": [encoder["name"] if encoder else "not used"],
        "Scan": [f"{index.get('vectors') or 'no'} vectors", _spent(cost, "encode", "dense")],
        "Fuse": [
            f"{fusion.get('name')} of both" if fusion else f"{manifest.get('first', 'one list')} alone",
            _spent(cost, "fuse"),
        ],
        "Reranker": ["; ".join(readers) or "none", _spent(cost, *rerank_stages)],
        "Answer": ["best first", _spent(cost, "total")],
    }


def _spent(cost: Cost | None, *stages: str) -> str:
    """The p50 of these stages together."""
    known = [cost.stages[stage][0] for stage in stages if stage in cost.stages] if cost is not None else []
    return f"{sum(known):.1f} ms" if known else ""


def _box(x: int, y: int, width: int, height: int, kind: str, label: str, notes: Sequence[str], *, used: bool = True) -> str:
    shown = [note for note in notes if note]
    middle, first = x + width / 2, y + height / 2 + 5 - 8 * len(shown)
    lines = "".join(
        f'<text x="{middle:.0f}" y="{first + 17 * n:.0f}" class="mid muted"{_fitted(note, width)}>{escape(note)}</text>'
        for n, note in enumerate(shown, 1)
    )
    faint = "" if used else ' opacity=".35"'
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" class="box"/>'
        f'<g{faint}><rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" class="box s-{kind}"/>'
        f'<text x="{middle:.0f}" y="{first:.0f}" class="mid strong" font-size="14">{escape(label)}</text>{lines}</g>'
    )


def _fitted(text: str, width: int) -> str:
    """Squeezes a text that is longer than its box."""
    return f' textLength="{width - 12}" lengthAdjust="spacingAndGlyphs"' if _CHARACTER * len(text) > width - 10 else ""


# --- a batch ----------------------------------------------------------------------------------------------------------

_SHADES = 8
_CELL, _ROW = 6, 14


def batch_picture(batch: Batch, *, columns: int = 144) -> Picture:
    """ids, mask and segments as cells: a row a pair, a cell a token; equal ids have the same shade, padding is empty."""
    inputs = batch.inputs
    rows, longest = inputs.input_ids.shape
    shown = min(columns, longest)
    mask = inputs.attention_mask[:, :shown]
    pictures: Mapping[str, npt.NDArray[np.int64]] = {
        "input_ids": np.where(mask == 1, inputs.input_ids[:, :shown] * 2654435761 % 4294967296 * _SHADES // 4294967296, -1),
        "attention_mask": np.where(mask == 1, _SHADES - 1, 0),
        "token_type_ids": np.where(mask == 1, np.where(inputs.token_type_ids[:, :shown] == 1, _SHADES - 1, 2), -1),
    }
    left, y, body = 34, 18, list[str]()
    part = "" if shown == longest else f", the first {shown}"
    for name, values in pictures.items():
        body.append(f'<text x="{left}" y="{y}" class="strong">{name}  {rows} × {longest}{part}</text>')
        body.append(f'<rect x="{left}" y="{y + 7}" width="{shown * _CELL}" height="{rows * _ROW}" class="panel"/>')
        body.append(_cells(values, left, y + 7, "dense" if name != "token_type_ids" else "two-stage"))
        body += [f'<text x="{left - 8}" y="{y + 18 + _ROW * row}" class="end muted">{row + 1}</text>' for row in range(rows)]
        y += 36 + rows * _ROW
    counts = ", ".join(str(n) for n in inputs.attention_mask.sum(axis=1).tolist())
    text = f"A batch of {batch.reranker}: {rows} pairs of {counts} tokens, padded to {longest}."
    return Picture("batch", "What the reranker reads", text, left + shown * _CELL + 16, y - 14, "".join(body))


def _cells(values: npt.NDArray[np.int64], left: int, top: int, kind: str) -> str:
    """Runs of equal cells as one rectangle each, grouped by shade; -1 is left empty."""
    paths: dict[int, list[str]] = {}
    for row, line in enumerate(values):
        starts = np.flatnonzero(np.diff(line, prepend=-2)).tolist()
        for start, stop in zip(starts, [*starts[1:], len(line)], strict=True):
            wide = (stop - start) * _CELL
            paths.setdefault(int(line[start]), []).append(
                f"M{left + start * _CELL} {top + row * _ROW + 1}h{wide}v{_ROW - 2}h-{wide}z"
            )
    return "".join(
        f'<path d="{"".join(parts)}" class="f-{kind}" opacity="{(shade + 1) / _SHADES:.2f}" shape-rendering="crispEdges"/>'
        for shade, parts in sorted(paths.items())
        if shade >= 0
    )
