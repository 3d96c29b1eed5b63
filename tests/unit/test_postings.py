import random
import string
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_tools import assert_same_ranking, naive_bm25
from shortlist import _native
from shortlist.errors import IndexFormatError
from shortlist.stores.postings import Bm25, Segment, invert, keep, merge, write_segment

K1, B = 0.9, 0.4
texts = st.lists(st.lists(st.sampled_from(["a", "b", "ab", "ü", "中", "x" * 50]), max_size=12), max_size=12)


def segments_of(folder, *groups, index="i"):
    first, made = 0, []
    for number, group in enumerate(groups):
        write_segment(folder / f"s{number}", index, first, invert(group))
        made.append(Segment(folder / f"s{number}", index))
        first += len(group)
    return made


def ranking(segments, query, dead=None, k=10_000, hidden=None, k1=K1, b=B):
    dead = np.zeros(sum(one.count for one in segments), np.uint8) if dead is None else dead
    slots, scores = Bm25(segments, dead, k1, b).best(query, k, hidden)
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


@settings(max_examples=60, deadline=None)
@given(everything=st.lists(st.lists(st.text(max_size=3), max_size=12), max_size=12))
def test_inverted_lists_are_what_counting_gives(everything):
    made = invert(everything)
    ends = made.offsets.tolist()
    terms = [made.bytes[start:stop].tobytes() for start, stop in pairwise(ends)]
    assert made.lengths.tolist() == [len(one) for one in everything]
    assert terms == sorted({term.encode() for one in everything for term in one})
    for term, (start, stop) in zip(terms, pairwise(made.starts.tolist()), strict=True):
        times = [(slot, one.count(term.decode())) for slot, one in enumerate(everything)]
        found = list(zip(made.slots[start:stop].tolist(), made.tf[start:stop].tolist(), strict=True))
        assert found == [(slot, count) for slot, count in times if count]


def test_terms_that_are_no_text_are_refused():
    with pytest.raises(UnicodeEncodeError):
        invert([["a", "\ud800"]])
    with pytest.raises(TypeError, match="terms must be str or bytes"):
        invert([["a"], [7]])


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


@settings(max_examples=60, deadline=None)
@given(everything=texts, drawn=st.lists(st.booleans(), min_size=12, max_size=12))
def test_what_is_kept_of_a_segment_is_the_file_of_those_texts(everything, drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("terms")
    chosen = drawn[: len(everything)]
    (segment,) = segments_of(folder, everything)
    write_segment(folder / "kept", "i", 7, keep(segment, np.array(chosen, np.uint8)))
    write_segment(folder / "alone", "i", 7, invert([terms for terms, wanted in zip(everything, chosen, strict=True) if wanted]))
    assert (folder / "kept").read_bytes() == (folder / "alone").read_bytes()


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


def corpus(rng, count, words=400):
    """Texts of very different lengths; words of Zipf's frequencies."""
    chances = [1 / (rank + 1) for rank in range(words)]
    return [
        [f"w{n}" for n in rng.choices(range(words), chances, k=int(rng.paretovariate(1.2) * 8) % 900)] for _ in range(count)
    ]


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (0.0, 0.0), (0.0, 1.0), (2.0, 1.0), (500.0, 0.9)])
def test_what_is_skipped_is_not_missed(k1, b, tmp_path):
    rng = random.Random(int(k1 * 10 + b))
    everything = corpus(rng, 9000)
    segments = segments_of(tmp_path, everything[:8500], everything[8500:8520], everything[8520:])
    dead = np.zeros(9000, np.uint8)
    dead[rng.sample(range(9000), 700)] = 1
    hidden = np.array([rng.random() < 0.7 for _ in range(9000)], np.uint8)
    few = np.ones(9000, np.uint8)
    few[rng.sample(range(9000), 20)] = 0
    for size in (1, 2, 4, 9):
        query = [f"w{int(rng.paretovariate(0.4)) % 400}" for _ in range(size)]
        complete = ranking(segments, query, dead, k1=k1, b=b)
        expected = naive_bm25({f"{i:05d}": terms for i, terms in enumerate(everything) if not dead[i]}, query, k1=k1, b=b)
        assert_same_ranking(complete, expected, 10_000)
        for k in (1, 10, 300):
            for mask in (None, hidden, few):
                shown = [hit for hit in complete if mask is None or not mask[int(hit[0])]]
                wanted = [hit for hit in shown if hit[1] >= shown[min(k, len(shown)) - 1][1]]
                assert ranking(segments, query, dead, k, mask, k1, b) == wanted, "the same floats, every tie"


