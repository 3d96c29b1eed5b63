import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shortlist.errors import BadInput
from shortlist.quantize import checked_vectors, to_half, to_int8

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
