import random
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_tools import assert_same_ranking, naive_bm25
from shortlist import _native
from shortlist.errors import IndexFormatError
from shortlist.stores.postings import Segment, bm25, invert, merge, write_segment

K1, B = 0.9, 0.4
texts = st.lists(st.lists(st.sampled_from(["a", "b", "ab", "ü", "中", "x" * 50]), max_size=12), max_size=12)


def segments_of(folder, *groups, index="i"):
    first, made = 0, []
    for number, group in enumerate(groups):
        write_segment(folder / f"s{number}", index, first, invert(group))
        made.append(Segment(folder / f"s{number}", index))
        first += len(group)
    return made


def ranking(segments, query, dead=None, k=10_000):
    lengths = np.concatenate([one.lengths for one in segments])
    dead = np.zeros(len(lengths), np.uint8) if dead is None else dead
    live = int((dead == 0).sum())
    average = max(1, lengths[dead == 0].sum()) / max(1, live)
    norms = (K1 * (1 - B + B * lengths / average)).astype(np.float32)
    slots, scores = _native.top_k(bm25(segments, query, dead, norms, live), dead, k)
    return sorted(((f"{s:05d}", v) for s, v in zip(slots.tolist(), scores.tolist(), strict=True)), key=lambda h: (-h[1], h[0]))


def naive(texts, query, dead=()):
    return naive_bm25({f"{i:05d}": terms for i, terms in enumerate(texts) if i not in dead}, query, K1, B)


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(texts, min_size=1, max_size=4), query=st.lists(st.sampled_from(["a", "b", "ü", "中", "absent"]), max_size=4)
)
def test_bm25_equals_the_formula_however_the_passages_are_divided(groups, query, tmp_path_factory):
    segments = segments_of(tmp_path_factory.mktemp("terms"), *groups)
    everything = [terms for group in groups for terms in group]
    assert_same_ranking(ranking(segments, query), naive(everything, query), 10_000)


def test_deleted_passages_have_no_influence(tmp_path):
    rng = random.Random(3)
    words = list(string.ascii_lowercase)
    everything = [rng.choices(words, k=rng.randint(1, 40)) for _ in range(300)]
    segments = segments_of(tmp_path, everything[:100], everything[100:110], everything[110:])
    dead = np.zeros(300, np.uint8)
    dead[rng.sample(range(300), 120)] = 1
    for query in (["a"], ["q", "z", "q"], words):
        expected = naive(everything, query, set(np.flatnonzero(dead).tolist()))
        assert_same_ranking(ranking(segments, query, dead), expected, 10_000)


@settings(max_examples=25, deadline=None)
@given(groups=st.lists(texts, min_size=1, max_size=4))
def test_merged_segments_equal_one_segment(groups, tmp_path_factory):
    merged = merge(segments_of(tmp_path_factory.mktemp("terms"), *groups))
    whole = invert([terms for group in groups for terms in group])
    for name in ("lengths", "offsets", "bytes", "starts", "slots", "tf"):
        assert getattr(merged, name).tolist() == getattr(whole, name).tolist(), name


@pytest.mark.parametrize("times", [1, 255, 256, 65_535, 65_536, 300_000])
def test_term_frequencies_of_every_width(times, tmp_path):
    everything = [["a"] * times + ["b"], ["a"], ["b"]]
    segments = segments_of(tmp_path, everything)
    assert_same_ranking(ranking(segments, ["a", "b"]), naive(everything, ["a", "b"]), 10)
    assert merge(segments).tf.max() == times


def test_find_knows_every_term_and_no_other(tmp_path):
    words = sorted({f"{random.Random(i).random():.6f}" for i in range(1000)})
    (segment,) = segments_of(tmp_path, [words])
    wanted = [word.encode() for word in words]
    assert segment.find(wanted) == list(range(len(words)))
    assert segment.find([b"", b"\xff", words[5].encode()[:-1]]) == [-1, -1, -1]


def test_top_k_keeps_ties_and_leaves_out_zeros_and_the_dead():
    scores = np.array([0, 2, 1, 2, 1, 1, 3], dtype=np.float32)
    dead = np.array([0, 0, 0, 0, 0, 1, 1], dtype=np.uint8)
    slots, best = _native.top_k(scores, dead, 3)
    assert slots.tolist() == [1, 3, 2, 4]
    assert best.tolist() == [2, 2, 1, 1]
    assert _native.top_k(scores[:1], dead[:1], 5)[0].tolist() == []


@given(st.lists(st.integers(0, 30), max_size=400), st.integers(1, 60))
def test_top_k_equals_sorting(values, k):
    scores = np.array(values, dtype=np.float32)
    slots, best = _native.top_k(scores, np.zeros(len(values), np.uint8), k)
    expected = sorted(((-value, slot) for slot, value in enumerate(values) if value > 0))
    cut = [pair for pair in expected if pair[0] <= expected[min(k, len(expected)) - 1][0]]
    assert [(-score, slot) for slot, score in zip(slots.tolist(), best.tolist(), strict=True)] == cut


def test_kernels_refuse_postings_that_lead_outside():
    slots, tf = np.array([0, 9], np.uint32), np.array([1, 1], np.uint8)
    norms, scores = np.ones(3, np.float32), np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="outside"):
        _native.add_postings(slots, tf, 1.0, norms, scores)
    with pytest.raises(ValueError, match="outside"):
        _native.live_postings(slots, np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="same length"):
        _native.add_postings(slots, tf[:1], 1.0, norms, scores)
    with pytest.raises(RuntimeError, match="outside"):
        _native.find_terms(np.array([0, 99], np.uint64), np.zeros(3, np.uint8), [b"a"])
    offsets = np.array([0, 1], np.uint64)
    with pytest.raises(RuntimeError, match="outside"):
        _native.merge_terms([(offsets, np.zeros(1, np.uint8), np.array([0, 99], np.uint64), slots, tf, 0)])


def test_another_index_and_every_damage_are_noticed(tmp_path):
    everything = [random.Random(i).choices(string.ascii_lowercase, k=30) for i in range(200)]
    segments_of(tmp_path, everything)
    path = tmp_path / "s0"
    with pytest.raises(IndexFormatError, match="another index"):
        Segment(path, "other")
    sound = path.read_bytes()
    for at in range(0, len(sound), 211):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 0x10]) + sound[at + 1 :])
        try:
            segment = Segment(path, "i")
            segment.verify()
        except IndexFormatError:
            continue
        assert segment.part(0)[3].tolist() == invert(everything).slots.tolist()  # a byte of padding
        assert at < 2000
    for length in (0, 5, 15, 16, 200, len(sound) // 2, len(sound) - 1):
        path.write_bytes(sound[:length])
        with pytest.raises(IndexFormatError):
            Segment(path, "i").verify()


@pytest.mark.oracle
def test_scores_agree_with_bm25s(tmp_path):
    bm25s = pytest.importorskip("bm25s")
    rng = random.Random(8)
    words = [f"w{i}" for i in range(200)]
    everything = [rng.choices(words, k=rng.randint(1, 60)) for _ in range(400)]
    other = bm25s.BM25(method="lucene", k1=K1, b=B)
    other.index(everything, show_progress=False)
    segments = segments_of(tmp_path, everything)
    for _ in range(20):
        query = rng.sample(words, 4)
        expected = other.get_scores(query)
        for name, score in ranking(segments, query):
            assert score == pytest.approx(float(expected[int(name)]), rel=1e-5)
