"""Text to terms: the rule of every script and language, codes, queries to mixed indexes, hostile input."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shortlist.analyze import analyzer
from shortlist.errors import BadInput
from shortlist.text import detect_language

AUTO = analyzer()
PLAIN = analyzer("plain/1")
ANY_TEXT = st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from(" -_\u0301\u200c한中あกाש"), max_size=120)
LANGS = st.sampled_from(["", "en", "de", "fi", "tr", "vi", "ru", "ar", "fa", "el", "zh", "ja", "ko", "th", "hi", "ta", "he"])


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(BadInput, match=r"'auto/9' is not known. Use one of: auto/1, plain/1"):
        analyzer("auto/9")


def test_names() -> None:
    assert (analyzer().name, PLAIN.name) == ("auto/1", "plain/1")


@pytest.mark.parametrize(
    ("lang", "text", "terms"),
    [
        ("en", "The houses, THE RUNNING!", ["the", "hous", "the", "run"]),
        ("de", "Die Häuser der Straße", ["die", "haus", "der", "strass"]),
        ("es", "canciones", ["cancion"]),
        ("pt-BR", "orações", ["oraco"]),
        ("fi", "taloissammekin", ["talois"]),
        ("tr", "İSTANBUL'DA ırak", ["istan", "da", "irak"]),
        ("vi", "Đà Nẵng", ["đà", "nẵng"]),
        ("yo", "Yorùbá ẹ̀kọ́", ["yoruba", "eko"]),
        ("ru", "ёлки мо́й", ["елк", "мо"]),
        ("uk", "університету", ["уніве"]),
        ("ar", "المدرسةُ ١٢٣", ["مدرس", "123"]),
        ("fa", "کتاب‌ها", ["كتاب", "ها"]),
        ("he", "שָׁלוֹם", ["שלום", "שלו", "לום"]),
        ("hi", "बच्चे में", ["बच्चे", "बच्", "च्च", "्चे", "में"]),
        ("am", "ከተማ", ["ከተማ"]),
        ("zh", "城市 C语言", ["城", "市", "城市", "c", "语", "言", "语言"]),
        ("ja", "東京タワーへ", ["東", "京", "タワー", "東京", "京タ", "タワ", "ワー", "ーへ"]),
        ("ko", "한국어를 물", ["한", "한국", "국어", "어를", "물"]),
        ("th", "ปีนี้", ["ปี", "นี้", "ปีนี้"]),
        ("zh", "ＦＵＬＬ　ｗｉｄｔｈ①", ["full", "width1"]),
        ("no", "nb-NO", ["nb", "no"]),
        ("", "", []),
        ("", " \t\n.,!?_--", []),
    ],
)
def test_terms(lang: str, text: str, terms: list[str]) -> None:
    assert AUTO.terms(text, lang) == terms


@pytest.mark.parametrize(
    ("text", "found_by"),
    [
        ("Part AB-1234 of the set", ["AB-1234", "ab1234", "AB 1234", "1234"]),
        ("call foo_bar(x)", ["foo_bar", "foo", "bar"]),
        ("document.getElementById", ["getElementById", "getelementbyid", "element"]),
        ("ISO-8601 dates", ["ISO 8601", "iso8601", "ISO-8601"]),
        ("write to jane.doe@example.org", ["jane.doe@example.org", "doe", "example"]),
        ("parseHTTPResponse", ["http", "response", "parsehttpresponse"]),
        ("version 2026-11-23", ["2026-11-23", "2026"]),
        ("IL\u20116 deficient", ["IL-6", "il6"]),
    ],
)
@pytest.mark.parametrize("lang", ["en", "tr", "zh"])
def test_codes_are_found_by_all_their_spellings(text: str, found_by: list[str], lang: str) -> None:
    terms = set(AUTO.terms(text, lang))
    for query in found_by:
        assert terms & set(AUTO.query_terms(query, [lang])), query


def test_language_is_detected_when_not_given() -> None:
    text = "Die Häuser der Stadt sind nicht sehr alt."
    assert AUTO.terms(text) == AUTO.terms(text, "de") != AUTO.terms(text, "vi")


def test_query_has_every_form_the_index_may_hold() -> None:
    assert AUTO.query_terms("Häuser", ["de"]) == ["haus"]
    assert AUTO.query_terms("Häuser", ["de", "vi", "zh"]) == ["haus", "häuser", "hauser"]
    assert AUTO.query_terms("Häuser Häuser", ["de", "de-AT"]) == ["haus", "haus"]
    assert AUTO.query_terms("城市 running", ["zh", "en"]) == ["城", "市", "城市", "running", "run"]
    assert AUTO.query_terms("houses", []) == ["houses"]


def test_plain_keeps_words() -> None:
    assert PLAIN.terms("The Houses of Müller") == ["the", "houses", "of", "müller"]
    assert PLAIN.terms("한국어를 बच्चे", "ko") == ["한국어를", "बच्चे"]


@settings(deadline=None)
@given(ANY_TEXT, LANGS)
def test_a_passage_is_found_by_its_own_words(text: str, lang: str) -> None:
    lang = lang or detect_language(text)
    terms = AUTO.terms(text, lang)
    assert all(terms), "no empty term"
    assert AUTO.query_terms(text, [lang]) == terms
    assert set(terms) <= set(AUTO.query_terms(text, ["en", lang, "vi"]))
    assert terms == analyzer().terms(text, lang), "the cache changes nothing"


@settings(deadline=None)
@given(ANY_TEXT, LANGS)
def test_case_and_width_do_not_matter(text: str, lang: str) -> None:
    wide = "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in text.lower())
    assert AUTO.terms(wide, lang) == AUTO.terms(text.lower(), lang)


@pytest.mark.parametrize("value", [None, 5, b"x"])
def test_refuses_what_is_no_text(value: object) -> None:
    with pytest.raises(BadInput, match="expected a str"):
        AUTO.terms(value)  # type: ignore[arg-type]


def test_refuses_lone_surrogates() -> None:
    with pytest.raises(BadInput, match="lone surrogate"):
        AUTO.query_terms("a\ud800", ["en"])


@pytest.mark.parametrize("unit", [*"a中ア한กाकﷺAש\u200c", "aB", "a-1", "a_", "e\u0301", "ب\u200c"])
def test_long_hostile_words_take_linear_time_and_give_short_terms(unit: str) -> None:
    text = unit * (40_000 // len(unit))
    began = time.process_time()
    terms = analyzer().terms(text, "en")
    assert time.process_time() - began < 5
    assert max(map(len, terms), default=0) <= 200


def test_threads_agree() -> None:
    fresh = analyzer()
    texts = [f"running houses number{i} Häuser की बच्चे 城市" for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: fresh.terms(text, "en"), texts))
    assert found == [AUTO.terms(text, "en") for text in texts]
