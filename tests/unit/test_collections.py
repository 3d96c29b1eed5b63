"""Published layouts: TREC topics, MIRACL, Mr. TyDi, SQuAD, ir_datasets; packed files; bad lines that are counted."""

import gzip
import importlib
import json
import sys
from pathlib import Path

import pytest

from shortlist.data import Skipped, read_collection, read_passages, read_qrels, read_queries, read_run, write_run
from shortlist.errors import BadInput, MissingExtra
from shortlist.types import Passage, Run


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = text.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def json_lines(*rows: dict) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# --- TREC topics ------------------------------------------------------------------------------------------------------

TOPICS = """
<top>

<num> Number: 301
<title> International Organized Crime

<desc> Description:
Identify organizations that participate in crime.

<narr> Narrative:
A relevant document must name the organization.
</top>
<top>
<num> Number: 051
<title> Topic: Airbus
 Subsidies
</top>
<top>
<num> Number: MB01
<title>
<desc> Description: only a description
</top>
"""


@pytest.mark.parametrize("name", ["topics.txt", "topics.trec", "topics.sgml.gz"])
def test_trec_topics(tmp_path, name):
    assert read_queries(put(tmp_path / name, TOPICS)) == {
        "301": "International Organized Crime",
        "51": "Airbus Subsidies",
        "MB01": "only a description",
    }


def test_trec_topics_that_are_damaged(tmp_path):
    path = put(tmp_path / "t.txt", "<top>\n<title> no number\n</top>\n<top>\n<num> 2 <title> two\n</top>\n<top>\n<num> 3")
    with pytest.raises(BadInput, match=r"t\.txt:1: a topic without a number"):
        read_queries(path)
    skipped = Skipped()
    assert read_queries(path, skipped=skipped) == {"2": "two"}
    assert skipped.count == 2
    assert "t.txt:7: <top> without </top>" in skipped.first[1]


# --- MIRACL, Mr. TyDi -------------------------------------------------------------------------------------------------


def miracl(folder: Path, corpus: Path) -> None:
    """The files of the two repositories that MIRACL is published in, with their names."""
    put(folder / "topics/topics.miracl-v1.0-zh-dev.tsv", "q1\t柏林在哪里？\nq2\t未判断\n")
    put(folder / "topics/topics.miracl-v1.0-zh-train.tsv", "q9\t东京在哪里？\n")
    put(folder / "topics/topics.miracl-v1.0-zh-test-a.tsv", "q5\t?\n")
    put(folder / "qrels/qrels.miracl-v1.0-zh-dev.tsv", "q1\tQ0\t10#0\t1\nq1\tQ0\t9#1\t0\n")
    put(folder / "qrels/qrels.miracl-v1.0-zh-train.tsv", "q9 Q0 2#0 1\n")
    for shard in (10, 0, 9):
        rows = [{"docid": f"{shard}#{n}", "title": f"T{shard}", "text": f"text {n}"} for n in (0, 1)]
        put(corpus / f"docs-{shard}.jsonl.gz", json_lines(*rows))


@pytest.mark.parametrize("apart", [False, True])
def test_miracl(tmp_path, apart):
    folder = tmp_path / "miracl-v1.0-zh"
    corpus = tmp_path / "miracl-corpus-v1.0-zh" if apart else folder / "corpus"
    miracl(folder, corpus)
    found = read_collection(folder, "dev", corpus=corpus if apart else None)
    assert found.queries == {"q1": "柏林在哪里？"}
    assert found.qrels == {"q1": {"10#0": 1, "9#1": 0}}
    assert [p.id for p in found.passages()] == ["0#0", "0#1", "9#0", "9#1", "10#0", "10#1"]  # shards in their order
    assert next(iter(read_passages(corpus))).content == "T0\ntext 0"
    assert read_collection(folder, "train", corpus=corpus).queries == {"q9": "东京在哪里？"}
    with pytest.raises(BadInput, match="splits there: dev, train"):
        read_collection(folder, "test", corpus=corpus)


def test_miracl_without_its_corpus_or_with_two_languages(tmp_path):
    miracl(tmp_path / "zh", tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="Name the folder that holds them as corpus"):
        read_collection(tmp_path / "zh", "dev")
    put(tmp_path / "zh/qrels/qrels.miracl-v1.0-yo-dev.tsv", "q1 Q0 1#0 1\n")
    with pytest.raises(BadInput, match=r"2 files of qrels for the split 'dev' .*folder of one language"):
        read_collection(tmp_path / "zh", "dev")


