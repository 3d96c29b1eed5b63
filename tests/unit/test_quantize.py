import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shortlist.errors import BadInput
from shortlist.quantize import (
    checked_vectors,
    from_bits,
    quantize_embeddings,
    shortened,
    small_query,
    to_bits,
    to_half,
    to_int8,
)

matrices = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-100, 100, width=32))


@given(matrices)
def test_int8_error_is_at_most_half_a_step(vectors):
    rows, scales = to_int8(vectors)
    assert rows.dtype == np.int8
    assert scales.dtype == np.float32
    error = np.abs(rows * scales[:, None].astype(np.float64) - vectors)
    assert (error <= scales[:, None] * 0.5001 + 1e-30).all()


def test_int8_uses_the_whole_range_and_survives_zeros():
    rows, scales = to_int8(np.array([[0.5, -1.0, 0.25], [0, 0, 0]], dtype=np.float32))
    assert rows.tolist() == [[64, -127, 32], [0, 0, 0]]
    assert scales.tolist() == [pytest.approx(1 / 127), 0]


def test_half_keeps_eleven_bits_and_refuses_overflow():
    values = np.array([[1.0, 1 / 3, -2e-4]], dtype=np.float32)
    assert np.abs(to_half(values).astype(np.float32) / values - 1).max() <= 2**-11
    with pytest.raises(BadInput, match="float16"):
        to_half(np.array([[70_000.0]], dtype=np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_cannot_be_ranked_are_refused(bad):
    vectors = np.ones((3, 4), dtype=np.float32)
    vectors[1, 2] = bad
    with pytest.raises(BadInput, match="vector 1"):
        checked_vectors(vectors, 3, 4)


def test_vectors_of_another_shape_are_refused():
    with pytest.raises(BadInput, match=r"\(3, 4\)"):
        checked_vectors(np.ones((3, 4)), 3, 5)
    assert checked_vectors([[1, 2]], 1, 2).dtype == np.float32


@given(matrices)
def test_bits_are_signs_around_the_centre_and_estimate_products(vectors):
    centre = vectors[-1] / 3
    bits, factors, offsets = to_bits(vectors, centre)
    for row, byte_row, factor, offset in zip(vectors, bits, factors, offsets, strict=True):
        around = (row - centre).astype(np.float64)
        signs = [1 if byte_row[j // 8] >> (7 - j % 8) & 1 else -1 for j in range(len(row))]
        assert all((sign == 1) == (number > 0) for sign, number in zip(signs, around, strict=True))
        estimate = offset + factor * sum(s * number for s, number in zip(signs, around, strict=True))
        assert estimate == pytest.approx(float(around @ row), rel=1e-4, abs=1e-3)  # exact for the vector itself
    known = from_bits(bits, factors, centre)
    assert ((known > centre) <= (vectors >= centre)).all()


@given(matrices)
def test_a_small_query_is_right_to_half_a_step(queries):
    values, steps = small_query(queries)
    assert np.abs(values).max() <= 7
    assert (np.abs(values * steps[:, None].astype(np.float64) - queries) <= steps[:, None] * 0.5001 + 1e-30).all()


def test_cut_vectors_have_length_one_again():
    assert shortened(np.array([[3, 4, 9]], np.float32), 2).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]
    assert shortened(np.zeros((1, 3), np.float32), 2).tolist() == [[0, 0]]


def test_quantized_embeddings_by_hand():
    ranges = np.array([[0, -1], [255, 254]], dtype=np.float32)
    values = np.array([[0.0, 0.0], [7.9, -3.0], [300.0, 1.0]], dtype=np.float32)
    assert quantize_embeddings(values, "uint8", ranges).tolist() == [[0, 1], [7, 0], [255, 2]]
    assert quantize_embeddings(values, "int8", ranges).tolist() == [[-128, -127], [-121, -128], [127, -126]]
    signs = np.array([[1, -1, 0, 1, 1, 1, 1, 1, 2]], dtype=np.float64)
    assert quantize_embeddings(signs, "ubinary").tolist() == [[0b10011111, 0b10000000]]
    assert quantize_embeddings(signs, "binary").tolist() == [[0b10011111 - 128, 0]]
    assert quantize_embeddings(signs, "float32").dtype == np.float32
    assert quantize_embeddings(values, "int8", calibration_embeddings=values * 2).dtype == np.int8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 2)), "int4"), "one of float32"),
        ((np.ones((2, 2), np.int8), "binary"), "floating-point"),
        ((np.ones(2), "binary"), "floating-point"),
        ((np.full((2, 2), np.nan), "int8"), "NaN"),
        ((np.ones((1, 2)), "int8"), "ranges="),
        ((np.ones((2, 2)), "int8", np.ones((2, 3))), r"expected \(2, 2\)"),
        ((np.ones((2, 2)), "int8", [[1, 1], [0, 1]]), "least"),
    ],
)
def test_embeddings_that_cannot_be_quantized_are_refused(arguments, message):
    with pytest.raises(BadInput, match=message):
        quantize_embeddings(*arguments)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("dims", [1, 7, 64, 384])
def test_quantized_embeddings_have_the_bytes_of_the_library(precision, dims):
    from sentence_transformers.quantization import quantize_embeddings as theirs

    rng = np.random.default_rng(dims)
    vectors = rng.standard_normal((300, dims)).astype(np.float32)
    vectors[:, 0] = 0.25  # a dimension without a range
    others = rng.uniform(-0.9, 0.9, (40, dims)).astype(np.float32)
    others = np.clip(others, vectors.min(axis=0), vectors.max(axis=0))
    for options in ({}, {"ranges": np.stack([vectors.min(axis=0), vectors.max(axis=0)])}, {"calibration_embeddings": vectors}):
        for given_vectors in (vectors, others):
            found, expected = (
                quantize_embeddings(given_vectors, precision, **options),
                theirs(given_vectors, precision, **options),
            )
            assert found.dtype == expected.dtype
            assert (found == expected).all()
