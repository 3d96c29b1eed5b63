"""The tables of a report as plain cells, and their Markdown and LaTeX: every form shows the same numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from shortlist.measures import CARD
from shortlist.report.model import Cost, Interval, Mean, Overview, Report, Result, Section

LEVEL = 0.05
"""A difference is marked if its p-value after Holm's correction is below this."""

Mark = Literal["", "▲", "▼"]
NONE = "–"


@dataclass(frozen=True)
class Column:
    """`group` stands above the columns that share it, `note` with the name."""

    name: str
    group: str = ""
    note: str = ""

    @property
    def label(self) -> str:
        """Name and note in a line."""
        return f"{self.name} ({self.note})" if self.note else self.name


@dataclass(frozen=True)
class Cell:
    """`best` of its column; `mark`: better or worse than the baseline; `heat` 0..1: its place between the column's ends.

    link  an id on the page that the cell leads to; `anchor` is its own
    """

    text: str
    best: bool = False
    mark: Mark = ""
    heat: float | None = None
    link: str = ""
    anchor: str = ""


@dataclass(frozen=True)
class Table:
    """The first cell of a row is its header. All other cells are numbers unless `numeric` is False."""

    key: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    numeric: bool = True


# --- contents ---------------------------------------------------------------------------------------------------------


def short_table(report: Report) -> Table:
    """One row a system, means and one column a collection: Table 1 of miniMiracle's card."""
    averaged = [overview for overview in report.overviews if len(overview.collections) > 1]
    columns = [
        Column("system"),
        *(Column("mean", note=_over(overview)) for overview in averaged),
        *(Column(section.name, note=section.language) for section in report.sections),
    ]
    rows = [
        [
            Cell(system),
            *(_mean_score(overview.of(system)) for overview in averaged),
            *(_score(section, system, report.measure) for section in report.sections),
        ]
        for system in report.systems
    ]
    note = f"Best of a column in bold. {_legend(report)}"
    return Table("short", f"{report.measure} of every system", tuple(columns), _with_best(rows), note)


def _score(section: Section, system: str, measure: str) -> Cell:
    result = section.of(system)
    if result is None:
        return Cell(NONE)
    against = result.against
    mark = _mark(against.difference, against.holm_p_value) if against is not None else ""
    return Cell(score(result.values[measure]), mark=mark, link=f"collection-{section.name}")


def _mean_score(mean: Mean | None) -> Cell:
    return Cell(NONE) if mean is None else Cell(score(mean.value), mark=_mark(mean.gain or 0.0, mean.p_value))


def _over(overview: Overview) -> str:
    """Over how many collections."""
    n = len(overview.collections)
    return f"all {n}" if overview.whole else f"{n} with every system"


def _mark(difference: float, p_value: float | None) -> Mark:
    if p_value is None or p_value >= LEVEL:
        return ""
    return "▲" if difference > 0 else "▼"


def _legend(report: Report) -> str:
    return (
        f"▲ better, ▼ worse than {report.baseline}: randomisation test over queries, p below {LEVEL:g} after Holm's correction "
        "for the systems of the column."
    )


def overview_tables(report: Report, overview: Overview) -> list[Table]:
    """Quality beside cost over several collections, and the time of each stage."""
    n, names = len(overview.collections), ", ".join(overview.collections)
    over = names if n == 1 else f"all {n} collections" if overview.whole else f"{n} collections ({names})"
    cost = _quality_and_cost(f"mean-{overview.key}", f"Quality and cost over {over}", report, overview.means)
    found = [cost, *_stage_tables(f"stages-{overview.key}", f"Time by stage over {over}", overview.means)]
    means = " Each figure is the mean of those of the collections, percentiles too." if n > 1 else ""
    return [replace(table, note=table.note + means) for table in found]


def section_tables(report: Report, section: Section) -> list[Table]:
    """The same of one collection; none if it is the only one."""
    if len(report.sections) == 1:
        return []
    means, name = section_means(report, section), section.name
    cost = _quality_and_cost(f"cost-{name}", f"Quality and cost on {name}", report, means)
    return [cost, *_stage_tables(f"stages-{name}", f"Time by stage on {name}", means)]


def section_means(report: Report, section: Section) -> list[Mean]:
    """The results of one collection in the form of those over several."""
    return [_as_mean(report, result) for result in section.results]


def _as_mean(report: Report, result: Result) -> Mean:
    against = result.against
    return Mean(
        system=result.system,
        value=result.values[report.measure],
        interval=result.interval,
        gain=None if against is None else against.difference,
        gain_interval=None if against is None else against.interval,
        p_value=None if against is None else against.holm_p_value,
        cost=result.cost,
        kind=result.kind,
        reduced=result.reduced,
    )


