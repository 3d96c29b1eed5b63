"""Time of searches: percentiles of every stage, throughput of concurrent clients, cost of a million queries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from shortlist.errors import BadInput
from shortlist.types import Ranking

PERCENTILES = (50, 90, 99)
TOTAL = "total_ms"

Search = Callable[[str], Ranking]


@dataclass(frozen=True)
class Latency:
    """Milliseconds of `searches` searches, one at a time.

    stages  stage -> percentile -> milliseconds, in the order of a query, `total_ms` last; a stage that a search did without
            counts 0 for it
    shares  stage -> its part of the time of all searches, 0..1
    """

    searches: int
    stages: Mapping[str, Mapping[int, float]]
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Throughput:
    """`searches` answered in `seconds` to so many clients at once, each asking again as soon as it is answered.

    ms  percentile -> milliseconds that a client waited
    """

    clients: int
    searches: int
    seconds: float
    ms: Mapping[int, float]

    @property
    def per_s(self) -> float:
        """Searches a second."""
        return self.searches / self.seconds


def measure_latency(
    search: Search,
    queries: Sequence[str],
    *,
    rounds: int = 3,
    warm_up: int = 1,
    progress: Callable[[int, int | None], None] | None = None,
) -> Latency:
    """Every query `rounds` times, after `warm_up` rounds that are not counted.

    Raises BadInput without queries, for rounds < 1 and for warm_up < 0.
    """
    _check_queries(queries)
    if rounds < 1 or warm_up < 0:
        raise BadInput(f"rounds={rounds}, warm_up={warm_up}: expected at least 1 round and no fewer than 0 to warm up.")
    found = list[Mapping[str, float]]()
    total = (warm_up + rounds) * len(queries)
    for number in range(total):
        timings = search(queries[number % len(queries)]).timings
        if progress is not None:
            progress(number + 1, total)
        if number >= warm_up * len(queries):
            found.append(timings)
    return latency_of(found)


def latency_of(timings: Sequence[Mapping[str, float]]) -> Latency:
    """The latency of searches whose timings are known, such as those of a run. Raises BadInput if there are none."""
    _check_queries(timings)
    found: dict[str, list[float]] = {}
    for stage, ms in (item for search in timings for item in search.items()):
        found.setdefault(stage, []).append(ms)
    times = {stage: ms + [0.0] * (len(timings) - len(ms)) for stage, ms in found.items() if stage != TOTAL}
    times[TOTAL] = found[TOTAL]
    whole = sum(found[TOTAL]) or math.inf
    shares = {stage: sum(ms) / whole for stage, ms in times.items()}
    return Latency(len(timings), {stage: percentiles(ms) for stage, ms in times.items()}, shares)


def measure_throughput(search: Search, queries: Sequence[str], *, clients: int, seconds: float = 5.0) -> Throughput:
    """`clients` threads ask one query after the other until `seconds` are up; a search that runs then is still awaited.

    Raises BadInput without queries, for clients outside 1..1024 and for seconds that are not above 0.
    """
    _check_queries(queries)
    if not 1 <= clients <= 1024 or not 0 < seconds < math.inf:
        raise BadInput(f"clients={clients}, seconds={seconds}: expected 1 to 1024 clients and more than 0 seconds.")
    began = perf_counter()

    def ask(client: int) -> list[float]:
        waits, number = list[float](), client * len(queries) // clients
        while not waits or perf_counter() - began < seconds:
            asked = perf_counter()
            search(queries[number % len(queries)])
            waits.append(1000 * (perf_counter() - asked))
            number += 1
        return waits

    with ThreadPoolExecutor(clients) as pool:
        waits = [ms for part in pool.map(ask, range(clients)) for ms in part]
    return Throughput(clients, len(waits), perf_counter() - began, percentiles(waits))


def cost_per_million(per_s: float, price_per_hour: float) -> float:
    """What a million queries cost on a machine that answers `per_s` a second, in the currency of its price per hour.

    Raises BadInput for a throughput that is not above 0 and a negative price.
    """
    if not 0 < per_s < math.inf or not 0 <= price_per_hour < math.inf:
        raise BadInput(f"per_s={per_s}, price_per_hour={price_per_hour}: expected a throughput above 0 and a price from 0 on.")
    return 1e6 / per_s / 3600 * price_per_hour


def percentiles(times: Sequence[float]) -> dict[int, float]:
    """Percentile -> time, interpolated between the two nearest."""
    return dict(zip(PERCENTILES, np.percentile(times, PERCENTILES).tolist(), strict=True))


def _check_queries(queries: Sequence[object]) -> None:
    if not queries:
        raise BadInput("there are no queries to time. Give at least one.")
