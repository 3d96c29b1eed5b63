"""Lines and cells: UTF-8 files, plain or packed, read one line at a time; what is wrong with a line names file and line."""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import numpy as np

from shortlist.errors import BadInput, MissingExtra
from shortlist.types import Json

ID_FIELDS = ("_id", "id", "docid", "query_id", "qid")
TEXT_FIELDS = ("text", "contents", "query")
PACKED = (".gz", ".zst")
JSON_LINES = (".jsonl", ".json", ".ndjson")
# trec_eval holds scores as float32.
FLOAT32_MAX = float(np.finfo(np.float32).max)

StrPath = str | os.PathLike[str]
Line = tuple[int, str]
T = TypeVar("T")


@dataclass
class Skipped:
    """Lines that could not be read and were left out: how many, and what was said of the first few.

    Handed to a reader, it takes the place of the error that the first such line would raise.
    """

    count: int = 0
    first: list[str] = field(default_factory=list)

    def __call__(self, error: BadInput) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < 5:
            self.first.append(str(error))


Bad = Callable[[BadInput], None]


def refuse(error: BadInput) -> None:
    """The strict way with a line that cannot be read."""
    raise error


def existing(path: StrPath) -> Path:
    """The path, if something is there. Raises BadInput."""
    found = Path(path)
    if not found.exists():
        raise BadInput(f"{found}: no such file or folder. Check the path.")
    return found


def packed_or_not(path: Path) -> Path | None:
    """The file itself, or its packed form, whichever is there."""
    return next((p for p in (path, *(path.with_name(path.name + end) for end in PACKED)) if p.is_file()), None)


def unpacked_name(path: Path) -> str:
    """The name without .gz or .zst."""
    return path.name.removesuffix(path.suffix) if path.suffix in PACKED else path.name


def kind(path: Path) -> str:
    """The suffix of the unpacked name: ".jsonl" for corpus.jsonl.gz."""
    return Path(unpacked_name(path)).suffix.lower()


def unknown_kind(path: Path, what: str, expected: str) -> BadInput:
    """The error for a file whose name does not say how to read it."""
    return BadInput(f"{path}: cannot tell how to read {what} from a {kind(path) or 'nameless'} file; expected {expected}.")


def pack(content: bytes, path: Path) -> bytes:
    """The content as a file of this name holds it; the same bytes every time."""
    if path.suffix == ".gz":
        return gzip.compress(content, mtime=0)
    return bytes(_zstd().compress(content)) if path.suffix == ".zst" else content


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return cast(IO[bytes], _zstd().open(path, "rb"))
    return path.open("rb")


def _zstd() -> Any:
    """The standard library's module, or the same one for Pythons before 3.14."""
    try:
        return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ModuleNotFoundError as error:
        raise MissingExtra("backports.zstd", "zstd", "a .zst file") from error


