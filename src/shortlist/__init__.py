"""Search that works in any language on an ordinary CPU.

A small encoder and BM25 pick a short list of candidates, a small cross-encoder puts the best first.
Names are loaded when they are first used, so that `import shortlist` costs nothing and pulls in no other package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shortlist import fuse, models
    from shortlist.comparison import compare
    from shortlist.data import read_passages, read_queries
    from shortlist.encoder import Encoder
    from shortlist.errors import ShortlistError
    from shortlist.index import Index
    from shortlist.measures import evaluate
    from shortlist.models.card import ModelCard
    from shortlist.pipeline import Pipeline
    from shortlist.reranker import Reranker
    from shortlist.types import Hit, Passage, Qrels, Ranking, Run

__version__ = "0.1.0"

_HOME = {
    "Passage": "types",
    "Hit": "types",
    "Ranking": "types",
    "Run": "types",
    "Qrels": "types",
    "Encoder": "encoder",
    "Reranker": "reranker",
    "Index": "index",
    "Pipeline": "pipeline",
    "ModelCard": "models.card",
    "read_passages": "data",
    "read_queries": "data",
    "evaluate": "measures",
    "compare": "comparison",
    "ShortlistError": "errors",
}

__all__ = [
    "Encoder",
    "Hit",
    "Index",
    "ModelCard",
    "Passage",
    "Pipeline",
    "Qrels",
    "Ranking",
    "Reranker",
    "Run",
    "ShortlistError",
    "compare",
    "evaluate",
    "fuse",
    "models",
    "read_passages",
    "read_queries",
]


def __getattr__(name: str) -> Any:
    if name in ("fuse", "models"):
        return import_module(f"shortlist.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'shortlist' has no attribute {name!r}")
    return getattr(import_module(f"shortlist.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
