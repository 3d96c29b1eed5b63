"""What the verbs share: tables, progress bars and JSON lines. Colours only where a terminal reads.

rich is imported where something is drawn: a command that prints JSON starts without it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from shortlist.data import Skipped
    from shortlist.index import Index
    from shortlist.types import Hit, Passage, Ranking

Ranges = Sequence[tuple[int, int]]
Report = Callable[[int, int | None], None]


def out() -> Console:
    """The console on stdout; wide where no terminal limits it, so that piped tables are not cut."""
    from rich.console import Console

    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=140)


def complain(message: str) -> None:
    """A message on stderr."""
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True, highlight=False, soft_wrap=True).print(escape(f"shortlist: {message}"))


def complain_of_skipped(skipped: Skipped | None) -> None:
    """On stderr: how many lines were left out, and why the first few."""
    if skipped is not None and skipped.count:
        complain(f"bad lines left out: {skipped.count:,}; the first of them:")
        for message in skipped.first:
            complain(message)


@contextmanager
def progress(what: str, unit: str) -> Iterator[Report]:
    """A bar on stderr with count, rate and times. Yields `report(done, total)`; an unknown total shows a moving bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), rate)
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None, visible=False, rate="")
        began = perf_counter()

        def report(done: int, total: int | None) -> None:
            per_second = done / max(perf_counter() - began, 1e-3)
            bar.update(task, completed=done, total=total, visible=True, rate=f"{per_second:,.0f}/s")

        yield report


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr for work whose length is unknown. Yields `say(step)`; without a terminal each step is a line."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    with console.status(what) as status:
        yield lambda step: status.update(f"{what}: {step}") if console.is_terminal else console.print(f"{what}: {step}")


def print_json(value: Any) -> None:
    """One JSON line on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def example(text: str) -> dict[str, Any]:
    """Keyword arguments that put an example under a verb's help."""
    return {"epilog": f"example:\n  {text}", "formatter_class": argparse.RawDescriptionHelpFormatter}


def shortened(passage: Passage, width: int = 220) -> Passage:
    """The passage with the beginning of its text, white space made one space."""
    text = " ".join(passage.text.split())
    return replace(passage, text=text if len(text) <= width else text[: width - 1] + "…")


def excerpt(passage: Passage, marks: Mapping[str, Ranges] | None = None) -> str:
    """Id, title and text as rich markup, the ranges in `marks` ("title", "text") underlined."""
    from rich.markup import escape

    marks = marks or {}
    title, text = _underlined(passage.title, marks.get("title", ())), _underlined(passage.text, marks.get("text", ()))
    return f"[dim]{escape(passage.id)}[/dim]  [bold]{title}[/bold]\n{text}"


def _underlined(text: str, ranges: Ranges) -> str:
    from rich.markup import escape

    ends = [0, *chain.from_iterable(ranges), len(text)]
    pieces = [escape(text[start:stop]) for start, stop in pairwise(ends)]
    return "".join(f"[underline]{piece}[/underline]" if place % 2 else piece for place, piece in enumerate(pieces))


def ranking_table(title: str, ranking: Ranking, k: int, index: Index) -> Table:
    """The k best passages with the place that each stage gave them; `index` says which words of theirs the query meets."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", title_style="bold", show_lines=True, expand=True)
    stages = [s for s in ("bm25", "dense", *ranking.scored) if any(s in hit.ranks for hit in ranking.hits[:k])]
    table.add_column("#", justify="right", width=2)
    table.add_column("passage", ratio=1, overflow="fold")
    table.add_column("score", justify="right")
    for stage in stages:
        table.add_column(f"{stage} place", justify="right")
    passages = [shortened(hit.passage) for hit in ranking.hits[:k] if hit.passage is not None]
    marks = index.highlights(ranking.query, passages)
    for rank, (hit, passage, marked) in enumerate(zip(ranking.hits, passages, marks, strict=False), 1):
        places = [str(hit.ranks.get(stage, "–")) for stage in stages]
        table.add_row(str(rank), excerpt(passage, marked), f"{hit.score:.3f}", *places)
    return table


def timing_line(timings: Mapping[str, float]) -> str:
    """`bm25 0.8 ms · dense 1.2 ms · … · total 54 ms`."""
    return " · ".join(f"{name.removesuffix('_ms')} {ms:.1f} ms" for name, ms in timings.items())


def ranking_json(ranking: Ranking, k: int) -> dict[str, Any]:
    """A ranking as the JSON object that `--json` prints."""
    return {
        "query": ranking.query,
        "hits": [hit_json(hit) for hit in ranking.hits[:k]],
        "timings": {name: round(ms, 3) for name, ms in ranking.timings.items()},
        "scored": dict(ranking.scored),
        "weights": dict(ranking.weights),
        "notes": list(ranking.notes),
    }


def hit_json(hit: Hit) -> dict[str, Any]:
    """A hit as a JSON object with its passage inside."""
    passage = {} if hit.passage is None else hit.passage.as_json()
    return {"id": hit.id, "score": hit.score, "scores": dict(hit.scores), "ranks": dict(hit.ranks), **passage}
