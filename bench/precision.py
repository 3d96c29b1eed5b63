"""What int8 and 4-bit weights cost on labelled data: nDCG@10 of each against float32, for the encoder and the reranker.

    python bench/precision.py [--work DIR] [-o bench/results/precision.md] [COLLECTION:SPLIT …]

Three forms of the same weights: float32 arithmetic; int8 (the default); weights packed into 4-bit blocks and the table into
int8 rows (`shortlist models pack --bits 4`), computed in int8. The encoder ranks the whole collection by inner product; the
reranker alone orders the 32 best of the float32 encoder. Needs SHORTLIST_DATA and the fetched models; float32 takes a
quarter of an hour. Vectors and logits are kept in --work, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import shortlist
from shortlist import compare, measures
from shortlist.data import read_collection
from shortlist.engines import native
from shortlist.models import resolve
from shortlist.models.packing import pack
from shortlist.types import FloatArray, Qrels, Run

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))
SPECS = "mlqa-hi:dev mlqa-zh:dev xquad-ar:test tydi-te:dev tydi-ko:dev kazqad-rc:dev heq:test med:test".split()
FORMS = {"float32": "float32", "int8": "int8", "4-bit": "int8"}
ENCODER, RERANKER = "shortlist-embed", "shortlist-rerank-L-6"
ENCODED, RERANKED, CANDIDATES = 300, 60, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="*", metavar="COLLECTION:SPLIT", default=SPECS)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "precision")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "bench" / "results" / "precision.md")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    folders = {form: {name: packed(name, form, args.work) for name in (ENCODER, RERANKER)} for form in FORMS}
    encoding = table([encoder_rows(spec, folders, args.work) for spec in args.specs])
    reranking = table([reranker_rows(spec, folders, args.work) for spec in args.specs])
    args.output.write_text(page(encoding, reranking, folders), encoding="utf-8")


def packed(name: str, form: str, work: Path) -> Path:
    """The folder of a model in this form."""
    source = resolve(name)
    if form != "4-bit":
        return source
    target = work / f"{name}-4-bit"
    return target if target.exists() else pack(source, target, bits=4)


def kept(path: Path, make: Callable[[], FloatArray]) -> FloatArray:
    """The array in this file, made first if there is none."""
    if not path.exists():
        began = time.perf_counter()
        part = path.with_suffix(".part.npy")
        np.save(part, make())
        part.replace(path)
        print(path.name, f"{time.perf_counter() - began:.0f} s", flush=True)
    return np.load(path)


def sampled(ids: list[str], count: int) -> list[str]:
    """At most `count` ids, evenly spaced."""
    return ids if len(ids) <= count else [ids[i * len(ids) // count] for i in range(count)]


def encoder_rows(spec: str, folders: dict, work: Path) -> tuple[str, Qrels, dict[str, Run]]:
    """The run of each form over the whole collection."""
    data = read_collection(DATA / spec.split(":")[0], spec.split(":")[1])
    passages = list(data.passages())
    asked = sampled(sorted(data.qrels), ENCODED)
    runs = {}
    for form, precision in FORMS.items():

        def encoded(kind: str, texts: list[str], form: str = form, precision: str = precision) -> FloatArray:
            path = work / f"{spec.replace(':', '-')}.{form}.{kind}.npy"
            return kept(
                path, lambda: shortlist.Encoder.load(folders[form][ENCODER], precision=precision).encode(texts, kind=kind)
            )

        scores = encoded("query", [data.queries[q] for q in asked]) @ encoded("passage", [p.content for p in passages]).T
        runs[form] = Run({q: best(passages, row, 1000) for q, row in zip(asked, scores, strict=True)})
    return spec, Qrels({q: data.qrels[q] for q in asked}), runs


def best(passages: list[shortlist.Passage], scores: FloatArray, k: int) -> dict[str, float]:
    return {passages[i].id: float(scores[i]) for i in np.argsort(-scores, kind="stable")[:k]}


def reranker_rows(spec: str, folders: dict, work: Path) -> tuple[str, Qrels, dict[str, Run]]:
    """The run of each form over the candidates of the float32 encoder, ordered by the reranker alone."""
    data = read_collection(DATA / spec.split(":")[0], spec.split(":")[1])
    texts = {p.id: p.content for p in data.passages()}
    _, qrels, first = encoder_rows(spec, folders, work)
    asked = sampled(list(qrels), RERANKED)
    candidates = {q: list(first["float32"][q])[:CANDIDATES] for q in asked}
    runs = {}
    for form, precision in FORMS.items():

        def scored(form: str = form, precision: str = precision) -> FloatArray:
            reranker = shortlist.Reranker.load(folders[form][RERANKER], precision=precision)
            return np.stack([reranker.score(data.queries[q], [texts[i] for i in candidates[q]]) for q in asked])

        logits = kept(work / f"{spec.replace(':', '-')}.{form}.rerank.npy", scored)
        runs[form] = Run(
            {q: dict(zip(candidates[q], map(float, row), strict=True)) for q, row in zip(asked, logits, strict=True)}
        )
    return spec, Qrels({q: qrels[q] for q in asked}), runs


def table(rows: list[tuple[str, Qrels, dict[str, Run]]]) -> list[str]:
    """Markdown: nDCG@10 of float32, and what the other forms differ by, with intervals."""
    lines = ["| collection | questions | float32 | int8 | interval | 4-bit | interval |", "|" + " --- |" * 7]
    means: dict[str, list[float]] = {form: [] for form in FORMS}
    for spec, qrels, runs in rows:
        cells = []
        for form, run in runs.items():
            means[form].append(measures.evaluate(run, qrels, ["nDCG@10"]).mean["nDCG@10"])
            if form != "float32":
                change = compare(run, runs["float32"], qrels, samples=2000)
                low, high = (100 * edge for edge in change.interval)
                cells.append(f"{100 * change.difference:+.2f} | {low:+.2f} to {high:+.2f}")
        lines.append(f"| {spec} | {len(qrels)} | {means['float32'][-1]:.4f} | {' | '.join(cells)} |")
    changes = [f"{100 * (np.mean(means[form]) - np.mean(means['float32'])):+.2f} |" for form in ("int8", "4-bit")]
    return [*lines, f"| mean | | {np.mean(means['float32']):.4f} | {' | '.join(changes)}"]


def page(encoding: list[str], reranking: list[str], folders: dict) -> str:
    sizes = {
        form: [sum(f.stat().st_size for f in folder.rglob("*.safetensors")) / 1e6 for folder in folders[form].values()]
        for form in ("int8", "4-bit")
    }
    return "\n".join(
        [
            "# What fewer bits cost",
            "",
            f"{datetime.date.today()}, shortlist {shortlist.__version__}, Python {platform.python_version()}, numpy "
            f"{np.__version__}, kernels {native.chosen_instruction_set()}. Made by `bench/precision.py`. nDCG@10 in float32 "
            "and the difference to it in points, with the 95% bootstrap interval over questions (at most "
            f"{ENCODED} evenly spaced ones, {RERANKED} for the reranker).",
            "",
            "## Encoder: shortlist-embed ranks the whole collection",
            "",
            *encoding,
            "",
            f"## Reranker: {RERANKER} alone orders the {CANDIDATES} best of the float32 encoder",
            "",
            *reranking,
            "",
            "## Size of the weights, MB",
            "",
            "| model | as it comes | 4-bit |",
            "| --- | --- | --- |",
            *(f"| {name} | {sizes['int8'][i]:.1f} | {sizes['4-bit'][i]:.1f} |" for i, name in enumerate((ENCODER, RERANKER))),
            "",
        ]
    )


if __name__ == "__main__":
    main()
