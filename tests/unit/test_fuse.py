import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.errors import BadInput
from shortlist.fuse import rrf, weighted_sum

ids = st.lists(st.text("abcdefg", min_size=1, max_size=2), unique=True, max_size=8)


def test_rrf_is_the_sum_of_reciprocal_ranks():
    assert rrf([["a", "b"], ["b", "c"]]) == [
        ("b", pytest.approx(1 / 62 + 1 / 61)),
        ("a", pytest.approx(1 / 61)),
        ("c", pytest.approx(1 / 62)),
    ]


def test_rrf_weights_and_k():
    assert rrf([["a"], ["b"]], k=0, weights=[1, 3]) == [("b", 3.0), ("a", 1.0)]


@given(st.lists(ids, max_size=3))
def test_rrf_orders_by_score_then_id_and_keeps_every_id(rankings):
    fused = rrf(rankings)
    assert {name for name, _ in fused} == {name for ranking in rankings for name in ranking}
    assert fused == sorted(fused, key=lambda hit: (-hit[1], hit[0]))


def test_ties_break_by_id():
    assert [name for name, _ in rrf([["b"], ["a"]])] == ["a", "b"]
    assert [name for name, _ in weighted_sum([[("b", 1.0), ("a", 1.0)]])] == ["a", "b"]


def test_minmax_sum_and_the_lowest_score_for_absent_ids():
    fused = dict(weighted_sum([[("a", 10.0), ("b", 5.0), ("c", 0.0)], [("c", 3.0), ("b", 1.0)]], normalise="minmax"))
    assert fused == {"a": pytest.approx(1.0), "b": pytest.approx(0.5), "c": pytest.approx(1.0)}


def test_zscore_sum():
    fused = dict(weighted_sum([[("a", 3.0), ("b", 1.0)], [("b", 8.0), ("c", 2.0)]], weights=[1.0, 2.0]))
    assert fused == {"a": pytest.approx(1 - 2), "b": pytest.approx(-1 + 2), "c": pytest.approx(-1 - 2)}


def test_equal_scores_do_not_divide_by_zero():
    assert weighted_sum([[("a", 2.0), ("b", 2.0)]]) == [("a", 0.0), ("b", 0.0)]
    assert weighted_sum([[("a", 2.0), ("b", 2.0)]], normalise="minmax") == [("a", 1.0), ("b", 1.0)]


def test_nothing_in_nothing_out():
    assert rrf([]) == []
    assert rrf([[], []]) == []
    assert weighted_sum([[], []]) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda: rrf([["a", "a"]]),
        lambda: rrf([["a"]], weights=[1, 2]),
        lambda: rrf([["a"]], weights=[-1]),
        lambda: rrf([["a"]], weights=[float("nan")]),
        lambda: rrf([["a"]], k=-1),
        lambda: rrf([["a"]], k=float("nan")),
        lambda: weighted_sum([[("a", float("nan"))]]),
        lambda: weighted_sum([[("a", 1.0), ("a", 2.0)]]),
        lambda: weighted_sum([[("a", 1.0)]], normalise="max"),
    ],
)
def test_what_cannot_be_fused_is_refused(call):
    with pytest.raises(BadInput):
        call()
