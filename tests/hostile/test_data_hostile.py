"""Files that are wrong: each is refused with the file, the line, and what was expected."""

import gzip
import re

import pytest

from shortlist.data import read_collection, read_passages, read_qrels, read_queries, read_run, write_run
from shortlist.errors import BadInput
from shortlist.types import Run


def refused(read, path, message):
    with pytest.raises(BadInput, match=message) as caught:
        list(read(path))
    assert str(path) in str(caught.value)


PASSAGES = {
    "c.jsonl": [
        ('{"id": "a", "text": "x"', r":1: not JSON"),
        ('{"id": "a", "text": "x"}\n[1]', r":2: expected one JSON object a line, found \[1\]"),
        ('{"text": "x"}', r":1: no id; expected a string in one of .*Keys found: text"),
        ('{"id": true, "text": "x"}', r":1: no id"),
        ('{"id": " ", "text": "x"}', r":1: the id is empty"),
        ('{"id": "a"}', r":1: no text"),
        ('{"id": "a", "text": 5}', r":1: text is 5; expected a string"),
        ('{"id": "a", "text": null}', r":1: text is None; expected a string"),
        ('{"id": "a", "text": "x", "title": ["t"]}', r":1: title is"),
        ('{"id": "a", "text": "x \\ud83d y"}', r":1: text holds half of a surrogate pair at character 2"),
        ('{"id": "\\udc00", "text": "x"}', r":1: the id holds half of a surrogate"),
        ('{"id": "a", "text": ' + "[" * 100_000, r":1: not JSON"),
    ],
    "c.tsv": [
        ("a\tx\nb", r":2: 1 columns; expected 2 to 3"),
        ("a\tx\tt\tmore", r":1: 4 columns"),
        ("id\ttitle\na\tx", r":1: the columns are .*expected one named text"),
        ("\tx", r":1: the id is empty"),
    ],
    "c.csv": [('a,"x\n', r":1: not CSV"), ('a,"x"y\n', r":1: not CSV")],
}


@pytest.mark.parametrize(("name", "text", "message"), [(n, t, m) for n, cases in PASSAGES.items() for t, m in cases])
def test_malformed_passages(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    refused(read_passages, tmp_path / name, message)


QRELS = [
    ("", "holds no judgement"),
    ("q 0 d", r":1: judgement 'd'"),
    ("q 0 d 1\nq d 1", r":2: 3 columns"),
    ("query-id\tcorpus-id\tscore\nq\t0\td\t1", r":2: 4 columns"),
    ("q 0 d 1.5", r":1: judgement '1.5'; expected a whole number"),
    ("q 0 d 1\nq 0 e 1\nq 0 d 0", r":3: passage 'd' was judged before for query 'q'"),
    ("q 0 d 1 extra", r":1: 5 columns"),
]


@pytest.mark.parametrize(("text", "message"), QRELS)
def test_malformed_qrels(tmp_path, text, message):
    (tmp_path / "qrels").write_text(text)
    refused(read_qrels, tmp_path / "qrels", message)


RUNS = [
    ("", "holds no result"),
    ("q Q0 d 1 2.0", r":1: 5 columns; expected 6"),
    ("q Q0 d 1 high t", r":1: score 'high'"),
    ("q Q0 d 1 nan t", r":1: score nan; expected a finite"),
    ("q Q0 d 1 1e39 t", r":1: score 1e39; expected a finite float32"),
    ("q Q0 d 1 2 t\nq Q0 d 2 1 t", r":2: passage 'd' appears twice"),
]


@pytest.mark.parametrize(("text", "message"), RUNS)
def test_malformed_runs(tmp_path, text, message):
    (tmp_path / "run").write_text(text)
    refused(read_run, tmp_path / "run", message)


QUERIES = [
    ("q.jsonl", "", "holds no query"),
    ("q.jsonl", '{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}', r":2: query 'a' was given before"),
    ("q.jsonl", '{"_id": "a", "text": " "}', r":1: query 'a' has no text"),
    ("q.tsv", "a\tx\nb x", r":2: no tab; expected id<TAB>text"),
    ("q.txt", "a\tx\nb x", r":2: no tab"),
    ("q.xml", "<top>", "cannot tell how to read queries from a .xml file"),
]


@pytest.mark.parametrize(("name", "text", "message"), QUERIES)
def test_malformed_queries(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    refused(read_queries, tmp_path / name, message)


READERS = [(read_passages, "c.jsonl"), (read_passages, "c.txt"), (read_queries, "q.tsv"), (read_qrels, "q"), (read_run, "r")]


@pytest.mark.parametrize(("read", "name"), READERS)
def test_not_utf8(tmp_path, read, name):
    (tmp_path / name).write_bytes(b"\n\nabc \xe4\xf6 d e f\n")
    refused(read, tmp_path / name, r":3: not UTF-8 \(byte 0xe4 at position 4 of the line\)")


@pytest.mark.parametrize("damage", [lambda raw: raw[:-9], lambda raw: raw[:30] + b"\0\0" + raw[32:], lambda raw: b"plain text"])
def test_damaged_gzip(tmp_path, damage):
    text = "".join(f'{{"id": "{n}", "text": "{n * 7919 % 1009}"}}\n' for n in range(2000))
    (tmp_path / "c.jsonl.gz").write_bytes(damage(gzip.compress(text.encode())))
    refused(read_passages, tmp_path / "c.jsonl.gz", "gzip file is damaged|not UTF-8|not JSON")


@pytest.mark.parametrize("read", [read_passages, read_queries, read_qrels, read_run, read_collection])
def test_no_such_file(tmp_path, read):
    refused(read, tmp_path / "absent", "no such file or folder")


def test_folders_that_hold_nothing(tmp_path):
    refused(read_passages, tmp_path, r"holds no corpus\.jsonl")
    refused(read_queries, tmp_path, r"queries\.jsonl: no such file")
    refused(read_qrels, tmp_path, "is a folder; expected a file")
    refused(read_run, tmp_path, "is a folder; expected a file")
    refused(read_collection, tmp_path, r"no qrels/test\.tsv; splits there: none")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (Run({"q": {"my file": 1.0}}), "passage id of query 'q' 'my file' is empty or holds white space"),
        (Run({"q q": {"d": 1.0}}), "query id"),
        (Run({"q": {"": 1.0}}), "is empty"),
        (Run({"q": {"d": 1.0}}, name=""), "the run's name"),
        (Run({"q": {"d": float("nan")}}), "score nan; expected a finite"),
        (Run({"q": {"d": 1e39}}), "expected a finite float32"),
    ],
)
def test_runs_that_the_form_cannot_carry(tmp_path, run, message):
    with pytest.raises(BadInput, match=re.escape(message)):
        write_run(run, tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_no_folder_for_the_run(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        write_run(Run({"q": {"d": 1.0}}), tmp_path / "absent" / "r")
