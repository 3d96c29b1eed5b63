"""Filters: conditions on the fields of a passage. Parsed, checked, and evaluated over sets of slots; no disk here.

A filter is JSON:

    {"lang": "zh"}                                  equal; the same as {"lang": {"eq": "zh"}}
    {"year": {"gte": 2020, "lt": 2024}}             gt gte lt lte; of numbers, or of strings by code point
    {"tag": {"in": ["a", "b"]}}                     equal to one of them
    {"and": [F, …]}   {"or": [F, …]}   {"not": F}   {"lang": "zh", "year": 2024} is an "and"

or a line of text that means the same: `lang=zh and (year>=2020 or tag in [a, b]) and not draft=true`. In it `!=` and `not in`
are short for a `not`, and a value that looks like a number, true or false is one unless it is quoted: code="7".

The fields are `id`, `title`, `lang` (detected where the passage names none) and the metadata: a key, and for objects inside
`outer.inner`. Of a list every element is a value of the field, and one element that fits is enough. An empty title, null, []
and {} are no value. A passage without a value fits no condition, and so fits its `not`.

Each value becomes a term, field + NUL + kind + value, so that byte order of terms is order of values and a condition is a few
intervals of terms.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from shortlist.errors import BadInput
from shortlist.types import Json

Where: TypeAlias = "Mapping[str, Any] | str"
Mask: TypeAlias = npt.NDArray[np.bool_]
Interval: TypeAlias = tuple[bytes, bytes]
"""Terms from the first up to, but not including, the second."""

KINDS = {"s": "strings", "n": "numbers", "b": "true and false"}
OWN_FIELDS = ("id", "lang", "title")
_ORDERED = ("gt", "gte", "lt", "lte")
_DEPTH = 50
_LONGEST = 200  # bytes of a string that are kept; longer ones are told apart by a hash behind them


# --- the form


def checked(where: Where) -> dict[str, Any]:
    """The filter with one condition or connective an object and every condition written out: {"lang": {"eq": "zh"}}.

    Raises BadInput for what is no filter, saying what was expected; of a text with the position.
    """
    return _checked(parse(where) if isinstance(where, str) else where, 0)


def _checked(where: Any, depth: int) -> dict[str, Any]:
    if not isinstance(where, Mapping) or not where or not all(isinstance(key, str) for key in where):
        raise BadInput(f'{_shown(where)} is no filter. Expected an object such as {{"lang": "zh"}} or a text such as lang=zh.')
    if depth > _DEPTH:
        raise BadInput(f"the filter is nested more than {_DEPTH} deep. Write it flatter.")
    parts = [_checked_part(key, value, depth) for key, value in where.items()]
    return parts[0] if len(parts) == 1 else {"and": parts}


def _checked_part(key: str, value: Any, depth: int) -> dict[str, Any]:
    if key in ("and", "or"):
        if not isinstance(value, list | tuple) or not value:
            raise BadInput(f'"{key}": {_shown(value)}: expected a list of filters, at least one.')
        return {key: [_checked(part, depth + 1) for part in value]}
    if key == "not":
        return {"not": _checked(value, depth + 1)}
    if not isinstance(value, Mapping):
        value = {"eq": value}
    names = set(value)
    if names == {"in"}:
        if not isinstance(value["in"], list | tuple):
            raise BadInput(f'"{key}": {{"in": {_shown(value["in"])}}}: expected a list of values.')
        return {key: {"in": [_checked_value(key, one) for one in value["in"]]}}
    if not names or (names != {"eq"} and not names <= set(_ORDERED)):
        raise BadInput(
            f'"{key}": {_shown(value)}: expected a value, {{"eq": …}}, {{"in": […]}}, or one or more of gt gte lt lte.'
        )
    condition = {name: _checked_value(key, value[name]) for name in value}
    if names != {"eq"}:
        _check_bounds(key, condition)
    return {key: condition}


def _checked_value(field: str, value: Any) -> str | int | float | bool:
    if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        hint = " To find passages without a value, put a not before a condition that every value fits." * (value is None)
        raise BadInput(f'"{field}": {_shown(value)} is no value to compare with. Expected str, number, true or false.{hint}')
    return value


def _check_bounds(field: str, condition: Mapping[str, Any]) -> None:
    kinds = {kind_of(value) for value in condition.values()}
    if "b" in kinds or len(kinds) > 1:
        found = " and ".join(KINDS[kind] for kind in sorted(kinds))
        raise BadInput(
            f'"{field}": the bounds are {found}. Expected numbers only or strings only: true and false have no order.'
        )
    for value in condition.values():
        if isinstance(value, str) and len(_bytes(value)) > _LONGEST:
            raise BadInput(f'"{field}": the bound {_shown(value)} is longer than {_LONGEST} bytes. Give its beginning.')


def kind_of(value: str | int | float | bool) -> str:
    """A key of KINDS."""
    return "s" if isinstance(value, str) else "b" if isinstance(value, bool) else "n"


def _shown(value: Any, width: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"


# --- the text

_TOKEN = re.compile(
    r"""(?P<op>!=|==|<=|>=|=|<|>) | (?P<mark>[()\[\],]) | "(?P<double>(?:[^"\\]|\\.)*)" | '(?P<single>(?:[^'\\]|\\.)*)'
    | (?P<word>[^\s()\[\],=<>!"']+)""",
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,300})(\.\d+)?([eE][+-]?\d+)?")
_OPERATORS = {"=": "eq", "==": "eq", ">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


def parse(text: str) -> dict[str, Any]:
    """The JSON form of a filter written as text. Raises BadInput with the position, counted from 1."""
    try:
        return _Parser(text).whole()
    except RecursionError as error:
        raise BadInput(f"the filter is nested more than {_DEPTH} deep. Write it flatter.") from error


@dataclass(frozen=True)
class _Token:
    kind: str  # "op", "mark", "quoted", "word" or "end"
    text: str
    at: int


class _Parser:
    """Recursive descent: or, and, not, condition."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._scan())
        self._next = 0

    def whole(self) -> dict[str, Any]:
        found = self._either()
        if self._peek().kind != "end":
            self._refuse("and, or, or the end")
        return found

    def _scan(self) -> Iterator[_Token]:
        at = 0
        while at < len(self._text):
            if self._text[at].isspace():
                at += 1
                continue
            found = _TOKEN.match(self._text, at)
            if not found:
                what = "the quote is not closed" if self._text[at] in "\"'" else f"{self._text[at]!r} cannot stand here"
                raise BadInput(f"filter {self._text!r}, position {at + 1}: {what}.")
            kind = str(found.lastgroup)
            quoted = kind in ("double", "single")
            piece = re.sub(r"\\(.)", r"\1", found[kind], flags=re.DOTALL) if quoted else found[kind]
            yield _Token("quoted" if quoted else kind, piece, at)
            at = found.end()
        yield _Token("end", "", at)

    def _either(self) -> dict[str, Any]:
        return self._joined("or", self._all)

    def _all(self) -> dict[str, Any]:
        return self._joined("and", self._one)

    def _joined(self, word: str, part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        parts = [part()]
        while self._take_word(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else {word: parts}

    def _one(self) -> dict[str, Any]:
        if self._take_word("not"):
            return {"not": self._one()}
        if self._take_mark("("):
            inner = self._either()
            self._need_mark(")")
            return inner
        return self._condition()

    def _condition(self) -> dict[str, Any]:
        field = self._peek()
        if field.kind not in ("word", "quoted") or _is_word(field, "and", "or", "in"):
            self._refuse("a field")
        self._next += 1
        negated = self._take_word("not")
        if self._take_word("in"):
            condition: dict[str, Any] = {field.text: {"in": self._list()}}
        elif negated or self._peek().kind != "op":
            self._refuse("in" if negated else "= != < <= > >= or in")
        else:
            operator = self._advance().text
            negated = operator == "!="
            condition = {field.text: {_OPERATORS.get(operator, "eq"): self._value()}}
        return {"not": condition} if negated else condition

    def _list(self) -> list[Json]:
        self._need_mark("[")
        values = [self._value()]
        while self._take_mark(","):
            values.append(self._value())
        self._need_mark("]")
        return values

    def _value(self) -> Json:
        if self._peek().kind not in ("word", "quoted"):
            self._refuse("a value")
        token = self._advance()
        if token.kind == "quoted" or not (_NUMBER.fullmatch(token.text) or token.text in ("true", "false")):
            return token.text
        value: Json = json.loads(token.text)
        return value

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _advance(self) -> _Token:
        self._next += 1
        return self._tokens[self._next - 1]

    def _take_word(self, word: str) -> bool:
        taken = _is_word(self._peek(), word)
        self._next += taken
        return taken

    def _take_mark(self, mark: str) -> bool:
        taken = self._peek().kind == "mark" and self._peek().text == mark
        self._next += taken
        return taken

    def _need_mark(self, mark: str) -> None:
        if not self._take_mark(mark):
            self._refuse(f"{', or ' if mark == ']' else ''}{mark}")

    def _refuse(self, expected: str) -> NoReturn:
        token = self._peek()
        found = "the end" if token.kind == "end" else repr(token.text)
        raise BadInput(f"filter {self._text!r}, position {token.at + 1}: expected {expected}, found {found}.")


def _is_word(token: _Token, *words: str) -> bool:
    return token.kind == "word" and token.text.lower() in words


# --- the terms


def terms_of(lang: str, title: str, meta: Mapping[str, Json], name: str = "") -> set[bytes]:
    """The terms of one passage's values; `name` is its id, left away where the passages' own index finds ids."""
    terms = {_prefix(field, "s") + _string(value) for field, value in (("id", name), ("lang", lang), ("title", title)) if value}
    for key, value in meta.items():
        if key not in OWN_FIELDS:
            terms.update([term(field, inner) for field, inner in _flat(key, value) if "\0" not in field])
    return terms


def _flat(field: str, value: Json) -> Iterator[tuple[str, str | int | float | bool]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{field}.{key}", inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(field, inner)
    elif value is not None:
        yield field, value


def term(field: str, value: str | int | float | bool) -> bytes:
    """The term of a value: terms of one field and kind sort as the values do, equal values have equal terms."""
    if isinstance(value, str):
        text = _string(value)
    else:
        text = b"%d" % value if isinstance(value, bool) else _number(value)
    return _prefix(field, kind_of(value)) + text


@lru_cache(1000)
def _prefix(field: str, kind: str = "") -> bytes:
    return _bytes(field) + b"\0" + kind.encode()


def _string(value: str) -> bytes:
    whole = _bytes(value)
    return whole if len(whole) <= _LONGEST else whole[:_LONGEST] + sha256(whole).hexdigest().encode()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON can hold half a surrogate pair


@lru_cache(1000)  # 1 and 1.0 are the same number
def _number(value: int | float) -> bytes:
    """The nearest float64 in an order-preserving form, and for a whole number by how much it is above or below."""
    try:
        nearest = float(value) or 0.0  # without a sign on zero
    except OverflowError:
        nearest = math.inf if value > 0 else -math.inf
    (bits,) = struct.unpack(">Q", struct.pack(">d", nearest))
    ordered = bits ^ (0xFFFFFFFFFFFFFFFF if bits >> 63 else 1 << 63)
    rest = value - int(nearest) if isinstance(value, int) and math.isfinite(nearest) else 0
    if rest == 0:
        return b"%016x:" % ordered
    rest = max(1 - (1 << 63), min(rest, (1 << 63) - 1))  # beyond 2**115 whole numbers compare as floats do
    return b"%016x%s%016x" % (ordered, b"-" if rest < 0 else b";", rest % (1 << 64))


def value_of(one: bytes) -> str | int | float | bool | None:
    """The value that a term is of; None where the term holds less than the value: a long string, a number beyond float64."""
    kind, text = one.partition(b"\0")[2][:1], one.partition(b"\0")[2][1:]
    if kind == b"s":
        return text.decode("utf-8", "surrogatepass") if len(text) <= _LONGEST else None
    return text == b"1" if kind == b"b" else _number_of(text)


def _number_of(text: bytes) -> int | float | None:
    """The number that `_number` wrote, whole where it is and float64 could blur it."""
    ordered = int(text[:16], 16)
    bits = ordered ^ (1 << 63) if ordered >> 63 else ordered ^ 0xFFFFFFFFFFFFFFFF
    (nearest,) = struct.unpack(">d", struct.pack(">Q", bits))
    if not math.isfinite(nearest):
        return None
    if text[16:17] == b":":
        return int(nearest) if nearest.is_integer() and abs(nearest) < 1 << 53 else float(nearest)
    rest = int(text[17:], 16)
    return int(nearest) + (rest - (1 << 64) if text[16:17] == b"-" else rest)


def intervals(field: str, condition: Mapping[str, Any]) -> list[Interval]:
    """Where the terms of the values that fit a checked condition lie."""
    if "in" in condition or "eq" in condition:
        values = condition.get("in", [condition.get("eq")])
        return [(one, one + b"\0") for one in {term(field, value) for value in values}]
    kind = kind_of(next(iter(condition.values())))
    low, high = span(field, kind)
    for name, value in condition.items():
        edge = term(field, value) + (b"\0" if name in ("gt", "lte") else b"")
        low, high = (max(low, edge), high) if name in ("gt", "gte") else (low, min(high, edge))
    return [(low, high)]


def span(field: str, kind: str = "") -> Interval:
    """Where the terms of a field lie, or those of one kind of its values."""
    prefix = _prefix(field, kind)
    return prefix, prefix[:-1] + bytes([prefix[-1] + 1])


def field_of(one: bytes) -> str:
    """The field that a term is of."""
    return one.partition(b"\0")[0].decode("utf-8", "surrogatepass")


# --- what fits


def evaluate(where: Mapping[str, Any], fits: Callable[[str, Mapping[str, Any]], Mask]) -> Mask:
    """bool[slots] of a checked filter. `fits(field, condition)` gives that of a single condition, an array of its own."""
    ((key, value),) = where.items()
    if key == "not":
        return ~evaluate(value, fits)
    if key not in ("and", "or"):
        return fits(key, value)
    join = np.logical_and if key == "and" else np.logical_or
    result = evaluate(value[0], fits)
    for part in value[1:]:
        join(result, evaluate(part, fits), out=result)
    return result


def conditions(where: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(field, condition) of every condition in a checked filter."""
    for key, value in where.items():
        if key == "not":
            yield from conditions(value)
        elif key in ("and", "or"):
            for part in value:
                yield from conditions(part)
        else:
            yield key, value


def values_of(condition: Mapping[str, Any]) -> list[str | int | float | bool]:
    """What a checked condition compares with."""
    return [one for value in condition.values() for one in (value if isinstance(value, list) else [value])]
