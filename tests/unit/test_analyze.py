"""Text to terms: the rule of every script and language, codes, queries to mixed indexes, hostile input."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_tools import naive_bm25
from shortlist._native import Inversion, Lexicon, ordinary
from shortlist.analyze import analyzer
from shortlist.errors import BadInput
from shortlist.text import clean, detect_language

AUTO, FIRST = analyzer(), analyzer("auto/1")
PLAIN = analyzer("plain/1")
ANY_TEXT = st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from(" -_\u0301\u200c한中あกाש"), max_size=120)
CODES = st.text(alphabet="aZb9 .,'@:>#+-_\u00e9", max_size=40)
LANGS = st.sampled_from(["", "en", "de", "fi", "tr", "vi", "ru", "ar", "fa", "el", "zh", "ja", "ko", "th", "hi", "ta", "he"])


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(BadInput, match=r"'auto/9' is not known. Use one of: auto/2, auto/1, plain/1"):
        analyzer("auto/9")


def test_names() -> None:
    assert (analyzer().name, FIRST.name, PLAIN.name) == ("auto/2", "auto/1", "plain/1")


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
        ("", "", []),
        ("", " \t\n.,!?_--", []),
    ],
)
def test_terms(lang: str, text: str, terms: list[str]) -> None:
    assert AUTO.terms(text, lang) == terms
    assert FIRST.terms(text, lang) == terms


@pytest.mark.parametrize(
    ("lang", "text", "first", "second"),
    [
        ("no", "nb-NO", ["nb", "no"], ["nb", "no", "nbno"]),
        ("zh", "圖書", ["圖", "書", "圖書"], ["图", "书", "图书"]),
        ("ja", "図書 圖書", ["図", "書", "図書", "圖", "書", "圖書"], ["図", "書", "図書", "圖", "書", "圖書"]),
        ("en", "a_b_c", ["a", "b", "c"], ["a", "b", "c", "abc"]),
        ("en", "node.js 1,000", ["node", "js", "1", "000"], ["node", "js", "1000", "node\ua78fjs"]),
        ("en", "C++ C# .NET", ["c", "c", "net"], ["c", "c", "net", "dotnet", "cplusplus", "csharp"]),
    ],
)
def test_what_the_second_version_changes(lang: str, text: str, first: list[str], second: list[str]) -> None:
    assert FIRST.terms(text, lang) == first
    assert AUTO.terms(text, lang) == second


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


@pytest.mark.parametrize(
    ("query", "passage", "distractors"),
    [
        ("1000 euros", "a fine of 1,000 euros", ["a fine of 2,000 euros and 1 day", "euros, 1 of 100"]),
        ("1.000", "genau 1000 Stück", ["1 Stück, 000", "genau 2.000 Stück"]),
        ("1,50,000", "a crop of 150000 tonnes", ["1 of 50 in 000", "50,000 tonnes and 1"]),
        ("1000", "نحو ١٠٠٠ كتاب", ["نحو ١٠٠ كتاب", "١ و ٠٠٠"]),
        ("1000", "environ 1\u202f000 livres", ["environ 2 000 livres", "1 livre, 000"]),
        ("1000", "约1,000人", ["约1人000", "100人"]),
        ("192.168.1.1", "host 192.168.1.1", ["host 192.168.1.2 and 1", "192168"]),
        ("C++", "written in C++ by hand", ["vitamin C, written by hand", "written in C by hand", "C# by hand"]),
        ("cplusplus", "written in C++", ["written in C", "plus a C"]),
        ("C#", "a library for C# only", ["a library for C only", "C++ only", "in C major"]),
        (".NET", "runs on .NET today", ["net income today", "the net of fishermen"]),
        ("dotnet", "runs on .NET", ["a dot on the net", "net income"]),
        ("node.js", "a server in Node.js", ["a node of the tree, and js", "js: every node counts"]),
        ("foo::bar", "call foo::bar now", ["bar and foo now", "foo now, call the bar"]),
        ("std::vector", "use std::vector here", ["the vector of std values", "std here, vector there"]),
        ("get_user_name", "call get_user_name()", ["get the name of a user", "user name: get it"]),
        ("getUserName", "call get_user_name()", ["get the name of a user", "user name: get it"]),
        ("max_value", "set max_value first", ["the value of max is set first", "max and value"]),
        ("jane.doe@example.org", "write to jane.doe@example.org", ["doe, jane: example of org", "jane@doe.org, example"]),
        ("https://docs.example.org/a", "see docs.example.org", ["see example docs of the org", "org, docs, example"]),
        ("3.11.7", "Python 3.11.7 is out", ["Python 3.7.11 is out", "7 of 11 in Python 3", "11.3.7"]),
        ("AB-1234", "part AB-1234", ["part AB of 1234", "1234-AB", "part CD-1234 and AB"]),
        ("ab1234", "part AB-1234", ["part AB", "part 1234"]),
        ("5W-30", "motor oil 5W-30", ["30 cars with 5w lamps", "motor oil 5W-40 for 30"]),
        ("email", "send an e-mail", ["send mail", "e is a letter"]),
        ("U.S. law", "the U.S. law", ["the law of us", "law of U and S"]),
        ("图书馆", "國立圖書館", ["國立大學", "圖畫"]),
        ("臺灣歷史", "台湾的历史", ["台风的历程", "湾区"]),
        ("iPhone电池", "更换iPhone的电池", ["更换电视", "iPad"]),
        ("Python教程", "这是python教程", ["这是java教程", "python的故事"]),
        ("ＡＢＣ１２３", "code abc123", ["code abc", "123"]),
    ],
)
@pytest.mark.parametrize("lang", ["", "en"])
def test_names_and_numbers_are_found_above_what_shares_their_parts(
    query: str, passage: str, distractors: list[str], lang: str
) -> None:
    texts = {f"{i}": AUTO.terms(text, lang) for i, text in enumerate([*distractors, passage])}
    best = naive_bm25(texts, AUTO.query_terms(query, [lang or detect_language(passage)]), 0.9, 0.4)
    assert best[0][0] == f"{len(distractors)}"
    assert len(best) == 1 or best[0][1] > best[1][1]


@pytest.mark.parametrize(
    ("lang", "passage", "query"),
    [
        ("ur", "پاکستان کی لائبریریاں", "پاكستان"),
        ("ta", "நூலகங்கள் திறந்தன", "நூலகம்"),
        ("mr", "पुस्तकालयांमध्ये", "पुस्तकालय"),
        ("gu", "પુસ્તકાલયોમાં", "પુસ્તકાલય"),
        ("kn", "ಗ್ರಂಥಾಲಯಗಳು", "ಗ್ರಂಥಾಲಯ"),
        ("ml", "ഗ്രന്ഥശാലകൾ", "ഗ്രന്ഥശാല"),
        ("pa", "ਲਾਇਬ੍ਰੇਰੀਆਂ", "ਲਾਇਬ੍ਰੇਰੀ"),
        ("bn", "গ্রন্থাগারগুলি", "গ্রন্থাগার"),
        ("te", "గ్రంథాలయాలు", "గ్రంథాలయం"),
        ("uk", "університетами", "університет"),
        ("pl", "bibliotekami", "biblioteka"),
        ("nl", "bibliotheken", "bibliotheek"),
        ("he", "בספריות", "ספריות"),
        ("el", "βιβλιοθήκες", "βιβλιοθηκη"),
        ("tr", "kütüphanelerde", "kütüphane"),
        ("it", "biblioteche", "biblioteca"),
    ],
)
def test_another_form_of_a_word_is_found(lang: str, passage: str, query: str) -> None:
    assert set(AUTO.terms(passage, lang)) & set(AUTO.query_terms(query, [lang]))


def test_forms_stand_together() -> None:
    assert AUTO.query_forms("running 城市", ["en", "vi"]) == [("run", "running"), ("城",), ("市",), ("城市",)]
    assert AUTO.query_forms("圖書", ["zh", "ja"]) == [("图", "圖"), ("书", "書"), ("图书", "圖書")]
    assert AUTO.query_forms("houses", []) == [("houses",)]


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


@pytest.mark.parametrize(
    "unit",
    [*"a中ア한กाकﷺAש\u200c", "aB", "a-1", "a_", "e\u0301", "ب\u200c", "a.", "a.b ", "1,", "1 000 ", "a::", "+", "c#", ".a"],
)
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


# --- which words of a text a query meets


@pytest.mark.parametrize(
    ("query", "text", "lang", "marked"),
    [
        ("Berlin inhabitants", "In BERLIN: 3 inhabitants, inhabited", "en", ["BERLIN", "inhabitants", "inhabited"]),
        ("haus", "Das Haus, die Häuser.", "de", ["Haus", "Häuser"]),
        ("柏林有多少人口？", "柏林市有352万人口，没有山", "zh", ["柏林", "人口"]),
        ("山", "富士山は高い", "ja", ["山"]),
        ("กรุงเทพ", "เมืองกรุงเทพมหานคร", "th", ["กรุงเทพ"]),
        ("서울 인구", "서울의 인구, 서점", "ko", ["서울", "인구"]),
        ("भारत की राजधानी", "नई दिल्ली भारत की राजधानी है", "hi", ["भारत", "की", "राजधानी"]),
        ("ＡＢ-1234", "see AB-1234, not AB", "en", ["AB-1234", "AB"]),
        ("zebra", "no such animal", "en", []),
        ("", "a b", "en", []),
    ],
)
def test_matches(query: str, text: str, lang: str, marked: list[str]) -> None:
    spans = AUTO.matches(text, AUTO.query_terms(query, [lang]), lang)
    assert [text[start:stop] for start, stop in spans] == marked


@pytest.mark.parametrize(
    ("query", "text", "lang", "light", "marked"),
    [
        ("the river of gold", "The river, the gold of", "en", {"the", "of"}, ["river", "gold"]),
        ("the of", "The river of", "en", {"the", "of"}, []),
        ("柏林的人口", "柏林的人口，他的人", "zh", {"的", "的人", "人"}, ["柏林的人口"]),  # within a longer match it stays
        ("서울의 인구", "서울의 나라의 인구", "ko", {"울의", "라의"}, ["서울의", "인구"]),
    ],
)
def test_light_terms_mark_no_place_of_their_own(query: str, text: str, lang: str, light: set[str], marked: list[str]) -> None:
    spans = AUTO.matches(text, AUTO.query_terms(query, [lang]), lang, light)
    assert [text[start:stop] for start, stop in spans] == marked


@settings(deadline=None)
@given(ANY_TEXT, ANY_TEXT, LANGS)
def test_matches_lie_apart_and_hold_a_term(query: str, text: str, lang: str) -> None:
    wanted = AUTO.query_terms(query, [lang])
    end = -1
    for start, stop in AUTO.matches(text, wanted, lang):
        assert end < start < stop <= len(text)
        assert AUTO.terms(text[start:stop], lang)
        end = stop
    assert bool(AUTO.matches(text, [], lang)) is False


@settings(max_examples=200)
@given(text=st.text(alphabet=st.sampled_from("abcXYZ019 _-.,'#+@:>\n"), max_size=60), lang=LANGS)
def test_ascii_text_has_the_terms_that_it_has_beside_other_letters(text: str, lang: str) -> None:
    """It is looked up natively where all of it is ASCII, and by Python where not."""
    for one in (AUTO, FIRST, PLAIN):
        lang = lang or "en"
        assert Counter(one.terms(text, lang)) + Counter(one.terms("柏", lang)) == Counter(one.terms(f"{text} 柏", lang))


def counted(inversion: Inversion) -> list[dict[str, int]]:
    """How often each term occurs in every text."""
    lengths, offsets, data, starts, slots, tf = (one.tolist() for one in inversion.arrays())
    texts: list[dict[str, int]] = [{} for _ in lengths]
    for term, (first, last) in enumerate(pairwise(starts)):
        for slot, times in zip(slots[first:last], tf[first:last], strict=True):
            texts[slot][bytes(data[offsets[term] : offsets[term + 1]]).decode()] = times
    assert [sum(text.values()) for text in texts] == lengths
    return texts


def test_a_full_memory_of_words_is_emptied_and_filled_again() -> None:
    lexicon = Lexicon(3, 6)
    asked: list[str] = []

    def analyse(word: str, lang: str) -> tuple[str, ...]:
        asked.append(word)
        return (word, lang) if word != "none" else ()

    first = Inversion(lexicon)
    first.add_text("a b none a b a", analyse, "x")
    first.end()
    first.add_words(["a", "ü"], analyse, "x", 5)
    first.end()
    first.end()
    assert asked == ["a", "b", "none", "ü"]
    second = Inversion(lexicon)  # the memory is full: a new one
    second.add_text("c-d_e A,-1- longer1 longer1", analyse, "y")
    second.add_text("1-", analyse, "z")
    second.end()
    assert asked[4:] == ["c-d_e", "1-", "longer1", "longer1", "1-"]  # what is long is not kept; languages are apart
    first.add_words(["a", "ü", "none"], analyse, "x")  # with what it has learnt
    first.end()
    assert len(asked) == 9
    assert counted(first) == [{"a": 3, "b": 2, "x": 5}, {"a": 5, "ü": 5, "x": 10}, {}, {"a": 1, "ü": 1, "x": 2}]
    assert counted(second) == [{"c-d_e": 1, "1-": 2, "longer1": 2, "y": 4, "z": 1}]
    with pytest.raises(RuntimeError, match="is wrong"):
        second.add_text("a f", lambda word, lang: (_ for _ in ()).throw(RuntimeError(f"{word} is wrong")), "y")
    with pytest.raises(TypeError, match="str or bytes"):
        second.add_text("g", lambda word, lang: (1,), "y")


@pytest.mark.parametrize("name", ["auto/2", "auto/1", "plain/1"])
@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.tuples(ANY_TEXT | CODES, LANGS, st.integers(1, 3)), max_size=6))
def test_counted_terms_are_the_terms(name: str, texts: list[tuple[str, str, int]]) -> None:
    rules = analyzer(name)
    inversion = rules.inversion()
    for text, lang, times in texts:
        rules.count(clean(text), lang, inversion, times)
        inversion.end()
    expected = [Counter(times * rules.terms(text, lang)) for text, lang, times in texts]
    assert counted(inversion) == expected


@settings(max_examples=500)
@given(st.text(alphabet="aBc9 .,'@:>#+-_", max_size=12) | CODES)
def test_an_ordinary_text_is_folded_by_its_lower_case(text: str) -> None:
    if ordinary(text):
        assert {rules._folded(text) for rules in (AUTO, FIRST, PLAIN)} == {text.lower()}


def test_what_is_ordinary() -> None:
    assert ordinary("The Cat, 3 years old. It sat -- on the MAT: (1999). Was it? 5, 6; a+b! ")
    for text in ("aB", "3.5", "1,000", "1 000", "a.b", "a@b", "a::b", "a->b", "c++", "c#", ".net", "é", "L'Hospital 1'0"):
        assert not ordinary(text), text
