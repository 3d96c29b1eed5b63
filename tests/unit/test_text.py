"""Cleaning, language detection, sentences and passages."""

from __future__ import annotations

import time
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shortlist.text as text_module
from shortlist.errors import BadInput
from shortlist.text import SAMPLES, clean, detect_language, detect_languages, sentence_spans, sentences, split_passages

ANY_TEXT = st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from(" \n\t.。!？।่́ "), max_size=300)


def without_space(text: str) -> str:
    return "".join(text.split())


def test_clean_replaces_controls_and_keeps_the_rest() -> None:
    assert clean("a\x00b\x1bc\x7fd\te\nf\rg h") == "a b c d\te\nf\rg h"


@given(ANY_TEXT)
def test_clean_is_idempotent_and_keeps_the_length(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned) == len(text)
    assert clean(cleaned) == cleaned


@pytest.mark.parametrize("value", [None, 3, b"bytes", ["list"]])
def test_clean_refuses_what_is_no_text(value: object) -> None:
    with pytest.raises(BadInput, match=f"passage 7: got {type(value).__name__}, expected a str"):
        clean(value, "passage 7")  # type: ignore[arg-type]


def test_clean_names_the_place_of_a_lone_surrogate() -> None:
    with pytest.raises(BadInput, match=r"U\+D83D at character 3"):
        clean("abc\ud83d def")


@pytest.mark.parametrize(
    ("lang", "text"),
    [
        ("en", "What is the capital of the country where he was born?"),
        ("de", "Welche Stadt ist die Hauptstadt von Österreich und wie groß ist sie?"),
        ("fr", "Quelle est la capitale de la Suisse et qui l'a choisie ?"),
        ("es", "¿Cuál es la capital de los Países Bajos y desde cuándo?"),
        ("it", "Qual è la capitale della Francia e chi ha costruito il palazzo?"),
        ("pt", "Quando foi fundada a cidade de São Paulo e por quem?"),
        ("nl", "Wanneer werd de stad gesticht en wie was de eerste burgemeester?"),
        ("sv", "Vilken stad är huvudstaden i Sverige och hur många bor där?"),
        ("fi", "Milloin kaupunki perustettiin ja kuinka monta asukasta siellä on?"),
        ("hu", "Mikor alapították a várost és hány lakosa van?"),
        ("pl", "Kiedy założono to miasto i ilu ma mieszkańców?"),
        ("ro", "Care este capitala României și câți locuitori are?"),
        ("tr", "Bu şehir ne zaman kuruldu ve kaç kişi yaşıyor?"),
        ("vi", "Thành phố này được thành lập vào năm nào?"),
        ("id", "Kapan kota ini didirikan dan berapa jumlah penduduknya?"),
        ("sw", "Je mji huu ulianzishwa mwaka gani na una watu wangapi?"),
        ("ru", "Когда был основан этот город и сколько в нём жителей?"),
        ("uk", "Коли було засновано це місто і скільки в ньому мешканців?"),
        ("kk", "Бұл қала қашан құрылды және қанша адам тұрады?"),
        ("el", "Πότε ιδρύθηκε η πόλη;"),
        ("ar", "متى تأسست هذه المدينة وكم عدد سكانها؟"),
        ("fa", "این شهر در چه سالی ساخته شد و چند نفر در آن زندگی می‌کنند؟"),
        ("ur", "یہ شہر کب آباد ہوا اور اس میں کتنے لوگ رہتے ہیں؟"),
        ("he", "מתי נוסדה העיר?"),
        ("hi", "यह शहर कब बसाया गया था और इसकी जनसंख्या कितनी है?"),
        ("mr", "हे शहर कधी वसवले गेले आणि त्याची लोकसंख्या किती आहे?"),
        ("ne", "यो सहर कहिले बसेको हो र यसको जनसंख्या कति छ?"),
        ("bn", "এই শহর কবে প্রতিষ্ঠিত হয়েছিল?"),
        ("ta", "இந்த நகரம் எப்போது நிறுவப்பட்டது?"),
        ("te", "ఈ నగరం ఎప్పుడు స్థాపించబడింది?"),
        ("th", "เมืองนี้ก่อตั้งเมื่อใด"),
        ("zh", "这座城市是什么时候建立的？"),
        ("ja", "この都市はいつ設立されましたか？"),
        ("ko", "이 도시는 언제 세워졌습니까?"),
        ("am", "ይህ ከተማ መቼ ተመሠረተ?"),
        ("", "12345 --- !!!"),
        ("", ""),
    ],
)
def test_detect_language(lang: str, text: str) -> None:
    assert detect_language(text) == lang


