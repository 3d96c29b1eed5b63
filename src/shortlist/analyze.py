"""Text to terms for BM25, by versioned analyzers whose names are stored in the index.

Text is put in Unicode form NFKC with case folded (full-width letters, ligatures and circled numbers become plain ones);
digits of every script become 0-9. What happens then depends on the script, within Latin, Cyrillic, Greek and Arabic also
on the language. `auto/2`, and `auto/1` but for what is said below:

    script or language                             terms
    Han and kana                                   Chinese characters, all pairs of neighbours, words of 3 or more katakana
    Hangul                                         of every word the first syllable and every pair of neighbours
    Thai, Lao, Khmer, Burmese                      one, two and three neighbouring clusters (a letter with its marks)
    Devanagari, Bengali and the other scripts of   every word and every three neighbouring letters in it (marks are letters)
      India and Sri Lanka; Hebrew, Ethiopic
    Finnish, Turkish, Azerbaijani; Cyrillic        the first five letters of every word (Finnish six)
      languages without a stemmer
    languages with a Snowball stemmer              stems (`_STEMMERS` lists them)
    all others, and unknown ones                   words

Then, but for Vietnamese, whose tones tell words apart, Latin and Greek letters lose their accents. Arabic loses vowel signs
and tatweel, the forms of alef, yeh, kaf and heh become one each, and a zero-width non-joiner separates; Hebrew loses its
points. Stop words stay: BM25 gives them little weight, and a query may consist of them.

Names and codes stay findable by rule: words split at everything that is no letter, mark or digit ("foo_bar", addresses,
"ISO-8601" are found by their parts); where a hyphen or underscore stands between a letter and a digit the joined pair is
a term too ("AB-1234" is found as "ab1234"); and a word with capitals inside ("getElementById") has its parts as terms
besides the whole.

What `auto/2` has beyond `auto/1`: traditional Chinese characters become simplified ones, but in Japanese and Korean;
1,000 and 1.000 become 1000, which 1 000 gets besides; a name or version with dots, "::", "->" or "@" in it (node.js, 3.11.7,
an address) is a term as a whole besides its parts; so is one with underscores, and a word with a prefix of one or two letters
(e-mail); C++, C# and .NET are cplusplus, csharp and dotnet too.

`plain/1` takes words as they are, with their accents, where `auto/1` stems or cuts them or adds parts of them (Hangul,
scripts of India, Hebrew, Ethiopic): the usual baseline. Chinese, Japanese, Thai and the like are the same in both.

Measured reasons for every line stand in bench/results/analyzers.md. Character n-grams: McNamee and Mayfield, Character
N-Gram Tokenization for European Language Text Retrieval, 2004. First letters: Can et al., Information Retrieval on
Turkish Texts, 2008.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from threading import Lock

from shortlist._native import Inversion, Lexicon, ordinary
from shortlist.errors import BadInput
from shortlist.text import clean, detect_language

_NAMES = ("auto/2", "auto/1", "plain/1")

_STEMMERS = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "es": "spanish", "et": "estonian", "eu": "basque", "fr": "french", "ga": "irish", "hu": "hungarian", "hy": "armenian",
    "id": "indonesian", "it": "italian", "lt": "lithuanian", "nl": "dutch", "no": "norwegian", "pl": "polish",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish",
}  # fmt: skip
"""Language -> Snowball algorithm."""

_PREFIXES = {"fi": 6} | dict.fromkeys(["tr", "az", "kk", "ky", "tg", "mn", "uk", "be", "bg", "mk"], 5)
"""Language -> letters kept of a word's beginning."""

_ALIASES = {"nb": "no", "nn": "no", "fil": "tl", "iw": "he", "in": "id"}

_LONGEST_WORD = 100
"""Characters; a longer run of letters is cut, as it is no word of any language."""
_INDEXED_WORDS, _ASKED_WORDS = 200_000, 4096
"""Words whose terms are remembered: of passages that are added, in all; of queries per language, as long as a server runs."""

_KINDS = {
    "chinese": r"\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\U00020000-\U000323af",
    "clusters": r"\u0e01-\u0e3a\u0e40-\u0e4e\u0e80-\u0ecf\u1000-\u103f\u104e-\u109f\u1780-\u17d3\u17d7\u17dc\u17dd",
    "hangul": r"\u1100-\u11ff\uac00-\ud7a3",
    "trigrams": r"\u05d0-\u05f2\u0900-\u0dff\u1200-\u139f",
}
"""Characters of the scripts whose words are not stemmed, by what is done with them."""

