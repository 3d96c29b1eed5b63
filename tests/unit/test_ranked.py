"""A ranking of slots is that of ids and scores sorted as a whole, and asks for no id that decides nothing."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shortlist.ranked import Ranked

scores = st.lists(st.sampled_from([0.0, -0.0, 1.0, 1.5, 2.0, 7.25]), max_size=40)


class Names:
    """An id for each slot, in an order that has nothing to do with theirs, and which slots were asked for."""

    def __init__(self):
        self.asked = set()

    def __call__(self, slots):
        self.asked.update(slots)
        return [self.of(slot) for slot in slots]

    @staticmethod
    def of(slot):
        return f"{slot * 7919 % 97}-{slot}"


def sorted_whole(found):
    return sorted(((Names.of(slot), score) for slot, score in found.items()), key=lambda hit: (-hit[1], hit[0]))


@given(scores, st.randoms(use_true_random=False), st.one_of(st.none(), st.integers(1, 45)), st.integers(0, 45))
def test_it_is_the_sorted_list(values, random, most, k):
    found = dict(zip(random.sample(range(1000), len(values)), values, strict=True))
    ranked = Ranked(list(found), list(found.values()), Names(), most)
    expected = sorted_whole(found)[:most]
    slots, best = ranked.first(k)
    assert [(Names.of(slot), score) for slot, score in zip(slots.tolist(), best.tolist(), strict=True)] == expected[:k]
    asked = random.sample(range(1000), 20) + random.sample(list(found), len(found) // 2)
    places = {name: place for place, (name, _) in enumerate(expected)}
    assert ranked.places(np.array(asked)).tolist() == [places.get(Names.of(slot), -1) for slot in asked]
    assert ranked.scored() == expected
    assert len(ranked) == len(expected)


def test_only_ids_of_equal_scores_that_matter_are_asked_for():
    names = Names()
    ranked = Ranked(np.arange(12), [9, 8, 8, 7, 6, 6, 5, 4, 3, 3, 3, 1], names, 10)
    assert names.asked == {8, 9, 10}  # two of them are among the ten best
    names.asked.clear()
    assert ranked.first(2)[0].tolist()[0] == 0
    assert names.asked == {1, 2}
    assert ranked.places(np.array([3, 5, 7, 11])).tolist()[::2] == [3, 7]
    assert names.asked == {1, 2, 4, 5}