def test_detect_language_by_what_most_of_the_text_is() -> None:
    assert detect_language("Python 3 是一种广泛使用的高级编程语言，由 Guido van Rossum 设计。") == "zh"
    assert detect_language("The Chinese word for city is 城市 and it is written with two characters.") == "en"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. J. Smith came at 3.5 km/h. He left.", ["Dr. J. Smith came at 3.5 km/h.", "He left."]),
        ("He left. Dr. J. Smith came.", ["He left.", "Dr. J. Smith came."]),
        ("他来了。他说：“你好！”然后走了？！是的", ["他来了。", "他说：“你好！”", "然后走了？！", "是的"]),
        ("वह आया। वह गया।", ["वह आया।", "वह गया।"]),
        ("هل جاء؟ نعم. ذهب", ["هل جاء؟", "نعم.", "ذهب"]),
        ("ประเทศไทย อยู่ในเอเชีย", ["ประเทศไทย", "อยู่ในเอเชีย"]),
        ("first line\nsecond line", ["first line", "second line"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(ANY_TEXT, st.sampled_from(["", "en", "th", "zh"]))
def test_sentences_lose_nothing_but_white_space(text: str, lang: str) -> None:
    found = sentences(text, lang)
    assert without_space("".join(found)) == without_space(text)
    assert all(sentence == sentence.strip() != "" for sentence in found)
    spans = sentence_spans(text, lang)
    assert [text[start:stop] for start, stop in spans] == found
    assert sorted(spans) == spans


@given(ANY_TEXT, st.integers(1, 80), st.sampled_from(["", "en", "th", "zh"]))
def test_split_passages_loses_nothing_and_keeps_to_the_limit(text: str, max_chars: int, lang: str) -> None:
    passages = split_passages(text, max_chars, lang)
    assert without_space("".join(passages)) == without_space(text)
    assert all(0 < len(passage) <= max_chars for passage in passages)


def test_split_passages_packs_paragraphs_then_sentences_then_words() -> None:
    assert split_passages("Title\n\nShort one.\n\nAnother paragraph.", 20) == ["Title\n\nShort one.", "Another paragraph."]
    assert split_passages("One two. Three four. Five six.", 21) == ["One two. Three four.", "Five six."]
    assert split_passages("one two three four", 9) == ["one two", "three", "four"]
    assert split_passages("你好吗？我很好。再见。", 8) == ["你好吗？我很好。", "再见。"]
    assert split_passages("abcdefgh", 3) == ["abc", "def", "gh"]
    assert split_passages("whole", 100) == ["whole"]


def test_split_passages_keeps_marks_with_their_letter() -> None:
    text = "กี่" * 30
    passages = split_passages(text, 10)
    assert "".join(passages) == text
    assert all(unicodedata.category(passage[0])[0] != "M" for passage in passages)


def test_split_passages_refuses_a_limit_below_one() -> None:
    with pytest.raises(BadInput, match="max_chars=0"):
        split_passages("text", 0)


@pytest.mark.parametrize("text", [
    "a" * 400_000, " " * 400_000, "\n" * 400_000, "." * 400_000, "。」" * 200_000, "a. " * 100_000,
    "\u0301" * 100_000, "\n \t" * 200_000, ".\"" * 200_000])  # fmt: skip
def test_long_hostile_text_takes_linear_time(text: str) -> None:
    began = time.process_time()
    passages = split_passages(text)
    assert time.process_time() - began < 6
    assert without_space("".join(passages)) == without_space(text)


def test_a_text_that_says_little_is_taken_for_what_its_company_is() -> None:
    english = ["The cat sat on the mat and was happy with it.", "What is the name of the river that flows to the sea?"] * 20
    assert detect_language("electronic digital computers") == ""
    assert detect_languages(["electronic digital computers", *english])[0] == "en"
    assert detect_languages(["electronic digital computers"], {"en": 500}) == ["en"]
    assert detect_languages(["Der Hund ist nicht in dem Haus.", "猫", "кот и собака это"], {"en": 10**6}) == ["de", "zh", "ru"]
    assert detect_languages(["", "123"], {"en": 5}) == ["", ""]


def counted(sample: str, script: str) -> dict[str, float]:
    """The evidence as the tables say it, one item after the other."""
    owners: list[dict[str, list[str]]] = [{}, {}, {}]
    for table, source in zip(owners, (text_module._COMMON_WORDS, text_module._ENDINGS), strict=False):
        for lang, listed in source[script].items():
            for word in dict.fromkeys(listed.split()):
                table.setdefault(word, []).append(lang)
    owners[2] = {letter: langs.split() for letter, langs in text_module._LETTERS[script].items()}
    words = text_module._WORD.findall(sample)
    tails = [word[-size:] for word in words if word not in owners[0] for size in (2, 3, 4, 5) if len(word) > size]
    votes = dict.fromkeys(text_module._COMMON_WORDS[script], 0.0)
    for items, table, weight in ((words, owners[0], 1.0), (tails, owners[1], 0.4), (list(sample), owners[2], 0.5)):
        for item, times in Counter(items).items():
            for lang in table.get(item, ()):
                votes[lang] += weight * times / len(table[item])
    return votes


@pytest.mark.parametrize("script", ["Latn", "Cyrl", "Arab", "Deva"])
def test_the_evidence_for_a_language_is_that_of_the_tables(script: str) -> None:
    samples = [" ".join(SAMPLES[i : i + 3]).lower() for i in range(len(SAMPLES))]
    samples += [unicodedata.normalize("NFKC", sample) for sample in samples]
    samples += ["", "the", "of the of the of", "ñ¿ñ é", "motions and rations", "a1b2the3of", "ый ого ость" * 3, "x" * 3000]
    for sample in samples:
        assert text_module._vote(sample, script) == counted(sample, script), sample  # to the last bit


def test_ascii_text_is_in_latin_script_or_in_none() -> None:
    assert text_module._main_script("12 + 3 = ?") == ""
    assert text_module._main_script("12 x") == text_module._main_script("12 é") == "Latn"
