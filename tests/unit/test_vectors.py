import numpy as np
import pytest

from shortlist import _native
from shortlist.errors import IndexFormatError
from shortlist.quantize import small_query, to_int8
from shortlist.stores.vectors import (
    BLOCK,
    Layout,
    Vectors,
    append_rows,
    bit_rows_of,
    bit_stride,
    candidates,
    rows_of,
    stride,
)

LEVELS = _native.instruction_sets()


def scan(data, dims, query, dead, k, threads=1, level="portable"):
    return _native.scan_int8(data.reshape(-1), dims, stride(dims), query[None], dead, k, threads, level)[0]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dims", [1, 3, 4, 63, 64, 65, 127, 128, 129, 200, 384, 768, 1021])
def test_scan_equals_the_integer_product(dims, level):
    rng = np.random.default_rng(dims)
    vectors = rng.standard_normal((700, dims)).astype(np.float32)
    rows, scales = to_int8(vectors)
    query = rng.integers(-127, 128, dims).astype(np.int8)
    dead = (rng.random(700) < 0.2).astype(np.uint8)
    expected = (rows.astype(np.int32) @ query.astype(np.int32)).astype(np.float32) * scales
    slots, scores = scan(rows_of(vectors), dims, query, dead, 700, level=level)
    assert set(slots.tolist()) == set(np.flatnonzero(dead == 0).tolist())
    assert (scores == expected[slots]).all()
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("level", LEVELS)
def test_extreme_bytes_do_not_saturate(level):
    dims = 384
    rows = np.full((1, stride(dims)), 129, dtype=np.uint8)  # -127
    rows[0, :4] = np.array([1.0], dtype="<f4").view(np.uint8)
    query = np.full(dims, -127, dtype=np.int8)
    _, scores = scan(rows, dims, query, np.zeros(1, np.uint8), 1, level=level)
    assert scores.tolist() == [127 * 127 * dims]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("asked", [1, 3, 20, 21, 64, 130])
def test_queries_that_share_the_pass_find_what_each_finds_alone(asked, level):
    rng = np.random.default_rng(asked)
    dims, count = 70, 1500
    rows, dead = rows_of(rng.standard_normal((count, dims)).astype(np.float32)), (rng.random(count) < 0.1).astype(np.uint8)
    queries = rng.integers(-127, 128, (asked, dims)).astype(np.int8)
    for threads in (1, 3):
        found = _native.scan_int8(rows.reshape(-1), dims, stride(dims), queries, dead, 20, threads, level)
        assert len(found) == asked
        for query, (slots, scores) in zip(queries, found, strict=True):
            alone = scan(rows, dims, query, dead, 20)
            assert slots.tolist() == alone[0].tolist()
            assert scores.tolist() == alone[1].tolist()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dims", [1, 7, 8, 31, 33, 64, 384, 511, 513, 1024])
def test_bit_scan_equals_the_formula(dims, level):
    rng = np.random.default_rng(dims)
    vectors, centre = rng.standard_normal((300, dims)).astype(np.float32), rng.standard_normal(dims).astype(np.float32)
    dead = (rng.random(300) < 0.2).astype(np.uint8)
    queries = rng.integers(-7, 8, (3, dims)).astype(np.int8)
    steps = rng.random(3).astype(np.float32)
    data = bit_rows_of(vectors, centre).reshape(-1)
    found = _native.scan_bits(data, dims, bit_stride(dims), queries, steps, dead, 300, 2, level)
    around = (vectors - centre).astype(np.float64)
    factors = (around**2).sum(axis=1) / np.abs(around).sum(axis=1)
    for query, step, (slots, scores) in zip(queries, steps, found, strict=True):
        expected = around @ centre + factors * step * (np.where(around > 0, 1, -1) @ query.astype(np.int64))
        assert set(slots.tolist()) == set(np.flatnonzero(dead == 0).tolist())
        assert scores == pytest.approx(expected[slots], rel=1e-4, abs=1e-3)
        assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("level", LEVELS)
