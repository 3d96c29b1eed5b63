"""Filters: the two forms, what is refused, and column segments against a loop over the passages' dicts."""

import operator
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shortlist.errors import BadInput, IndexFormatError
from shortlist.filters import checked, conditions, evaluate, kind_of, parse, term, terms_of, value_of, values_of
from shortlist.stores.columns import ColumnSegment, fitting, gather, keep_columns, merge_columns, summaries, write_columns

COMPARE = {"eq": operator.eq, "gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


# --- the judge: a loop over dicts


def values(passage, field):
    """Every scalar at a dotted path, lists opened."""

    def walk(value, path):
        if isinstance(value, list):
            for one in value:
                yield from walk(one, path)
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(inner, f"{path}.{key}" if path else key)
        elif value is not None and path == field:
            yield value

    lang, title, meta = passage
    return list(walk({**meta, "lang": lang or None, "title": title or None}, ""))


def fits(passage, where):
    ((key, value),) = where.items()
    if key == "and":
        return all(fits(passage, part) for part in value)
    if key == "or":
        return any(fits(passage, part) for part in value)
    if key == "not":
        return not fits(passage, value)
    if "in" in value:
        return any(kind_of(v) == kind_of(w) and v == w for v in values(passage, key) for w in value["in"])
    return any(all(kind_of(v) == kind_of(w) and COMPARE[name](v, w) for name, w in value.items()) for v in values(passage, key))


NUMBERS = [0, 1, -1, 2, 2.5, -0.0, 1e300, -1e-300, 10**18, 10**18 + 1, 10**18 - 1, -(10**18) - 1, 2**53, 2**53 + 1, 10**400]
STRINGS = ["", "a", "b", "ab", "é", "z\0", "中", "a" * 200, "a" * 201, "a" * 300, "\ud800", "true", "1"]
SCALARS = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(STRINGS), st.booleans(), st.none())
NESTED = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["x", "y"]), inner, max_size=2)),
    max_leaves=4,
)
FIELDS = ["f", "g", "f.x", "f.y", "lang", "title"]
PASSAGES = st.tuples(
    st.sampled_from(["", "zh", "en"]),
    st.sampled_from(["", "T", "U"]),
    st.dictionaries(st.sampled_from(["f", "g"]), NESTED, max_size=2),
)
VALUES = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(STRINGS), st.booleans())
BOUNDS = st.one_of(
    st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), st.sampled_from(NUMBERS), min_size=1, max_size=2),
    st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), st.sampled_from(STRINGS[:8]), min_size=1, max_size=2),
)
CONDITIONS = st.tuples(
    st.sampled_from(FIELDS),
    st.one_of(VALUES, VALUES.map(lambda v: {"eq": v}), st.lists(VALUES, max_size=3).map(lambda v: {"in": v}), BOUNDS),
).map(lambda pair: dict([pair]))
WHERES = st.recursive(
    CONDITIONS,
    lambda inner: st.one_of(
        inner.map(lambda f: {"not": f}),
        st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3)).map(lambda pair: dict([pair])),
    ),
    max_leaves=4,
)


def segments_of(folder, *groups):
    made, first = [], 0
    for number, group in enumerate(groups):
        write_columns(folder / f"s{number}", "i", first, gather([terms_of(*passage) for passage in group]))
        made.append(ColumnSegment(folder / f"s{number}", "i"))
        first += len(group)
    return made


@settings(max_examples=300, deadline=None)
@given(groups=st.lists(st.lists(PASSAGES, max_size=5), min_size=1, max_size=3), where=WHERES)
def test_masks_equal_a_loop_over_the_dicts(groups, where, tmp_path_factory):
    where = checked(where)
    everything = [passage for group in groups for passage in group]
    segments = segments_of(tmp_path_factory.mktemp("columns"), *groups)
    held = {(field, kind_of(v)) for field, _ in conditions(where) for p in everything for v in values(p, field)}
    try:
        mask = evaluate(where, lambda field, condition: fitting(segments, field, condition))
    except BadInput:
        assert any((field, kind_of(v)) not in held for field, condition in conditions(where) for v in values_of(condition))
        return
    assert mask.tolist() == [fits(passage, where) for passage in everything]
    merged = merge_columns(segments)
    whole = gather([terms_of(*passage) for passage in everything])
    for name in ("count", "offsets", "bytes", "starts", "slots"):
        assert np.array_equal(getattr(merged, name), getattr(whole, name)), name


