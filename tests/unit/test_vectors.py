import numpy as np
import pytest

from shortlist import _native
from shortlist.errors import IndexFormatError
from shortlist.quantize import to_int8
from shortlist.stores.vectors import BLOCK, Vectors, append_rows, candidates, rows_of, stride

LEVELS = _native.instruction_sets()


def scan(data, dims, query, dead, k, threads=1, level="portable"):
    return _native.scan_int8(data.reshape(-1), dims, stride(dims), query, dead, k, threads, level)


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
    data, query, dead = np.zeros(16, np.uint8), np.zeros(4, np.int8), np.zeros(2, np.uint8)
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


def test_file_grows_by_appending_and_overwrites_a_torn_tail(tmp_path):
    rng = np.random.default_rng(2)
    path, dims = tmp_path / "vectors.i8", 30
    parts = [rng.standard_normal((n, dims)).astype(np.float32) for n in (1, 5, 40_000, 7)]
    size, sums = 0, []
    for part in parts:
        sums = append_rows(path, size, sums, rows_of(part))
        size += len(part) * stride(dims)
        with path.open("ab") as file:
            file.write(b"torn")
    everything = np.concatenate(parts)
    vectors = Vectors(path, len(everything), dims, sums)
    vectors.verify()
    query = rng.standard_normal(dims).astype(np.float32)
    slots, scores = vectors.scan(query, np.zeros(len(everything), np.uint8), 10)
    assert set(slots[:5].tolist()) <= set(np.argsort(-(everything @ query))[:20].tolist())
    assert scores[0] == pytest.approx(float(everything[slots[0]] @ query), rel=0.02)
    assert len(sums) == -(-size // BLOCK) == 2


def test_a_flipped_bit_and_a_short_file_are_noticed(tmp_path):
    path, dims = tmp_path / "vectors.i8", 8
    sums = append_rows(path, 0, [], rows_of(np.eye(8, dtype=np.float32)))
    content = bytearray(path.read_bytes())
    content[50] ^= 4
    path.write_bytes(content)
    with pytest.raises(IndexFormatError, match="checksum"):
        Vectors(path, 8, dims, sums).scan(np.ones(8, np.float32), np.zeros(8, np.uint8), 1)
    path.write_bytes(content[:-1])
    with pytest.raises(IndexFormatError, match="expected at least"):
        Vectors(path, 8, dims, sums)


def test_the_instruction_set_can_be_chosen_from_outside(monkeypatch):
    arguments = (np.zeros(8, np.uint8), 4, 8, np.zeros(4, np.int8), np.zeros(1, np.uint8), 1)
    monkeypatch.setenv("SHORTLIST_ISA", "portable")
    assert _native.scan_int8(*arguments)[0].tolist() == [0]
    monkeypatch.setenv("SHORTLIST_ISA", "sse9")
    with pytest.raises(ValueError, match="instruction set"):
        _native.scan_int8(*arguments)