def test_mr_tydi(tmp_path):
    folder = tmp_path / "mrtydi-v1.1-korean"
    put(folder / "ir-format-data/topics.test.txt", "7\t수도는?\n")
    put(folder / "ir-format-data/qrels.test.txt", "7 Q0 3#0 1\n")
    put(folder / "ir-format-data/topics.dev.txt", "8\t?\n")
    put(folder / "ir-format-data/qrels.dev.txt", "8 Q0 3#0 1\n")
    put(folder / "corpus.jsonl.gz", json_lines({"docid": "3#0", "title": "서울", "text": "서울은 수도이다."}))
    found = read_collection(folder, "test")
    assert (found.queries, found.qrels) == ({"7": "수도는?"}, {"7": {"3#0": 1}})
    assert list(found.passages()) == [Passage("3#0", "서울은 수도이다.", "서울")]


@pytest.mark.data
def test_the_real_miracl_in_its_own_layout(data_folder, tmp_path):
    """The published files of Yoruba under their own names read as the converted collection does."""
    for part in ("topics", "qrels"):
        name = f"{part}.miracl-v1.0-yo-dev.tsv"
        source = next((data_folder / "miracl-topics").glob(f"{name}*"))
        (tmp_path / part).mkdir()
        (tmp_path / part / source.name).write_bytes(source.read_bytes())
    put(tmp_path / "docs/docs-0.jsonl.gz", json_lines({"docid": "598#0", "title": "A", "text": "aa ab"}))
    found, expected = read_collection(tmp_path, "dev"), read_collection(data_folder / "miracl-yo", "dev")
    assert {q: " ".join(text.split()) for q, text in found.queries.items()} == expected.queries
    assert found.qrels == expected.qrels
    assert len(list(found.passages())) == 1


# --- SQuAD ------------------------------------------------------------------------------------------------------------

SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Ada Lovelace",
            "paragraphs": [
                {"context": "Ada wrote notes.", "qas": [{"id": "a", "question": "Who wrote notes?", "answers": []}]},
                {"context": "She was born in London.", "qas": [{"id": "b", "question": "Where was she born?"}]},
                {"context": "Ada wrote notes.", "qas": [{"id": "c", "question": "What did Ada write?"}]},
            ],
        },
        {"title": "Ada Lovelace", "paragraphs": [{"context": "A later part.", "qas": []}]},
        {"paragraphs": [{"context": "No title.", "qas": [{"id": "d", "question": "Why?", "is_impossible": True}]}]},
    ],
}


@pytest.mark.parametrize("indent", [None, 2])
def test_squad(tmp_path, indent):
    path = put(tmp_path / "dev.json", json.dumps(SQUAD, indent=indent))
    found = read_collection(path)
    assert found.queries == {"a": "Who wrote notes?", "b": "Where was she born?", "c": "What did Ada write?"}
    assert found.qrels == {"a": {"Ada%20Lovelace#0": 1}, "b": {"Ada%20Lovelace#1": 1}, "c": {"Ada%20Lovelace#0": 1}}
    assert list(found.passages()) == [
        Passage("Ada%20Lovelace#0", "Ada wrote notes.", "Ada Lovelace"),
        Passage("Ada%20Lovelace#1", "She was born in London.", "Ada Lovelace"),
        Passage("Ada%20Lovelace#2", "A later part.", "Ada Lovelace"),
        Passage("2#0", "No title."),
    ]
    assert list(read_passages(path, "en"))[3].lang == "en"
    assert (read_queries(path), read_qrels(path)) == (found.queries, found.qrels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"data": [', "not JSON"),
        ('{"data": [5]}', r"data\[0\]: expected an object with a list named paragraphs"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', r"data\[0\]\.paragraphs\[0\]: context is None; expected a string"),
        ('{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": ""}]}]}]}', r"qas\[0\]: the id is empty"),
        ('{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "a"}]}]}]}', r"qas\[0\]: question is None"),
        ('{"data": [{"paragraphs": [{"context": "c", "qas": 5}]}]}', "qas is no list"),
    ],
)
def test_damaged_squad(tmp_path, content, message):
    path = put(tmp_path / "dev.json", content)
    with pytest.raises(BadInput, match=message):
        read_collection(path)


def test_a_json_file_of_json_lines_is_no_squad(tmp_path):
    path = put(tmp_path / "c.json", json_lines({"id": "a", "text": "x", "data": [1]}))
    assert list(read_passages(path)) == [Passage("a", "x", meta={"data": [1]})]


# --- ir_datasets ------------------------------------------------------------------------------------------------------


@pytest.fixture
def catalogue(tmp_path, monkeypatch):
    """The real catalogue with one more collection, made of files here."""
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "home"))
    library = pytest.importorskip("ir_datasets", reason="needs the extra `ir-datasets`")
    docs = put(tmp_path / "docs.tsv", "d1\tone fish\nd2\tzwei Fische\n")
    dataset = library.create_dataset(
        docs_tsv=str(docs),
        queries_tsv=str(put(tmp_path / "queries.tsv", "q1\tfish?\nq2\tnever judged\n")),
        qrels_trec=str(put(tmp_path / "qrels", "q1 0 d2 1\nq1 0 d1 0\n")),
    )
    for name, made in {"shortlist-test": dataset, "shortlist-test/docs": library.create_dataset(docs_tsv=str(docs))}.items():
        if name not in library.registry:
            library.registry.register(name, made)
    return library


