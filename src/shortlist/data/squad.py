"""SQuAD's form of question answering as retrieval: contexts are passages, questions are queries, their own context is relevant.

    {"data": [{"title": …, "paragraphs": [{"context": …, "qas": [{"id": …, "question": …}]}]}]}

A passage's id is TITLE#N, N counting the different contexts of a title from 0, so that it stays what it is when the file is
read again. A context that stands twice under a title is one passage. Questions marked impossible have no relevant passage and
are left out. The file is one JSON value and is read whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from shortlist.data.lines import checked_id, kind, lines, string, without_spaces
from shortlist.errors import BadInput
from shortlist.types import Passage, Qrels


class Question(NamedTuple):
    """A question, and the id of the passage that it was asked about."""

    where: str
    id: str
    text: str
    passage_id: str


def is_squad(path: Path) -> bool:
    """Whether a .json file begins as SQuAD's do: an object without an id, whose first list or object is "data"."""
    if kind(path) != ".json":
        return False
    head = ""
    for _, line in lines(path):
        head += line
        if len(head) > 4096:
            break
    return re.match(r'\s*\{(?![^{}\[\]]*"(_?id|docid)"\s*:)[^{}\[\]]*"data"\s*:\s*\[', head) is not None


def read_passages(path: Path, lang: str = "") -> Iterator[Passage]:
    """The contexts."""
    seen = set[str]()
    for passage_id, title, context, _, _ in _paragraphs(path):
        if passage_id not in seen:
            seen.add(passage_id)
            yield Passage(passage_id, context, title, lang)


def read_questions(path: Path) -> Iterator[Question]:
    """The questions that have an answer."""
    for passage_id, _, _, questions, where in _paragraphs(path):
        for n, question in enumerate(questions):
            at = f"{where}.qas[{n}]"
            if not isinstance(question, dict):
                raise BadInput(f"{at}: expected an object with id and question.")
            if not question.get("is_impossible"):
                yield Question(at, checked_id(str(question.get("id", "")), at), string(question, "question", at), passage_id)


def read_qrels(path: Path) -> Qrels:
    """Judgement 1 for each question's own passage."""
    return Qrels({question.id: {question.passage_id: 1} for question in read_questions(path)})


def _paragraphs(path: Path) -> Iterator[tuple[str, str, str, list[Any], str]]:
    """Passage id, title, context, questions and the place in the file of each paragraph."""
    places: dict[str, dict[str, int]] = {}
    for a, article in enumerate(_articles(path)):
        at = f"{path}: data[{a}]"
        if not isinstance(article, dict) or not isinstance(article.get("paragraphs"), list):
            raise BadInput(f"{at}: expected an object with a list named paragraphs.")
        title = string(article, "title", at)
        name = without_spaces(title) or str(a)
        known = places.setdefault(name, {})
        for p, paragraph in enumerate(article["paragraphs"]):
            where = f"{at}.paragraphs[{p}]"
            if not isinstance(paragraph, dict):
                raise BadInput(f"{where}: expected an object with context and qas.")
            context = string(paragraph, "context", where)
            questions = paragraph.get("qas", [])
            if not isinstance(questions, list):
                raise BadInput(f"{where}: qas is no list; expected the questions.")
            yield f"{name}#{known.setdefault(context, len(known))}", title, context, questions, where


def _articles(path: Path) -> list[Any]:
    try:
        content = json.loads("\n".join(line for _, line in lines(path)))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON ({error}). Fetch the file again.") from error
    articles: list[Any] = content["data"]
    return articles
