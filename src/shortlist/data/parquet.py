"""Collections as tables in Parquet: how the hub keeps C-MTEB's and mteb's retrieval tasks."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from shortlist.data.lines import ID_FIELDS, TEXT_FIELDS, checked_id, whole_number
from shortlist.errors import BadInput, MissingExtra
from shortlist.types import Passage, Qrels

_QUERY_FIELDS, _PASSAGE_FIELDS, _GRADE_FIELDS = ("query-id", "qid"), ("corpus-id", "pid"), ("score",)
_BATCH_ROWS = 4096


class Tables(NamedTuple):
    """The files of a task: corpus, queries, and judgements of all splits, whose names begin with their split."""

    corpus: list[Path]
    queries: list[Path]
    qrels: list[Path]


def tables(folder: Path) -> Tables | None:
    """The files of the task in this folder; None if it holds none.

    C-MTEB  NAME/data/corpus-*.parquet, NAME/data/queries-*.parquet; beside it NAME-qrels/data/SPLIT-*.parquet
    mteb    NAME/corpus/*.parquet, NAME/queries/*.parquet, NAME/qrels/SPLIT-*.parquet (or data/ for qrels/)
    """
    there = {file: file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*.parquet"))}
    corpus, queries = ([file for file, name in there.items() if part in name] for part in ("corpus", "queries"))
    rest = [file for file in there if file not in corpus and file not in queries]
    beside = folder.with_name(f"{folder.name}-qrels")
    return Tables(corpus, queries, rest or sorted(beside.rglob("*.parquet"))) if corpus and queries else None


def read_passages(files: Iterable[Path], lang: str = "") -> Iterator[Passage]:
    """The rows of the corpus: id, text and perhaps title."""
    for where, row in _rows(files):
        yield Passage(_id(row, ID_FIELDS, where), _text(row, where), str(row.get("title") or ""), lang)


def read_queries(files: Iterable[Path]) -> dict[str, str]:
    """Query id -> text."""
    return {_id(row, ID_FIELDS, where): _text(row, where) for where, row in _rows(files)}


def read_qrels(files: Iterable[Path], split: str) -> Qrels:
    """The judgements of one split. Raises BadInput for a split that no file has; the message names those that are there."""
    every = list(files)
    chosen = [file for file in every if file.name.split("-")[0].split(".")[0] == split]
    if not chosen:
        there = ", ".join(sorted({file.name.split("-")[0].split(".")[0] for file in every})) or "none"
        raise BadInput(f"no judgements of the split {split!r}; splits there: {there}. Choose one of them.")
    qrels = Qrels()
    for where, row in _rows(chosen):
        judged = qrels.setdefault(_id(row, _QUERY_FIELDS, where), {})
        judged[_id(row, _PASSAGE_FIELDS, where)] = whole_number(f"{_value(row, _GRADE_FIELDS, where):g}", where)
    return qrels


def _rows(files: Iterable[Path]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """("file, row 7", row) one after the other; memory does not grow with the file."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise MissingExtra("pyarrow", "parquet", "a .parquet file") from error
    for file in files:
        try:
            number = 0
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}, row {number}", row
        except (OSError, ValueError) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"{file}: cannot be read as Parquet ({error}). Fetch it again.") from error


def _value(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> Any:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise BadInput(f"{where}: expected a column named {' or '.join(names)}, found {', '.join(row)}.")


def _id(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    return checked_id(str(_value(row, names, where)), where)


def _text(row: Mapping[str, Any], where: str) -> str:
    return str(_value(row, TEXT_FIELDS, where))
