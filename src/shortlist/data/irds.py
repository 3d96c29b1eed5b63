"""Collections of the ir_datasets catalogue, by name: `ir_datasets:beir/scifact/test`. It downloads what it does not have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from shortlist.data.lines import StrPath
from shortlist.errors import BadInput, MissingExtra
from shortlist.types import Passage, Qrels

PREFIX = "ir_datasets:"


def is_name(path: StrPath) -> bool:
    """Whether it names a collection of the catalogue instead of a file."""
    return os.fspath(path).startswith(PREFIX)


def read_passages(path: StrPath, lang: str = "") -> Iterator[Passage]:
    """The documents. Their title, if they have one, is kept apart from their text."""
    for doc in _part(path, "docs").docs_iter():
        title, text = getattr(doc, "title", None), getattr(doc, "text", None)
        if isinstance(title, str) and isinstance(text, str):
            yield Passage(doc.doc_id, text, title, lang)
        else:
            yield Passage(doc.doc_id, doc.default_text(), "", lang)


def read_queries(path: StrPath) -> Iterator[tuple[str, str]]:
    """Id and text; of TREC topics the title."""
    return ((query.query_id, query.default_text()) for query in _part(path, "queries").queries_iter())


def read_qrels(path: StrPath) -> Qrels:
    """The judgements."""
    qrels = Qrels()
    for judged in _part(path, "qrels").qrels_iter():
        qrels.setdefault(judged.query_id, {})[judged.doc_id] = judged.relevance
    return qrels


def _part(path: StrPath, part: str) -> Any:
    """The dataset, which has `part`. Raises BadInput."""
    name = os.fspath(path).removeprefix(PREFIX)
    try:
        import ir_datasets
    except ModuleNotFoundError as error:
        raise MissingExtra("ir-datasets", "ir-datasets", f"reading {os.fspath(path)}") from error
    try:
        dataset = ir_datasets.load(name)
    except KeyError as error:
        raise BadInput(f"ir_datasets has no collection {name!r}. Its catalogue: https://ir-datasets.com.") from error
    if not getattr(dataset, f"has_{part}")():
        raise BadInput(f"{PREFIX}{name} has no {part}. Name one of its splits, or the collection that it belongs to.")
    return dataset
