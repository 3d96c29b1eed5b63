"""Readers and writers of retrieval data: passages, queries, judgements and runs, each in the forms the field uses.

All files are UTF-8 (a byte order mark is accepted) and may be packed with gzip (name ending in .gz). A line that cannot
be read raises BadInput with file and line: nothing is skipped in silence, nothing is guessed.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shortlist.errors import BadInput
from shortlist.models.files import replace_file
from shortlist.text import split_passages
from shortlist.types import Json, Passage, Qrels, Run

ID_FIELDS = ("_id", "id", "docid", "query_id", "qid")
TEXT_FIELDS = ("text", "contents", "query")
DOCUMENT_SUFFIXES = (".txt", ".md", ".markdown")
UNREAD_DOCUMENTS = (".html", ".htm", ".pdf")
# About as much text as an encoder with 512 tokens reads whole in most languages.
PASSAGE_CHARS = 1000
# trec_eval holds scores as float32.
FLOAT32_MAX = float(np.finfo(np.float32).max)

StrPath = str | os.PathLike[str]
Line = tuple[int, str]


class Collection(NamedTuple):
    """Passages (a function that starts a new pass over them), queries and judgements of one split."""

    passages: Callable[[], Iterator[Passage]]
    queries: dict[str, str]
    qrels: Qrels


# --- passages ---------------------------------------------------------------------------------------------------------


def read_passages(path: StrPath, lang: str = "", *, max_chars: int = PASSAGE_CHARS) -> Iterator[Passage]:
    """Passages of a file or a folder, one after the other; memory does not grow with the file.

    .jsonl[.gz]      one JSON object a line: id (_id, id or docid), text (text or contents), title, lang; other keys go to
                     meta. A "metadata" object as BEIR writes it is opened.
    .tsv .csv[.gz]   id, text[, title]; a first line that names the columns may also name lang and others (to meta)
    .txt .md         a document, cut into passages of at most `max_chars` characters; id = file name#n (from 0),
                     title = first Markdown heading, else the file's stem
    folder           BEIR (corpus.jsonl[.gz]), else all .txt and .md below it; id = path from the folder#n

    White space in a path becomes %20 and so on in the id, because TREC runs cannot hold it. `lang` is given to passages
    that name none.

    Raises BadInput: no such file, an unknown kind of file, a malformed line (with file and line), HTML and PDF.
    """
    source = _existing(path)
    if source.is_dir():
        return _read_folder(source, lang, max_chars)
    kind = _kind(source)
    if kind in (".jsonl", ".json", ".ndjson"):
        return _read_json_passages(source, lang)
    if kind in (".tsv", ".csv"):
        return _read_table_passages(source, lang)
    if kind in DOCUMENT_SUFFIXES:
        return _read_document(source, source.name, lang, max_chars)
    raise _unknown_kind(source, "passages", ".jsonl .tsv .csv (each also .gz), .txt, .md, or a folder")


def _read_folder(folder: Path, lang: str, max_chars: int) -> Iterator[Passage]:
    corpus = _packed_or_not(folder / "corpus.jsonl")
    if corpus is not None:
        return _read_json_passages(corpus, lang)
    files = sorted(f for f in folder.rglob("*") if f.is_file() and not _hidden(f.relative_to(folder)))
    for file in files:
        if file.suffix.lower() in UNREAD_DOCUMENTS:
            raise _unknown_kind(file, "passages", "only .txt and .md in a folder of documents")
    documents = [f for f in files if f.suffix.lower() in DOCUMENT_SUFFIXES]
    if not documents:
        raise BadInput(f"{folder}: holds no corpus.jsonl[.gz] and no .txt or .md file. Give a folder with one of them.")
    return (p for f in documents for p in _read_document(f, f.relative_to(folder).as_posix(), lang, max_chars))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _read_json_passages(path: Path, lang: str) -> Iterator[Passage]:
    for number, row in _json_rows(path):
        where = f"{path}:{number}"
        id_field, passage_id = _id_of(row, where)
        text_field, text = _text_of(row, where)
        title, language = _string(row, "title", where), _string(row, "lang", where)
        meta = {k: v for k, v in row.items() if k not in (id_field, text_field, "title", "lang", "metadata")}
        inner = row.get("metadata")
        if isinstance(inner, dict):
            meta = inner | meta
        elif inner is not None:
            meta["metadata"] = inner
        yield Passage(passage_id, text, title, language or lang, meta)


def _read_table_passages(path: Path, lang: str) -> Iterator[Passage]:
    columns = ["id", "text", "title"]
    for count, (number, cells) in enumerate(_table_rows(path)):
        if count == 0 and cells[0].lower() in ID_FIELDS:
            columns = ["id", *[_column_name(cell) for cell in cells[1:]]]
            if "text" not in columns:
                raise BadInput(f"{path}:{number}: the columns are {cells}; expected one named text.")
            continue
        if not 2 <= len(cells) <= len(columns):
            raise BadInput(f"{path}:{number}: {len(cells)} columns; expected 2 to {len(columns)}: {', '.join(columns)}.")
        row = dict(zip(columns, cells, strict=False))
        passage_id = _checked_id(row.pop("id"), f"{path}:{number}")
        text = row.pop("text", "")
        yield Passage(passage_id, text, row.pop("title", ""), row.pop("lang", "") or lang, dict(row))


def _column_name(cell: str) -> str:
    name = cell.lower()
    return "text" if name in TEXT_FIELDS else name


def _read_document(path: Path, name: str, lang: str, max_chars: int) -> Iterator[Passage]:
    text = "\n".join(line for _, line in _lines(path))
    title = (_first_heading(text) if path.suffix.lower() != ".txt" else "") or path.stem
    prefix = re.sub(r"\s", lambda space: "".join(f"%{byte:02X}" for byte in space[0].encode()), name)
    for n, part in enumerate(split_passages(text, max_chars=max_chars, lang=lang)):
        yield Passage(f"{prefix}#{n}", part, title, lang)


def _first_heading(markdown: str) -> str:
    found = re.search(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", markdown, re.MULTILINE)
    return found[1] if found else ""


# --- queries and judgements -------------------------------------------------------------------------------------------


def read_queries(path: StrPath) -> dict[str, str]:
    """Query id -> text, in the file's order.

    .jsonl[.gz]          BEIR: {"_id": …, "text": …} a line; of a folder, its queries.jsonl[.gz]
    .tsv .csv .txt[.gz]  id<TAB>text a line (TREC topics in TSV form)
    .txt without tabs    one query a line; ids are the line numbers, from 1

    Raises BadInput: malformed line, empty text, an id given twice, no query at all.
    """
    source = _existing(path)
    if source.is_dir():
        source = _packed_or_not(source / "queries.jsonl") or source / "queries.jsonl"
    kind = _kind(source)
    if kind in (".jsonl", ".json", ".ndjson"):
        rows = _json_queries(source)
    elif kind == ".csv":
        rows = _csv_queries(source)
    elif kind in (".tsv", ".txt"):
        rows = _text_queries(source, always_tabs=kind == ".tsv")
    else:
        raise _unknown_kind(source, "queries", ".jsonl .tsv .csv .txt (each also .gz), or a BEIR folder")
    queries: dict[str, str] = {}
    for where, query_id, text in rows:
        if query_id in queries:
            raise BadInput(f"{where}: query {query_id!r} was given before; expected each id once. Remove one of the two.")
        if not text.strip():
            raise BadInput(f"{where}: query {query_id!r} has no text. Give it one or remove the line.")
        queries[query_id] = text
    if not queries:
        raise BadInput(f"{source}: holds no query; expected at least one line.")
    return queries


def _json_queries(path: Path) -> Iterator[tuple[str, str, str]]:
    for number, row in _json_rows(path):
        where = f"{path}:{number}"
        yield where, _id_of(row, where)[1], _text_of(row, where)[1]


def _csv_queries(path: Path) -> Iterator[tuple[str, str, str]]:
    for count, (number, cells) in enumerate(_table_rows(path)):
        if count == 0 and cells[0].lower() in ID_FIELDS:
            continue
        if len(cells) != 2:
            raise BadInput(f"{path}:{number}: {len(cells)} columns; expected 2: id, text.")
        yield f"{path}:{number}", _checked_id(cells[0], f"{path}:{number}"), cells[1]


def _text_queries(path: Path, always_tabs: bool) -> Iterator[tuple[str, str, str]]:
    tabs = always_tabs
    for count, (number, line) in enumerate(_full_lines(path)):
        where = f"{path}:{number}"
        if count == 0:
            tabs = tabs or "\t" in line
        query_id, tab, text = line.partition("\t") if tabs else (str(number), "\t", line)
        if count == 0 and query_id.lower() in ID_FIELDS:
            continue
        if not tab:
            raise BadInput(f"{where}: no tab; expected id<TAB>text. Found: {_shown(line)}")
        yield where, _checked_id(query_id, where), text.strip()


def read_qrels(path: StrPath) -> Qrels:
    """Judgements: TREC (`query iteration passage judgement`) or BEIR TSV (`query-id corpus-id score`), each also .gz.

    The first line decides which of the two. Lines that begin with # are comments. Judgements are whole numbers; above 0
    is relevant. Raises BadInput: malformed line, a pair judged twice, no judgement at all.
    """
    source = _existing(path)
    qrels = Qrels()
    columns = 0
    for count, (number, line) in enumerate(_data_lines(source)):
        cells = line.split()
        if count == 0 and cells[0].lower() in ("query-id", "query_id", "qid"):
            columns = len(cells)
            continue
        columns = columns or len(cells)
        if columns not in (3, 4) or len(cells) != columns:
            raise BadInput(
                f"{source}:{number}: {len(cells)} columns; expected 4 (TREC: query 0 passage judgement) or 3 "
                f"(BEIR: query-id corpus-id score), the same in all lines. Found: {_shown(line)}"
            )
        query_id, passage_id = cells[0], cells[-2]
        judged = qrels.setdefault(query_id, {})
        if passage_id in judged:
            raise BadInput(f"{source}:{number}: passage {passage_id!r} was judged before for query {query_id!r}. Keep one.")
        judged[passage_id] = _whole_number(cells[-1], f"{source}:{number}")
    if not qrels:
        raise BadInput(f"{source}: holds no judgement; expected at least one line.")
    return qrels


def read_collection(folder: StrPath, split: str = "test") -> Collection:
    """A BEIR folder (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv; the first two also .gz), queries cut to the split's.

    Raises BadInput: a file is missing (the message names the splits that are there), a judged query has no text.
    """
    root = _existing(folder)
    judgements = _packed_or_not(root / "qrels" / f"{split}.tsv")
    if judgements is None:
        there = sorted(f.name.split(".")[0] for f in (root / "qrels").glob("*.tsv*"))
        raise BadInput(f"{root}: no qrels/{split}.tsv; splits there: {', '.join(there) or 'none'}. Choose one of them.")
    qrels = read_qrels(judgements)
    texts = read_queries(root)
    without_text = [q for q in qrels if q not in texts]
    if without_text:
        raise BadInput(
            f"{root}: {len(without_text)} judged queries have no text in queries.jsonl, the first is {without_text[0]!r}. "
            "Add them or remove their judgements."
        )
    corpus = _packed_or_not(root / "corpus.jsonl")
    if corpus is None:
        raise BadInput(f"{root}: no corpus.jsonl or corpus.jsonl.gz. Expected a folder in BEIR layout.")
    return Collection(lambda: read_passages(corpus), {q: texts[q] for q in qrels}, qrels)


# --- runs -------------------------------------------------------------------------------------------------------------


def read_run(path: StrPath) -> Run:
    """A TREC run (`query Q0 passage rank score tag`, also .gz), ranked as trec_eval ranks it.

    trec_eval ignores the rank column, holds scores as float32 and puts tied passages in descending order of id, while
    `Run.ranked` orders them ascending. So that both agree, a tied score is lowered to the next float64 below its
    predecessor; scores without ties come back as written.

    Raises BadInput: malformed line, a score that is not a finite number, a passage twice for a query, no line at all.
    """
    source = _existing(path)
    run = Run()
    for number, line in _data_lines(source):
        where = f"{source}:{number}"
        cells = line.split(None, 5)
        if len(cells) != 6:
            raise BadInput(f"{where}: {len(cells)} columns; expected 6: query Q0 passage rank score tag. Found: {_shown(line)}")
        query_id, passage_id = cells[0], cells[2]
        if not run:
            run.name = cells[5]
        hits = run.setdefault(query_id, {})
        if passage_id in hits:
            raise BadInput(f"{where}: passage {passage_id!r} appears twice for query {query_id!r}; expected once.")
        hits[passage_id] = _finite(cells[4], where)
    if not run:
        raise BadInput(f"{source}: holds no result; expected lines of 6 columns: query Q0 passage rank score tag.")
    for query_id, hits in run.items():
        run[query_id] = _untied(hits)
    return run


def _untied(hits: Mapping[str, float]) -> dict[str, float]:
    """The same hits in trec_eval's order, tied scores made distinct."""
    order = sorted(hits, key=_utf8, reverse=True)
    order.sort(key=lambda passage_id: float(np.float32(hits[passage_id])), reverse=True)
    ordered: dict[str, float] = {}
    last = math.inf
    for passage_id in order:
        last = min(hits[passage_id], math.nextafter(last, -math.inf))
        ordered[passage_id] = last
    return ordered