@settings(max_examples=60, deadline=None)
@given(group=st.lists(PASSAGES, max_size=8), drawn=st.lists(st.booleans(), min_size=8, max_size=8))
def test_what_is_kept_of_a_segment_is_the_file_of_those_passages(group, drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns")
    chosen = drawn[: len(group)]
    (segment,) = segments_of(folder, group)
    write_columns(folder / "kept", "i", 7, keep_columns(segment, np.array(chosen, np.uint8)))
    alone = [terms_of(*passage) for passage, wanted in zip(group, chosen, strict=True) if wanted]
    write_columns(folder / "alone", "i", 7, gather(alone))
    assert (folder / "kept").read_bytes() == (folder / "alone").read_bytes()


@given(st.lists(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)), min_size=2, max_size=2))
def test_terms_of_numbers_sort_as_the_numbers_do(pair):
    one, other = pair
    assert (term("f", one) < term("f", other)) == (one < other)
    assert (term("f", one) == term("f", other)) == (one == other)


@given(st.one_of(SCALARS.filter(lambda value: value is not None), st.integers(), st.floats(allow_nan=False), st.text()))
def test_a_term_gives_its_value_back_or_says_that_it_cannot(value):
    found = value_of(term("f", value))
    if found is None:
        long = isinstance(value, str) and len(value.encode("utf-8", "surrogatepass")) > 200
        assert long or abs(value) > 1e308
    else:
        assert kind_of(found) == kind_of(value)
        assert found == value or abs(value) > 2**115  # beyond that whole numbers compare as floats do
        assert term("f", found) == term("f", value)


@settings(max_examples=200, deadline=None)
@given(
    groups=st.lists(st.lists(PASSAGES, max_size=5), min_size=1, max_size=3),
    gone=st.sets(st.integers(0, 14)),
    most=st.integers(1, 6),
)
def test_summaries_equal_a_loop_over_the_dicts(groups, gone, most, tmp_path_factory):
    everything = [passage for group in groups for passage in group]
    dead = np.array([number in gone for number in range(len(everything))], np.uint8)
    live = [passage for number, passage in enumerate(everything) if number not in gone]
    found = summaries(segments_of(tmp_path_factory.mktemp("columns"), *groups), dead, most)
    for field in [*FIELDS, "f.x.y"]:
        counts = Counter(one for p in live for one in {term(field, v) for v in values(p, field)})
        written = [v for p in everything for v in values(p, field)]
        if field not in found:
            assert not counts
            continue
        one = found[field]
        assert set(one.kinds) == {kind_of(v) for v in written}
        numbers = [v for v in written if kind_of(v) == "n" and abs(v) < 1e308]
        if numbers and len(numbers) == len([v for v in written if kind_of(v) == "n"]):
            assert one.bounds == (min(numbers), max(numbers))
        if one.complete:
            assert {term(field, value): count for value, count in one.values} == dict(counts)
            assert [count for _, count in one.values] == sorted(counts.values(), reverse=True)
        else:
            assert len({term(field, v) for v in written}) > most or any(value_of(name) is None for name in counts)


# --- the text


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("lang=zh", {"lang": {"eq": "zh"}}),
        ("lang = 'zh'", {"lang": {"eq": "zh"}}),
        ("year>=2020", {"year": {"gte": 2020}}),
        ("a<-1.5e3 or b>0.25", {"or": [{"a": {"lt": -1500.0}}, {"b": {"gt": 0.25}}]}),
        ("draft!=true", {"not": {"draft": {"eq": True}}}),
        ('code="007" AND zip=01234', {"and": [{"code": {"eq": "007"}}, {"zip": {"eq": "01234"}}]}),
        ("tag in [a, 2, 'b c']", {"tag": {"in": ["a", 2, "b c"]}}),
        ("tag not in [a]", {"not": {"tag": {"in": ["a"]}}}),
        ("not a=1 and b=2", {"and": [{"not": {"a": {"eq": 1}}}, {"b": {"eq": 2}}]}),
        ("a=1 or b=2 and c=3", {"or": [{"a": {"eq": 1}}, {"and": [{"b": {"eq": 2}}, {"c": {"eq": 3}}]}]}),
        ("(a=1 or b=2) and c=3", {"and": [{"or": [{"a": {"eq": 1}}, {"b": {"eq": 2}}]}, {"c": {"eq": 3}}]}),
        ("'my field'='it''s'", None),
        (r"'my field'='it\'s'", {"my field": {"eq": "it's"}}),
        ("作者=鲁迅 and path.to.x='中'", {"and": [{"作者": {"eq": "鲁迅"}}, {"path.to.x": {"eq": "中"}}]}),
        ("url=https://a.b/c?d#e", {"url": {"eq": "https://a.b/c?d#e"}}),
    ],
)
def test_text_and_json_mean_the_same(text, form):
    if form is None:
        with pytest.raises(BadInput):
            parse(text)
    else:
        assert checked(text) == checked(form) == form


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 1, "expected a field, found the end"),
        ("lang", 5, "expected = != < <= > >= or in, found the end"),
        ("lang=", 6, "expected a value, found the end"),
        ("lang zh", 6, "found 'zh'"),
        ("(a=1", 5, r"expected \)"),
        ("a=1)", 4, "expected and, or, or the end, found '\\)'"),
        ("a=1 b=2", 5, "expected and, or, or the end, found 'b'"),
        ("a in 3", 6, r"expected \["),
        ("a in [1", 8, "found the end"),
        ("a not 3", 7, "expected in"),
        ("a='x", 3, "quote is not closed"),
        ("a=1 and", 8, "expected a field"),
        ("a!1", 2, "'!' cannot stand here"),
    ],
)
def test_a_malformed_text_is_refused_with_the_position(text, position, message):
    with pytest.raises(BadInput, match=rf"position {position}: .*{message}"):
        checked(text)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({}, "is no filter"),
        ([], "is no filter"),
        (None, "is no filter"),
        ({1: 2}, "is no filter"),
        ({"a": None}, "no value to compare with"),
        ({"a": [1]}, "no value to compare with"),
        ({"a": float("nan")}, "no value to compare with"),
        ({"a": {"eq": {}}}, "no value to compare with"),
        ({"a": {}}, "gt gte lt lte"),
        ({"a": {"like": "x"}}, "gt gte lt lte"),
        ({"a": {"eq": 1, "gt": 0}}, "gt gte lt lte"),
        ({"a": {"in": "abc"}}, "expected a list of values"),
        ({"a": {"in": [None]}}, "no value to compare with"),
        ({"a": {"gt": True}}, "true and false have no order"),
        ({"a": {"gt": 1, "lt": "x"}}, "numbers and strings"),
        ({"a": {"gt": "x" * 201}}, "longer than 200 bytes"),
        ({"and": []}, "at least one"),
        ({"or": {"a": 1}}, "expected a list of filters"),
        ({"not": 5}, "is no filter"),
        ("(" * 10_000, "nested"),
        ("not " * 100 + "a=1", "nested"),
        ("a=1e999", "no value to compare with"),
    ],
)
def test_what_is_no_filter_is_refused(where, message):
    with pytest.raises(BadInput, match=message):
        checked(where)


