"""What every store promises, with brute force as the judge. A store is opened by the factory in `make`."""

from __future__ import annotations

import json
import random
import struct
import zlib

import numpy as np
import pytest

from index_tools import HashEncoder, assert_same_ranking, naive_bm25, passages
from shortlist.errors import BadInput
from shortlist.stores.care import check
from shortlist.stores.embedded import EmbeddedStore, Source
from shortlist.stores.postings import invert
from shortlist.stores.truth import Row
from shortlist.types import Passage

K1, B = 0.9, 0.4
ENCODER = HashEncoder()


def make(tmp_path, *, dims=ENCODER.dims, mode="int8"):
    encoder = {"name": ENCODER.name, "fingerprint": ENCODER.fingerprint, "dims": dims} if dims else None
    manifest = {"analyzer": "auto/1", "encoder": encoder, "k1": K1, "b": B, "vectors": mode}
    if mode == "binary-rescored":
        manifest |= {"centre": [0.05] * dims, "rescore_multiplier": 20}
    return EmbeddedStore.create(tmp_path / "store", manifest)


class Judge:
    """The same passages in a dict, ranked by brute force."""

    def __init__(self, store):
        self.store, self.terms, self.vectors, self.passages = store, {}, {}, {}

    def add(self, batch, *, replacing=False):
        stored = self.store.layout.stored(ENCODER.encode_counted([p.content for p in batch])[0])
        terms = [self.store.analyzer.terms(p.content, p.lang) for p in batch]
        rows = [Row(p, p.lang, vector) for p, vector in zip(batch, stored, strict=True)]
        self.store.append(rows, invert(terms), replacing=replacing)
        for passage, words, vector in zip(batch, terms, self.store.layout.vectors(stored), strict=True):
            self.terms[passage.id], self.vectors[passage.id], self.passages[passage.id] = words, vector, passage

    def delete(self, ids):
        self.store.delete(ids)
        for name in ids:
            del self.terms[name], self.vectors[name], self.passages[name]

    def check_filter(self, snapshot, where, fits, k=20):
        """Both stages return the passages that fit, with the scores that they have without a filter."""
        kept = {name for name, passage in self.passages.items() if fits(passage)}
        assert [p.id for p in snapshot.passages(where)] == [p.id for p in snapshot.passages() if p.id in kept]
        words = self.store.analyzer.query_terms("the river museum 北京大学 und", snapshot.languages)
        everything = naive_bm25(self.terms, words, K1, B)
        assert_same_ranking(snapshot.bm25(words, k, where).scored(), [hit for hit in everything if hit[0] in kept], k)
        vector = ENCODER.encode_counted(["the river museum"])[0][0]
        exact = ((name, float(self.vectors[name].astype(np.float32) @ vector)) for name in kept)
        assert_same_ranking(snapshot.dense(vector, k, where).scored(), sorted(exact, key=lambda hit: (-hit[1], hit[0])), k)

    def check(self, snapshot, k=20):
        assert len(snapshot) == len(self.passages)
        assert {p.id: p for p in snapshot.passages()} == self.passages
        assert set(snapshot.languages) == {p.lang for p in self.passages.values()}
        for query in ("the river museum", "北京大学", "der fluss häuser", "المتحف", "garden 大学 brücke"):
            words = self.store.analyzer.query_terms(query, snapshot.languages)
            assert_same_ranking(snapshot.bm25(words, k).scored(), naive_bm25(self.terms, words, K1, B), k)
            vector = ENCODER.encode_counted([query])[0][0]
            exact = ((name, float(row @ vector)) for name, row in self.vectors.items())
            assert_same_ranking(snapshot.dense(vector, k).scored(), sorted(exact, key=lambda hit: (-hit[1], hit[0])), k)


@pytest.fixture(params=["int8", "float32", "binary-rescored"])
def judge(tmp_path, request):
    store = make(tmp_path, mode=request.param)
    yield Judge(store)
    store.close()


def test_an_empty_store_answers_with_nothing(judge):
    snapshot = judge.store.snapshot()
    assert len(snapshot) == 0
    assert snapshot.bm25(["a"], 5).scored() == []
    assert snapshot.dense(np.ones(ENCODER.dims, np.float32), 5).scored() == []
    assert snapshot.get(["a"]) == {}
    assert list(snapshot.passages()) == []


def test_batches_of_every_size_then_deletions_then_more(judge):
    rng = random.Random(4)
    pool = passages(900)
    while pool:
        size = min(len(pool), rng.choice([1, 1, 2, 5, 40, 200]))
        judge.add([pool.pop() for _ in range(size)])
        if rng.random() < 0.4:
            judge.delete(rng.sample(sorted(judge.passages), min(len(judge.passages), 7)))
    judge.check(judge.store.snapshot())