def test_ir_datasets(catalogue):
    found = read_collection("ir_datasets:shortlist-test")
    assert (found.queries, found.qrels) == ({"q1": "fish?"}, {"q1": {"d2": 1, "d1": 0}})
    assert list(found.passages()) == [Passage("d1", "one fish"), Passage("d2", "zwei Fische")]
    assert len(read_queries(Path("ir_datasets:shortlist-test"))) == 2


def test_ir_datasets_that_have_no_such_thing(catalogue):
    with pytest.raises(BadInput, match="no collection 'nonsense'"):
        read_qrels("ir_datasets:nonsense")
    with pytest.raises(BadInput, match="ir_datasets:shortlist-test/docs has no qrels"):
        read_qrels("ir_datasets:shortlist-test/docs")


def test_ir_datasets_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingExtra, match=r"shortlist\[ir-datasets\]"):
        read_queries("ir_datasets:cranfield")


# --- packed files -----------------------------------------------------------------------------------------------------


def test_zstd(tmp_path):
    if sys.version_info < (3, 14):
        zstd = pytest.importorskip("backports.zstd", reason="needs the extra `zstd`")
    else:
        zstd = importlib.import_module("compression.zstd")
    text = json_lines(*({"_id": f"d{n}", "text": f"text {n * 7919 % 1009}"} for n in range(3000)))
    packed = zstd.compress(text.encode())
    (tmp_path / "corpus.jsonl.zst").write_bytes(packed)
    assert [p.id for p in read_passages(tmp_path)] == [f"d{n}" for n in range(3000)]
    for damaged in (packed[:-9], packed[:40] + b"\0\0\0" + packed[43:], b"plain text"):
        (tmp_path / "corpus.jsonl.zst").write_bytes(damaged)
        with pytest.raises(BadInput, match=r"zstd file is damaged|not UTF-8|not JSON"):
            list(read_passages(tmp_path))
    write_run(Run({"q": {"a": 1.5}}), tmp_path / "r.trec.zst")
    assert zstd.decompress((tmp_path / "r.trec.zst").read_bytes()) == b"q Q0 a 1 1.5 shortlist\n"
    assert read_run(tmp_path / "r.trec.zst") == {"q": {"a": 1.5}}


def test_zstd_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "backports.zstd" if sys.version_info < (3, 14) else "compression.zstd", None)
    (tmp_path / "c.jsonl.zst").write_bytes(b"x")
    with pytest.raises(MissingExtra, match=r"shortlist\[zstd\]"):
        list(read_passages(tmp_path / "c.jsonl.zst"))


# --- lines that are skipped -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "good", "bad"),
    [
        ("c.jsonl", b'{"id": "a", "text": "x"}\nnot json\n{"id": "b"}\n\xff\xfe\n{"id": "c", "text": "z"}\n', ["a", "c"], 3),
        ("c.tsv", b"a\tx\nalone\n\tno id\nb\ty\n", ["a", "b"], 2),
        ("c.csv", b'id,text\na,x\n"b"x,y\nc,z\nd,1,2,3\n', ["a", "c"], 2),
    ],
)
def test_bad_lines_are_counted_when_that_is_asked_for(tmp_path, name, content, good, bad):
    path = tmp_path / name
    path.write_bytes(content)
    skipped = Skipped()
    assert [p.id for p in read_passages(path, skipped=skipped)] == good
    assert skipped.count == bad == len(skipped.first)
    assert all(f"{name}:" in message for message in skipped.first)
    with pytest.raises(BadInput):
        list(read_passages(path))


def test_only_the_first_messages_are_kept_and_damage_is_no_line(tmp_path):
    path = put(tmp_path / "c.jsonl", "bad\n" * 1000 + '{"id": "a", "text": "x"}\n')
    skipped = Skipped()
    assert len(list(read_passages(path, skipped=skipped))) == 1
    assert (skipped.count, len(skipped.first)) == (1000, 5)
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(path.read_bytes())[:-9])
    with pytest.raises(BadInput, match="gzip file is damaged"):
        list(read_passages(cut, skipped=Skipped()))


def test_bad_queries_are_counted(tmp_path):
    path = put(tmp_path / "q.tsv", "1\tone\nno tab\n2\t \n1\tagain\n3\tthree\n")
    skipped = Skipped()
    assert read_queries(path, skipped=skipped) == {"1": "one", "3": "three"}
    assert skipped.count == 3
