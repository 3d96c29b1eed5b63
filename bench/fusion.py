"""Fusions of BM25 and vectors on all collections: how the default was chosen, and what hybrid gains over the better stage.

    python bench/fusion.py [--work DIR] [--indexes DIR] [-o bench/results/fusion.md]

Needs SHORTLIST_DATA and the fetched models; an hour, most of it for indexes that are not there yet. Constants were chosen on
train splits alone; the other splits are reported. Of splits with more than 300 questions an evenly spaced sample is asked. The
values of each split are kept in --work, so an interrupted run goes on. Writes the picture docs/images/fusion.svg too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

import shortlist
from rerank import DATA, QUERIES, ROOT, SPLITS, language, opened, sampled, write
from shortlist.data import read_collection
from shortlist.engines import native
from shortlist.fuse import FUSION_WEIGHTS, fuse_stages, rrf
from shortlist.index import Index
from shortlist.significance import bootstrap_interval
from shortlist.tune import ndcg, stage_lists

SHARES = (0.2, 0.3, 0.4, 0.5, 0.67, 0.8, 1.0, 1.3)
FIXED = {"rrf60": "RRF, k=60", "rrf10": "RRF, k=10, BM25 0.3"}
METHODS = {"bm25": "BM25", "dense": "vectors", **FIXED, "sum": "sum 0.5 : 1", "auto": "auto"}


def fusions(train: bool) -> dict[str, partial]:
    """Name -> what makes (id, score) of both stages and the encoder's spread."""

    def stages(name: str, weights: Mapping[str, float], lists: dict, spread: float) -> list:
        return fuse_stages(lists, name, weights, spread)[0]

    def ranks(k: float, share: float, lists: dict, spread: float) -> list:
        return rrf([[name for name, _ in lists[stage]] for stage in ("bm25", "dense")], k=k, weights=[share, 1.0])

    methods = {"rrf60": partial(ranks, 60, 1.0), "rrf10": partial(ranks, 10, 0.3)}
    methods |= {name: partial(stages, name, FUSION_WEIGHTS[name]) for name in ("sum", "auto")}
    if train:
        for name in ("sum", "auto"):
            methods |= {f"{name} {share:g}": partial(stages, name, {"bm25": share, "dense": 1.0}) for share in SHARES}
    return methods


def measured(spec: str, work: Path, indexes: Path, encoder: shortlist.Encoder) -> dict[str, np.ndarray]:
    """Method -> nDCG@10 of each question."""
    path = work / f"{spec.replace(':', '-')}.fusion.json"
    if not path.exists():
        name, split = spec.split(":")
        data = read_collection(DATA / name, split)
        with opened(name, indexes, encoder) as index:
            rows = [row(index, data.queries[q], data.qrels[q], split == "train") for q in sampled(sorted(data.qrels), QUERIES)]
        write(path, {method: [each[method] for each in rows] for method in rows[0]})
        print(spec, len(rows), flush=True)
    return {method: np.array(values) for method, values in json.loads(path.read_text(encoding="utf-8")).items()}


def row(index: Index, query: str, judged: dict[str, int], train: bool) -> dict[str, float]:
    lists = stage_lists(index, query)
    found = {**lists, **{name: method(lists, index.spread) for name, method in fusions(train).items()}}
    return {name: ndcg([i for i, _ in ranked[:10]], judged) if any(judged.values()) else 0.0 for name, ranked in found.items()}