def test_reopened_it_is_the_same(judge, tmp_path):
    judge.add(passages(150))
    judge.delete(["p3", "p77"])
    before = judge.store.manifest
    judge.store.close()
    for write in (False, True):
        judge.store = EmbeddedStore(tmp_path / "store", write=write)
        assert judge.store.manifest == before
        judge.check(judge.store.snapshot())
        judge.store.close()


def test_a_snapshot_does_not_change(judge):
    judge.add(passages(120))
    old = judge.store.snapshot()
    frozen = Judge(judge.store)
    frozen.terms, frozen.vectors, frozen.passages = dict(judge.terms), dict(judge.vectors), dict(judge.passages)
    judge.delete(["p1", "p2", "p119"])
    judge.add(passages(100, seed=1, prefix="new"))
    frozen.check(old)
    judge.check(judge.store.snapshot())


def test_a_reader_sees_a_commit_at_its_next_snapshot(judge, tmp_path):
    reader = EmbeddedStore(tmp_path / "store")
    seen = Judge(judge.store)
    for number in range(8):
        judge.add(passages(30, seed=number, prefix=f"{number}-"))
        judge.delete([f"{number}-4"])
        seen.terms, seen.vectors, seen.passages = judge.terms, judge.vectors, judge.passages
        seen.check(reader.snapshot())
    assert reader.snapshot() is reader.snapshot()
    reader.close()


def test_an_id_can_come_back_after_its_deletion(judge):
    (first,) = passages(1)
    for seed in range(3):
        (again,) = passages(1, seed=seed)
        judge.add([again])
        assert judge.store.snapshot().get(["p0"]) == {"p0": again}
        judge.delete(["p0"])
        assert judge.store.snapshot().get(["p0"]) == {}
    assert first.id == "p0"


def test_everything_deleted(judge):
    judge.add(passages(20))
    judge.delete([f"p{i}" for i in range(20)])
    judge.check(judge.store.snapshot())


def test_deletion_of_an_unknown_id_deletes_nothing(judge):
    judge.add(passages(5))
    with pytest.raises(BadInput, match="'nobody'"):
        judge.store.delete(["p1", "nobody"])
    judge.check(judge.store.snapshot())


def test_equal_passages_tie_by_id_even_beyond_k(judge):
    same = passages(1)[0]
    names = [f"{i:03d}" for i in random.Random(0).sample(range(500), 500)]
    judge.add([type(same)(name, same.text, same.title, same.lang) for name in names])
    snapshot = judge.store.snapshot()
    words = judge.store.analyzer.terms(same.content, same.lang)
    assert [name for name, _ in snapshot.bm25(words, 10).scored()] == [f"{i:03d}" for i in range(10)]
    vector = ENCODER.encode_counted([same.content])[0][0]
    assert [name for name, _ in snapshot.dense(vector, 10).scored()] == [f"{i:03d}" for i in range(10)]


def test_queries_together_find_what_each_finds_alone(judge):
    judge.add(passages(300))
    queries = ENCODER.encode_counted([p.content for p in passages(40, seed=9)])[0]
    snapshot = judge.store.snapshot()
    for one, together in zip(queries, snapshot.dense_many(queries, 10), strict=True):
        assert together.scored() == snapshot.dense(one, 10).scored()


def test_segments_of_an_older_version_are_read_and_brought_up_to_date_by_a_writer(judge, tmp_path):
    judge.add(passages(150))
    judge.store.close()
    for path in (tmp_path / "store" / "terms").iterdir():
        _remove_bounds(path)
    for write in (False, True):
        judge.store = EmbeddedStore(tmp_path / "store", write=write)
        assert all(segment.bounded == write for segment in judge.store.snapshot().files.segments)
        judge.check(judge.store.snapshot())
        judge.store.close()


