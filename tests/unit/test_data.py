"""Readers and writers: every form of file that the field uses, read back to the same values."""

import gzip
import json
import math
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.data import read_collection, read_passages, read_qrels, read_queries, read_run, write_run
from shortlist.errors import BadInput
from shortlist.types import Passage, Run

SHARED = Path(os.environ.get("SHORTLIST_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = text.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz"])
def test_json_lines_with_every_spelling_of_the_fields(tmp_path, name):
    rows = [
        {"_id": "a", "text": "one", "title": "T"},
        {"id": 7, "contents": "two", "lang": "zh", "year": 1999},
        {"docid": "c", "text": "three", "title": None, "metadata": {"url": "u"}, "tags": ["x"]},
    ]
    path = put(tmp_path / name, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    assert list(read_passages(path, lang="en")) == [
        Passage("a", "one", "T", "en"),
        Passage("7", "two", "", "zh", {"year": 1999}),
        Passage("c", "three", "", "en", {"url": "u", "tags": ["x"]}),
    ]


def test_passages_stream(tmp_path):
    path = put(tmp_path / "c.jsonl", '{"id": "a", "text": "one"}\nnot json\n')
    passages = read_passages(path)
    assert next(passages).id == "a"  # the first passage comes before the bad line is reached
    with pytest.raises(BadInput, match=r"c\.jsonl:2: not JSON"):
        next(passages)


def test_byte_order_mark_blank_lines_crlf_and_line_separators_inside_strings(tmp_path):
    path = put(tmp_path / "c.jsonl", '\ufeff{"id": "a", "text": "x\u2028y\x85z"}\r\n\r\n{"id": "b", "text": ""}\r\n')
    assert [(p.id, p.text) for p in read_passages(path)] == [("a", "x\u2028y\x85z"), ("b", "")]


def test_tables(tmp_path):
    tsv = put(tmp_path / "c.tsv", 'a\the said "no\nb\tbody\ttitle\n')
    assert list(read_passages(tsv, "de")) == [Passage("a", 'he said "no', "", "de"), Passage("b", "body", "title", "de")]
    csv = put(tmp_path / "c.csv", 'id,title,contents,lang,page\na,T,"x, ""y""\nz",fr,12\n')
    assert list(read_passages(csv)) == [Passage("a", 'x, "y"\nz', "T", "fr", {"page": "12"})]


def test_a_csv_cell_above_the_csv_modules_limit(tmp_path):
    csv = put(tmp_path / "c.csv", "a," + "x" * 200_000)
    assert len(next(read_passages(csv)).text) == 200_000


def test_beir_folder_and_its_queries(tmp_path):
    put(tmp_path / "corpus.jsonl.gz", '{"_id": "d1", "title": "", "text": "one"}\n')
    put(tmp_path / "queries.jsonl", '{"_id": "q1", "text": "one?"}\n{"_id": "q2", "text": "two?"}\n')
    put(tmp_path / "qrels/dev.tsv", "query-id\tcorpus-id\tscore\nq2\td1\t1\n")
    collection = read_collection(tmp_path, "dev")
    assert collection.queries == {"q2": "two?"}
    assert collection.qrels == {"q2": {"d1": 1}}
    assert [p.id for p in collection.passages()] == [p.id for p in collection.passages()] == ["d1"]
    assert [p.id for p in read_passages(tmp_path)] == ["d1"]
    assert list(read_queries(tmp_path)) == ["q1", "q2"]
    with pytest.raises(BadInput, match="splits there: dev"):
        read_collection(tmp_path, "test")


def test_a_judged_query_without_text_is_refused(tmp_path):
    put(tmp_path / "corpus.jsonl", '{"_id": "d1", "text": "one"}\n')
    put(tmp_path / "queries.jsonl", '{"_id": "q1", "text": "one?"}\n')
    put(tmp_path / "qrels/test.tsv", "query-id\tcorpus-id\tscore\nq9\td1\t1\n")
    with pytest.raises(BadInput, match="the first is 'q9'"):
        read_collection(tmp_path)


def test_documents_are_cut_and_titled(tmp_path):
    body = "First sentence here. " * 8 + "\n\n" + "Second paragraph there. " * 8
    put(tmp_path / "notes/my file.md", "intro line\n\n## The Title ##\n\n" + body)
    put(tmp_path / "a.txt", "# not a heading in plain text")
    put(tmp_path / ".hidden/x.md", "secret")
    put(tmp_path / "picture.png", "not a document")
    passages = list(read_passages(tmp_path, "en", max_chars=120))
    by_file = {p.id.split("#")[0]: p.title for p in passages}
    assert by_file == {"a.txt": "a", "notes/my%20file.md": "The Title"}
    assert [p.id for p in passages if p.id.startswith("notes")] == [f"notes/my%20file.md#{n}" for n in range(len(passages) - 1)]
    assert all(0 < len(p.text) <= 120 and p.lang == "en" for p in passages)
    words = " ".join(p.text for p in passages if p.id.startswith("notes")).split()
    assert words == ("intro line ## The Title ## " + body).split()  # nothing is lost or doubled
    assert [p.id for p in read_passages(tmp_path / "a.txt")] == ["a.txt#0"]


def test_queries_in_three_forms(tmp_path):
    assert read_queries(put(tmp_path / "q.tsv.gz", "1\twhat is\ta tab\n2\tzwei\n")) == {"1": "what is\ta tab", "2": "zwei"}
    assert read_queries(put(tmp_path / "topics.txt", "1048585\twho is she\n")) == {"1048585": "who is she"}
    assert read_queries(put(tmp_path / "plain.txt", "first one\n\nthird line\n")) == {"1": "first one", "3": "third line"}
    assert read_queries(put(tmp_path / "q.csv", 'id,text\nq1,"a, b"\n')) == {"q1": "a, b"}


def test_qrels_in_both_forms(tmp_path):
    expected = {"q1": {"d1": 1, "d2": 0}, "q2": {"d#3": -1}}
    assert read_qrels(put(tmp_path / "a.txt", "# comment\nq1 0 d1 1\nq1 Q0 d2\t0\n  # more\nq2 0 d#3 -1\n")) == expected
    beir = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td#3\t-1\n"
    assert read_qrels(put(tmp_path / "b.tsv.gz", beir)) == expected


def test_runs_round_trip(tmp_path):
    run = Run({"q1": {"a": 0.1, "b": 12.345678, "c": -3e-20}, "q2": {"x": 1.0}}, name="mine")
    write_run(run, tmp_path / "r.trec.gz")
    again = read_run(tmp_path / "r.trec.gz")
    assert again.name == "mine"
    assert {q: [p for p, _ in again.ranked(q)] for q in again} == {"q1": ["b", "a", "c"], "q2": ["x"]}
    assert all(np.float32(again[q][d]) == np.float32(run[q][d]) for q in run for d in run[q])


def trec_eval_order(path: Path) -> dict[str, list[str]]:
    """What trec_eval does with a file: ignore the ranks, sort by float32 score, ties by document id descending."""
    found: dict[str, list[tuple[np.float32, bytes]]] = {}
    for line in path.read_text().splitlines():
        query, _, doc, _, score, _ = line.split()
        found.setdefault(query, []).append((np.float32(score), doc.encode()))
    return {q: [doc.decode() for _, doc in sorted(hits, reverse=True)] for q, hits in found.items()}


@given(
    st.dictionaries(
        st.text("abcé漢", min_size=1, max_size=3),
        st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-12, 1.0 - 1e-9, 5e-324, 1e30, -1e30]) | st.floats(-100, 100),
        max_size=12,
    )
)
def test_trec_eval_sees_the_order_of_a_written_run_also_with_ties(tmp_path_factory, hits):
    path = tmp_path_factory.mktemp("run") / "r.trec"
    run = Run({"q": hits, "other": {"d": 1.0}})
    write_run(run, path)
    ours = [p for p, _ in run.ranked("q")]
    assert trec_eval_order(path).get("q", []) == ours
    again = read_run(path)
    assert [p for p, _ in again.ranked("q")] == ours
    assert [line.split()[3] for line in path.read_text().splitlines()[: len(ours)]] == [str(n + 1) for n in range(len(ours))]