def _utf8(text: str) -> bytes:
    return text.encode("utf-8")  # C's strcmp compares bytes


def write_run(run: Run, path: StrPath) -> None:
    """Write a run in TREC form; the file appears whole or not at all. A name ending in .gz is packed.

    Order and ranks (from 1) follow `Run.ranked`: score descending, ties by passage id. Scores are written as float32 with
    nine significant digits, so that they read back exactly. trec_eval sorts again by score and would turn ties round;
    therefore a score that is not below its predecessor as float32 is written one float32 step lower, and every reader
    sees our order.

    Raises BadInput: an id or the run's name is empty or holds white space, a score is not finite.
    """
    target = Path(path)
    _checked_token(run.name, "the run's name")
    text = "".join(line for query_id in run for line in _run_lines(run, query_id)).encode("utf-8")
    if not target.parent.is_dir():
        raise BadInput(f"{target}: the folder {target.parent} does not exist. Create it first.")
    replace_file(target, gzip.compress(text, mtime=0) if target.suffix == ".gz" else text)


def _run_lines(run: Run, query_id: str) -> Iterator[str]:
    _checked_token(query_id, "query id")
    last = np.float32(np.inf)
    for rank, (passage_id, score) in enumerate(run.ranked(query_id), 1):
        _checked_token(passage_id, f"passage id of query {query_id!r}")
        if not abs(score) < FLOAT32_MAX:
            raise BadInput(f"query {query_id!r}, passage {passage_id!r}: score {score}; expected a finite float32 number.")
        last = min(np.float32(score), np.nextafter(last, np.float32(-np.inf)))
        yield f"{query_id} Q0 {passage_id} {rank} {last:.9g} {run.name}\n"


