"""How close the native engine is to sentence-transformers on torch, on real text in many languages.

    python bench/fidelity.py [--texts 504] [--lines 10000]

Needs SHORTLIST_DATA, the fetched `shortlist-embed`, torch and sentence-transformers (extra `oracle`). Prints and writes
bench/results/fidelity.md: cosine of each vector to the reference's in both precisions, and how many lines get the same
token ids.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

import shortlist
from shortlist import models
from shortlist.data import read_passages
from shortlist.encoder import Encoder
from shortlist.engines import native
from shortlist.tokens import Tokenizer

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SHORTLIST_DATA", ROOT.parent / "shared" / "data"))
COLLECTIONS = {
    "ar": "tydi-ar",
    "bn": "tydi-bn",
    "de": "mlqa-de",
    "en": "scifact",
    "es": "mlqa-es",
    "fi": "tydi-fi",
    "hi": "mlqa-hi",
    "ja": "jaquad",
    "ko": "tydi-ko",
    "te": "tydi-te",
    "th": "iapp-thai",
    "vi": "mlqa-vi",
    "yo": "miracl-yo",
    "zh": "cmrc2018",
}


def texts(count: int) -> Iterator[tuple[str, str]]:
    """(language, text): the same number of passages from every collection, evenly over its beginning."""
    each = -(-count // len(COLLECTIONS))
    for lang, name in COLLECTIONS.items():
        for passage in islice(read_passages(DATA / name), each):
            yield lang, passage.content


def cosines(reference: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """float64[n], cosine of each row."""
    a, b = reference.astype(np.float64), ours.astype(np.float64)
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


def vector_rows(folder: Path, sample: list[tuple[str, str]]) -> list[str]:
    """Table rows: language by language, the least and the mean cosine in each precision."""
    reference = SentenceTransformer(str(folder), device="cpu").encode(
        [f"passage: {t}" for _, t in sample], normalize_embeddings=True
    )
    langs = np.array([lang for lang, _ in sample])
    found = {
        p: cosines(reference, Encoder.load(folder, precision=p).encode([t for _, t in sample])) for p in ("int8", "float32")
    }
    rows = []
    for lang in (*sorted(set(langs)), "all"):
        chosen = langs == lang if lang != "all" else np.ones(len(langs), bool)
        numbers = (f"{c[chosen].min():.6f} | {c[chosen].mean():.6f}" for c in found.values())
        rows.append(f"| {lang} | {chosen.sum()} | {' | '.join(numbers)} |")
    return rows


def token_line(folder: Path, count: int) -> str:
    """How many texts get the ids that the reference tokenizer gives them."""
    found = [t for _, t in texts(2 * count)]  # some collections are small
    sample = [found[i * len(found) // count] for i in range(min(count, len(found)))]
    reference = SentenceTransformer(str(folder), device="cpu").tokenizer(sample, truncation=True, max_length=512)["input_ids"]
    ours, _ = Tokenizer.load(folder).encode(sample, 512)
    same = sum(list(map(int, a)) == list(b) for a, b in zip(ours, reference, strict=True))
    return f"{same:,} of {len(sample):,} passages get the same token ids as from the reference tokenizer."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=504)
    parser.add_argument("--lines", type=int, default=10_000)
    args = parser.parse_args()
    folder = models.resolve("shortlist-embed")
    versions = ", ".join(
        f"{p} {importlib.metadata.version(p)}"
        for p in ("torch", "transformers", "sentence-transformers", "tokenizers", "numpy")
    )
    page = "\n".join(
        [
            "# Fidelity to the reference",
            "",
            f"{datetime.date.today()}, shortlist {shortlist.__version__}, {native.chosen_instruction_set()}, {versions}.",
            "Model: shortlist-embed. Cosine to sentence-transformers on torch float32. Made by `python bench/fidelity.py`.",
            "",
            "| language | passages | int8 least | int8 mean | float32 least | float32 mean |",
            "| --- | --- | --- | --- | --- | --- |",
            *vector_rows(folder, list(texts(args.texts))),
            "",
            token_line(folder, args.lines),
            "",
        ]
    )
    print(page)
    (ROOT / "bench" / "results" / "fidelity.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