def chosen(values: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """Means over the train splits by the weight of BM25."""
    lines = ["| fusion | " + " | ".join(f"{share:g} : 1" for share in SHARES) + " |", "| --- |" + " --- |" * len(SHARES)]
    for name in ("sum", "auto"):
        means = [np.mean([split[f"{name} {share:g}"].mean() for split in values.values()]) for share in SHARES]
        lines.append(f"| {name} | " + " | ".join(f"{mean:.4f}" for mean in means) + " |")
    means = {label: np.mean([split[name].mean() for split in values.values()]) for name, label in FIXED.items()}
    fixed = ", ".join(f"{label} {mean:.4f}" for label, mean in means.items())
    return [*lines, "", f"By ranks: {fixed}."]


def gains(values: dict[str, dict[str, np.ndarray]]) -> dict[str, tuple[float, float, float]]:
    """Split -> difference of auto to the better single stage, and its 95% interval."""
    found = {}
    for spec, split in values.items():
        difference = split["auto"] - max(split["bm25"], split["dense"], key=np.mean)
        found[spec] = (float(difference.mean()), *bootstrap_interval(difference, 10_000, np.random.default_rng(0)))
    return found


def table(values: dict[str, dict[str, np.ndarray]]) -> list[str]:
    lines = ["| split | language | questions | " + " | ".join(METHODS.values()) + " | auto − better stage | 95% interval |"]
    lines.append("| --- | --- |" + " --- |" * (len(METHODS) + 3))
    for spec, (gain, low, high) in gains(values).items():
        split = values[spec]
        cells = " | ".join(f"{split[name].mean():.3f}" for name in METHODS)
        mark = "**" if low > 0 or high < 0 else ""
        lines.append(
            f"| {spec} | {language(spec.split(':')[0])} | {len(split['auto'])} | {cells} | {mark}{100 * gain:+.1f}{mark} "
            f"| {100 * low:+.1f} to {100 * high:+.1f} |"
        )
    means = " | ".join(f"{np.mean([split[name].mean() for split in values.values()]):.4f}" for name in METHODS)
    return [*lines, f"| mean | | | {means} | | |"]


def summary(values: dict[str, dict[str, np.ndarray]]) -> str:
    found = gains(values)
    better = [spec for spec, (_, low, _) in found.items() if low > 0]
    worse = [spec for spec, (_, _, high) in found.items() if high < 0]
    below = [f"{spec} {100 * gain:+.1f}" for spec, (gain, _, _) in found.items() if gain < -0.01]
    over = {}
    for name in (*FIXED, "sum"):
        each = np.array([split["auto"].mean() - split[name].mean() for split in values.values()])
        low, high = bootstrap_interval(each, 10_000, np.random.default_rng(0))
        over[name] = f"{METHODS[name]} {100 * each.mean():+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
    lost = f" ({', '.join(worse)})" if worse else ""
    return (
        f"Over {len(values)} splits auto differs from {'; '.join(over.values())} points on average (intervals over splits). "
        f"Against the better single stage it is better beyond noise on {len(better)} splits, worse beyond noise on "
        f"{len(worse)}{lost}; more than 1 point below it: {', '.join(below) or 'none'}."
    )


def picture(values: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """The gains with their intervals, from the largest down."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "fusion"
    from matplotlib import pyplot

    found = sorted(gains(values).items(), key=lambda item: item[1][0])
    figure, axes = pyplot.subplots(figsize=(7.5, 0.17 * len(found) + 1.2), layout="constrained")
    for place, (_, (gain, low, high)) in enumerate(found):
        colour = "#2a7f62" if low > 0 else "#b3402a" if high < 0 else "#777777"
        axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=1.6, solid_capstyle="round")
        axes.plot(100 * gain, place, "o", color=colour, markersize=4)
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.set_yticks(
        range(len(found)), [f"{spec.split(':')[0]} ({language(spec.split(':')[0])})" for spec, _ in found], fontsize=7
    )
    axes.set_ylim(-1, len(found))
    axes.set_xlabel("nDCG@10 of hybrid (auto) minus that of the better single stage,\npoints, 95% interval over questions")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "fusion")
    parser.add_argument("--indexes", type=Path, help="(default: WORK/indexes)")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "bench" / "results" / "fusion.md")
    args = parser.parse_args()
    indexes = args.indexes or args.work / "indexes"
    for folder in (args.work, indexes):
        folder.mkdir(parents=True, exist_ok=True)
    encoder = shortlist.Encoder.load("shortlist-embed")
    trains = [f"{path.parent.parent.name}:train" for path in sorted(DATA.glob("*/qrels/train.tsv"))]
    trains = [spec for spec in trains if (DATA / spec.split(":")[0] / "corpus.jsonl.gz").exists()]
    learnt, reported = ({spec: measured(spec, args.work, indexes, encoder) for spec in specs} for specs in (trains, SPLITS))
    picture(reported, ROOT / "docs" / "images" / "fusion.svg")
    args.output.write_text(
        "\n".join(
            [
                "# Fusion of BM25 and vectors",
                "",
                f"{datetime.date.today()}, shortlist {shortlist.__version__}, Python {platform.python_version()}, numpy "
                f"{np.__version__}, kernels {native.chosen_instruction_set()}, {encoder.name}, analyzer auto/2. Made by "
                f"`bench/fusion.py`: nDCG@10, up to {QUERIES} questions a split.",
                "",
                summary(reported),
                "",
                "![Gain over the better stage](../../docs/images/fusion.svg)",
                "",
                "## How the weight was chosen",
                "",
                f"Mean over the train splits of {len(learnt)} collections ({', '.join(s.split(':')[0] for s in learnt)}), "
                "by the weight of BM25:",
                "",
                *chosen(learnt),
                "",
                "## Splits that nothing was chosen on",
                "",
                *table(reported),
                "",
            ]
        ),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
