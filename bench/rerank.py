"""What each reranker is worth: nDCG@10 of two-stage search against every first stage, on all collections, with intervals.

    python bench/rerank.py first [COLLECTION:SPLIT …]             rankings of BM25, the encoder and hybrid
    python bench/rerank.py second MODEL [--window W] [--queries N] [COLLECTION:SPLIT …]    logits of the 32 candidates
    python bench/rerank.py report MODEL … [-o bench/results/rerank.json]    tables from what was computed

Needs SHORTLIST_DATA and the fetched models. Everything computed is kept in --work (one JSON a collection and model), so that
an interrupted run goes on and a report costs seconds. Indexes are made in WORK/indexes unless they are there. Of collections
with more than QUERIES questions an evenly spaced sample is taken; `second` may take a smaller, evenly spaced part of that.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import shortlist
from shortlist import compare, measures
from shortlist.data import read_collection
from shortlist.engines import native
from shortlist.fuse import weighted_sum
from shortlist.index import Index
from shortlist.models.files import appearing
from shortlist.types import Qrels, Run

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))
QUERIES, DEPTH, CANDIDATES = 300, 100, 32
# Splits that are reported. Their questions were never trained on; `trained` in the report tells whose train split was.
SPLITS = (
    "adi:test afriqa:test amqa:test arcd:test cacm:test cisi:test cmrc2017-user:test cmrc2018:test csl-title:test "
    "drcd-dev:dev dureader-demo:dev facqa:dev faquad:dev heq:test iapp-thai:test jaquad:dev kazqad-rc:dev med:test "
    "miracl-yo:dev mlqa-ar:dev mlqa-de:dev mlqa-en:dev mlqa-es:dev mlqa-hi:dev mlqa-vi:dev mlqa-zh:dev norquad:test "
    "novel-eval:test npl:test piaf:test pquad:test pubmedqa:test qed-nq:dev scifact:test squad-es-dev:test "
    "squad-it-dev:test squad-sent:dev tydi-ar:dev tydi-bn:dev tydi-en:dev tydi-fi:dev tydi-id:dev tydi-ko:dev "
    "tydi-ru:dev tydi-sw:dev tydi-te:dev xquad-ar:test xquad-de:test xquad-el:test xquad-en:test xquad-es:test "
    "xquad-r:test xquad-ro:test xquad-tr:test xquad-vi:test xquad-zh:test"
).split()

DETAILED = ("dureader-demo:dev", "tydi-ko:dev", "scifact:test", "miracl-yo:dev", "mlqa-hi:dev")
LANGUAGES = {"afriqa": "African languages to en, fr", "amqa": "am", "arcd": "ar", "facqa": "id", "faquad": "pt", "heq": "he"}
LANGUAGES |= {
    "iapp-thai": "th",
    "jaquad": "ja",
    "kazqad-rc": "kk",
    "miracl-yo": "yo",
    "norquad": "no",
    "piaf": "fr",
    "pquad": "fa",
}
LANGUAGES |= dict.fromkeys(("cmrc2017-user", "cmrc2018", "csl-title", "drcd-dev", "dureader-demo"), "zh")
LANGUAGES |= {"qed-nq": "en", "squad-es-dev": "es", "squad-it-dev": "it", "xquad-r": "eight languages mixed"}


def language(name: str) -> str:
    """Of a collection: stated above, or the end of its name (mlqa-de), or English."""
    ending = name.rpartition("-")[2]
    return LANGUAGES.get(name) or (ending if len(ending) == 2 else "en")


def sampled(ids: list[str], count: int) -> list[str]:
    """At most `count` ids, evenly spaced."""
    return ids if len(ids) <= count else [ids[i * len(ids) // count] for i in range(count)]


def write(path: Path, value: object) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value), encoding="utf-8")
    part.replace(path)


def opened(name: str, indexes: Path, encoder: shortlist.Encoder) -> Index:
    path = indexes / f"{name}.idx"
    if not path.exists():
        with appearing(path) as part, Index.create(part, encoder=encoder) as index:
            index.add(shortlist.read_passages(DATA / name))
    return Index.open(path, encoder=encoder)


def first(specs: list[str], work: Path, indexes: Path, threads: int | None) -> None:
    """WORK/NAME-SPLIT.first.json: {query id: {"query", "judged", "bm25", "dense", "hybrid": [[id, score], …]}}."""
    encoder = shortlist.Encoder.load("shortlist-embed", threads=threads)
    for spec in specs:
        name, split = spec.split(":")
        path = work / f"{name}-{split}.first.json"
        if path.exists():
            continue
        began, data = time.perf_counter(), read_collection(DATA / name, split)
        found = {}
        with opened(name, indexes, encoder) as index:
            for query_id in sampled(sorted(data.qrels), QUERIES):
                query = data.queries[query_id]
                row: dict[str, object] = {"query": query, "judged": data.qrels[query_id]}
                for stage in ("bm25", "dense", "hybrid"):
                    hits = index.search(query, k=DEPTH, first=stage)  # type: ignore[arg-type]
                    row[stage] = [[hit.id, round(hit.score, 6)] for hit in hits]
                found[query_id] = row
        write(path, found)
        print(spec, len(found), f"{time.perf_counter() - began:.0f} s", flush=True)


def second(
    model: str, specs: list[str], work: Path, indexes: Path, queries: int, window: int | None, threads: int | None
) -> None:
    """WORK/NAME-SPLIT.LABEL.json: {query id: [logit of each of the first 32 of hybrid]}."""
    encoder = shortlist.Encoder.load("shortlist-embed", threads=threads)
    reranker = shortlist.Reranker.load(model, threads=threads, window=window)
    for spec in specs:
        name, split = spec.split(":")
        stages = json.loads((work / f"{name}-{split}.first.json").read_text(encoding="utf-8"))
        path = work / f"{name}-{split}.{label(model, window)}.json"
        done = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        wanted = [q for q in sampled(list(stages), queries) if q not in done]
        began = time.perf_counter()
        with opened(name, indexes, encoder) as index:
            for query_id in wanted:
                texts = [index.get(i).content for i, _ in stages[query_id]["hybrid"][:CANDIDATES]]
                done[query_id] = [round(float(s), 5) for s in reranker.score(stages[query_id]["query"], texts)]
        write(path, done)
        print(spec, label(model, window), len(wanted), f"{time.perf_counter() - began:.0f} s", flush=True)


def label(model: str, window: int | None) -> str:
    """A file name's part for one model: its folder's name, or two levels for `run/L-4`."""
    path = Path(model)
    name = f"{path.parent.name}-{path.name}" if path.name.startswith("L-") else path.name
    return name if window is None else f"{name}.w{window}"


def runs(stages: dict, logits: dict, weight: float) -> dict[str, Run]:
    """The rankings of every stage over the questions that have logits."""
    out = {name: Run() for name in ("bm25", "dense", "hybrid", "two_stage", "alone")}
    for query_id, scores in logits.items():
        row = stages[query_id]
        for name in ("bm25", "dense", "hybrid"):
            out[name][query_id] = dict(map(tuple, row[name]))
        head, tail = row["hybrid"][:CANDIDATES], row["hybrid"][CANDIDATES:]
        pairs = [(i, s) for (i, _), s in zip(head, scores, strict=True)]
        for name, share in (("two_stage", weight), ("alone", 1.0)):
            order = [i for i, _ in weighted_sum([[(i, s) for i, s in head], pairs], [1 - share, share])]
            out[name][query_id] = {i: -float(place) for place, i in enumerate([*order, *(i for i, _ in tail)])}
    return out


def rows(model: str, work: Path, weight: float, trained: set[str]) -> Iterator[dict]:
    """One row a collection that has logits of this model; `trained` are the collections whose train split it saw."""
    for spec in SPLITS:
        name, split = spec.split(":")
        path = work / f"{name}-{split}.{label(model, None)}.json"
        if not path.exists():
            continue
        stages = json.loads((work / f"{name}-{split}.first.json").read_text(encoding="utf-8"))
        logits = json.loads(path.read_text(encoding="utf-8"))
        qrels = Qrels({q: stages[q]["judged"] for q in logits})
        found = runs(stages, logits, weight)
        values = {stage: measures.evaluate(run, qrels, ["nDCG@10"]).mean["nDCG@10"] for stage, run in found.items()}
        best = max(("bm25", "dense", "hybrid"), key=lambda stage: values[stage])
        change = compare(found["two_stage"], found[best], qrels, samples=2000)
        yield {
            "collection": name,
            "split": split,
            "language": language(name),
            "trained": "train split" if name in trained else "no",
            "domain": "in" if name in trained else "out",
            "queries": len(logits),
            **{stage: round(value, 4) for stage, value in values.items()},
            "best": best,
            "best_first": round(values[best], 4),
            "difference": round(change.difference, 4),
            "low": round(change.interval[0], 4),
            "high": round(change.interval[1], 4),
            "p": round(change.p_value, 4),
        }


def two_stage(model: str, spec: str, work: Path, weight: float) -> tuple[Run, Qrels]:
    """The run of both stages on one collection, and its judgements."""
    name, split = spec.split(":")
    stages = json.loads((work / f"{name}-{split}.first.json").read_text(encoding="utf-8"))
    logits = json.loads((work / f"{name}-{split}.{label(model, None)}.json").read_text(encoding="utf-8"))
    return runs(stages, logits, weight)["two_stage"], Qrels({q: stages[q]["judged"] for q in logits})


def report(models: list[str], work: Path, output: Path, trained: set[str]) -> None:
    """All tables as JSON, and the means on the terminal."""
    out = {
        "date": str(datetime.date.today()),
        "versions": {"shortlist": shortlist.__version__, "python": platform.python_version(), "numpy": np.__version__},
        "kernels": native.chosen_instruction_set(),
        "candidates": CANDIDATES,
        "models": {},
    }
    for model in models:
        card = shortlist.models.read_card(shortlist.models.resolve(model))
        table = list(rows(model, work, card.fusion_weight, trained))
        out["models"][label(model, None)] = {"weight": card.fusion_weight, "temperature": card.temperature, "rows": table}
        detailed = {}
        for spec in DETAILED:
            name, split = spec.split(":")
            if (work / f"{name}-{split}.{label(model, None)}.json").exists():
                run, qrels = two_stage(model, spec, work, card.fusion_weight)
                detailed[f"{name} {split}"] = measures.card_measures(run, qrels)
        out["models"][label(model, None)]["detailed"] = detailed
        hard = [r for r in table if r["best_first"] < 0.8]
        for words, part in (("all", table), ("below 0.80", hard)):
            if part:
                gain = np.mean([r["difference"] for r in part])
                print(
                    f"{label(model, None)}: {words}: {len(part)} collections, gain over the best first stage {100 * gain:+.2f}"
                )
    out["side_by_side"] = side_by_side({name: found["weight"] for name, found in out["models"].items()}, work)
    output.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    output.with_suffix(".md").write_text(page(out), encoding="utf-8")


def page(out: dict) -> str:
    """The tables of a report as Markdown."""
    lines = [
        "# What each stage is worth",
        "",
        f"nDCG@10, {out['date']}, shortlist {out['versions']['shortlist']}, Python {out['versions']['python']}, kernels "
        f"{out['kernels']}, encoder shortlist-embed in int8. Hybrid is the default first stage, two-stage reranks its best "
        f"{out['candidates']} with the weight of the model's card, alone leaves their order to the reranker. gain: two-stage "
        f"minus the best of the three first stages, in points, with the 95% bootstrap interval over questions. Where a "
        f"collection has more questions than stated an evenly spaced sample was taken. trained: the reranker saw the "
        f"collection's train split. Made by `python bench/rerank.py`.",
    ]
    for model, found in out["models"].items():
        lines += ["", f"## {model}, weight {found['weight']}", ""]
        lines += [
            "| collection | language | questions | trained | BM25 | encoder | hybrid | two-stage | alone | gain | interval |"
        ]
        lines += ["|" + " --- |" * 11]
        for r in found["rows"]:
            values = " | ".join(f"{r[stage]:.3f}" for stage in ("bm25", "dense", "hybrid", "two_stage", "alone"))
            gain = f"{100 * r['difference']:+.1f} | {100 * r['low']:+.1f} to {100 * r['high']:+.1f}"
            trained = "yes" if r["domain"] == "in" else "no"
            lines += [f"| {r['collection']} {r['split']} | {r['language']} | {r['queries']} | {trained} | {values} | {gain} |"]
        lines += ["", *means(found["rows"])]
    names = [name for name in out["side_by_side"][0] if name not in ("collection", "queries")]
    lines += ["", "## Sizes side by side", "", "Two-stage search with each size over the same questions.", ""]
    lines += [f"| collection | questions | {' | '.join(names)} |", "|" + " --- |" * (len(names) + 2)]
    for row in out["side_by_side"]:
        lines += [f"| {row['collection']} | {row['queries']} | {' | '.join(f'{row[n]:.3f}' for n in names)} |"]
    mean = " | ".join(f"{np.mean([row[n] for row in out['side_by_side']]):.4f}" for n in names)
    return "\n".join([*lines, f"| mean | | {mean} |", ""])


def means(table: list[dict]) -> list[str]:
    """Mean gains over groups of collections, a line each."""
    groups = {
        "all collections": table,
        "best first stage below 0.80": [r for r in table if r["best_first"] < 0.8],
        "train split seen": [r for r in table if r["domain"] == "in"],
        "not seen": [r for r in table if r["domain"] == "out"],
    }
    lines = []
    for words, part in groups.items():
        if part:
            gains = np.array([r["difference"] for r in part])
            best, hybrid = (np.mean([r["two_stage"] - r[key] for r in part]) for key in ("best_first", "hybrid"))
            harmed = sum(gains < -0.005)
            lines.append(
                f"- {words} ({len(part)}): {100 * best:+.2f} over the best first stage, {100 * hybrid:+.2f} over hybrid; "
                f"{harmed} lose more than 0.5"
            )
    return lines


def side_by_side(weights: dict[str, float], work: Path) -> list[dict]:
    """nDCG@10 of two-stage search with each model (label -> weight) over the questions that all of them scored."""
    table = []
    for spec in SPLITS:
        key = spec.replace(":", "-")
        paths = {name: work / f"{key}.{name}.json" for name in weights}
        if not all(path.exists() for path in paths.values()):
            continue
        logits = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items()}
        stages = json.loads((work / f"{key}.first.json").read_text(encoding="utf-8"))
        shared = sorted(set.intersection(*(set(found) for found in logits.values())))
        qrels = Qrels({q: stages[q]["judged"] for q in shared})
        ranked = {name: runs(stages, {q: found[q] for q in shared}, weights[name]) for name, found in logits.items()}
        chosen = {"hybrid": next(iter(ranked.values()))["hybrid"], **{name: r["two_stage"] for name, r in ranked.items()}}
        values = {name: measures.evaluate(run, qrels, ["nDCG@10"]).mean["nDCG@10"] for name, run in chosen.items()}
        table.append({"collection": spec, "queries": len(shared), **{n: round(v, 4) for n, v in values.items()}})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("first", "second", "report"))
    parser.add_argument("words", nargs="*", help="models (second: one) and COLLECTION:SPLIT")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "rerank")
    parser.add_argument("--indexes", type=Path)
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--window", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "bench" / "results" / "rerank.json")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    indexes = args.indexes or args.work / "indexes"
    specs = [word for word in args.words if word in SPLITS or ":" in word]
    models = [word for word in args.words if word not in specs]
    if args.step == "first":
        first(specs or list(SPLITS), args.work, indexes, args.threads)
    elif args.step == "second":
        for model in models:
            second(model, specs or list(SPLITS), args.work, indexes, args.queries, args.window, args.threads)
    else:
        data = json.loads((ROOT / "bench" / "train" / "data.json").read_text(encoding="utf-8"))
        report(models, args.work, args.output, set(data["collections"]))


if __name__ == "__main__":
    main()