def _quality_and_cost(key: str, caption: str, report: Report, means: Sequence[Mean]) -> Table:
    columns = [
        Column("system"),
        *(Column(name, report.measure) for name in ("mean", "95% interval")),
        *(Column(name, f"against {report.baseline}") for name in ("difference", "95% interval", "p (Holm)")),
        *(Column(name, "a search, ms") for name in ("p50", "p99")),
        Column("peak MB", "memory"),
        *(Column(name, "bytes a passage") for name in ("searched", "index")),
    ]
    rows = [[*_quality_cells(mean), *_cost_cells(mean.cost)] for mean in means]
    note = "Intervals: 10,000 bootstrap samples of the queries. Searched: the postings, the vectors, or both, as the first "
    note += f"stage reads them. Memory: what the searching process had resident at most. {_how(means)}"
    return Table(key, caption, tuple(columns), _with_best(rows, only=(1,)), note)


def _stage_tables(key: str, caption: str, means: Sequence[Mean]) -> list[Table]:
    """p50 and p99 of every stage; none where no time is known."""
    stages = list(dict.fromkeys(s for mean in means if mean.cost for s in mean.cost.stages if s != "total"))
    if not stages:
        return []
    stages.sort(key=_stage_order)
    columns = [Column("system"), *(Column(p, f"{name}, ms") for name in (*stages, "total") for p in ("p50", "p99"))]
    rows = [(Cell(mean.system), *_stage_cells(mean.cost, (*stages, "total"))) for mean in means]
    note = f"{_how(means)} Stages do not add up: each has percentiles of its own."
    return [Table(key, caption, tuple(columns), tuple(rows), note)]


def _how(means: Sequence[Mean]) -> str:
    hows = dict.fromkeys(how for mean in means if mean.cost for how in mean.cost.how.split("; "))
    return f"Times: {'; '.join(hows)}." if hows else "The time of these runs is not known."


def _stage_cells(cost: Cost | None, stages: Sequence[str]) -> list[Cell]:
    pairs = [cost.stages.get(stage) if cost is not None else None for stage in stages]
    return [Cell(NONE if pair is None else _ms(pair[end])) for pair in pairs for end in (0, 1)]


def _quality_cells(mean: Mean) -> list[Cell]:
    cells = [Cell(mean.system), Cell(score(mean.value)), Cell(interval(mean.interval))]
    if mean.gain is None or mean.gain_interval is None:
        return [*cells, *[Cell(NONE)] * 3]
    p = "" if mean.p_value is None else f"{mean.p_value:.4f}"
    mark = _mark(mean.gain, mean.p_value)
    return [*cells, Cell(f"{mean.gain:+.3f}", mark=mark), Cell(interval(mean.gain_interval, "+.3f")), Cell(p)]


def _cost_cells(cost: Cost | None) -> list[Cell]:
    if cost is None:
        return [Cell(NONE)] * 5
    sizes = (f"{cost.peak_mb:,.0f}", f"{cost.searched_bytes:,.0f}", f"{cost.index_bytes:,.0f}")
    return [Cell(text) for text in (_ms(cost.total[0]), _ms(cost.total[1]), *sizes)]


_STAGES = ("load", "analyze", "bm25", "encode", "dense", "fuse", "read")


def _stage_order(stage: str) -> tuple[int, bool]:
    """In the order of a query: the first stage, the rerankers of a cascade, the last reranker."""
    return _STAGES.index(stage) if stage in _STAGES else len(_STAGES), stage == "rerank"


def card_table(section: Section) -> Table:
    """Every measure at every cut-off: Table 2 of miniMiracle's card, in the order of its dictionaries."""
    names = [(label, f"{measure}@{k}", f"@{k}") for label, (measure, cutoffs) in CARD.items() for k in cutoffs]
    columns = (Column("system"), *(Column(cutoff, label) for label, _, cutoff in names))
    rows = [
        [Cell(r.system, link=f"run-{r.number}"), *(Cell(f"{r.values[name]:.5f}") for _, name, _ in names)]
        for r in section.results
    ]
    note = f"Mean over {section.queries:,} judged queries, as miniMiracle's card prints it; best of a column in bold. "
    note += f"The runs hold at most {section.depth:,} passages a query, so that nothing changes beyond that cut-off."
    return Table(f"card-{section.name}", f"All measures on {section.name}", columns, _with_best(rows), note)


def source_table(report: Report) -> Table:
    """What made every run."""
    names = ("run", "collection", "first stage", "encoder", "rerankers", "analyzer", "vectors", "corpus", "queries", "versions")
    rows = [_source(section, result) for section in report.sections for result in section.results]
    note = "From the manifest beside each run; fingerprints and hashes by their beginnings."
    return Table("sources", "What made every run", tuple(map(Column, names)), tuple(rows), note, numeric=False)