def lines(path: Path, bad: Bad = refuse) -> Iterator[Line]:
    """(line number from 1, line without its end), decoded as UTF-8; a byte order mark is no part of the first.

    Raises BadInput: no such file, a packed file that is damaged. A line that is not UTF-8 goes to `bad`.
    """
    if not path.is_file():
        raise BadInput(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected a file.")
    number = 0
    try:
        with _opened(path) as file:
            for number, raw in enumerate(file, 1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    bad(_not_utf8(error, f"{path}:{number}"))
                    continue
                yield number, line
    except _damages(path) as error:
        packing = "zstd" if path.suffix == ".zst" else "gzip"
        raise BadInput(f"{path}:{number + 1}: the {packing} file is damaged or cut off ({error}). Fetch it again.") from error


def _damages(path: Path) -> tuple[type[Exception], ...]:
    """What unpacking raises; a module that is not installed is not asked."""
    return (EOFError, _zstd().ZstdError) if path.suffix == ".zst" else (EOFError, zlib.error, gzip.BadGzipFile)


def _not_utf8(error: UnicodeDecodeError, where: str) -> BadInput:
    byte = error.object[error.start]
    return BadInput(f"{where}: not UTF-8 (byte 0x{byte:02x} at position {error.start} of the line). Save the file as UTF-8.")


def full_lines(path: Path, bad: Bad = refuse) -> Iterator[Line]:
    """Lines that hold more than white space."""
    return ((number, line) for number, line in lines(path, bad) if line.strip())


def data_lines(path: Path) -> Iterator[Line]:
    """Full lines that are no comments."""
    return ((number, line) for number, line in full_lines(path) if not line.lstrip().startswith("#"))


def json_records(path: Path, parse: Callable[[dict[str, Json], str], T], bad: Bad = refuse) -> Iterator[T]:
    """What `parse(object, "file:line")` makes of each line of a file of JSON lines; what it or JSON refuses goes to `bad`."""
    for number, line in full_lines(path, bad):
        where = f"{path}:{number}"
        try:
            record = parse(_json_object(line, where), where)
        except BadInput as error:
            bad(error)
            continue
        yield record


def _json_object(line: str, where: str) -> dict[str, Json]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON ({error}); expected one JSON object a line.") from error
    if not isinstance(row, dict):
        raise BadInput(f"{where}: expected one JSON object a line, found {shown(line)}")
    return row


def table_rows(path: Path, bad: Bad = refuse) -> Iterator[tuple[int, list[str]]]:
    """Cells of a TSV (plain split: TSV has no quotes) or CSV (quoted cells may hold line ends)."""
    if kind(path) == ".tsv":
        yield from ((number, line.split("\t")) for number, line in full_lines(path, bad))
        return
    csv.field_size_limit(1 << 30)  # the default refuses cells above 128 kB
    reader = csv.reader((line + "\n" for _, line in lines(path, bad)), strict=True)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            bad(BadInput(f"{path}:{reader.line_num}: not CSV ({error}). Inside quotes, double each quote."))
            continue
        if cells is None:
            return
        if cells:
            yield reader.line_num, cells


def id_of(row: Mapping[str, Json], where: str) -> tuple[str, str]:
    """The name of the field that holds the id, and the id."""
    for name in ID_FIELDS:
        value = row.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return name, checked_id(str(value), where)
    raise BadInput(f"{where}: no id; expected a string in one of {', '.join(ID_FIELDS)}. Keys found: {_keys(row)}.")


def text_of(row: Mapping[str, Json], where: str) -> tuple[str, str]:
    """The name of the field that holds the text, and the text."""
    for name in TEXT_FIELDS:
        if name in row:
            return name, string(row, name, where)
    raise BadInput(f"{where}: no text; expected a string in one of {', '.join(TEXT_FIELDS)}. Keys found: {_keys(row)}.")


def string(row: Mapping[str, Json], name: str, where: str) -> str:
    """A string field; title and lang may be missing."""
    value = row.get(name)
    if value is None and name in ("title", "lang"):
        return ""
    if not isinstance(value, str):
        raise BadInput(f"{where}: {name} is {shown(repr(value))}; expected a string.")
    return _without_surrogates(value, name, where)


def _without_surrogates(text: str, name: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(
            f"{where}: {name} holds half of a surrogate pair at character {error.start}. Write the whole character."
        ) from error
    return text


def checked_id(value: str, where: str) -> str:
    """The id, if it is one."""
    if not value.strip():
        raise BadInput(f"{where}: the id is empty. Give every line an id.")
    return _without_surrogates(value, "the id", where)


def without_spaces(name: str) -> str:
    """The name with white space as %20 and so on, because TREC runs cannot hold it."""
    return re.sub(r"\s", lambda space: "".join(f"%{byte:02X}" for byte in space[0].encode()), name)


def whole_number(cell: str, where: str) -> int:
    """A judgement."""
    try:
        return int(cell)
    except ValueError as error:
        raise BadInput(f"{where}: judgement {shown(cell)!r}; expected a whole number such as 0 or 1.") from error


def finite(cell: str, where: str) -> float:
    """A score."""
    try:
        value = float(cell)
    except ValueError as error:
        raise BadInput(f"{where}: score {shown(cell)!r}; expected a number.") from error
    if not abs(value) < FLOAT32_MAX:
        raise BadInput(f"{where}: score {cell}; expected a finite float32 number.")
    return value


def shown(text: str, width: int = 80) -> str:
    """The beginning of a text, for a message."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _keys(row: Iterable[str]) -> str:
    return shown(", ".join(row)) or "none"
