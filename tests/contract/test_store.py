"""What every store promises, with brute force as the judge. A store is opened by the factory in `make`."""

from __future__ import annotations

import random

import numpy as np
import pytest

from index_tools import HashEncoder, assert_same_ranking, naive_bm25, passages
from shortlist.errors import BadInput
from shortlist.quantize import to_half
from shortlist.stores.embedded import EmbeddedStore
from shortlist.stores.truth import Row

K1, B = 0.9, 0.4
ENCODER = HashEncoder()


def make(tmp_path, *, dims=ENCODER.dims):
    encoder = {"name": ENCODER.name, "fingerprint": ENCODER.fingerprint, "dims": dims} if dims else None
    return EmbeddedStore.create(tmp_path / "store", {"analyzer": "auto/1", "encoder": encoder, "k1": K1, "b": B})


class Judge:
    """The same passages in a dict, ranked by brute force."""

    def __init__(self, store):
        self.store, self.terms, self.vectors, self.passages = store, {}, {}, {}

    def add(self, batch):
        halves = to_half(ENCODER.encode_counted([p.content for p in batch])[0])
        terms = [self.store.analyzer.terms(p.content, p.lang) for p in batch]
        self.store.append([Row(p, p.lang, half) for p, half in zip(batch, halves, strict=True)], terms)
        for passage, words, half in zip(batch, terms, halves, strict=True):
            self.terms[passage.id], self.vectors[passage.id], self.passages[passage.id] = words, half, passage

    def delete(self, ids):
        self.store.delete(ids)
        for name in ids:
            del self.terms[name], self.vectors[name], self.passages[name]

    def check(self, snapshot, k=20):
        assert len(snapshot) == len(self.passages)
        assert {p.id: p for p in snapshot.passages()} == self.passages
        assert set(snapshot.languages) == {p.lang for p in self.passages.values()}
        for query in ("the river museum", "北京大学", "der fluss häuser", "المتحف", "garden 大学 brücke"):
            words = self.store.analyzer.query_terms(query, snapshot.languages)
            assert_same_ranking(snapshot.bm25(words, k), naive_bm25(self.terms, words, K1, B), k)
            vector = ENCODER.encode_counted([query])[0][0]
            exact = ((name, float(half.astype(np.float32) @ vector)) for name, half in self.vectors.items())
            assert_same_ranking(snapshot.dense(vector, k), sorted(exact, key=lambda hit: (-hit[1], hit[0])), k)


@pytest.fixture
def judge(tmp_path):
    store = make(tmp_path)
    yield Judge(store)
    store.close()


def test_an_empty_store_answers_with_nothing(judge):
    snapshot = judge.store.snapshot()
    assert len(snapshot) == 0
    assert snapshot.bm25(["a"], 5) == []
    assert snapshot.dense(np.ones(ENCODER.dims, np.float32), 5) == []
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
    assert [name for name, _ in snapshot.bm25(words, 10)] == [f"{i:03d}" for i in range(10)]
    vector = ENCODER.encode_counted([same.content])[0][0]
    assert [name for name, _ in snapshot.dense(vector, 10)] == [f"{i:03d}" for i in range(10)]


def test_without_vectors(tmp_path):
    store = make(tmp_path, dims=0)
    store.append([Row(p, p.lang) for p in passages(3)], [["a"], ["b"], ["a", "b"]])
    assert [name for name, _ in store.snapshot().bm25(["a"], 5)] == ["p0", "p2"]
    with pytest.raises(BadInput, match="no vectors"):
        store.snapshot().dense(np.ones(4, np.float32), 5)
    store.close()