@given(st.dictionaries(st.text("abcé漢", min_size=1, max_size=3), st.sampled_from([2.0, 1.0, 1.0 + 1e-12]), min_size=1))
def test_a_foreign_run_with_ties_is_ranked_as_trec_eval_does(tmp_path_factory, hits):
    path = tmp_path_factory.mktemp("run") / "r.trec"
    path.write_text("".join(f"q Q0 {doc} 1 {score!r} tag with words\n" for doc, score in hits.items()))
    run = read_run(path)
    assert [p for p, _ in run.ranked("q")] == trec_eval_order_of(hits)
    assert all(math.isclose(run["q"][d], hits[d], rel_tol=1e-9) for d in hits)


def trec_eval_order_of(hits: dict[str, float]) -> list[str]:
    return [d.decode() for _, d in sorted(((np.float32(s), d.encode()) for d, s in hits.items()), reverse=True)]


def test_a_failed_write_leaves_the_old_run(tmp_path, monkeypatch):
    path = tmp_path / "r.trec"
    write_run(Run({"q": {"a": 1.0}}), path)
    before = path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_run(Run({"q": {"b": 1.0}}), path)
    assert path.read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["r.trec"]


def test_a_written_run_has_the_usual_permissions(tmp_path):
    write_run(Run({"q": {"a": 1.0}}), tmp_path / "r.trec")
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "r.trec").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="no folder of collections; name it in SHORTLIST_DATA")
def test_every_shared_collection_reads():
    folders = sorted(f.parent for f in SHARED.glob("*/corpus.jsonl.gz"))
    assert folders
    for folder in folders:
        splits = sorted(f.stem for f in (folder / "qrels").glob("*.tsv"))
        assert splits, folder
        for split in splits:
            collection = read_collection(folder, split)
            assert set(collection.queries) == set(collection.qrels)
        ids = [p.id for p in collection.passages()]
        assert len(ids) == len(set(ids)) > 50, folder


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="no folder of collections; name it in SHORTLIST_DATA")
def test_every_shared_topic_and_judgement_file_reads():
    topics = sorted(SHARED.glob("*-topics/topics.*"))
    judgements = sorted(SHARED.glob("*-topics/qrels.*"))
    assert len(topics) > 50
    assert len(judgements) > 50
    for path in topics:
        assert read_queries(path)
    for path in judgements:
        assert read_qrels(path)