def _checked_token(value: str, what: str) -> None:
    if not value or len(value.split()) != 1 or value != value.strip():
        raise BadInput(f"{what} {value!r} is empty or holds white space, which a TREC run cannot carry. Rename it.")


# --- lines and cells --------------------------------------------------------------------------------------------------


def _existing(path: StrPath) -> Path:
    found = Path(path)
    if not found.exists():
        raise BadInput(f"{found}: no such file or folder. Check the path.")
    return found


def _packed_or_not(path: Path) -> Path | None:
    return next((p for p in (path, path.with_name(path.name + ".gz")) if p.is_file()), None)


def _kind(path: Path) -> str:
    """The suffix, without .gz: ".jsonl" for corpus.jsonl.gz."""
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _unknown_kind(path: Path, what: str, expected: str) -> BadInput:
    if _kind(path) in UNREAD_DOCUMENTS:
        return BadInput(f"{path}: HTML and PDF are not read. Convert the file to .txt or .md, or move it out of the folder.")
    return BadInput(f"{path}: cannot tell how to read {what} from a {_kind(path) or 'nameless'} file; expected {expected}.")


def _lines(path: Path) -> Iterator[Line]:
    """(line number from 1, line without its end), decoded as UTF-8."""
    if not path.is_file():
        raise BadInput(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected a file.")
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise BadInput(
            f"{path}:{number}: not UTF-8 (byte 0x{byte:02x} at position {error.start} of the line). Save the file as UTF-8."
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{path}:{number + 1}: the gzip file is damaged or cut off ({error}). Fetch it again.") from error


def _full_lines(path: Path) -> Iterator[Line]:
    return ((number, line) for number, line in _lines(path) if line.strip())


def _data_lines(path: Path) -> Iterator[Line]:
    return ((number, line) for number, line in _full_lines(path) if not line.lstrip().startswith("#"))


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Json]]]:
    for number, line in _full_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{path}:{number}: not JSON ({error}); expected one JSON object a line.") from error
        if not isinstance(row, dict):
            raise BadInput(f"{path}:{number}: expected one JSON object a line, found {_shown(line)}")
        yield number, row