def _source(section: Section, result: Result) -> tuple[Cell, ...]:
    m = result.manifest
    run = Cell(f"{result.number}. {result.file}", anchor=f"run-{result.number}")
    if not m:
        return (run, Cell(section.name), *[Cell("not known")] * 8)
    fusion, index = m.get("fusion"), m.get("index") or {}
    weights = ", ".join(f"{name} {weight}" for name, weight in ((fusion or {}).get("weights") or {}).items())
    fused = f" ({fusion.get('name')}{weights and ': '}{weights})" if fusion else ""
    rerankers = [
        f"{_model(each)} reads {each.get('reads', '?')}, weight {each.get('weight', '?')}" for each in m.get("rerankers") or []
    ]
    cells = (
        section.name,
        f"{m.get('first')}{fused}, k={m.get('k')}",
        _model(m["encoder"]) if m.get("encoder") else NONE,
        "; ".join(rerankers) or NONE,
        f"{index.get('analyzer')}, k1={index.get('k1')}, b={index.get('b')}, title × {index.get('title_weight')}",
        str(index.get("vectors") or NONE),
        _hashed(m.get("corpus") or {}, "passages"),
        _hashed(m.get("queries") or {}, "count"),
        ", ".join(f"{name} {v}" for name, v in {"shortlist": m.get("shortlist"), **(m.get("versions") or {})}.items()),
    )
    return (run, *map(Cell, cells))


def _model(facts: dict[str, object]) -> str:
    return f"{facts.get('name', '?')} {str(facts.get('fingerprint', '?'))[:8]}"


def _hashed(facts: dict[str, object], count: str) -> str:
    return f"{facts.get(count)} · {str(facts.get('hash'))[:8]}"


# --- numbers ----------------------------------------------------------------------------------------------------------


def score(value: float) -> str:
    """A measure in three decimals."""
    return f"{value:.3f}"


def interval(bounds: Interval, form: str = ".3f") -> str:
    """Both ends."""
    return f"{bounds[0]:{form}} … {bounds[1]:{form}}"


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _with_best(rows: Iterable[Sequence[Cell]], only: Sequence[int] = ()) -> tuple[tuple[Cell, ...], ...]:
    """The rows with the best of each column marked, as it is shown, and heat by the place between worst and best."""
    table = [list(row) for row in rows]
    for place in only or range(1, len(table[0])):
        values = {at: float(row[place].text) for at, row in enumerate(table) if row[place].text != NONE}
        low, high = min(values.values(), default=0.0), max(values.values(), default=0.0)
        for at, value in values.items():
            heat = (value - low) / (high - low) if high > low else None
            table[at][place] = replace(table[at][place], best=len(values) > 1 and value == high, heat=heat)
    return tuple(tuple(row) for row in table)


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(table: Table) -> str:
    """A table in GitHub's form; a group stands before the name of its columns."""
    names = [plain(" ".join(filter(None, (_group(c), c.label)))) for c in table.columns]
    ruler = ["---", *["---:" if table.numeric else "---"] * (len(names) - 1)]
    lines = [names, ruler, *([_md_cell(cell) for cell in row] for row in table.rows)]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines]) + (
        f"\n\n{plain(table.note)}\n" if table.note else "\n"
    )


def _group(column: Column) -> str:
    return f"{column.group}:" if column.group else ""


def _md_cell(cell: Cell) -> str:
    text = f"**{plain(cell.text)}**" if cell.best else plain(cell.text)
    return f"{text} {cell.mark}".strip()


def plain(text: str) -> str:
    """Text in which nothing is read as markup."""
    escaped = "".join(f"\\{c}" if c in "\\`*_{}[]#|~" else c for c in text)
    return " ".join(escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())


# --- LaTeX ------------------------------------------------------------------------------------------------------------

_LATEX_COLUMNS = 7  # that fit on a line of text
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "…": r"\ldots{}",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "▲": r"$^{\uparrow}$",
    "▼": r"$^{\downarrow}$",
}


def latex(table: Table) -> str:
    """A `table` environment that needs the packages booktabs and graphicx; a wide one is scaled to the line."""
    groups = [(name, len(list(of))) for name, of in groupby(c.group for c in table.columns)]
    heads = [" & ".join(rf"\multicolumn{{{n}}}{{c}}{{{_tex(name)}}}" for name, n in groups)] if len(groups) > 1 else []
    heads.append(" & ".join(_tex(c.label) for c in table.columns))
    body = [" & ".join(_tex_cell(cell) for cell in row) for row in table.rows]
    fit = (r"\resizebox{\linewidth}{!}{%", "}") if len(table.columns) > _LATEX_COLUMNS else ()
    aligned = "l" + ("r" if table.numeric else "l") * (len(table.columns) - 1)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(table.caption)}. {_tex(table.note)}}}",
        rf"\label{{tab:{table.key}}}",
        *fit[:1],
        rf"\begin{{tabular}}{{{aligned}}}",
        r"\toprule",
        *(rf"{line} \\" for line in heads),
        r"\midrule",
        *(rf"{line} \\" for line in body),
        r"\bottomrule",
        r"\end{tabular}" + "".join(fit[1:]),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _tex_cell(cell: Cell) -> str:
    text = rf"\textbf{{{_tex(cell.text)}}}" if cell.best else _tex(cell.text)
    return text + _tex(cell.mark)


def _tex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)