def _remove_bounds(path):
    """The file as versions before the bounds wrote it; `bounds` is the last section."""
    content = path.read_bytes()
    magic, length, _ = struct.unpack_from("<8sII", content)
    fields = json.loads(content[16 : 16 + length])
    start = -(-(16 + length) // 64) * 64
    at, _ = fields["sections"].pop("bounds")
    body = content[start : start + at]
    fields["sums"] = [zlib.crc32(body[i : i + fields["block"]]) for i in range(0, len(body), fields["block"])]
    header = json.dumps(fields).encode()
    filler = bytes(-(16 + len(header)) % 64)
    path.write_bytes(struct.pack("<8sII", magic, len(header), zlib.crc32(header)) + header + filler + body)


def test_titles_count_as_often_as_the_index_was_made_to(tmp_path):
    manifest = {"analyzer": "auto/2", "encoder": None, "k1": K1, "b": B}
    for weight in (None, 1, 3):
        store = EmbeddedStore.create(tmp_path / str(weight), manifest | ({"title_weight": weight} if weight else {}))
        blue = Passage("a", "red house", "Blue")
        terms = ["blue", "red", "hous"] + ["blue"] * ((weight or 1) - 1)
        made, expected = store.postings([Row(blue, "en")]), invert([terms])
        assert all(np.array_equal(getattr(made, name), getattr(expected, name)) for name in vars(expected))
        store.close()


def test_without_vectors(tmp_path):
    store = make(tmp_path, dims=0)
    store.append([Row(p, p.lang) for p in passages(3)], invert([["a"], ["b"], ["a", "b"]]))
    assert [name for name, _ in store.snapshot().bm25(["a"], 5).scored()] == ["p0", "p2"]
    with pytest.raises(BadInput, match="no vectors"):
        store.snapshot().dense(np.ones(4, np.float32), 5)
    store.close()


def test_a_replacement_is_a_deletion_and_an_addition_at_once(judge):
    judge.add(passages(60))
    before = judge.store.snapshot().published.point
    judge.add([*passages(20, seed=5), *passages(5, seed=6, prefix="new")], replacing=True)
    after = judge.store.snapshot()
    judge.check(after)
    assert (after.published.point.generation, len(after)) == (before.generation + 1, 65)


FILTERS = [
    ({"lang": {"eq": "zh"}}, lambda p: p.lang == "zh"),
    ({"n": {"gte": 100, "lt": 300}}, lambda p: 100 <= p.meta.get("n", -1) < 300),
    ({"n": {"eq": 7}}, lambda p: p.meta.get("n") == 7),
    ({"n": {"gt": 10_000}}, lambda p: False),
    ({"not": {"n": {"gte": 0}}}, lambda p: not p.meta),
    ({"id": {"in": ["p3", "p4", "nobody"]}}, lambda p: p.id in ("p3", "p4")),
    ({"id": {"gte": "p10", "lt": "p20"}}, lambda p: "p10" <= p.id < "p20"),
    ({"or": [{"title": {"eq": "北京"}}, {"lang": {"eq": "ar"}}]}, lambda p: p.title == "北京" or p.lang == "ar"),
]


@pytest.mark.parametrize("number", range(len(FILTERS)))
def test_filters_lose_nothing_and_change_no_score(judge, number):
    where, fits = FILTERS[number]
    rng = random.Random(number)
    pool = passages(500)
    while pool:
        judge.add([pool.pop() for _ in range(min(len(pool), rng.choice([1, 3, 60, 150])))])
        judge.delete(rng.sample(sorted(judge.passages), 5 if len(judge.passages) > 10 else 0))
    judge.add([passages(10)[7]], replacing=True)
    snapshot = judge.store.snapshot()
    judge.check_filter(snapshot, where, fits)
    judge.check_filter(snapshot, where, fits)  # from what the snapshot keeps
    assert judge.store.delete_where(where) == sum(map(fits, judge.passages.values()))
    for name in [name for name, passage in judge.passages.items() if fits(passage)]:
        del judge.terms[name], judge.vectors[name], judge.passages[name]
    judge.check(judge.store.snapshot())


def test_more_filters_than_a_snapshot_keeps(judge):
    judge.add(passages(60))
    snapshot = judge.store.snapshot()
    for number in [*range(1, 60, 2), 1, 3]:
        assert [p.id for p in snapshot.passages({"n": {"eq": number}})] == [f"p{number}"]


def test_a_compaction_changes_no_answer_and_gives_space_back(judge, tmp_path):
    judge.add(passages(2500))
    judge.delete([f"p{i}" for i in range(0, 2500, 3)][:800])
    reader = EmbeddedStore(tmp_path / "store")
    old = reader.snapshot()
    frozen = Judge(reader)
    frozen.terms, frozen.vectors, frozen.passages = dict(judge.terms), dict(judge.vectors), dict(judge.passages)
    size = sum(judge.store.sizes().values())
    assert judge.store.compact() == 800
    assert judge.store.compact() == 0
    assert sum(judge.store.sizes().values()) < 0.8 * size
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == ["compacted-000001", "lock"]
    judge.check(judge.store.snapshot())
    judge.add(passages(30, seed=2, prefix="new"))
    judge.delete(["new4", "p1"])
    frozen.check(old)  # a snapshot keeps its files
    seen = Judge(reader)
    seen.terms, seen.vectors, seen.passages = judge.terms, judge.vectors, judge.passages
    seen.check(reader.snapshot())
    assert len(reader.snapshot().dead) == len(reader.snapshot()) + 2
    assert judge.store.effort() == reader.effort()
    reader.close()
    assert judge.store.compact() == 2
    judge.store.close()
    for write in (False, True):
        judge.store = EmbeddedStore(tmp_path / "store", write=write)
        judge.check(judge.store.snapshot())
        judge.store.close()
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == ["compacted-000002", "lock"]


def test_a_compaction_takes_terms_and_values_as_they_stand(judge, tmp_path, monkeypatch):
    """Nothing is analysed, and the files hold what analysing gives."""
    for number in range(9):
        judge.add(passages(600, seed=number, prefix=f"{number}-"))
    judge.delete([name for name in judge.passages if random.Random(name).random() < 0.15])
    with monkeypatch.context() as patched:
        patched.delattr(Source, "postings")
        patched.delattr(Source, "columns")
        judge.store.compact()
    judge.check(judge.store.snapshot())
    assert check(tmp_path / "store").sound


@pytest.mark.parametrize("folder", ["terms", "columns"])
def test_a_compaction_makes_anew_what_is_damaged(judge, tmp_path, folder, caplog):
    for number in range(3):
        judge.add(passages(700, seed=number, prefix=f"{number}-"))
    judge.delete([f"{number}-{i}" for number in range(3) for i in range(90)])
    judge.check(judge.store.snapshot())  # all that it reads is known as sound
    damaged = sorted((tmp_path / "store" / folder).iterdir())[1]
    with damaged.open("r+b") as file:
        file.seek(damaged.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 4]))
    judge.store.compact()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [str(damaged)]
    judge.check(judge.store.snapshot())
    assert check(tmp_path / "store").sound


