"""Exact scans of a million vectors of 384 numbers, ours beside numpy, numkong, faiss and usearch, and the limit of memory.

    python bench/scan.py --indexes build/indexes                  # 1,000,000 rows, into results/scan.md
    python bench/scan.py --indexes build/indexes --graph 10000000 # the border beyond which a graph pays; 20 minutes, 16 GB

Vectors are the float16 ones of every int8 index in the folder, then `real + 0.55 x residual of another + noise`, normalised.
Queries are vectors held out of it (or --queries, a .npy of encoded questions, which are harder). The limit is one thread that
reads the same bytes once (read_memory.cpp, compiled on the spot), measured in every round beside the scans; a time is the best
of the rounds, ratios are medians of ratios within a round. One thread unless said. `pip install -r
bench/requirements-scan.txt` brings the peers.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import importlib
import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import shortlist as sl
from shortlist import _native
from shortlist.engines import native
from shortlist.index import DEFAULT_RESCORE
from shortlist.quantize import small_query, to_int8
from shortlist.stores.embedded import EmbeddedStore
from shortlist.stores.vectors import Layout, Vectors, bit_rows_of, bit_stride, candidates, rows_of, stride

ROOT = Path(__file__).parents[1]
DIMS, K, PART = 384, 100, 50_000


def compiled() -> Callable[[np.ndarray], int]:
    folder = Path(tempfile.mkdtemp())
    library, source = folder / "read_memory.so", ROOT / "bench" / "read_memory.cpp"
    command = [os.environ.get("CXX", "c++"), "-O3", "-march=native", "-shared", "-fPIC", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    read = ctypes.CDLL(str(library)).read_memory
    read.argtypes, read.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_uint64
    shutil.rmtree(folder)
    return lambda data: int(read(data.ctypes.data, data.nbytes))


def real_vectors(folder: Path) -> np.ndarray:
    """float16[n, 384], every distinct vector of the int8 indexes in a folder."""
    parts = []
    for path in sorted(folder.glob("*.idx")):
        store = EmbeddedStore(path)
        layout, slots = store.layout, range(store.snapshot().published.rows)
        for start in range(0, len(slots) if layout.dims == DIMS else 0, 5000):
            stored = store._truth.vectors(slots[start : start + 5000], layout.size(layout.form))
            parts.append(layout.vectors(stored).astype(np.float16))
        store.close()
    together = np.concatenate(parts)
    _, first = np.unique(together[:, :8], axis=0, return_index=True)
    return together[np.sort(first)]


def expanded(real: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """float16[count, 384], the real vectors and as many made of them as it takes."""
    out = np.empty((count, DIMS), np.float16)
    out[: len(real)] = real[:count]
    mean = real.astype(np.float32).mean(axis=0)
    for start in range(len(real), count, PART):
        n = min(PART, count - start)
        near, other = (real[rng.integers(0, len(real), n)].astype(np.float32) for _ in range(2))
        made = near + 0.55 * (other - mean) + 0.005 * rng.standard_normal((n, DIMS), dtype=np.float32)
        out[start : start + n] = made / np.linalg.norm(made, axis=1, keepdims=True)
    return out


def in_parts(vectors: np.ndarray, make: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.concatenate([make(vectors[i : i + PART].astype(np.float32)) for i in range(0, len(vectors), PART)])


class Held:
    """`Vectors` over rows in memory, as an index serves them from mapped files."""

    def __init__(self, layout: Layout, rows: dict[str, np.ndarray]) -> None:
        count = len(next(iter(rows.values())))
        self.vectors = Vectors(Path(), 0, layout, {})
        self.vectors.count = count
        self.vectors._all = lambda form: rows[form].reshape(-1)
        self.dead, self.layout, self.rows = np.zeros(count, np.uint8), layout, rows

    def best(self, query: np.ndarray) -> np.ndarray:
        """Slots of the K best after rescoring, as a search has them where the truth holds these rows."""
        slots, _ = self.vectors.scan(query, self.dead, candidates(K))
        scores = self.layout.scores(self.rows[self.layout.form][slots], query)
        return slots[np.argsort(-scores, kind="stable")[:K]]


def measured(systems: dict[str, tuple[str, Callable[[int], object]]], limits: dict[str, np.ndarray], read, rounds: int):
    """{name: (best ms, median ratio to the limit)}; every round gives each system its turn, after the limit of its bytes."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    ratios: dict[str, list[float]] = {name: [] for name in systems}
    bounds: dict[str, list[float]] = {form: [] for form in limits}
    for turn in range(rounds + 1):
        for name, (form, run) in systems.items():
            limit = min(timed(lambda form=form: read(limits[form])) for _ in range(2))
            took = timed(lambda run=run, turn=turn: run(turn))
            if turn:
                bounds[form].append(limit)
                times[name].append(took)
                ratios[name].append(took / limit)
    best = {form: min(values) for form, values in bounds.items() if values}
    return best, {name: (min(times[name]), min(times[name]) / best[form], statistics.median(ratios[name]))
                  for name, (form, _) in systems.items()}  # fmt: skip


