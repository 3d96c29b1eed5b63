"""Queries, judgements, and both with their passages as a collection."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from shortlist.data import irds, parquet, squad
from shortlist.data.lines import (
    ID_FIELDS,
    JSON_LINES,
    Bad,
    Skipped,
    StrPath,
    data_lines,
    existing,
    full_lines,
    id_of,
    json_records,
    kind,
    lines,
    packed_or_not,
    refuse,
    shown,
    table_rows,
    text_of,
    unknown_kind,
    unpacked_name,
    whole_number,
)
from shortlist.data.passages import corpus_files, read_passages
from shortlist.errors import BadInput
from shortlist.types import Json, Passage, Qrels

Query = tuple[str, str, str]
"""Where it stands ("file:line"), its id and its text."""


class Collection(NamedTuple):
    """Passages (a function that starts a new pass over them), queries and judgements of one split."""

    passages: Callable[[], Iterator[Passage]]
    queries: dict[str, str]
    qrels: Qrels


# --- queries ----------------------------------------------------------------------------------------------------------


def read_queries(path: StrPath, *, skipped: Skipped | None = None) -> dict[str, str]:
    """Query id -> text, in the file's order.

    .jsonl               BEIR: {"_id": …, "text": …} a line; of a folder, its queries.jsonl
    .tsv .csv .txt       id<TAB>text a line (TREC topics in TSV form)
    .txt without tabs    one query a line; ids are the line numbers, from 1
    .txt .trec .sgml     TREC topics in SGML form, <top> <num> <title> …: the title is the query, or the description if there
                         is none; a number loses leading zeros, which judgements do not have
    .json                SQuAD's questions, else JSON lines
    ir_datasets:NAME     those of the collection

    Files may be packed: .gz, .zst. With `skipped`, queries that cannot be read are counted there and left out.

    Raises BadInput: malformed line, empty text, an id given twice, no query at all. MissingExtra: [zstd], [ir-datasets].
    """
    bad = refuse if skipped is None else skipped
    queries: dict[str, str] = {}
    for where, query_id, text in _queries(path, bad):
        if not query_id.strip():
            bad(BadInput(f"{where}: the id is empty. Give every line an id."))
        elif query_id in queries:
            bad(BadInput(f"{where}: query {query_id!r} was given before; expected each id once. Remove one of the two."))
        elif not text.strip():
            bad(BadInput(f"{where}: query {query_id!r} has no text. Give it one or remove the line."))
        else:
            queries[query_id] = text
    if not queries:
        raise BadInput(f"{path}: holds no query; expected at least one line.")
    return queries


def _queries(path: StrPath, bad: Bad) -> Iterable[Query]:
    if irds.is_name(path):
        return ((str(path), query_id, text) for query_id, text in irds.read_queries(path))
    source = existing(path)
    if source.is_dir():
        source = packed_or_not(source / "queries.jsonl") or source / "queries.jsonl"
    form = kind(source)
    if form in (".txt", ".trec", ".sgml") and _is_sgml(source):
        return _sgml_queries(source, bad)
    if form in (".tsv", ".txt"):
        return _text_queries(source, form == ".tsv", bad)
    if form == ".csv":
        return _csv_queries(source, bad)
    if source.is_file() and squad.is_squad(source):
        return ((question.where, question.id, question.text) for question in squad.read_questions(source))
    if form in JSON_LINES:
        return json_records(source, _json_query, bad)
    raise unknown_kind(source, "queries", ".jsonl .tsv .csv .txt (each also .gz and .zst), TREC topics, or a BEIR folder")


def _json_query(row: dict[str, Json], where: str) -> Query:
    return where, id_of(row, where)[1], text_of(row, where)[1]


def _csv_queries(path: Path, bad: Bad) -> Iterator[Query]:
    for count, (number, cells) in enumerate(table_rows(path, bad)):
        where = f"{path}:{number}"
        if count == 0 and cells[0].lower() in ID_FIELDS:
            continue
        if len(cells) == 2:
            yield where, cells[0], cells[1]
        else:
            bad(BadInput(f"{where}: {len(cells)} columns; expected 2: id, text."))


def _text_queries(path: Path, always_tabs: bool, bad: Bad) -> Iterator[Query]:
    tabs = always_tabs
    for count, (number, line) in enumerate(full_lines(path, bad)):
        where = f"{path}:{number}"
        if count == 0:
            tabs = tabs or "\t" in line
        query_id, tab, text = line.partition("\t") if tabs else (str(number), "\t", line)
        if count == 0 and query_id.lower() in ID_FIELDS:
            continue
        if tab:
            yield where, query_id, text.strip()
        else:
            bad(BadInput(f"{where}: no tab; expected id<TAB>text. Found: {shown(line)}"))


def _is_sgml(path: Path) -> bool:
    _, first = next(full_lines(path), (0, ""))
    return first.lstrip().lower().startswith("<top>")


def _sgml_queries(path: Path, bad: Bad) -> Iterator[Query]:
    for number, topic in _topics(path, bad):
        where = f"{path}:{number}"
        fields = {name.lower(): " ".join(text.split()) for name, text in re.findall(r"<(\w+)>([^<]*)", topic)}
        found = re.match(r"(?:Number\s*:)?\s*(\S+)", fields.get("num", ""), re.IGNORECASE)
        if found is None:
            bad(BadInput(f"{where}: a topic without a number; expected <num> Number: 301. Found: {shown(topic)}"))
            continue
        text = _after_label(fields.get("title", ""), "Topic") or _after_label(fields.get("desc", ""), "Description")
        yield where, str(int(found[1])) if found[1].isdecimal() else found[1], text


def _topics(path: Path, bad: Bad) -> Iterator[tuple[int, str]]:
    """Line number of its beginning, and text, of each <top> … </top>."""
    start, topic = 0, list[str]()
    for number, line in lines(path, bad):
        mark = line.strip().lower()
        if mark.startswith("<top>"):
            start, topic = number, []
        topic.append(line)
        if mark.endswith("</top>") and start:
            yield start, "\n".join(topic)
            start = 0
    if start:
        bad(BadInput(f"{path}:{start}: <top> without </top>; the file is cut off. Fetch it again."))


def _after_label(text: str, label: str) -> str:
    return re.sub(rf"^{label}\s*:\s*", "", text, flags=re.IGNORECASE)


# --- judgements -------------------------------------------------------------------------------------------------------


def read_qrels(path: StrPath) -> Qrels:
    """Judgements: TREC (`query iteration passage judgement`) or BEIR TSV (`query-id corpus-id score`), each also .gz and .zst.

    The first line decides which of the two. Lines that begin with # are comments. Judgements are whole numbers; above 0
    is relevant. SQuAD's .json and ir_datasets:NAME bring their own. None is ever left out.

    Raises BadInput: malformed line, a pair judged twice, no judgement at all.
    """
    if irds.is_name(path):
        return irds.read_qrels(path)
    source = existing(path)
    if source.is_file() and squad.is_squad(source):
        return squad.read_qrels(source)
    qrels = Qrels()
    columns = 0
    for count, (number, line) in enumerate(data_lines(source)):
        cells = line.split()
        if count == 0 and cells[0].lower() in ("query-id", "query_id", "qid"):
            columns = len(cells)
            continue
        columns = columns or len(cells)
        if columns not in (3, 4) or len(cells) != columns:
            raise BadInput(
                f"{source}:{number}: {len(cells)} columns; expected 4 (TREC: query 0 passage judgement) or 3 "
                f"(BEIR: query-id corpus-id score), the same in all lines. Found: {shown(line)}"
            )
        query_id, passage_id = cells[0], cells[-2]
        judged = qrels.setdefault(query_id, {})
        if passage_id in judged:
            raise BadInput(f"{source}:{number}: passage {passage_id!r} was judged before for query {query_id!r}. Keep one.")
        judged[passage_id] = whole_number(cells[-1], f"{source}:{number}")
    if not qrels:
        raise BadInput(f"{source}: holds no judgement; expected at least one line.")
    return qrels


# --- collections ------------------------------------------------------------------------------------------------------


def read_collection(source: StrPath, split: str = "test", *, corpus: StrPath | None = None) -> Collection:
    """Passages, queries and judgements of one split, the queries cut to those that are judged.

    BEIR       corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv
    MIRACL     topics/topics.miracl-v1.0-zh-SPLIT.tsv, qrels/qrels.miracl-v1.0-zh-SPLIT.tsv; passages docs-0.jsonl.gz …
    Mr. TyDi   ir-format-data/topics.SPLIT.txt, ir-format-data/qrels.SPLIT.txt; passages corpus.jsonl.gz or docs.jsonl.gz
    C-MTEB     Parquet tables, as the hub keeps its tasks and mteb's (`parquet.tables`); the extra [parquet]
    SQuAD      a .json file, which is a split by itself
    ir_datasets:NAME, which names its split

    Files of queries and judgements are known by their names, wherever below the folder they stand; all may be packed.
    `corpus` is the folder of the passages where they are published apart, as MIRACL's and Mr. TyDi's are; else they are looked
    for in the folder and in the folders directly in it.

    Raises BadInput: a file is missing (the message names the splits that are there) or there are several of them, a judged
    query has no text.
    """
    if irds.is_name(source) or (existing(source).is_file() and squad.is_squad(Path(source))):
        return _cut(lambda: read_passages(corpus or source), read_queries(source), read_qrels(source), str(source))
    root = existing(source)
    files = parquet.tables(root)
    if files is not None:
        judged, texts = parquet.read_qrels(files.qrels, split), parquet.read_queries(files.queries)
        return _cut(lambda: parquet.read_passages(files.corpus), texts, judged, str(root))
    if (root / "qrels").is_dir() and packed_or_not(root / "queries.jsonl") is not None:
        judgements, topics = packed_or_not(root / "qrels" / f"{split}.tsv"), root
        there = sorted(f.name.split(".")[0] for f in (root / "qrels").glob("*.tsv*"))
    else:
        judgements, topics = _named(root, "qrels", split), _named(root, "topics", split) or root
        there = sorted({found[1] for f in root.rglob("qrels*") if (found := re.search(r"[.-](\w+)\.t\w+$", unpacked_name(f)))})
    if judgements is None:
        raise BadInput(f"{root}: no qrels/{split}.tsv; splits there: {', '.join(there) or 'none'}. Choose one of them.")
    folder = _corpus(root) if corpus is None else existing(corpus)
    return _cut(lambda: read_passages(folder), read_queries(topics), read_qrels(judgements), str(root))


def read_miracl(root: StrPath, lang: str, split: str = "dev") -> Collection:
    """One language of MIRACL, as `miracl/miracl` and `miracl/miracl-corpus` publish it, wherever below `root` they lie.

    topics.miracl-v1.0-LANG-SPLIT.tsv, qrels.miracl-v1.0-LANG-SPLIT.tsv and the folder miracl-corpus-v1.0-LANG with its
    docs-0.jsonl.gz …; files may be packed. Raises BadInput naming what is missing.
    """
    source = existing(root)
    topics, judgements = (_below(source, f"{what}.miracl-v1.0-{lang}-{split}.tsv") for what in ("topics", "qrels"))
    corpus = _below(source, f"miracl-corpus-v1.0-{lang}")
    return _cut(lambda: read_passages(corpus), read_queries(topics), read_qrels(judgements), f"MIRACL {lang}")


def _below(root: Path, name: str) -> Path:
    """The file (perhaps packed) or folder of this name, the one nearest to `root`."""
    found = [path for path in root.rglob(f"{name}*") if unpacked_name(path) == name]
    if not found:
        raise BadInput(f"{root}: no {name} below it. Copy it there from the repository that publishes it.")
    return min(found, key=lambda path: (len(path.parts), path))


def _cut(passages: Callable[[], Iterator[Passage]], texts: dict[str, str], qrels: Qrels, source: str) -> Collection:
    """The collection with its judged queries only."""
    without_text = [q for q in qrels if q not in texts]
    if without_text:
        raise BadInput(
            f"{source}: {len(without_text)} judged queries have no text, the first is {without_text[0]!r}. "
            "Add them to the queries, or remove their judgements."
        )
    return Collection(passages, {q: texts[q] for q in qrels}, qrels)


def _named(root: Path, what: str, split: str) -> Path | None:
    """The one file below `root` that is called qrels… or topics… and ends in the split's name."""
    name = re.compile(rf"{what}(\.|.*[.-]){re.escape(split)}\.(tsv|txt)")
    found = sorted(f for f in root.rglob(f"{what}*") if f.is_file() and name.fullmatch(unpacked_name(f)))
    if len(found) > 1:
        listed = ", ".join(f.relative_to(root).as_posix() for f in found[:3])
        raise BadInput(
            f"{root}: {len(found)} files of {what} for the split {split!r} ({listed} …). Give the folder of one language."
        )
    return found[0] if found else None


def _corpus(root: Path) -> Path:
    folders = [root, *sorted(f for f in root.iterdir() if f.is_dir())]
    found = next((folder for folder in folders if corpus_files(folder)), None)
    if found is None:
        raise BadInput(
            f"{root}: no corpus.jsonl and no docs-0.jsonl (plain or packed). Name the folder that holds them as corpus."
        )
    return found
