"""A report as one HTML page that fetches nothing: style and pictures are in it, and all texts are escaped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby, zip_longest

from shortlist.report import pictures, tables
from shortlist.report.model import Failure, Overview, Report, Section, Shown
from shortlist.report.pictures import Picture
from shortlist.report.tables import Cell, Column, Table

_TEXT = 260  # characters of a passage that are shown

_CSS = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--fg);line-height:1.5;
font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',Helvetica,Arial,sans-serif}
header,main,footer{max-width:1280px;margin:0 auto;padding:0 24px}
header{padding-top:44px}
h1{font-size:2rem;line-height:1.2;margin:0 0 .4rem;letter-spacing:-.015em}
h2{font-size:1.32rem;margin:3rem 0 .5rem;letter-spacing:-.01em}
h3{font-size:1rem;margin:1.7rem 0 .4rem}
p{margin:.4rem 0 .8rem;max-width:76ch}
a{color:inherit;text-decoration:none}
a:hover,a:focus-visible{color:var(--accent);text-decoration:underline}
nav{margin:1rem 0 0;display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;font-size:.9rem}
nav a{color:var(--accent)}
.muted,.note{color:var(--muted)}
.note{font-size:.84rem;max-width:100ch}
.callout{border-left:4px solid var(--bm25);background:var(--panel);padding:.7rem 1rem;border-radius:0 8px 8px 0;margin:1.2rem 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(168px,1fr));gap:12px;margin:1.6rem 0 0;padding:0}
.tiles div{background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:.8rem 1rem}
.tiles dt{color:var(--muted);font-size:.82rem}
.tiles dd{margin:.1rem 0 0;font-size:1.5rem;font-weight:650;font-variant-numeric:tabular-nums;letter-spacing:-.01em}
.tiles small{display:block;font-size:.8rem;font-weight:400;color:var(--muted);letter-spacing:0}
.scroll{overflow-x:auto;width:fit-content;max-width:100%;border:1px solid var(--line);border-radius:10px;margin:.6rem 0}
figure.scroll{padding:14px;margin:.8rem 0;width:auto}
figure svg{display:block;max-width:100%;min-width:680px;height:auto;margin:0 auto}
table{border-collapse:separate;border-spacing:0;font-size:.87rem;font-variant-numeric:tabular-nums}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
th,td{padding:.36rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
tr:last-child>*{border-bottom:0}
thead th{font-weight:600;background:var(--panel);vertical-align:bottom}
thead .group{text-align:center;color:var(--muted);font-weight:500;border-left:1px solid var(--line)}
thead .language{display:block;font-weight:400;color:var(--muted);font-size:.78rem}
th[scope=row],thead tr:first-child th:first-child{position:sticky;left:0;text-align:left;background:var(--bg);z-index:1;
font-weight:500}
thead tr:first-child th:first-child{background:var(--panel)}
th[scope=row]{box-shadow:1px 0 0 var(--line)}
tr.base th[scope=row]::after{content:" baseline";color:var(--muted);font-size:.76rem;font-weight:400}
td.heat{background:color-mix(in srgb,var(--accent) calc(var(--h)*24%),transparent)}
td b{font-weight:750;text-decoration:underline;text-underline-offset:3px;text-decoration-thickness:2px}
td .up,td .down{font-size:.72em;margin-left:.25em;text-decoration:none}
td .up{color:var(--cascade)}td .down{color:var(--two-stage)}
table.words th,table.words td{text-align:left;font-size:.8rem}
tr:target>*{background:color-mix(in srgb,var(--bm25) 22%,var(--bg))}
details{border:1px solid var(--line);border-radius:10px;margin:.7rem 0;padding:0 16px}
summary{cursor:pointer;padding:.75rem 0;font-weight:600;display:flex;flex-wrap:wrap;gap:.2rem .9rem;align-items:baseline}
summary::before{content:"▸";color:var(--muted)}
details[open]>summary::before{content:"▾"}
summary .muted{font-weight:400;font-size:.86rem}
details>:last-child{margin-bottom:16px}
.failure{border-top:1px solid var(--line);padding:.7rem 0}
.failure h4{margin:0 0 .3rem;font-size:.98rem;font-weight:600}
.failure dl{margin:0;display:grid;grid-template-columns:minmax(96px,max-content) 1fr;gap:.3rem .9rem;font-size:.87rem}
.failure dt{color:var(--muted)}.failure dd{margin:0;overflow-wrap:anywhere}
.text{display:block}
.places{color:var(--muted);font-size:.8rem;display:block}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
footer{color:var(--muted);font-size:.84rem;padding-top:2.5rem;padding-bottom:3rem}
@media(max-width:600px){header,main,footer{padding-left:14px;padding-right:14px}h1{font-size:1.5rem}header{padding-top:26px}
.failure dl{grid-template-columns:1fr}.failure dt{margin-top:.3rem}.tiles{grid-template-columns:1fr 1fr}
.tiles dd{font-size:1.2rem}}
@media print{.scroll{overflow:visible}details{break-inside:avoid}}
"""