def timed(run: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Milliseconds. Processor time: it waits for memory as the clock does, and leaves out what other programs take."""
    start = clock()
    run()
    return 1000 * (clock() - start)


def peer(name: str):
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"{name} is not installed", file=sys.stderr)
        return None


def peers(vectors: np.ndarray, float_rows: np.ndarray, queries: np.ndarray) -> dict[str, tuple[str, Callable[[int], object]]]:
    """What other libraries do with the same vectors; int8 with one scale for all, as they have it."""
    found: dict[str, tuple[str, Callable[[int], object]]] = {
        "numpy float32 product": ("float32", lambda turn: np.argpartition(float_rows @ queries[turn], -K)[-K:])
    }
    scale = 127 / np.abs(float_rows[:10_000]).max()
    whole = in_parts(vectors, lambda part: np.clip(np.rint(part * scale), -127, 127).astype(np.int8))
    asked = np.clip(np.rint(queries * scale), -127, 127).astype(np.int8)
    if faiss := peer("faiss"):
        faiss.omp_set_num_threads(1)
        flat = faiss.IndexScalarQuantizer(DIMS, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
        flat.train(float_rows[:100_000])
        for start in range(0, len(float_rows), PART):
            flat.add(float_rows[start : start + PART])
        found["faiss flat SQ8"] = ("int8", lambda turn: flat.search(queries[turn : turn + 1], K))
        bits = faiss.IndexBinaryFlat(DIMS)
        packed = in_parts(vectors, lambda part: np.packbits(part > 0, axis=1))
        bits.add(packed)
        signs = np.packbits(queries > 0, axis=1)
        found["faiss flat bits (Hamming)"] = ("bits", lambda turn: bits.search(signs[turn : turn + 1], 2000))
    if numkong := peer("numkong"):
        packed_rows = numkong.dots_pack(whole, "int8")
        found["numkong int8 dots_packed"] = (
            "int8",
            lambda turn: _largest(numkong.dots_packed(asked[turn : turn + 1], packed_rows)),
        )
    if usearch := peer("usearch.index"):
        options = {"metric": usearch.MetricKind.IP, "exact": True, "threads": 1}
        found["usearch int8 exact"] = ("int8", lambda turn: usearch.search(whole, asked[turn], K, **options))
    return found


def _largest(scores) -> np.ndarray:
    return np.argpartition(np.asarray(scores)[0], -K)[-K:]


def exact_best(vectors: np.ndarray, queries: np.ndarray) -> list[set[int]]:
    """The K rows of largest inner product with each query, in float32; a part of the rows at a time."""
    best, scores = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    for start in range(0, len(vectors), PART):
        part = vectors[start : start + PART].astype(np.float32)
        best = np.concatenate([best, np.broadcast_to(np.arange(start, start + len(part)), (len(queries), len(part)))], axis=1)
        scores = np.concatenate([scores, queries @ part.T], axis=1)
        kept = np.argpartition(scores, -K, axis=1)[:, -K:]
        best, scores = np.take_along_axis(best, kept, axis=1), np.take_along_axis(scores, kept, axis=1)
    return [set(row.tolist()) for row in best]


def recall(find: Callable[[np.ndarray], np.ndarray], queries: np.ndarray, exact: list[set[int]]) -> float:
    return float(np.mean([len(set(find(query).tolist()) & best) / K for query, best in zip(queries, exact, strict=True)]))


def machine() -> str:
    """Versions and load, a sentence."""
    return (
        f"{datetime.date.today()}, shortlist {sl.__version__}, Python {platform.python_version()}, kernels "
        f"{native.chosen_instruction_set()}, load {os.getloadavg()[0]:.1f} on {native.available_cpus()} cores."
    )


def page(vectors: np.ndarray, queries: np.ndarray, rounds: int, real: int) -> str:
    read, float_rows = compiled(), vectors.astype(np.float32)
    centre = float_rows[: min(real, 100_000) : 20].mean(axis=0)
    rows = {"i8": in_parts(vectors, rows_of), "b1": in_parts(vectors, lambda part: bit_rows_of(part, centre))}
    dead = np.zeros(len(vectors), np.uint8)
    values, (small, steps) = to_int8(queries)[0], small_query(queries - centre)
    rescored = Held(Layout("binary-rescored", DIMS, centre, DEFAULT_RESCORE), rows)

    def int8(turn: int, asked: int = 1, level: str = ""):
        chosen = values[(turn + np.arange(asked)) % len(values)]
        return _native.scan_int8(rows["i8"].reshape(-1), DIMS, stride(DIMS), chosen, dead, candidates(K), 1, level)

    def bits(turn: int, asked: int = 1, level: str = ""):
        which = (turn + np.arange(asked)) % len(values)
        return _native.scan_bits(
            rows["b1"].reshape(-1), DIMS, bit_stride(DIMS), small[which], steps[which], dead, 2000, 1, level
        )

    systems: dict[str, tuple[str, Callable[[int], object]]] = {"int8 scan": ("int8", int8)}
    systems |= {f"int8 scan, {asked} queries": ("int8", lambda turn, asked=asked: int8(turn, asked)) for asked in (8, 32, 64)}
    systems |= {"bit scan, top 2,000": ("bits", bits), "bit scan, 32 queries": ("bits", lambda turn: bits(turn, 32))}
    systems["bits + int8 rescoring"] = ("bits", lambda turn: rescored.best(queries[turn]))
    for level in _native.instruction_sets()[1:]:
        systems[f"int8 scan, {level}"] = ("int8", lambda turn, level=level: int8(turn, level=level))
        systems[f"bit scan, {level}"] = ("bits", lambda turn, level=level: bits(turn, level=level))
    systems |= peers(vectors, float_rows, queries)
    held = {"int8": rows["i8"], "bits": rows["b1"], "float32": float_rows}
    limits, times = measured(systems, held, read, rounds)
    exact = exact_best(vectors, queries)
    int8_best = Held(Layout("int8", DIMS, centre), {**rows, "f16": vectors.view(np.uint8)})
    lines = [
        "# Exact scans beside the limit that memory sets",
        "",
        f"{machine()} {len(vectors):,} vectors of {DIMS} numbers ({real:,} of them embeddings of "
        f"multilingual-e5-small, the others made of these), top {K}, one thread, processor time, best of {rounds} rounds. "
        "Made by `python bench/scan.py`.",
        "",
        *(f"One read of the {form} rows, {held[form].nbytes / 1e6:.0f} MB: {ms:.2f} ms.\n" for form, ms in limits.items()),
        "| what | rows | ms | ms a query | best over best read | median ratio within a round |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, (ms, ratio, within) in times.items():
        asked = int(name.split(", ")[1].split(" ")[0]) if name.endswith("queries") else 1
        lines.append(f"| {name} | {systems[name][0]} | {ms:.2f} | {ms / asked:.2f} | {ratio:.2f} | {within:.2f} |")
    lines += [
        "",
        f"recall@{K} against float32 brute force over {len(queries)} queries: int8 with float16 rescoring "
        f"{recall(int8_best.best, queries, exact):.4f}, bits with int8 rescoring {recall(rescored.best, queries, exact):.4f}.",
    ]
    return "\n".join(lines) + "\n"


def graph_border(real: np.ndarray, queries: np.ndarray, most: int, built: int, rng: np.random.Generator) -> str:
    """Exact scans beside usearch's HNSW, ten times as many vectors each time, until `most`: build time, ms a query, recall.

    The graph is built up to `built` vectors; beyond, its columns stay empty.
    """
    usearch = peer("usearch.index")
    if usearch is None:
        return ""
    lines = [
        "# Where a graph begins to pay",
        "",
        f"{machine()} {len(real):,} of the vectors are embeddings of multilingual-e5-small, the others made of these.",
        "",
        f"usearch {importlib.metadata.version('usearch')}, HNSW on int8 (connectivity 16, expansion_add 128), one thread "
        f"for queries, all for building. Medians of 20 queries, recall@{K} over {len(queries)}. A cell of the graph has ms and "
        f"recall; it was built of {built:,} vectors at most.",
        "",
        "| vectors | int8 scan, ms | bits + int8, ms | its recall | HNSW build, s | ef 64 | ef 256 | ef 1024 |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    count = 100_000
    while count <= most:
        vectors = expanded(real, count, rng)
        exact, centre = exact_best(vectors, queries), vectors[:5000].astype(np.float32).mean(axis=0)
        rows = {"i8": in_parts(vectors, rows_of), "b1": in_parts(vectors, lambda part, c=centre: bit_rows_of(part, c))}
        int8 = Held(Layout("int8", DIMS, centre), {"i8": rows["i8"], "f16": vectors.view(np.uint8)})
        bits = Held(Layout("binary-rescored", DIMS, centre, DEFAULT_RESCORE), rows)
        cells = [f"{count:,}"]
        cells += [f"{statistics.median(timed(lambda q=q, h=h: h.best(q)) for q in queries[:20]):.2f}" for h in (int8, bits)]
        cells.append(f"{recall(bits.best, queries, exact):.3f}")
        cells += graph_cells(usearch, vectors, queries, exact) if count <= built else [""] * 4
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr)
        count *= 10
    return "\n".join(lines) + "\n"


def graph_cells(usearch: Any, vectors: np.ndarray, queries: np.ndarray, exact: list[set[int]]) -> list[str]:
    """Seconds to build the graph, then milliseconds and recall at three depths of search."""
    graph = usearch.Index(ndim=DIMS, metric="ip", dtype="i8", connectivity=16, expansion_add=128)
    began = time.perf_counter()
    for start in range(0, len(vectors), 50_000):
        part = vectors[start : start + 50_000].astype(np.float32)
        graph.add(np.arange(start, start + len(part)), part)
    cells = [f"{time.perf_counter() - began:.0f}"]
    for depth in (64, 256, 1024):
        graph.expansion_search = depth
        took = statistics.median(timed(lambda q=q: graph.search(q, K, threads=1).keys) for q in queries[:20])
        cells.append(f"{took:.2f}, {recall(lambda q: graph.search(q, K, threads=1).keys, queries, exact):.3f}")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--indexes", type=Path, required=True, help="folder with int8 indexes NAME.idx of 384 numbers")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=Path, help=".npy of encoded questions, float32[n, 384]")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--graph", type=int, help="compare with HNSW from 100,000 vectors up to so many instead")
    parser.add_argument("--built", type=int, default=1_000_000, help="vectors that the graph is built of at most")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    real = real_vectors(args.indexes)
    held = rng.choice(len(real), 100, replace=False)
    queries = np.load(args.queries)[:100] if args.queries else real[held].astype(np.float32)
    real = np.delete(real, held, axis=0)
    if args.graph:
        text, name = graph_border(real, queries, args.graph, args.built, rng), "scan-graph.md"
    else:
        text, name = page(expanded(real, args.rows, rng), queries, args.rounds, min(len(real), args.rows)), "scan.md"
    print(text)
    (ROOT / "bench" / "results" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
