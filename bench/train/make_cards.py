"""Write the README of every size from what was measured.

    python bench/train/make_cards.py fields RUN WINDOW > fields.json    what card.json says of training, licence and languages
    python bench/train/make_cards.py readme WORK SIZE=RUN …             for example L-6=WORK/run6

The second reads bench/results/rerank.json and rerank_speed.json, RUN/manifest.json and RUN/log.jsonl, WORK/SIZE.json (what
`shortlist train export --to body` printed) and WORK/forms/SIZE-*.json (what the other exports printed).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import rerank
from shortlist.models import read_card, resolve
from shortlist.train import cards

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def evaluation(name: str, size: str, work: Path) -> dict:
    """What `cards.write_readme` takes as evaluation."""
    quality, speed = read(RESULTS / "rerank.json"), read(RESULTS / "rerank_speed.json")
    learnt, mine = read(work / f"{size}.json"), quality["models"][name]
    sizes = {}
    for model, row in speed["models"].items():
        sizes[model.removeprefix("shortlist-rerank-")] = row
    calibration = {key: learnt[key] for key in ("temperature", "ece_before", "ece_after", "pairs", "bins")}
    return {
        "date": quality["date"],
        "versions": quality["versions"],
        "kernels": quality["kernels"],
        "protocol": {
            "candidates": quality["candidates"],
            "window": read(ROOT / "models" / name / "card.json")["window"],
            "queries": max(r["queries"] for r in mine["rows"]),
            "first": "hybrid",
            "weight": mine["weight"],
        },
        "rows": mine["rows"],
        "detailed": mine["detailed"],
        "sizes": sizes,
        "beside": beside(name, size, work / "eval"),
        "calibration": {**calibration, "held_back": sorted(next(iter(learnt["by_weight"].values())))},
    }


def beside(name: str, size: str, work: Path) -> dict[str, tuple[int, float, float]]:
    """Other sizes, and the network before training, over the questions that they and this one scored."""
    others = {f"two-stage with size {s}": f"shortlist-rerank-{s}" for s in ("L-2", "L-4", "L-6") if s != size}
    others["the same network before training (MaxSim alone), two-stage"] = f"untrained-{size}.w128"
    weight, found = read(ROOT / "models" / name / "card.json")["fusion_weight"], {}
    for words, other in others.items():
        card = ROOT / "models" / other / "card.json"
        theirs = read(card)["fusion_weight"] if card.exists() else weight
        table = rerank.side_by_side({name: weight, other: theirs}, work)
        if table:
            found[words] = (len(table), *(float(np.mean([row[label] for row in table])) for label in (other, name)))
    return found


def fields(run: Path, window: int) -> dict:
    """For `shortlist train export --to body --card`."""
    encoder, manifest = read_card(resolve("shortlist-embed")), read(run / "manifest.json")
    sentence = cards.training_sentence(manifest, read(ROOT / "bench" / "train" / "data.json"))
    drawn = manifest["drawn"] + manifest.get("before", {}).get("drawn", 0)
    return {
        "licence": "MIT",
        "source": "first layers of shortlist-embed (multilingual-e5-small, MIT), trained by bench/train/shortlist-rerank.sh",
        "training_data": f"{drawn:,} questions drawn at random from: {sentence}",
        "languages": list(encoder.languages),
        "window": window,
    }


def readmes(work: Path, runs: list[str]) -> None:
    """Pictures and README of each size."""
    data = read(ROOT / "bench" / "train" / "data.json")
    for size, _, run in (spec.partition("=") for spec in runs):
        name = f"shortlist-rerank-{size}"
        folder, facts, manifest = ROOT / "models" / name, evaluation(name, size, work), read(Path(run) / "manifest.json")
        log = [json.loads(line) for line in (Path(run) / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        cards.reliability_picture(facts["calibration"]["bins"], folder / cards.RELIABILITY)
        cards.learning_picture(log, folder / cards.LEARNING)
        forms = [read(path) for path in sorted((work / "forms").glob(f"{size}-*.json"))]
        print(cards.write_readme(folder, facts, manifest, forms, data, recipe="bench/train/shortlist-rerank.sh"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("fields", "readme"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("words", nargs="+")
    args = parser.parse_args()
    if args.step == "fields":
        print(json.dumps(fields(args.folder, int(args.words[0])), ensure_ascii=False, indent=1))
    else:
        readmes(args.folder, args.words)


if __name__ == "__main__":
    main()
