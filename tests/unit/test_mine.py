"""Mining groups, against the search that they come from; and reading them back, also when they are damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index_tools import passages
from shortlist import Encoder, Index
from shortlist.errors import BadInput
from shortlist.train.groups import first_of_each, joined, read_groups, write_groups
from shortlist.train.mine import mine


@pytest.fixture(scope="module")
def encoder(tiny_encoder_folder: Path) -> Encoder:
    return Encoder.load(tiny_encoder_folder)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty passages; question n asks with the words of passage n, and passage n + 30 is judged relevant too."""
    folder = tmp_path_factory.mktemp("data") / "towns"
    (folder / "qrels").mkdir(parents=True)
    corpus = passages(60)
    rows = [{"_id": p.id, "title": p.title, "text": p.text} for p in corpus]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    queries = [{"_id": f"q{n}", "text": " ".join(corpus[n].text.split()[:3])} for n in range(10)]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)), encoding="utf-8")
    judged = [f"q{n}\tp{i}\t{grade}" for n in range(9) for i, grade in ((n, 1), (n + 30, 2), (n + 20, 0))] + ["q9\tp9\t0"]
    (folder / "qrels" / "train.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def mined(collection: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mined")
    assert mine(collection, out / "groups", depth=8, encoder=encoder, indexes=out / "indexes") == 9
    return out


def test_candidates_are_those_of_the_search_with_the_relevant_ones(mined: Path, encoder: Encoder) -> None:
    found = read_groups(mined / "groups")
    assert len(found) == 9  # the tenth question has no relevant passage
    with Index.open(mined / "indexes" / "towns.idx", encoder=encoder) as index:
        for group in found.groups:
            query = found.queries[group.query]
            hits = index.search(query, k=8, first="hybrid").hits
            ids = [c.passage.removeprefix("towns/") for c in group.candidates]
            assert ids[: len(hits)] == [hit.id for hit in hits]
            number = int(group.query.removeprefix("towns/q"))
            assert {c.passage for c in group.relevant} == {f"towns/p{number}", f"towns/p{number + 30}"}
            scores = np.array([hit.score for hit in hits])
            z = [
                *(scores - scores.mean()) / scores.std(),
                *[(scores.min() - scores.mean()) / scores.std()] * (len(ids) - len(hits)),
            ]
            assert [c.first for c in group.candidates] == pytest.approx(z, abs=1e-4)
            vectors = encoder.encode([found.passages[c.passage] for c in group.candidates])
            dense = vectors @ encoder.encode([query], kind="query")[0]
            assert [c.dense for c in group.candidates] == pytest.approx(dense, abs=0.01)  # those of the index are rounded
            assert [found.passages[c.passage] for c in group.candidates] == [index.get(i).content for i in ids]


def test_what_is_there_is_kept(mined: Path, collection: Path, encoder: Encoder) -> None:
    path = mined / "groups" / "towns" / "groups.jsonl"
    before = path.stat().st_mtime_ns
    assert mine(collection, mined / "groups", encoder=encoder, indexes=mined / "indexes") == 9
    assert path.stat().st_mtime_ns == before


def test_fewer_questions_are_the_same_ones_each_time(mined: Path, collection: Path, encoder: Encoder, tmp_path: Path) -> None:
    for out in (tmp_path / "a", tmp_path / "b"):
        assert mine(collection, out, queries=4, depth=8, encoder=encoder, indexes=mined / "indexes") == 4
    a, b = (read_groups(tmp_path / name) for name in "ab")
    assert a.groups == b.groups
    assert set(a.groups) < set(read_groups(mined / "groups").groups)


def test_a_split_without_relevant_passages_is_refused(collection: Path, encoder: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "towns"
    (folder / "qrels").mkdir(parents=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / name).write_bytes((collection / name).read_bytes())
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq9\tp9\t0\n", encoding="utf-8")
    with pytest.raises(BadInput, match="no question"):
        mine(folder, tmp_path / "out", encoder=encoder, indexes=tmp_path / "indexes")


def test_reading_some_collections_and_unknown_ones(mined: Path) -> None:
    assert len(read_groups(mined / "groups", ["towns"])) == 9
    with pytest.raises(BadInput, match="it has towns"):
        read_groups(mined / "groups", ["villages"])
    with pytest.raises(BadInput, match="shortlist train mine"):
        read_groups(mined / "indexes")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 10: not valid JSON"),
        ("[1]", "expected a JSON object"),
        ('{"query": "q0"}', "is not a group"),
        ('{"query": "q0", "candidates": [["p1", 1.0]]}', "is not a group"),
        ('{"query": "q0", "candidates": [["p1", "high", 1, 0.5]]}', "is not a group"),
        ('{"query": "q0", "candidates": [["p1", 1.0, 0, 0.5]]}', "no relevant candidate"),
        ('{"query": "q0", "candidates": [["p999", 1.0, 1, 0.5]]}', "p999"),
        ('{"query": "q77", "candidates": [["p1", 1.0, 1, 0.5]]}', "q77"),
    ],
)
def test_damaged_groups_are_refused_with_the_place(mined: Path, tmp_path: Path, line: str, message: str) -> None:
    folder = tmp_path / "towns"
    folder.mkdir()
    for name in ("queries.jsonl", "passages.jsonl", "groups.jsonl"):
        (folder / name).write_bytes((mined / "groups" / "towns" / name).read_bytes())
    with (folder / "groups.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(BadInput, match=message):
        read_groups(tmp_path)


def test_written_groups_read_the_same(mined: Path, tmp_path: Path) -> None:
    found = read_groups(mined / "groups")
    some = first_of_each(found, 5)
    assert [g.query for g in some.groups] == [g.query for g in found.groups[:5]]
    write_groups(some, tmp_path)
    again = read_groups(tmp_path)
    assert again.groups == some.groups
    assert all(found.passages[i] == text for i, text in again.passages.items())
    rest = replace(found, groups=found.groups[5:])
    assert joined([again, rest]).groups == found.groups
    with pytest.raises(BadInput, match="same question"):
        joined([again, found])
