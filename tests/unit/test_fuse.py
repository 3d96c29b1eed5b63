import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.errors import BadInput
from shortlist.fuse import FUSION_WEIGHTS, FUSIONS, USUAL_SPREAD, fuse_ranked, fuse_stages, rrf, weighted_sum
from shortlist.ranked import Ranked

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


def by_plain_loops(stages, fusion, weights, spread):
    """`fuse_stages` once more, an id at a time."""
    if fusion == "rrf":
        ranks = {name: {i: rank for rank, (i, _) in enumerate(found, 1)} for name, found in stages.items()}
        parts = {name: {i: weights[name] / (60 + rank) for i, rank in known.items()} for name, known in ranks.items()}
    else:
        parts, weights = {}, dict(weights)
        if fusion == "auto" and spread > 0:
            weights["dense"] *= float(np.std([score for _, score in stages["dense"]] or [0.0])) / (USUAL_SPREAD * spread)
        for name, found in stages.items():
            filled = list(found)
            for i, _ in stages["dense"][:10]:
                if len(filled) < 10 and i not in dict(found):
                    filled.append((i, 0.0))
            scores = np.array([score for _, score in filled])
            deviation = float(scores.std()) if len(scores) else 0.0
            z = (scores - scores.mean()) / deviation if deviation > 0 else np.zeros_like(scores)
            parts[name] = {i: weights[name] * one for (i, _), one in zip(filled, z.tolist(), strict=True)}
    ids = {i for known in parts.values() for i in known}
    fused = {}
    for i in ids:
        lowest = {name: 0.0 if fusion == "rrf" or not known else min(known.values()) for name, known in parts.items()}
        fused[i] = sum(known.get(i, lowest[name]) for name, known in parts.items())
    return sorted(fused.items(), key=lambda hit: (-hit[1], hit[0])), weights


found = st.dictionaries(st.text("abcdefg", min_size=1, max_size=2), st.sampled_from([0.25, 0.5, 0.75, 1.0, 3.5]), max_size=25)


@given(
    found, found, st.sampled_from(FUSIONS), st.sampled_from([0.0, 0.4]), st.sampled_from([{}, {"bm25": 0.0}, {"dense": 2.5}])
)
def test_stages_are_fused_as_a_plain_loop_fuses_them(bm25, dense, fusion, spread, weights):
    stages = {
        name: sorted(scores.items(), key=lambda hit: (-hit[1], hit[0])) for name, scores in (("bm25", bm25), ("dense", dense))
    }
    expected, used = by_plain_loops(stages, fusion, {**FUSION_WEIGHTS[fusion], **weights}, spread)
    assert fuse_stages(stages, fusion, weights, spread) == (expected, used)
    names = sorted({*bm25, *dense}, key=lambda name: name[::-1])  # slots in another order than that of the ids
    slots = {name: slot for slot, name in enumerate(names)}
    lists = {
        stage: Ranked([slots[i] for i, _ in some], [score for _, score in some], lambda asked: [names[slot] for slot in asked])
        for stage, some in stages.items()
    }
    ranked, weighed = fuse_ranked(lists, fusion, weights, spread)
    assert (ranked.scored(), weighed) == (expected, used)