_MARKED_TOGETHER = {"chinese": 2, "clusters": 2, "hangul": 2, "trigrams": 3}
"""Neighbouring characters (or clusters) that must be wanted together for `matches`."""

_SIMPLE_WORD = re.compile("[0-9a-z]{1,100}")
"""Most words of most texts: of one part, with nothing to fold, in no other script, not too long."""
_KATAKANA = re.compile(r"[\u30a1-\u30fa\u30fc-\u30ff]{3,100}")
_HAN = re.compile(r"[\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_LETTER = re.compile(".", re.DOTALL)
_JOINT = re.compile(r"(?<=[^\W\d_])[-_\u2010](?=\d)|(?<=\d)[-_\u2010](?=[^\W\d_])")
_CAMEL = re.compile(r"\b[A-Z]*+[a-z]++[A-Z][A-Za-z]*")
_CAMEL_SIGN = re.compile(r"[A-Z](?<=[a-z].)")  # rules most texts out; starts with what is rare
_CAMEL_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_COMPOUND = "\ua78f"
"""Between the parts of a name or version (foo.bar, 3.11.7) in the one term that is all of it: a letter of a few scripts."""
_NAME = "".join(map(chr, [*range(0x30, 0x3A), *range(0x61, 0x7B), *range(0xDF, 0x250)])) + "_-"
_SIGN = re.compile(rf"[.@:>](?=:?[{_NAME}])")
_NAMED = re.compile(rf"[{_NAME}]++(?:(?:[.@]|::|->)[{_NAME}]++)++|(?<![\w.])\.([a-z]\w*)")
_SEPARATOR = re.compile(r"[.@]|::|->")
_PLUS_SHARP = re.compile(r"\b([a-z]\w*+)(\+\+|#)(?!\w)")
_DIGITS = "0123456789٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹"
_GROUP = re.compile(rf"[{_DIGITS}][.,'\u2019\u066c ][{_DIGITS}]{{2}}")
_GROUPED = re.compile(
    rf"[{_DIGITS}]{{1,3}}(?:([.,'\u2019\u066c ])\d{{3}}(?:\1\d{{3}})*|(,)\d\d(?:,\d\d)*,\d{{3}})(?![a-z_]|\d)(?!\1\d)(?!\2\d)"
)
_NUMBER_GOES_ON = frozenset(_DIGITS + "abcdefghijklmnopqrstuvwxyz._,")
_NO_DIGIT = re.compile(r"\D")
_MOST_PIECES, _SHORT_PIECE = 8, 2
_KEEP_HAN = ("ja", "ko")
"""Languages whose Chinese characters are not folded to simplified ones."""

_ACCENTED = re.compile(r"[\u00c0-\u024f\u0300-\u03ff\u0451\u1e00-\u1fff]")
_ACCENT = re.compile(r"(?<=[a-z\u0370-\u03ff])[\u0300-\u036f]+|[\u0300\u0301]")
"""Any mark of a Latin or Greek letter, and stress marks, which Russian text books print."""
_PLAIN_LETTERS = str.maketrans({"ı": "i", "ł": "l", "ø": "o", "đ": "d", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th", "ё": "е"})

_ARABIC_BREAK = re.compile(r"(?<=[\u0600-\u06ff])\u200c")
_FOLDING: dict[int, str | None] = {
    **dict.fromkeys([0xAD, 0x200C, 0x200D]),  # soft hyphen, joiners
    **dict.fromkeys([0x640, *range(0x610, 0x61B), *range(0x64B, 0x660), 0x670, *range(0x6D6, 0x6DD), *range(0x6DF, 0x6E9)]),
    **dict.fromkeys(range(0x6EA, 0x6EE)),  # with the line above: tatweel, vowel signs, marks for recitation
    **dict.fromkeys(range(0x591, 0x5C8)),  # Hebrew points and accents
    0x93C: None,  # nukta of Devanagari, often left out
    0x6CC: "\u064a",
    0x6D2: "\u064a",
    0x6A9: "\u0643",
    0x6C1: "\u0647",
    0x6D5: "\u0647",
    0x6C0: "\u0647",  # yeh, kaf, heh
}
"""Characters of a word left out (None) or made one with another, before stemming."""
_ARABIC_LETTERS = {0x622: 0x627, 0x623: 0x627, 0x625: 0x627, 0x671: 0x627, 0x649: 0x64A, 0x629: 0x647}
"""Forms of alef, yeh and heh made one after stemming: the Arabic stemmer reads them as they are."""


def analyzer(name: str = "auto/2") -> Analyzer:
    """The analyzer of this name. Raises BadInput for an unknown name, listing the known ones."""
    if name not in _NAMES:
        raise BadInput(f"analyzer {name!r} is not known. Use one of: {', '.join(_NAMES)}.")
    return Analyzer(name)


class Analyzer:
    """Text to terms, by the rules that `name` stands for. Safe to use from several threads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._plain, self._second = name == "plain/1", name == "auto/2"
        self._words, self._runs, self._clusters, self._folding = _tables()
        self._known: dict[str, dict[str, tuple[str, ...]]] = {}
        self._stemmers: dict[str, Callable[[str], str]] = {}
        self._lock = Lock()

    def terms(self, text: str, lang: str = "") -> list[str]:
        """Terms of a passage in order, with repeats. `lang` is a BCP 47 tag; "" has it detected from the text.

        Raises BadInput if `text` is not a str or not valid Unicode.
        """
        text = clean(text)
        lang = _primary(lang) or detect_language(text)
        return [term for word in self._split(text) for term in self._analyse(word, lang)]

    def inversion(self) -> Inversion:
        """To be filled by `count`: the inverted lists of texts."""
        return Inversion(self._lexicon)

    @cached_property
    def _lexicon(self) -> Lexicon:
        return Lexicon(_INDEXED_WORDS, _LONGEST_WORD)

    def count(self, text: str, lang: str, into: Inversion, times: int = 1) -> None:
        """Count the `terms` of a text, each so many times, but faster. The text must be `clean` already."""
        lang = _primary(lang) or detect_language(text)
        folded = text.lower() if ordinary(text) else self._folded(text)
        if folded.isascii():
            into.add_text(folded, self._terms_of, lang, times)
        else:
            into.add_words(self._words.findall(folded), self._terms_of, lang, times)

    def query_forms(self, text: str, langs: Sequence[str]) -> list[tuple[str, ...]]:
        """What to look up for a query in an index whose passages are in `langs` ("" among them: of unknown language).

        One tuple a term, in order, with repeats: the different forms that the term has in these languages, so a query needs
        no language of its own. `postings.Bm25` weighs the forms of a term as one. Raises BadInput as `terms` does.
        """
        names = list(dict.fromkeys(map(_primary, langs))) or [""]
        found: list[tuple[str, ...]] = []
        for word in self._split(clean(text)):
            forms = [self._analyse(word, lang) for lang in names]
            found += (tuple(dict.fromkeys(same)) for same in zip(*forms, strict=True))  # languages differ in no term's place
        return found

    def query_terms(self, text: str, langs: Sequence[str]) -> list[str]:
        """The forms of `query_forms` one after the other."""
        return [form for forms in self.query_forms(text, langs) for form in forms]

    def matches(self, text: str, wanted: Collection[str], lang: str = "", light: Collection[str] = ()) -> list[tuple[int, int]]:
        """Where words of `text` stand that share a term with `wanted`: (start, stop) in characters, ascending, apart.

        Terms that are `light` too mark no place of their own, only as a part of one that another term marks.

        Where words are matched by neighbouring letters, as in Chinese, a place is marked if two of them (three in India's
        scripts and Hebrew) are wanted together: single ones are everywhere. One alone counts only if nothing longer is wanted.
        """
        text, wanted = clean(text), frozenset(wanted)
        heavy, lang = wanted.difference(light), _primary(lang) or detect_language(text)
        merged: list[tuple[int, int, bool]] = []
        for word in self._words.finditer(text):
            for start, stop, terms in self._met(word.group(), wanted, lang):
                start, stop, counts = start + word.start(), stop + word.start(), not heavy.isdisjoint(terms)
                if merged and start <= merged[-1][1]:
                    first, last, counted = merged[-1]
                    merged[-1] = first, max(stop, last), counts or counted
                else:
                    merged.append((start, stop, counts))
        return [(start, stop) for start, stop, counts in merged if counts]

    def _met(self, word: str, wanted: frozenset[str], lang: str) -> Iterator[tuple[int, int, Collection[str]]]:
        """(start, stop, wanted terms) of the places in a word, ascending, perhaps overlapping."""
        for run in self._runs.finditer(word):
            size = _MARKED_TOGETHER.get(run.lastgroup or "")
            if size is None or (self._plain and run.lastgroup in ("hangul", "trigrams")):
                if found := wanted.intersection(self.terms(run.group(), lang)):
                    yield *run.span(), found
                continue
            letters = self._clusters if run.lastgroup == "clusters" else _LETTER
            pieces = [run.start() + piece.start() for piece in letters.finditer(run.group())] + [run.end()]
            size = 1 if max(map(len, wanted), default=0) == 1 else min(size, len(pieces) - 1)
            for start, stop in zip(pieces, pieces[size:], strict=False):
                piece = _normalise(word[start:stop]).translate(self._folding)
                term = self._simplest(piece, lang) if run.lastgroup == "chinese" else piece
                if term in wanted:
                    yield start, stop, (term,)

    def _simplest(self, run: str, lang: str) -> str:
        """A run of Chinese in the characters that its terms have."""
        return run.translate(_simplified()) if self._second and lang not in _KEEP_HAN else run

    def _split(self, text: str) -> list[str]:
        return self._words.findall(self._folded(text))

    def _folded(self, text: str) -> str:
        """What a text is cut into words from."""
        folded = _normalise(text)
        if self._second:
            folded = _numbers(folded)
            folded += _compounds(folded)
        return folded

    def _analyse(self, word: str, lang: str) -> tuple[str, ...]:
        known = self._known.setdefault(lang, {})
        found = known.get(word)
        if found is not None:
            return found
        terms = self._terms_of(word, lang)
        if len(word) <= _LONGEST_WORD:
            if len(known) >= _ASKED_WORDS:
                known.clear()
            known[word] = terms
        return terms

    def _terms_of(self, word: str, lang: str) -> tuple[str, ...]:
        if _SIMPLE_WORD.fullmatch(word):
            return (self._word(word, lang),)
        parts = _parts(word, whole=self._second)
        return tuple(term for part in parts for term in self._part(part.translate(self._folding), lang))

    def _part(self, part: str, lang: str) -> Iterator[str]:
        for found in self._runs.finditer(part):
            run = found.group()
            match found.lastgroup:
                case "chinese":
                    yield from _chinese(self._simplest(run, lang))
                case "clusters":
                    yield from _neighbours(self._clusters.findall(run), 1, 2, 3)
                case "hangul" if not self._plain:
                    yield from [run[0], *_neighbours(run, 2)]
                case "trigrams" if not self._plain:
                    yield from _cut(run)
                    yield from _neighbours(run, 3) if len(run) > 3 else ()
                case _:
                    yield from (self._word(word, lang) for word in _cut(run))

    def _word(self, word: str, lang: str) -> str:
        if self._plain or _COMPOUND in word:
            return word
        if lang in _STEMMERS:
            word = self._stem(word, lang)
        if "\u0600" <= word[0] <= "\u06ff":
            return word.translate(_ARABIC_LETTERS)
        if lang != "vi" and _ACCENTED.search(word):
            word = _unaccented(word)
        return word[: _PREFIXES[lang]] if lang in _PREFIXES and word.isalpha() else word

    def _stem(self, word: str, lang: str) -> str:
        with self._lock:  # a Snowball stemmer keeps state while it works
            if lang not in self._stemmers:
                import Stemmer

                self._stemmers[lang] = Stemmer.Stemmer(_STEMMERS[lang], 0).stemWord
            return self._stemmers[lang](word) or word  # the Greek stemmer takes everything from some words


@lru_cache(1000)
def _primary(lang: str) -> str:
    tag = lang.replace("_", "-").split("-")[0].lower()
    return _ALIASES.get(tag, tag)


def _normalise(text: str) -> str:
    """`text` in NFKC with case folded, the parts of words with capitals inside added at the end."""
    for word in _CAMEL.findall(text) if _CAMEL_SIGN.search(text) else ():
        text += " " + " ".join(part for part in _CAMEL_PART.findall(word) if len(part) > 1)
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _ARABIC_BREAK.sub(" ", folded) if "\u200c" in folded else folded


def _parts(word: str, *, whole: bool) -> list[str]:
    """What hyphens and underscores separate, and the pairs that they join between a letter and a digit.

    If `whole`, also all in one, where it is an identifier (max_value) or a word with one of the short prefixes (e-mail).
    """
    pieces = re.split("[-_\u2010]", word)
    if len(pieces) == 1:
        return pieces
    joined = []
    if _JOINT.search(word):
        joined = [a + b for a, b in pairwise(pieces) if a and b and a[-1].isdigit() != b[0].isdigit()]
    if whole and ("_" in word or (len(pieces) == 2 and min(map(len, pieces)) <= _SHORT_PIECE)):
        together = "".join(pieces[:_MOST_PIECES])
        joined += [together] if together not in (*pieces, *joined) else []
    return [part for part in pieces + joined if part]


def _numbers(text: str) -> str:
    """Folded text with numbers in one piece: 1,000 and 1.000 become 1000, which 1 000 (perhaps two numbers) gets besides."""
    if not _GROUP.search(text):
        return text
    added: list[str] = []

    def whole(number: re.Match[str]) -> str:
        if text[number.start() - 1 : number.start()] in _NUMBER_GOES_ON:
            return number[0]
        if " " in number[0]:
            added.append(number[0].replace(" ", ""))
            return number[0]
        return _NO_DIGIT.sub("", number[0])

    return " ".join([_GROUPED.sub(whole, text), *added])


def _compounds(text: str) -> str:
    """What else names and numbers in folded text are looked up by, each after a space: `auto/2`."""
    found, end = [], 0
    for hit in _SIGN.finditer(text):
        if hit.start() >= end:
            near = max(end, hit.start() - _LONGEST_WORD)  # names start there at the earliest: looking everywhere is slow
            name = _NAMED.match(text, near + len(text[near : hit.start()].rstrip(_NAME)))
            if name:
                end = name.end()
                found.append("dot" + name[1] if name[1] else _SEPARATOR.sub(_COMPOUND, name[0]))
    if "++" in text or "#" in text:
        found += [name + ("plusplus" if sign == "++" else "sharp") for name, sign in _PLUS_SHARP.findall(text)]
    return " ".join(["", *found]) if found else ""


@cache
def _simplified() -> dict[int, str]:
    """Traditional Chinese character -> simplified one."""
    lines = (Path(__file__).parent / "simplified.txt").read_text("utf-8").splitlines()
    traditional, simplified = (line for line in lines if not line.startswith("#"))
    return {ord(char): other for char, other in zip(traditional, simplified, strict=True)}


def _cut(run: str) -> list[str]:
    return [run[i : i + _LONGEST_WORD] for i in range(0, len(run), _LONGEST_WORD)]


def _chinese(run: str) -> list[str]:
    """Characters and pairs of a run of Han and kana; a lone kana, which is a particle, is no term beside its pairs."""
    if len(run) == 1:
        return [run]
    return [*_HAN.findall(run), *_KATAKANA.findall(run), *_neighbours(run, 2)]


def _neighbours(pieces: Sequence[str], *sizes: int) -> list[str]:
    """Every `size` neighbouring pieces as one, for each of the sizes."""
    return ["".join(pieces[i : i + size]) for size in sizes for i in range(len(pieces) - size + 1)]


def _unaccented(word: str) -> str:
    return unicodedata.normalize("NFC", _ACCENT.sub("", unicodedata.normalize("NFD", word))).translate(_PLAIN_LETTERS)


@cache
def _tables() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str], dict[int, str | None]]:
    """Patterns of a word, of a run of one kind of script and of a cluster; what each character of a word is folded to.

    Python's \\w leaves out combining marks, without which words of India would fall apart.
    """
    marks, folding = [], dict(_FOLDING)
    for code in range(0x300, 0x11D00):
        category = unicodedata.category(chr(code))
        if category in ("Mn", "Mc", "Me") and code < 0x10000:
            marks.append(code)
        elif category == "Nd":
            folding[code] = str(unicodedata.digit(chr(code)))
    inside = "".join(map(chr, [*marks, 0xAD, 0x200C, 0x200D]))
    words = re.compile(rf"[^\W_][\w\u2010{inside}\U00011000-\U00011cff-]*")  # above U+FFFF whole blocks: single marks are slow
    runs = "|".join(rf"(?P<{kind}>[{chars}]+)" for kind, chars in _KINDS.items())
    others = rf"[^{''.join(_KINDS.values())}]+"
    clusters = re.compile(rf".[{''.join(map(chr, marks))}]*", re.DOTALL)
    return words, re.compile(f"{runs}|{others}"), clusters, folding
