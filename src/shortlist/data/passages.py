"""Passages of files, folders and published collections."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from shortlist.data import irds, squad
from shortlist.data.documents import DOCUMENT_SUFFIXES, read_document
from shortlist.data.lines import (
    ID_FIELDS,
    JSON_LINES,
    PACKED,
    TEXT_FIELDS,
    Bad,
    Skipped,
    StrPath,
    checked_id,
    existing,
    id_of,
    json_records,
    kind,
    pack,
    packed_or_not,
    refuse,
    string,
    table_rows,
    text_of,
    unknown_kind,
    unpacked_name,
)
from shortlist.errors import BadInput
from shortlist.models.files import replace_file
from shortlist.types import Json, Passage

# About as much text as an encoder with 512 tokens reads whole in most languages.
PASSAGE_CHARS = 1000


def read_passages(
    path: StrPath, lang: str = "", *, max_chars: int = PASSAGE_CHARS, skipped: Skipped | None = None
) -> Iterator[Passage]:
    """Passages of a file or a folder, one after the other; memory does not grow with the file.

    .jsonl           one JSON object a line: id (_id, id or docid), text (text or contents), title, lang; other keys go to
                     meta. A "metadata" object as BEIR writes it is opened.
    .tsv .csv        id, text[, title]; a first line that names the columns may also name lang and others (to meta)
    .json            JSON lines, or SQuAD's form, whose contexts are the passages (read whole; see `squad`)
    .txt .md         a document, cut into passages of at most `max_chars` characters; id = file name#n (from 0),
    .html .pdf       title = first Markdown heading or the document's own, else the file's stem
    folder           BEIR (corpus.jsonl), MIRACL (docs-0.jsonl, docs-1.jsonl …), else all documents below it;
                     id = path from the folder#n
    ir_datasets:NAME the documents of that collection

    The first three may be packed: .gz, .zst. White space in a path becomes %20 and so on in the id, because TREC runs cannot
    hold it. `lang` is given to passages that name none. With `skipped`, lines and documents that cannot be read are counted
    there and left out.

    Raises BadInput: no such file, an unknown kind of file, a malformed line (with file and line), a damaged packed file.
    MissingExtra: [docs] for HTML and PDF, [zstd], [ir-datasets].
    """
    if irds.is_name(path):
        return irds.read_passages(path, lang)
    bad = refuse if skipped is None else skipped
    source = existing(path)
    if source.is_dir():
        return _read_folder(source, lang, max_chars, bad)
    form = kind(source)
    if squad.is_squad(source):
        return squad.read_passages(source, lang)
    if form in JSON_LINES:
        return _read_json(source, lang, bad)
    if form in (".tsv", ".csv"):
        return _read_table(source, lang, bad)
    if form in DOCUMENT_SUFFIXES:
        return read_document(source, source.name, lang, max_chars, bad)
    raise unknown_kind(source, "passages", ".jsonl .tsv .csv (each also .gz and .zst), .txt, .md, .html, .pdf, or a folder")


def corpus_files(folder: Path) -> list[Path]:
    """The files of passages that a published collection has in this folder, in their order; [] if it is none."""
    single = packed_or_not(folder / "corpus.jsonl")
    return [single] if single is not None else sorted(_shards(folder), key=_number)


def _shards(folder: Path) -> Iterator[Path]:
    pattern = re.compile(r"docs(-\d+)?\.jsonl")
    return (f for f in folder.iterdir() if f.is_file() and pattern.fullmatch(unpacked_name(f)))


def _number(shard: Path) -> int:
    return int("0" + "".join(filter(str.isdecimal, unpacked_name(shard))))


def _read_folder(folder: Path, lang: str, max_chars: int, bad: Bad) -> Iterator[Passage]:
    corpus = corpus_files(folder)
    if corpus:
        return (p for file in corpus for p in _read_json(file, lang, bad))
    files = sorted(f for f in folder.rglob("*") if f.is_file() and not _hidden(f.relative_to(folder)))
    documents = [f for f in files if f.suffix.lower() in DOCUMENT_SUFFIXES]
    if not documents:
        kinds = ", ".join(DOCUMENT_SUFFIXES)
        raise BadInput(
            f"{folder}: holds no corpus.jsonl, no docs-0.jsonl (each also {' and '.join(PACKED)}) and no document ({kinds}). "
            "Give a folder with one of them."
        )
    return (p for f in documents for p in read_document(f, f.relative_to(folder).as_posix(), lang, max_chars, bad))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _read_json(path: Path, lang: str, bad: Bad) -> Iterator[Passage]:
    def passage(row: dict[str, Json], where: str) -> Passage:
        id_field, passage_id = id_of(row, where)
        text_field, text = text_of(row, where)
        title, language = string(row, "title", where), string(row, "lang", where)
        meta = {k: v for k, v in row.items() if k not in (id_field, text_field, "title", "lang", "metadata")}
        inner = row.get("metadata")
        if isinstance(inner, dict):
            meta = inner | meta
        elif inner is not None:
            meta["metadata"] = inner
        return Passage(passage_id, text, title, language or lang, meta)

    return json_records(path, passage, bad)


def _read_table(path: Path, lang: str, bad: Bad) -> Iterator[Passage]:
    columns = ["id", "text", "title"]
    for count, (number, cells) in enumerate(table_rows(path, bad)):
        where = f"{path}:{number}"
        if count == 0 and cells[0].lower() in ID_FIELDS:
            columns = ["id", *[_column_name(cell) for cell in cells[1:]]]
            if "text" not in columns:
                raise BadInput(f"{where}: the columns are {cells}; expected one named text.")
            continue
        try:
            passage = _row_passage(columns, cells, lang, where)
        except BadInput as error:
            bad(error)
            continue
        yield passage


def _row_passage(columns: list[str], cells: list[str], lang: str, where: str) -> Passage:
    if not 2 <= len(cells) <= len(columns):
        raise BadInput(f"{where}: {len(cells)} columns; expected 2 to {len(columns)}: {', '.join(columns)}.")
    row = dict(zip(columns, cells, strict=False))
    passage_id = checked_id(row.pop("id"), where)
    text = row.pop("text", "")
    return Passage(passage_id, text, row.pop("title", ""), row.pop("lang", "") or lang, dict(row))


def _column_name(cell: str) -> str:
    name = cell.lower()
    return "text" if name in TEXT_FIELDS else name


def write_passages(passages: Iterable[Passage], path: StrPath) -> None:
    """Write JSON lines that `read_passages` reads back; the file appears whole or not at all. .gz and .zst are packed."""
    target = Path(path)
    if not target.parent.is_dir():
        raise BadInput(f"{target}: the folder {target.parent} does not exist. Create it first.")
    rows = ({"id": p.id, "title": p.title, "text": p.text, "lang": p.lang, "metadata": dict(p.meta)} for p in passages)
    replace_file(target, pack("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8"), target))
