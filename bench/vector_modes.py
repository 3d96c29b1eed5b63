"""What each mode of keeping vectors costs: nDCG@10 and recall@100 of dense and hybrid search beside exact float32.

    for name in scifact miracl-yo ...; do shortlist index $SHORTLIST_DATA/$name -o build/indexes/$name.idx; done
    SHORTLIST_DATA=../shared/data python bench/vector_modes.py --indexes build/indexes

Passages are not encoded again: an index of each mode is made from the float16 vectors of NAME.idx. Queries are encoded once and
kept in build/vector-modes. `exact` ranks all passages by those vectors in float32; `hamming` is what signs around zero, as
`quantize_embeddings` takes them, give without rescoring.
Writes results/vector-modes.md and .json, and docs/images/vector-modes.svg.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

import shortlist as sl
from shortlist.data import read_qrels, read_queries
from shortlist.measures import evaluate
from shortlist.quantize import quantize_embeddings
from shortlist.stores.embedded import EmbeddedStore
from shortlist.stores.vectors import MODES
from shortlist.types import Run

ROOT = Path(__file__).parents[1]
COLLECTIONS = "scifact:test miracl-yo:dev dureader-demo:dev mlqa-zh:dev mlqa-hi:dev tydi-ko:dev xquad-ar:test"
MEASURES = ["nDCG@10", "R@100"]
FIRST = ("dense", "hybrid")


class Stored:
    """The encoder of an index, with the vectors that are known already."""

    def __init__(self, encoder: sl.Encoder) -> None:
        self.name, self.address, self.fingerprint, self.dims = encoder.name, encoder.address, encoder.fingerprint, encoder.dims
        self.matryoshka = ()
        self._encoder, self.known = encoder, {}

    def learn(self, texts, vectors, kind):
        self.known.update({(kind, text): vector for text, vector in zip(texts, vectors, strict=True)})

    def encode_counted(self, texts, *, kind="passage", progress=None):
        missing = [text for text in dict.fromkeys(texts) if (kind, text) not in self.known]
        if missing:
            self.learn(missing, self._encoder.encode(missing, kind=kind), kind)
        return np.stack([self.known[kind, text] for text in texts]), np.zeros(len(texts), np.int32)


def stored_vectors(path: Path):
    """(passages, float32[n, dims]) of an int8 index, in slot order."""
    store = EmbeddedStore(path)
    snapshot = store.snapshot()
    layout, slots = store.layout, np.flatnonzero(snapshot.dead == 0).tolist()
    parts = [
        layout.vectors(snapshot._truth.vectors(slots[at : at + 5000], layout.size(layout.form)))
        for at in range(0, len(slots), 5000)
    ]
    passages = list(snapshot.passages())
    store.close()
    return passages, np.concatenate(parts)


def cached_queries(encoder: Stored, texts: list[str], file: Path) -> np.ndarray:
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, encoder._encoder.encode(texts, kind="query"))
    return np.load(file)


def ranked(names, scores, k=100) -> dict[str, float]:
    order = np.argsort(-scores, kind="stable")[:k]
    return {names[i]: float(scores[i]) for i in order}


def measured(runs: dict[str, dict[str, dict[str, float]]], qrels) -> dict[str, dict[str, float]]:
    results = {}
    for name, lists in runs.items():
        run = Run(name=name)
        run.update(lists)
        results[name] = {measure: float(value) for measure, value in evaluate(run, qrels, MEASURES).mean.items()}
    return results


def index_runs(index: sl.Index, queries: dict[str, str]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        first: {name: {hit.id: hit.score for hit in index.search(text, k=100, first=first)} for name, text in queries.items()}
        for first in FIRST
    }


def disk_bytes(index: sl.Index, passages: int) -> dict[str, float]:
    layout = index._store.layout
    files = sum((index.path / f"vectors.{form}").stat().st_size for form in layout.files)
    return {
        "truth": layout.size(layout.form),
        "files": files / passages,
        "scanned": layout.size(layout.files[0]),
        "all": layout.size(layout.form) + files / passages,
    }


def collection(name: str, split: str, source: Path, data: Path, cache: Path, most: int) -> dict:
    qrels = read_qrels(data / name / "qrels" / f"{split}.tsv")
    queries = {key: text for key, text in read_queries(data / name / "queries.jsonl.gz").items() if key in qrels}
    take = np.linspace(0, len(queries) - 1, min(most, len(queries))).round().astype(int)
    queries = {key: queries[key] for key in np.array(list(queries))[take].tolist()}
    qrels = {key: qrels[key] for key in queries}
    passages, vectors = stored_vectors(source)
    encoder = Stored(sl.Encoder.load(sl.Index.open(source).manifest["encoder"]["address"]))
    encoder.learn([p.content for p in passages], vectors, "passage")
    asked = cached_queries(encoder, list(queries.values()), cache / f"{name}-{split}-{most}.npy")
    encoder.learn(list(queries.values()), asked, "query")
    names = [p.id for p in passages]
    signs = quantize_embeddings(vectors, "ubinary"), quantize_embeddings(asked, "ubinary")
    distances = (np.bitwise_count(signs[0] ^ signs[1][i]).sum(axis=1, dtype=np.int64) for i in range(len(asked)))
    results = measured(
        {
            "exact": {key: ranked(names, vectors @ one) for key, one in zip(queries, asked, strict=True)},
            "hamming": {key: ranked(names, -one.astype(float)) for key, one in zip(queries, distances, strict=True)},
        },
        qrels,
    )
    found = {
        "passages": len(passages),
        "queries": len(queries),
        "modes": {name: {"dense": one} for name, one in results.items()},
    }
    for mode in MODES:
        folder = Path(tempfile.mkdtemp())
        with sl.Index.create(folder / "i", encoder=encoder, vectors=mode) as index:
            index.add(passages)
            found["modes"][mode] = measured(index_runs(index, queries), qrels) | {"bytes": disk_bytes(index, len(passages))}
        shutil.rmtree(folder)
    return found


def mean(results: dict, mode: str, first: str, measure: str) -> float:
    return float(np.mean([one["modes"][mode][first][measure] for one in results.values()]))


def table(results: dict, first: str, measure: str) -> list[str]:
    modes = [*(["exact"] if first == "dense" else []), *MODES, *(["hamming"] if first == "dense" else [])]
    lines = [f"| {measure}, {first} | {' | '.join(modes)} |", "|" + " --- |" * (len(modes) + 1)]
    for name, one in results.items():
        lines.append(f"| {name} | {' | '.join(format(one['modes'][m][first][measure], '.3f') for m in modes)} |")
    lines.append(f"| mean | {' | '.join(format(mean(results, m, first, measure), '.3f') for m in modes)} |")
    return [*lines, ""]


def page(results: dict) -> str:
    sizes = next(iter(results.values()))["modes"]
    lines = [
        "# What each mode of keeping vectors costs",
        "",
        f"{datetime.date.today()}, shortlist {sl.__version__}, numpy {np.__version__}. Made by `python bench/vector_modes.py`; "
        "multilingual-e5-small, 384 numbers. `exact` is a brute-force float32 ranking of the same vectors, `hamming` the signs "
        "around zero without rescoring.",
        "",
        "| mode | bytes a passage: scanned | derived files | truth | all |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {mode} | {sizes[mode]['bytes']['scanned']} | {sizes[mode]['bytes']['files']:.0f} | "
            f"{sizes[mode]['bytes']['truth']} | {sizes[mode]['bytes']['all']:.0f} |"
            for mode in MODES
        ),
        "",
        "| collection | passages | queries |",
        "| --- | --- | --- |",
        *(f"| {name} | {one['passages']:,} | {one['queries']} |" for name, one in results.items()),
        "",
    ]
    for measure in MEASURES:
        for first in FIRST:
            lines += table(results, first, measure)
    return "\n".join(lines)


def plot(results: dict, path: Path) -> None:
    """nDCG@10 over bytes a passage, a thin line a collection and a thick one for their mean; readable on light and dark."""
    import matplotlib
    from matplotlib.figure import Figure

    modes = list(MODES)[::-1]
    sizes = [next(iter(results.values()))["modes"][mode]["bytes"]["all"] for mode in modes]
    grey, colours = "#808890", {"dense": "#2f81c5", "hybrid": "#d9742b"}
    style = {
        "svg.hashsalt": "shortlist", "svg.fonttype": "none", "font.size": 10, "text.color": grey, "axes.edgecolor": grey,
        "axes.labelcolor": grey, "xtick.color": grey, "ytick.color": grey,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8.6, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, first in ((left, "dense"), (right, "hybrid")):
            lines = {n: [one["modes"][m][first]["nDCG@10"] for m in modes] for n, one in results.items()}
            for values in lines.values():
                axes.plot(sizes, values, color=grey, lw=0.9, alpha=0.7)
            average = [mean(results, mode, first, "nDCG@10") for mode in modes]
            axes.plot(sizes, average, color=colours[first], lw=2.6, marker="o", ms=6)
            heights = spread({**{n: v[-1] for n, v in lines.items()}, "mean": average[-1]}, 0.028)
            for name, height in heights.items():
                colour = colours[first] if name == "mean" else grey
                weight = "bold" if name == "mean" else "normal"
                axes.annotate(name, (sizes[-1], height), xytext=(8, 0), textcoords="offset points", va="center", color=colour,
                              size=8, weight=weight)  # fmt: skip
            for size, mode, value in zip(sizes, modes, average, strict=True):
                below = mode == "int8"  # it stands close to its neighbour
                axes.annotate(f"{value:.3f}", (size, value), xytext=(0, -9 if below else 9), textcoords="offset points",
                              ha="center", va="center", size=8, color=colours[first], weight="bold")  # fmt: skip
                axes.annotate(mode.replace("-", "\n"), (size, 0), xycoords=("data", "axes fraction"), xytext=(0, 5),
                              textcoords="offset points", ha="center", va="bottom", size=8)  # fmt: skip
            axes.set(xlim=(-120, 2900), title=first, xlabel="bytes a passage on disk, vectors only")
            axes.title.set_color(colours[first])
            axes.set_xticks(
                sizes,
                [f"{size:,.0f}" for size in sizes],
            )
            axes.minorticks_off()
            axes.spines[["top", "right"]].set_visible(False)
            axes.patch.set_alpha(0)
        low = min(min(one["modes"][m]["dense"]["nDCG@10"] for m in modes) for one in results.values())
        left.set(ylabel="nDCG@10", ylim=(low - 0.12, 1.0))
        figure.patch.set_alpha(0)
        figure.savefig(path, metadata={"Date": None})


def spread(heights: dict[str, float], least: float) -> dict[str, float]:
    """Heights of labels, moved up where they would stand on each other."""
    placed: dict[str, float] = {}
    last = -np.inf
    for name, height in sorted(heights.items(), key=lambda pair: pair[1]):
        last = placed[name] = max(height, last + least)
    return placed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--indexes", type=Path, required=True, help="folder with an int8 index NAME.idx for each collection")
    parser.add_argument("--collections", default=COLLECTIONS, help="NAME:SPLIT, separated by spaces")
    parser.add_argument("--queries", type=int, default=300, help="at most so many a collection, evenly spaced")
    parser.add_argument("--plot-only", action="store_true", help="draw the picture from the results that are there")
    args = parser.parse_args()
    data = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))
    kept = ROOT / "bench" / "results" / "vector-modes.json"
    if args.plot_only:
        results = json.loads(kept.read_text("utf-8"))
    else:
        results = {}
        for word in args.collections.split():
            name, split = word.split(":")
            source, cache = args.indexes / f"{name}.idx", ROOT / "build" / "vector-modes"
            results[name] = collection(name, split, source, data, cache, args.queries)
            print(name, {m: round(one["dense"]["nDCG@10"], 4) for m, one in results[name]["modes"].items()}, file=sys.stderr)
        kept.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        kept.with_suffix(".md").write_text(page(results), encoding="utf-8")
        print(page(results))
    plot(results, ROOT / "docs" / "images" / "vector-modes.svg")


if __name__ == "__main__":
    main()