def page(report: Report) -> str:
    """The whole page."""
    title = escape(report.title)
    parts = [
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n<meta name="generator" content="shortlist">\n'
        f"<style>{pictures.COLOURS}{pictures.STYLE}{_CSS}</style>\n</head>\n<body>",
        f"<header><h1>{title}</h1>{_lead(report)}{_note(report)}{_nav(report)}{_tiles(report)}</header>\n<main>",
        *_overview(report),
        *_pipeline(report),
        '<section><h2 id="collections">Collection by collection</h2>',
        *(_collection(report, section, place == 0) for place, section in enumerate(report.sections)),
        '</section><section><h2 id="sources">Where every number comes from</h2>',
        '<p class="note">Every mean is that of a run; the names in the tables “All measures” lead to what made it.</p>',
        f"<details><summary>All {_count(sum(len(s.results) for s in report.sections), 'run')}</summary>",
        _table(tables.source_table(report)),
        "</details></section></main>",
        f"<footer>Made by shortlist {escape(report.version)} on {report.made}; measures by ir-measures and pytrec_eval.",
        "</footer>",
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


# --- top --------------------------------------------------------------------------------------------------------------


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _languages(report: Report) -> int:
    return len({section.language for section in report.sections if section.language})


def _lead(report: Report) -> str:
    questions = sum(section.queries for section in report.sections)
    facts = [_count(len(report.systems), "system"), _count(len(report.sections), "collection")]
    facts += [_count(_languages(report), "language")] if _languages(report) else []
    facts += [_count(questions, "question"), report.made]
    return f'<p class="muted">{escape(" · ".join(facts))}</p>'


def _note(report: Report) -> str:
    return f'<p class="callout"><strong>Note.</strong> {escape(report.note)}</p>' if report.note else ""


def _nav(report: Report) -> str:
    places = {"quality": "Quality"}
    places |= {"cost": "Quality and cost"} if report.overviews else {}
    places |= {"pipeline": "Pipeline"} if pictures.system_pictures(report) else {}
    places |= {"collections": "Collections", "sources": "Sources"}
    return "<nav>" + "".join(f'<a href="#{key}">{name}</a>' for key, name in places.items()) + "</nav>"


def _tiles(report: Report) -> str:
    """The figures of the system that the report looks at."""
    overview = next((each for each in report.overviews if each.of(report.system) is not None), None)
    mean = overview.of(report.system) if overview is not None else None
    if overview is None or mean is None:
        return ""
    over = _count(len(overview.collections), "collection")
    tiles = [(f"{report.measure} of {report.system}", tables.score(mean.value), f"mean over {over}")]
    if mean.gain is not None and mean.gain_interval is not None:
        tiles.append(
            (f"difference from {report.baseline}", f"{mean.gain:+.3f}", f"95%: {tables.interval(mean.gain_interval, '+.3f')}")
        )
    if mean.cost is not None:
        tiles.append(("a search, p50", f"{mean.cost.total[0]:.1f} ms", f"p99 {mean.cost.total[1]:.1f} ms"))
        tiles.append(
            ("peak memory", f"{mean.cost.peak_mb:,.0f} MB", f"{mean.cost.searched_bytes:,.0f} bytes a passage searched")
        )
    shown = (f"<div><dt>{escape(a)}</dt><dd>{escape(b)}<small>{escape(c)}</small></dd></div>" for a, b, c in tiles)
    return f'<dl class="tiles">{"".join(shown)}</dl>'


def _overview(report: Report) -> Iterator[str]:
    yield '<section><h2 id="quality">Quality</h2>'
    yield f"<p>{escape(report.measure)}, each system on each collection. A darker cell is nearer to the best of its column.</p>"
    yield _table(tables.short_table(report), report.baseline)
    yield "</section>"
    yield '<section><h2 id="cost">Quality and cost</h2>' if report.overviews else "<section>"
    for overview in report.overviews:
        yield f"{_overview_heading(report, overview)}<p>{escape(_over(report, overview))}</p>"
        yield from _with_pictures(
            pictures.overview_pictures(report, overview), tables.overview_tables(report, overview), report
        )
    yield "</section>"


def _with_pictures(drawn: Sequence[Picture], beside: Sequence[Table], report: Report) -> Iterator[str]:
    """A picture, its table, the next picture, its table."""
    for picture, table in zip_longest(drawn, beside):
        yield _figure(picture) if picture is not None else ""
        yield _table(table, report.baseline) if table is not None else ""


def _overview_heading(report: Report, overview: Overview) -> str:
    if len(report.sections) == 1:
        return ""
    return f"<h3>{'All collections' if overview.whole else 'All systems'}</h3>"


def _over(report: Report, overview: Overview) -> str:
    if len(report.sections) == 1:
        return "What each system takes for what it finds."
    systems = _count(len(overview.means), "system")
    if overview.whole:
        return f"Means over all collections, each counting alike, of the {systems} that were run on every one of them."
    return f"All {systems}, on the collections that have every one of them: {', '.join(overview.collections)}."


def _pipeline(report: Report) -> Iterator[str]:
    drawn = pictures.system_pictures(report)
    if not drawn:
        return
    system = escape(report.system)
    yield f'<section><h2 id="pipeline">The pipeline</h2><p>How {system} answers a query, with the p50 of each stage.</p>'
    yield _figure(drawn[0])
    if report.batch is not None:
        yield "<h3>What the reranker reads</h3>"
        yield f"<p>The query “<bdi>{escape(report.batch.query)}</bdi>” with the passages that {system} puts first:"
        yield "equal token ids have the same shade, padding is empty. It is shown padded; the engine reads it ragged.</p>"
        yield _figure(drawn[-1])
    yield "</section>"


# --- collections ------------------------------------------------------------------------------------------------------


def _collection(report: Report, section: Section, opened: bool) -> str:
    best = max(section.results, key=lambda result: result.values[report.measure])
    facts = [section.language] if section.language else []
    facts += [] if section.passages is None else [f"{section.passages:,} passages"]
    facts += [_count(section.queries, "question"), f"best {best.system} {tables.score(best.values[report.measure])}"]
    parts = [
        f'<details id="collection-{escape(section.name)}"{" open" if opened else ""}>',
        f'<summary>{escape(section.name)} <span class="muted">{escape(" · ".join(facts))}</span></summary>',
        *(f'<p class="callout">{escape(line)}</p>' for line in section.warnings),
        *_own_overview(report, section),
        "<h3>All measures</h3>",
        _table(tables.card_table(section), report.baseline),
        *_failures(report, section),
        "</details>",
    ]
    return "\n".join(parts)


def _own_overview(report: Report, section: Section) -> Iterator[str]:
    """Quality and cost of one collection, unless it is the only one: then they stand above already."""
    if len(report.sections) == 1:
        return
    means, title = tables.section_means(report, section), f"{report.measure} against time, {section.name}"
    picture = pictures.pareto(f"pareto-{section.name}", title, report.measure, report.baseline, means, width=860)
    yield from _with_pictures([picture] if picture else [], tables.section_tables(report, section), report)


def _failures(report: Report, section: Section) -> Iterator[str]:
    if not section.failures:
        return
    yield f"<h3>Worst queries of {escape(report.system)}</h3>"
    yield f'<p class="note">It finds nothing ({escape(report.measure)} is 0) for {section.found_nothing} of '
    yield f"{_count(section.queries, 'question')}. Places: in {escape(report.system)}, then in {escape(report.baseline)}.</p>"
    yield from (_failure(report, failure) for failure in section.failures)


def _failure(report: Report, failure: Failure) -> str:
    values = f"{report.measure} {failure.value:.3f}, {report.baseline} {failure.base_value:.3f}"
    instead = "" if failure.instead is None else f"<dt>put first instead</dt><dd>{_passage(failure.instead)}</dd>"
    return (
        f'<article class="failure"><h4><bdi>{escape(failure.query or failure.query_id)}</bdi></h4><dl>'
        f"<dt>query {escape(failure.query_id)}</dt><dd>{escape(values)}</dd>"
        f"<dt>relevant</dt><dd>{_passage(failure.relevant)}</dd>{instead}</dl></article>"
    )


def _passage(shown: Shown) -> str:
    text = " ".join(shown.text.split())
    text = text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"
    places = ", ".join("not found" if place is None else f"place {place}" for place in (shown.place, shown.base_place))
    shown_text = f'<span class="text" dir="auto">{escape(text or shown.id)}</span>'
    return f'{shown_text}<span class="places">{escape(shown.id)} · {places}</span>'


# --- pieces -----------------------------------------------------------------------------------------------------------


def _figure(picture: Picture) -> str:
    return f'<figure class="scroll" tabindex="0">{picture.inline()}</figure>'


def _table(table: Table, baseline: str = "") -> str:
    kind = "" if table.numeric else ' class="words"'
    rows = "\n".join(_row(row, baseline) for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.caption)}">'
        f"<table{kind}><caption>{escape(table.caption)}</caption>"
        f"<thead>{_head(table)}</thead>\n<tbody>{rows}</tbody></table></div>{note}"
    )