def test_scores_of_chosen_rows(level):
    rng = np.random.default_rng(3)
    rows, query = rows_of(rng.standard_normal((50, 30)).astype(np.float32)), rng.integers(-127, 128, 30).astype(np.int8)
    slots, scores = scan(rows, 30, query, np.zeros(50, np.uint8), 50)
    chosen = slots[[4, 0, 4, 49]]
    assert _native.score_int8(rows.reshape(-1), 30, stride(30), query, chosen, level).tolist() == scores[[4, 0, 4, 49]].tolist()
    with pytest.raises(ValueError, match="outside"):
        _native.score_int8(rows.reshape(-1), 30, stride(30), query, np.array([50], np.uint32), level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dims", [1, 7, 8, 9, 100, 128, 129, 200, 384, 511, 768, 1024])
def test_products_of_halves_have_the_bits_of_numpys(dims, level):
    rng = np.random.default_rng(dims)
    halves = (rng.standard_normal((70, dims)) * 10.0 ** rng.integers(-8, 4, (70, dims))).astype(np.float16)
    halves[0], halves[1] = 65504, -65504
    query = rng.standard_normal(dims).astype(np.float32)
    found = _native.half_dots(halves.view(np.uint16), query, level)
    assert found.tolist() == (halves.astype(np.float32) * query).sum(axis=1).tolist()
    assert found == pytest.approx((halves.astype(np.float64) @ query.astype(np.float64)), rel=1e-4, abs=0.1)
    with pytest.raises(ValueError, match="as many numbers"):
        _native.half_dots(halves.view(np.uint16), np.ones(dims + 1, np.float32), level)


@pytest.mark.parametrize("level", LEVELS)
def test_every_half_is_widened_exactly(level):
    bits = np.arange(1 << 16, dtype=np.uint16)
    finite = bits[np.isfinite(bits.view(np.float16))]
    found = _native.half_dots(np.ascontiguousarray(finite[:, None]), np.ones(1, np.float32), level)
    assert found.tolist() == finite.view(np.float16).astype(np.float64).tolist()
    rows = np.repeat(finite[:, None], 8, axis=1)
    found = _native.half_dots(rows, np.array([0, 0, 0, 1, 0, 0, 0, 0], np.float32), level)
    assert found.tolist() == finite.view(np.float16).astype(np.float64).tolist()


def test_bit_scan_refuses_arrays_that_do_not_fit():
    data, query, steps, dead = np.zeros(24, np.uint8), np.zeros((1, 4), np.int8), np.ones(1, np.float32), np.zeros(2, np.uint8)
    assert _native.scan_bits(data, 4, 12, query, steps, dead, 1)
    for bad in [
        (data, 33, 12, np.zeros((1, 33), np.int8), steps, dead, 1),
        (data, 4, 10, query, steps, dead, 1),
        (data, 4, 12, query + np.int8(8), steps, dead, 1),
        (data, 4, 12, query, steps[:0], dead, 1),
        (data, 4, 12, query, steps, dead[:1], 1),
    ]:
        with pytest.raises(ValueError):
            _native.scan_bits(*bad)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_change_nothing(threads):
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((40_000, 8)).astype(np.float32)
    query = rng.integers(-127, 128, 8).astype(np.int8)
    dead = np.zeros(40_000, np.uint8)
    one = scan(rows_of(vectors), 8, query, dead, 100)
    many = scan(rows_of(vectors), 8, query, dead, 100, threads)
    assert one[0].tolist() == many[0].tolist()
    assert one[1].tolist() == many[1].tolist()


def test_all_that_tie_with_the_last_are_returned():
    vectors = np.repeat(np.array([[1, 0], [0.5, 0.5], [0, 1]], dtype=np.float32), [2, 3000, 1], axis=0)
    slots, scores = scan(rows_of(vectors), 2, np.array([127, 0], np.int8), np.zeros(3003, np.uint8), 3)
    assert len(slots) == 3002
    assert slots[:2].tolist() == [0, 1]
    assert len(set(scores[2:].tolist())) == 1


def test_scan_refuses_arrays_that_do_not_fit():
    data, query, dead = np.zeros(16, np.uint8), np.zeros((1, 4), np.int8), np.zeros(2, np.uint8)
    for bad in [
        (data, 5, 8, query, dead, 1),
        (data, 4, 7, query, dead, 1),
        (data[:15], 4, 8, query, dead, 1),
        (data, 4, 8, query, dead[:1], 1),
        (data, 4, 8, query, dead, 0),
        (data, 4, 8, query, dead, 1, 1, "sse9"),
    ]:
        with pytest.raises(ValueError):
            _native.scan_int8(*bad)


def clustered(rng, count, dims):
    centres = rng.standard_normal((60, dims))
    return centres[rng.integers(0, 60, count)] + 0.4 * rng.standard_normal((count, dims))


@pytest.mark.parametrize("kind", ["random", "clustered"])
def test_int8_candidates_scored_again_in_float16_are_the_exact_result(kind):
    """Recall@100 against float32 brute force, over 20 queries."""
    rng = np.random.default_rng(1)
    count, dims, k = 20_000, 96, 100
    make = clustered if kind == "clustered" else lambda rng, count, dims: rng.standard_normal((count, dims))
    vectors = make(rng, count + 20, dims).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors, queries = vectors[:count], vectors[count:]
    data, dead, halves = rows_of(vectors), np.zeros(count, np.uint8), vectors.astype(np.float16).astype(np.float32)
    found = 0
    for query in queries:
        slots, _ = scan(data, dims, to_int8(query[None])[0][0], dead, candidates(k))
        best = slots[np.argsort(-(halves[slots] @ query))[:k]]
        found += len(set(best.tolist()) & set(np.argsort(-(vectors @ query))[:k].tolist()))
    assert found / (k * len(queries)) >= 0.999


def test_bits_around_the_centre_find_the_nearest_in_a_narrow_cone():
    """Recall@100 of 2,000 rows found by their bits; signs around zero find a fraction of it."""
    rng = np.random.default_rng(4)
    dims, count, k = 128, 20_000, 100
    vectors = (clustered(rng, count + 10, dims) + 20 * rng.standard_normal(dims)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors, queries = vectors[:count], vectors[count:]
    exact = [set(np.argsort(-(vectors @ query))[:k].tolist()) for query in queries]
    recall = []
    for centre in (vectors[:500].mean(axis=0), np.zeros(dims, np.float32)):
        values, steps = small_query(queries - centre)
        data, dead = bit_rows_of(vectors, centre).reshape(-1), np.zeros(count, np.uint8)
        found = _native.scan_bits(data, dims, bit_stride(dims), values, steps, dead, 2000)
        recall.append(np.mean([len(one & set(slots.tolist())) / k for one, (slots, _) in zip(exact, found, strict=True)]))
    assert recall[0] > 0.99
    assert recall[1] < 0.9


def test_file_grows_by_appending_and_overwrites_a_torn_tail(tmp_path):
    rng = np.random.default_rng(2)
    path, dims = tmp_path / "vectors.i8", 30
    layout = Layout("int8", dims, np.zeros(0, np.float32))
    parts = [rng.standard_normal((n, dims)).astype(np.float32) for n in (1, 5, 40_000, 7)]
    size, sums = 0, []
    for part in parts:
        sums = append_rows(path, size, sums, rows_of(part))
        size += len(part) * stride(dims)
        with path.open("ab") as file:
            file.write(b"torn")
    everything = np.concatenate(parts)
    vectors = Vectors(tmp_path, len(everything), layout, {"i8": sums})
    vectors.verify()
    query = rng.standard_normal(dims).astype(np.float32)
    slots, scores = vectors.scan(query, np.zeros(len(everything), np.uint8), 10)
    assert set(slots[:5].tolist()) <= set(np.argsort(-(everything @ query))[:20].tolist())
    assert scores[0] == pytest.approx(float(everything[slots[0]] @ query), rel=0.02)
    assert len(sums) == -(-size // BLOCK) == 2


def test_a_flipped_bit_and_a_short_file_are_noticed(tmp_path):
    path, layout = tmp_path / "vectors.i8", Layout("int8", 8, np.zeros(0, np.float32))
    sums = append_rows(path, 0, [], rows_of(np.eye(8, dtype=np.float32)))
    content = bytearray(path.read_bytes())
    content[50] ^= 4
    path.write_bytes(content)
    with pytest.raises(IndexFormatError, match="checksum"):
        Vectors(tmp_path, 8, layout, {"i8": sums}).scan(np.ones(8, np.float32), np.zeros(8, np.uint8), 1)
    path.write_bytes(content[:-1])
    with pytest.raises(IndexFormatError, match="expected at least"):
        Vectors(tmp_path, 8, layout, {"i8": sums})


def test_a_file_that_grows_keeps_its_map_and_one_that_was_replaced_does_not(tmp_path):
    dims = 1000
    path, layout = tmp_path / "vectors.i8", Layout("int8", dims, np.zeros(0, np.float32))
    rows = rows_of(np.random.default_rng(4).standard_normal((3000, dims)).astype(np.float32))
    view, sums, places = None, [], []
    for start, stop in ((0, 1), (1, 2), (2, 1500), (1500, 3000)):  # the tail of a block, a page, more than a block
        sums = append_rows(path, start * stride(dims), sums, rows[start:stop])
        view = Vectors(tmp_path, stop, layout, {"i8": sums}, view)
        found = view.rows("i8", 0, stop)
        assert (found == rows[:stop]).all()
        places.append(found.__array_interface__["data"][0])
    assert len(set(places)) == 1
    path.rename(tmp_path / "old")
    damaged = rows.copy()
    damaged[2000, 7] ^= 1
    path.write_bytes(damaged.tobytes())
    replaced = Vectors(tmp_path, len(rows), layout, {"i8": sums}, view)
    assert (replaced.rows("i8", 0, 10) == rows[:10]).all()
    with pytest.raises(IndexFormatError, match="checksum"):
        replaced.verify()
    assert (view.rows("i8", 0, len(rows)) == rows).all()
    path.write_bytes(b"short")
    with pytest.raises(IndexFormatError, match="expected at least"):
        Vectors(tmp_path, len(rows), layout, {"i8": sums}, view)


def test_the_instruction_set_can_be_chosen_from_outside(monkeypatch):
    arguments = (np.zeros(8, np.uint8), 4, 8, np.zeros((1, 4), np.int8), np.zeros(1, np.uint8), 1)
    monkeypatch.setenv("SHORTLIST_ISA", "portable")
    assert _native.scan_int8(*arguments)[0][0].tolist() == [0]
    monkeypatch.setenv("SHORTLIST_ISA", "sse9")
    with pytest.raises(ValueError, match="instruction set"):
        _native.scan_int8(*arguments)