def _table_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Cells of a TSV (plain split: TSV has no quotes) or CSV (quoted cells may hold line ends)."""
    if _kind(path) == ".tsv":
        yield from ((number, line.split("\t")) for number, line in _full_lines(path))
        return
    csv.field_size_limit(1 << 30)  # the default refuses cells above 128 kB
    reader = csv.reader((line + "\n" for _, line in _lines(path)), strict=True)
    rows = iter(reader)
    while True:
        try:
            cells = next(rows, None)
        except csv.Error as error:
            raise BadInput(f"{path}:{reader.line_num}: not CSV ({error}). Inside quotes, double each quote.") from error
        if cells is None:
            return
        if cells:
            yield reader.line_num, cells


def _id_of(row: Mapping[str, Json], where: str) -> tuple[str, str]:
    for name in ID_FIELDS:
        value = row.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return name, _checked_id(str(value), where)
    raise BadInput(f"{where}: no id; expected a string in one of {', '.join(ID_FIELDS)}. Keys found: {_keys(row)}.")


def _text_of(row: Mapping[str, Json], where: str) -> tuple[str, str]:
    for name in TEXT_FIELDS:
        if name in row:
            return name, _string(row, name, where)
    raise BadInput(f"{where}: no text; expected a string in one of {', '.join(TEXT_FIELDS)}. Keys found: {_keys(row)}.")


def _string(row: Mapping[str, Json], name: str, where: str) -> str:
    value = row.get(name)
    if value is None and name in ("title", "lang"):
        return ""
    if not isinstance(value, str):
        raise BadInput(f"{where}: {name} is {_shown(repr(value))}; expected a string.")
    return _without_surrogates(value, name, where)


def _without_surrogates(text: str, name: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(
            f"{where}: {name} holds half of a surrogate pair at character {error.start}. Write the whole character."
        ) from error
    return text


def _checked_id(value: str, where: str) -> str:
    if not value.strip():
        raise BadInput(f"{where}: the id is empty. Give every line an id.")
    return _without_surrogates(value, "the id", where)


def _keys(row: Iterable[str]) -> str:
    return _shown(", ".join(row)) or "none"


def _whole_number(cell: str, where: str) -> int:
    try:
        return int(cell)
    except ValueError as error:
        raise BadInput(f"{where}: judgement {_shown(cell)!r}; expected a whole number such as 0 or 1.") from error


def _finite(cell: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError as error:
        raise BadInput(f"{where}: score {_shown(cell)!r}; expected a number.") from error
    if not abs(value) < FLOAT32_MAX:
        raise BadInput(f"{where}: score {cell}; expected a finite float32 number.")
    return value


def _shown(text: str, width: int = 80) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