def _head(table: Table) -> str:
    """One row, or two where groups stand above the columns."""
    first, *others = table.columns
    groups = [(name, list(of)) for name, of in groupby(others, key=lambda column: column.group)]
    if all(not name for name, _ in groups):
        return f"<tr>{''.join(map(_heading, table.columns))}</tr>"
    spans = "".join(
        f'<th scope="colgroup" colspan="{len(of)}" class="group">{escape(name)}</th>'
        if name
        else f'<td colspan="{len(of)}"></td>'
        for name, of in groups
    )
    heads = "".join(map(_heading, others))
    return f'<tr><th scope="col" rowspan="2">{escape(first.name)}</th>{spans}</tr><tr>{heads}</tr>'


def _heading(column: Column) -> str:
    second = f'<span class="language">{escape(column.note)}</span>' if column.note else ""
    return f'<th scope="col">{escape(column.name)}{second}</th>'


def _row(row: Sequence[Cell], baseline: str) -> str:
    head, *cells = row
    base = ' class="base"' if head.text == baseline else ""
    anchor = f' id="{escape(head.anchor)}"' if head.anchor else ""
    return f'<tr{base}{anchor}><th scope="row">{_linked(head, escape(head.text))}</th>{"".join(map(_cell, cells))}</tr>'


def _linked(cell: Cell, html: str) -> str:
    return f'<a href="#{escape(cell.link)}">{html}</a>' if cell.link else html


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.best:
        text = f'<b>{text}</b><span class="hidden"> best</span>'
    text = _linked(cell, text)
    if cell.mark:
        kind, word = ("up", "better") if cell.mark == "▲" else ("down", "worse")
        text += f'<span class="{kind}" aria-hidden="true">{cell.mark}</span><span class="hidden"> significantly {word}</span>'
    heat = f' class="heat" style="--h:{cell.heat:.2f}"' if cell.heat is not None else ""
    return f"<td{heat}>{text}</td>"
