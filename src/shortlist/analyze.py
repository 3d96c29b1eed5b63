"""Text to terms for BM25, by versioned analyzers whose names are stored in the index."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from threading import Lock

from shortlist.errors import BadInput
from shortlist.text import clean, detect_language

_MAX_WORD = 100
_CACHE_WORDS = 200_000

_STEMMERS = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "es": "spanish", "et": "estonian", "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi",
    "hu": "hungarian", "hy": "armenian", "id": "indonesian", "it": "italian", "lt": "lithuanian", "ne": "nepali",
    "nl": "dutch", "no": "norwegian", "pl": "polish", "pt": "portuguese", "ro": "romanian", "ru": "russian",
    "sr": "serbian", "sv": "swedish", "ta": "tamil", "tr": "turkish", "fa": "persian",
}  # fmt: skip
_ALIASES = {"nb": "no", "nn": "no", "fil": "tl", "iw": "he", "in": "id"}


def analyzer(name: str = "auto/1") -> Analyzer:
    """The analyzer of this name. Raises BadInput for an unknown name, listing the known ones."""
    if name not in _NAMES:
        raise BadInput(f"analyzer {name!r} is not known. Use one of: {', '.join(_NAMES)}.")
    return Analyzer(name)


_NAMES = ("auto/1", "plain/1")

_DIGITS_AND_LETTERS = r"[^\W_]"
_UNSPACED = {
    "cjk": r"\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af",
    "thai": r"\u0e01-\u0e3a\u0e40-\u0e4e",
    "lao": r"\u0e80-\u0ecf",
    "myanmar": r"\u1000-\u103f\u104e-\u109f\ua9e0-\ua9fe\uaa60-\uaa7f",
    "khmer": r"\u1780-\u17d3\u17d7\u17dc\u17dd",
}
_HANGUL = r"\u1100-\u11ff\uac00-\ud7a3"


@cache
def _marks() -> str:
    """Combining marks and joiners, which belong to the word they stand in, as the inside of a character class."""
    codes = [c for c in range(0x300, 0x1F000) if unicodedata.category(chr(c)) in ("Mn", "Mc", "Me")]
    ranges: list[list[int]] = []
    for code in [0xAD, *codes, 0x200C, 0x200D]:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{re.escape(chr(a))}-{re.escape(chr(b))}" for a, b in ranges)


class Analyzer:
    """Text to terms. Safe to use from several threads. `name` tells the rules and their version."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._stems = name != "plain/1"
        self._words = re.compile(rf"{_DIGITS_AND_LETTERS}(?:{_DIGITS_AND_LETTERS}|[{_marks()}])*")
        unspaced = "".join(_UNSPACED.values())
        self._special = re.compile(rf"[{unspaced}{_HANGUL}]")
        runs = "|".join(rf"[{chars}]+" for chars in [*_UNSPACED.values(), _HANGUL])
        self._runs = re.compile(rf"{runs}|[^{unspaced}{_HANGUL}]+")
        self._known: dict[str, dict[str, tuple[str, ...]]] = {}
        self._stemmers: dict[str, Callable[[str], str]] = {}
        self._lock = Lock()

    def terms(self, text: str, lang: str = "") -> list[str]:
        """Terms of `text` in order, with repeats. `lang` is a BCP 47 tag; "" has it detected from the text."""
        text = clean(text)
        lang = _primary(lang) or detect_language(text)
        known = self._known.setdefault(lang, {})
        terms: list[str] = []
        for word in self._words.findall(_normalise(text)):
            found = known.get(word)
            terms += self._analyse(word, lang, known) if found is None else found
        return terms

    def query_terms(self, text: str, langs: Sequence[str]) -> list[str]:
        """Terms of a query for an index whose passages are in `langs`: for each word every distinct form it has there."""
        terms: list[str] = []
        names = list(dict.fromkeys(_primary(lang) for lang in langs)) or [""]
        for word in self._words.findall(_normalise(clean(text))):
            forms = [self._known.setdefault(lang, {}).get(word) or self._analyse(word, lang, self._known[lang]) for lang in names]
            for form in dict.fromkeys(forms):
                terms += form
        return terms

    def _analyse(self, word: str, lang: str, known: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
        if self._special.search(word):
            return tuple(term for run in self._runs.findall(word) for term in self._run(run, lang))
        found = tuple(self._stem(word[i : i + _MAX_WORD], lang) for i in range(0, len(word), _MAX_WORD))
        if len(word) <= _MAX_WORD:
            if len(known) >= _CACHE_WORDS:
                known.clear()
            known[word] = found
        return found

    def _run(self, run: str, lang: str) -> list[str]:
        if not self._special.match(run):
            return [self._stem(run[i : i + _MAX_WORD], lang) for i in range(0, len(run), _MAX_WORD)]
        return [*run, *(run[i : i + 2] for i in range(len(run) - 1))]

    def _stem(self, word: str, lang: str) -> str:
        algorithm = _STEMMERS.get(lang) if self._stems else None
        if algorithm is None:
            return word
        with self._lock:
            if lang not in self._stemmers:
                import Stemmer

                self._stemmers[lang] = Stemmer.Stemmer(algorithm, 0).stemWord
            return self._stemmers[lang](word)


def _primary(lang: str) -> str:
    tag = lang.replace("_", "-").split("-")[0].lower()
    return _ALIASES.get(tag, tag)


def _normalise(text: str) -> str:
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