def test_several_conditions_in_an_object_are_an_and():
    assert checked({"a": 1, "b": {"gte": 2, "lt": 3}}) == {"and": [{"a": {"eq": 1}}, {"b": {"gte": 2, "lt": 3}}]}


# --- fields and types


def test_an_unknown_field_and_a_wrong_type_say_what_there_is(tmp_path):
    segments = segments_of(tmp_path, [("zh", "", {"year": 2020, "a": {"b": ["x"]}})], [("", "", {"year": "old", "ok": True})])
    with pytest.raises(BadInput, match=r"no passage has a field 'yaer'\. The fields are a\.b, id, lang, ok, title, year\."):
        fitting(segments, "yaer", {"eq": 1})
    with pytest.raises(BadInput, match=r"'a\.b' with 3, but the field holds strings, not numbers"):
        fitting(segments, "a.b", {"eq": 3})
    with pytest.raises(BadInput, match=r"'year' with True, but the field holds strings and numbers, not true and false"):
        fitting(segments, "year", {"eq": True})
    assert fitting(segments, "year", {"gt": 0}).tolist() == [True, False]
    assert fitting(segments, "title", {"eq": "none has one"}).tolist() == [False, False]


def test_keys_called_as_the_passages_own_fields_do_not_hide_these():
    assert terms_of("zh", "T", {"lang": "en", "title": "U", "id": "x"}) == terms_of("zh", "T", {})


def test_a_url_for_every_passage_costs_a_filter_no_memory_of_its_size(tmp_path):
    count = 30_000
    group = [("", "", {"url": f"https://example.org/some/long/path/to/a/page/number/{i:09d}.html"}) for i in range(count)]
    (segment,) = segments_of(tmp_path, group)
    tracemalloc.start()
    try:
        for where in ({"eq": group[77][2]["url"]}, {"gte": group[5][2]["url"], "lt": group[9][2]["url"]}):
            found = fitting([segment], "url", where)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.flatnonzero(found).tolist() == [5, 6, 7, 8]
    assert peak < 4 * count  # the file has some 90 bytes a passage


def test_another_index_and_every_damage_are_noticed(tmp_path):
    group = [("zh", f"title {i}", {"n": i, "tags": ["a", "b"]}) for i in range(400)]
    segments_of(tmp_path, group)
    path = tmp_path / "s0"
    with pytest.raises(IndexFormatError, match="another index"):
        ColumnSegment(path, "other")
    sound = path.read_bytes()
    for at in range(0, len(sound), 97):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 0x10]) + sound[at + 1 :])
        try:
            ColumnSegment(path, "i").verify()
        except IndexFormatError:
            continue
        assert len(path.read_bytes()) == len(sound)
        assert np.array_equal(ColumnSegment(path, "i").part(0)[3], gather([terms_of(*p) for p in group]).slots)
    for length in (0, 5, 15, 16, 200, len(sound) // 2, len(sound) - 1):
        path.write_bytes(sound[:length])
        with pytest.raises(IndexFormatError):
            ColumnSegment(path, "i").verify()