def test_segments_without_bounds_give_the_same(tmp_path):
    everything = corpus(random.Random(5), 6000)
    (segment,) = segments_of(tmp_path, everything)
    query = ["w0", "w1", "w40", "w200"]
    expected = ranking([segment], query, k=20)
    segment.bounded = False
    assert ranking([segment], query, k=20) == expected


def test_forms_of_a_word_share_their_document_frequency(tmp_path):
    everything = [["run"], ["run", "fast"], ["running"], ["fast"], ["slow"]]
    same = [["run"], ["run", "fast"], ["run"], ["fast"], ["slow"]]
    found = ranking(segments_of(tmp_path, everything), [("run", "running"), ("fast",)])
    assert_same_ranking(found, naive(same, ["run", "fast"]), 10)


def test_ties_beyond_k_are_kept_and_what_scores_nothing_is_left_out(tmp_path):
    segments = segments_of(tmp_path, [["a"]] * 5000 + [["a", "a"], ["b"]])
    assert [name for name, _ in ranking(segments, ["a"], k=1)] == ["05000"]
    assert len(ranking(segments, ["a"], k=2)) == 5001
    assert ranking(segments, ["absent"]) == []


def test_kernels_refuse_postings_that_lead_outside():
    lengths, slots, tf = np.ones(3, np.uint32), np.array([0, 9], np.uint32), np.array([1, 1], np.uint8)

    def best(slots, tf, bounds=None, skew=0):
        return _native.best_bm25([(0, lengths, [(slots, tf, 1.0, bounds, skew)])], 0.5, 0.1, None, 10)

    for wrong in ([0, 9], [1, 5000], [7, 2**32 - 1]):
        with pytest.raises(RuntimeError, match="outside"):
            best(np.array(wrong, np.uint32), tf)
    with pytest.raises(RuntimeError, match="outside"):
        _native.block_bounds(slots, tf, lengths)
    with pytest.raises(ValueError, match="same length"):
        best(slots, tf[:1])
    with pytest.raises(ValueError, match="for each block"):
        best(slots, tf, np.zeros(8, np.uint8), skew=127)
    with pytest.raises(ValueError, match="one byte a slot"):
        _native.best_bm25([(0, lengths, [])], 0.5, 0.1, np.zeros(2, np.uint8), 10)
    with pytest.raises(RuntimeError, match="outside"):
        _native.find_terms(np.array([0, 99], np.uint64), np.zeros(3, np.uint8), [b"a"])
    offsets = np.array([0, 1], np.uint64)
    with pytest.raises(RuntimeError, match="outside"):
        _native.merge_terms([(offsets, np.zeros(1, np.uint8), np.array([0, 99], np.uint64), slots, tf, 0)])
    with pytest.raises(RuntimeError, match="outside"):
        _native.keep_terms((offsets, np.zeros(1, np.uint8), np.array([0, 99], np.uint64), slots, tf, 0), np.ones(9, np.uint8))
    one = np.array([9], np.uint32), np.ones(1, np.uint8)
    with pytest.raises(RuntimeError, match="outside"):
        _native.keep_terms((offsets, np.zeros(1, np.uint8), np.array([0, 1], np.uint64), *one, 0), np.ones(9, np.uint8))


@given(st.sets(st.integers(0, 300)), st.sets(st.integers(0, 300)))
def test_common_slots_are_counted(one, other):
    arrays = [np.array(sorted(values), np.uint32) for values in (one, other)]
    assert _native.count_common(*arrays) == len(one & other)


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
