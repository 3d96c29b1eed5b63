"""Where a run comes from: everything that decided it, so that a number can be traced and made again."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from importlib.metadata import version
from typing import Any

from shortlist import __version__
from shortlist.encoder import Encoder
from shortlist.filters import Where, checked
from shortlist.fuse import FUSION_WEIGHTS
from shortlist.pipeline import CANDIDATES, FirstStage, Pipeline
from shortlist.reranker import Reranker
from shortlist.types import Json, Passage

SEARCHED = ("first", "fusion", "encoder", "rerankers", "max_ms", "where", "index", "corpus")
"""Parts of a manifest that say how each query was searched, and in what."""
MADE = ("shortlist", "versions", "k", "queries", *SEARCHED)
"""Parts of a manifest that decide what is in the run."""

_HASH_BYTES = 16


def corpus_hash(passages: Iterable[Passage]) -> str:
    """Hex hash of 128 bits over ids and contents of the passages, whatever their order.

    The sum of one hash a passage: two corpora have the same if they hold the same passages the same number of times. Against
    mistakes, not against malice.
    """
    return _set_hash((passage.id, passage.content) for passage in passages)


def queries_hash(queries: Mapping[str, str]) -> str:
    """The same over ids and texts of queries."""
    return _set_hash(queries.items())


def _set_hash(items: Iterable[tuple[str, str]]) -> str:
    total = 0
    for name, text in items:
        total += int.from_bytes(blake2b(f"{name}\0{text}".encode(), digest_size=_HASH_BYTES).digest(), "big")
    return f"{total % (1 << 8 * _HASH_BYTES):0{2 * _HASH_BYTES}x}"


def run_manifest(
    search: Pipeline,
    queries: Mapping[str, str],
    *,
    k: int,
    candidates: int | None = None,
    first: FirstStage | None = None,
    weight: float | None = None,
    max_ms: float | None = None,
    where: Where | None = None,
    command: str = "",
) -> dict[str, Json]:
    """How `search.run(queries, …)` with these arguments makes its run: models, prompts, analyzer, fusion, corpus, versions.

    Reads every passage of the index once, for the corpus hash.
    """
    index = search.index
    versions: dict[str, Json] = {"python": platform.python_version()}
    versions |= {name: version(name) for name in ("numpy", "tokenizers")}
    stage = first or ("hybrid" if index.manifest["vectors"] else "bm25")
    return {
        "shortlist": __version__,
        "versions": versions,
        "command": command,
        "k": k,
        "first": stage,
        "fusion": _fusion(search) if stage == "hybrid" else None,
        "encoder": _encoder(index.encoder) if stage in ("dense", "hybrid") else None,
        "rerankers": [
            _reranker(reranker, reads, search.weight_of(reranker) if weight is None else weight)
            for reranker, reads in _second_stage(search, candidates, stage, len(index))
        ],
        "max_ms": max_ms,
        "where": None if where is None else checked(where),
        "index": {key: value for key, value in index.manifest.items() if key != "encoder"}
        | {"languages": dict(index.language_counts())},
        "corpus": {"passages": len(index), "hash": corpus_hash(index.passages())},
        "queries": {"count": len(queries), "hash": queries_hash(queries)},
    }


def differing(one: Mapping[str, Any], other: Mapping[str, Any], parts: Iterable[str] = MADE) -> list[str]:
    """Which parts of two manifests are not the same, as JSON would write them."""
    return [part for part in parts if json.dumps(one.get(part), sort_keys=True) != json.dumps(other.get(part), sort_keys=True)]


def _fusion(search: Pipeline) -> dict[str, Json]:
    name, weights = search.index.fusion(search.fusion)
    return {"name": name, "weights": {**FUSION_WEIGHTS[name], **weights}}


def _second_stage(search: Pipeline, candidates: int | None, first: str, passages: int) -> list[tuple[Reranker, int]]:
    if search.reranker is None:
        return []
    if first == "none":
        return [(search.reranker, passages)]
    return list(search.cascade) or [(search.reranker, CANDIDATES if candidates is None else candidates)]


def _encoder(encoder: Encoder) -> dict[str, Json]:
    card = encoder.card
    return {
        "name": encoder.name,
        "fingerprint": encoder.fingerprint,
        "pooling": card.pooling,
        "prompts": dict(card.prompts),
        "normalize": card.normalize,
        "max_tokens": encoder.max_tokens,
    }


def _reranker(reranker: Reranker, reads: int, weight: float) -> dict[str, Json]:
    return {
        "name": reranker.name,
        "fingerprint": reranker.fingerprint,
        "reads": reads,
        "weight": weight,
        "max_tokens": reranker.max_tokens,
    }


def summary(manifest: Mapping[str, Any]) -> str:
    """A manifest in a line: first stage, models, corpus, version."""
    encoder, corpus = manifest.get("encoder") or {}, manifest.get("corpus") or {}
    parts = [str(manifest.get("first", "?")), *([_model(encoder)] if encoder else [])]
    parts += [f"{_model(each)} reads {each.get('reads', '?')}" for each in manifest.get("rerankers") or []]
    parts.append(f"{corpus.get('passages', '?')} passages {str(corpus.get('hash', '?'))[:8]}")
    return " · ".join([*parts, f"shortlist {manifest.get('shortlist', '?')}"])


def _model(facts: Mapping[str, Any]) -> str:
    return f"{facts.get('name', '?')} ({str(facts.get('fingerprint', '?'))[:8]})"


def disagreements(manifests: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """What makes runs no fair comparison, a line each: other passages, or other queries.

    Runs without a manifest are left out.
    """
    known = {name: manifest for name, manifest in manifests.items() if manifest is not None}
    found = []
    for part, what in (("corpus", "different corpora"), ("queries", "different queries")):
        groups: dict[str, list[str]] = {}
        for name, manifest in known.items():
            groups.setdefault(str((manifest.get(part) or {}).get("hash")), []).append(name)
        if len(groups) > 1:
            listed = "; ".join(f"{', '.join(names)}: {key[:8]}" for key, names in groups.items())
            found.append(f"the runs searched {what}, so that their figures cannot be compared ({listed})")
    return found