def test_what_is_committed_during_a_compaction_is_not_lost(judge, monkeypatch):
    """Between two pages of the copy others are added, replaced and deleted, copied ones and such as are to come."""
    monkeypatch.setattr("shortlist.stores.embedded._REPLAY", 50)
    judge.add(passages(400))
    judge.delete([f"p{i}" for i in range(0, 100, 2)])
    rows, meanwhile = Source.rows, iter(range(100))

    def interrupted(*args):
        number = next(meanwhile)
        if number < 6:
            judge.add(passages(60, seed=number + 20, prefix=f"m{number}-"))
            judge.add([*passages(5, seed=number)][1::2], replacing=True)
            judge.delete([f"p{301 + number}", f"p{101 + 2 * number}", f"m{number}-3"])
        return rows(*args)

    monkeypatch.setattr(Source, "rows", interrupted)
    judge.store.compact()
    snapshot = judge.store.snapshot()
    assert next(meanwhile) > 10
    assert len(snapshot.dead) - len(snapshot) < 50
    judge.check(snapshot)


def test_the_background_compacts_and_merges(judge, tmp_path):
    judge.add(passages(3000))
    judge.delete([f"p{i}" for i in range(1001)])
    judge.store._tidier.join()
    assert judge.store.home.name == "compacted-000001"
    judge.check(judge.store.snapshot())
    for number in range(8):
        judge.add(passages(1200, seed=number, prefix=f"{number}-"))
    judge.store.close()  # waits for it
    for folder in ("terms", "columns"):
        assert len(list((judge.store.home / folder).iterdir())) <= 4
    judge.store = EmbeddedStore(tmp_path / "store")
    judge.check(judge.store.snapshot())


def test_a_compaction_while_the_background_is_at_work(judge, caplog):
    for number in range(6):
        for part in range(3):
            judge.add(passages(700, seed=number, prefix=f"{number}{part}-"))
        judge.delete([f"{number}{part}-{i}" for part in range(3) for i in range(100 * number)])
        judge.store.compact()
    judge.store._tidier.join()
    assert caplog.records == []
    judge.check(judge.store.snapshot())


def test_an_index_from_before_filters_gets_them_when_it_is_written_to(judge, tmp_path):
    judge.add(passages(150))
    judge.store.close()
    home = tmp_path / "store"
    for file in (home / "columns").iterdir():
        file.unlink()
    (home / "columns").rmdir()
    line = json.loads((home / "published").read_text().splitlines()[0])
    del line["columns"]
    text = json.dumps(line).encode()
    (home / "published").write_bytes(b"%s\n%08x\n" % (text, zlib.crc32(text)))
    judge.store = EmbeddedStore(home)
    judge.check(judge.store.snapshot())
    with pytest.raises(BadInput, match="write=True"):
        judge.store.snapshot().slots({"lang": {"eq": "zh"}})
    judge.store.close()
    judge.store = EmbeddedStore(home, write=True)
    judge.check_filter(judge.store.snapshot(), *FILTERS[0])
