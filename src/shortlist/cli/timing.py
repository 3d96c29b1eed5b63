"""`bench`: how long searches take on this machine, stage by stage, and how many it answers."""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from shortlist import latency
from shortlist.cli.searching import add_stage_arguments, open_pipeline, second_stage
from shortlist.cli.show import complain, example, out, print_json, progress
from shortlist.data import read_manifest, read_queries, write_manifest
from shortlist.engines import native
from shortlist.errors import BadInput
from shortlist.index import Index
from shortlist.latency import Latency, Throughput
from shortlist.pipeline import Pipeline
from shortlist.provenance import SEARCHED, differing, run_manifest
from shortlist.types import Json, Ranking


def add_verbs(verbs: Any) -> None:
    """Register `bench`."""
    bench = verbs.add_parser(
        "bench",
        help="time searches on this machine",
        description="Latency of every stage with percentiles, after a warm-up, and throughput with several clients at once.",
        **example("shortlist bench my.idx queries.jsonl --rerank L-6 --candidates 32 --clients 1,4 --price 0.08"),
    )
    add_stage_arguments(bench, queries="queries")
    bench.add_argument(
        "--queries",
        dest="most",
        type=int,
        default=100,
        metavar="N",
        help="evenly spaced ones of the file (default: %(default)s)",
    )
    bench.add_argument("--rounds", type=int, default=3, help="times that each query is asked (default: %(default)s)")
    bench.add_argument("--warm-up", type=int, default=1, metavar="ROUNDS", help="rounds not counted (default: %(default)s)")
    bench.add_argument(
        "--clients", type=_clients, default=(1, 2), metavar="N,…", help="at once, for the throughput (default: 1,2)"
    )
    bench.add_argument(
        "--seconds", type=float, default=5.0, help="of each throughput measurement, 0 for none (default: %(default)s)"
    )
    bench.add_argument(
        "--price", type=float, metavar="AMOUNT", help="of this machine per hour: says what a million queries cost"
    )
    bench.add_argument(
        "--run", type=Path, metavar="RUN", help="put the latency into the manifest of this run, which was made in the same way"
    )
    bench.add_argument("--json", action="store_true", help="one JSON object")
    bench.set_defaults(verb=run_bench)


def _clients(text: str) -> tuple[int, ...]:
    """`1,4,16` as numbers; argparse makes a usage error of the ValueError."""
    return tuple(int(part) for part in text.split(","))


def run_bench(args: argparse.Namespace) -> int:
    """Time the searches and print the tables."""
    queries = _sample(list(read_queries(Path(args.queries)).values()), args.most)
    pipeline = open_pipeline(args)
    manifest = None if args.run is None else _manifest_of(args.run, pipeline, args)
    search = partial(_ask, pipeline, args)
    with progress(f"searching {args.index.name}", "searches") as report:
        times = latency.measure_latency(search, queries, rounds=args.rounds, warm_up=args.warm_up, progress=report)
    if manifest is not None:
        how = f"by bench, {args.rounds} × {len(queries)} searches, {args.k} passages a query"
        write_manifest({**manifest, "measured": measured(times, pipeline.index, how)}, args.run)
    clients = args.clients if args.seconds else ()
    rates = [latency.measure_throughput(search, queries, clients=n, seconds=args.seconds) for n in clients]
    best = max(rates, key=lambda rate: rate.per_s, default=None)
    cost = None if args.price is None or best is None else latency.cost_per_million(best.per_s, args.price)
    if args.json:
        print_json(_facts(args, times, rates, cost))
        return 0
    _print_latency(args, times)
    if rates:
        _print_throughput(rates)
    if best is not None and cost is not None:
        out().print(f"A million queries: {cost:.2f} at {args.price:g} an hour and {best.per_s:.1f} queries a second.")
    complain(f"this process took {_peak_mb():.0f} MB at most")
    return 0


def measured(times: Latency, index: Index, how: str) -> dict[str, Json]:
    """What a run's manifest says about the time and the memory of its searches."""
    return {
        "how": how,
        "searches": times.searches,
        "stages": _stages(times),
        "peak_mb": round(_peak_mb(), 1),
        "index_bytes": dict(index.sizes()),
        "kernels": native.chosen_instruction_set(),
        "threads": native.available_cpus(),
    }


def _manifest_of(run: Path, search: Pipeline, args: argparse.Namespace) -> dict[str, Json]:
    """The manifest of a run. Raises BadInput if it was made in another way than `args` say."""
    arguments = {name: getattr(args, name) for name in ("k", "candidates", "first", "max_ms")}
    manifest, wanted = read_manifest(run), run_manifest(search, {}, **arguments, where=args.filter)
    parts = SEARCHED if manifest is None else differing(manifest, wanted, SEARCHED)
    if manifest is None or parts:
        raise BadInput(
            f"{run}: its manifest differs from these arguments in {', '.join(parts)}, and so their time is not its own. "
            "Give the arguments it was made with, or make it again."
        )
    return manifest


def _ask(search: Pipeline, args: argparse.Namespace, query: str) -> Ranking:
    return search(query, k=args.k, candidates=args.candidates, first=args.first, max_ms=args.max_ms, where=args.filter)


def _sample(queries: Sequence[str], count: int) -> list[str]:
    """At most `count` queries, evenly spaced."""
    if count < 1:
        raise BadInput(f"--queries {count}: expected at least 1.")
    return list(queries) if len(queries) <= count else [queries[i * len(queries) // count] for i in range(count)]


def _facts(args: argparse.Namespace, times: Latency, rates: Sequence[Throughput], cost: float | None) -> dict[str, Any]:
    throughput = [
        {
            "clients": rate.clients,
            "searches": rate.searches,
            "per_s": round(rate.per_s, 3),
            **{f"p{p}": round(ms, 3) for p, ms in rate.ms.items()},
        }
        for rate in rates
    ]
    settings = {"index": str(args.index), "first": args.first or "default", "rerank": second_stage(args), "k": args.k}
    measured = {"searches": times.searches, "stages": _stages(times), "throughput": throughput}
    return {**settings, **measured, "cost_per_million": cost, "peak_mb": round(_peak_mb(), 1)}


def _stages(times: Latency) -> dict[str, Any]:
    return {
        stage: {**{f"p{p}": round(ms, 3) for p, ms in found.items()}, "share": round(times.shares[stage], 4)}
        for stage, found in times.stages.items()
    }


def _print_latency(args: argparse.Namespace, times: Latency) -> None:
    from rich.table import Table

    out().print(
        f"{args.index}: {times.searches:,} searches one at a time, first stage {args.first or 'default'}, reranker "
        f"{second_stage(args)}",
        markup=False,
    )
    table = Table()
    table.add_column("stage")
    for percentile in latency.PERCENTILES:
        table.add_column(f"p{percentile} ms", justify="right")
    table.add_column("share", justify="right")
    for stage, found in times.stages.items():
        name = stage.removesuffix("_ms")
        table.add_row(name, *(f"{ms:.2f}" for ms in found.values()), f"{times.shares[stage]:.0%}")
    out().print(table)


def _print_throughput(rates: Sequence[Throughput]) -> None:
    from rich.table import Table

    table = Table()
    for name in ("clients at once", "queries/s", *(f"p{p} ms" for p in latency.PERCENTILES)):
        table.add_column(name, justify="right")
    for rate in rates:
        table.add_row(str(rate.clients), f"{rate.per_s:.1f}", *(f"{ms:.1f}" for ms in rate.ms.values()))
    out().print(table)


def _peak_mb() -> float:
    """The most memory that this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
