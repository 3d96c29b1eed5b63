"""Articles of Wikipedia, or of any MediaWiki with the TextExtracts extension, as sentence passages.

A good guest: one request at a time, `maxlag`, waits as long as the server asks for, and says who is asking.
https://www.mediawiki.org/wiki/API:Etiquette
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from time import sleep
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from shortlist import __version__
from shortlist.errors import BadInput, RemoteError
from shortlist.text import sentences
from shortlist.types import Json, Passage

_QUERY: Final = {
    "action": "query",
    "format": "json",
    "formatversion": "2",
    "prop": "extracts|info",
    "inprop": "url",
    "explaintext": "1",
    "exsectionformat": "wiki",
    "redirects": "1",
    "maxlag": "5",
}
_BATCH_TITLES, _BATCH_CHARACTERS = 50, 4000  # what the API allows, and what fits into an address
_TRY_AGAIN_STATUS: Final = (429, 500, 502, 503, 504)
_TRY_AGAIN_CODES: Final = ("maxlag", "ratelimited", "readonly")
_LONGEST_WAIT_S: Final = 120.0
_HEADING = re.compile(r"^\s*={2,}[^=\n].*?={2,}\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Article:
    """Plain text of one article: paragraphs on lines of their own, headings as `== History ==`."""

    title: str
    lang: str
    text: str
    url: str
    revision: int

    def passages(self) -> Iterator[Passage]:
        """One passage a sentence, headings left out; id = title with underscores#n from 0, meta: url and revision."""
        name = re.sub(r"\s", "_", self.title)
        meta: dict[str, Json] = {"url": self.url, "revision": self.revision}
        found = (s for s in sentences(_HEADING.sub("", self.text), self.lang) if any(map(str.isalnum, s)))
        for n, sentence in enumerate(found):
            yield Passage(f"{name}#{n}", sentence, self.title, self.lang, dict(meta))


@dataclass(frozen=True)
class Fetched:
    """Articles in the order asked for, each once, and what became of the titles that have none of their own.

    redirected   asked title -> title of the article
    missing      asked title -> why there is no article
    """

    articles: tuple[Article, ...] = ()
    redirected: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def fetch_articles(
    titles: Iterable[str], lang: str, *, contact: str, api: str = "", attempts: int = 5, timeout_s: float = 30
) -> Fetched:
    """The articles with these titles in the Wikipedia of a language ("de", "zh", "yo").

    contact    an e-mail address or a web page, for the User-Agent: Wikimedia asks that a program says whom to write to
    api        address of another wiki's api.php
    attempts   at each request, if the server is busy or the answer is damaged; waits grow from one second, or are what the
               server asks for (Retry-After)

    Raises BadInput for a title, language or contact that cannot be one, RemoteError if the wiki refuses, or does not answer in
    `attempts` attempts.
    """
    asked = list(dict.fromkeys(_checked_title(title) for title in titles))
    if not re.fullmatch(r"[a-z]{2,}(-[a-z]+)*", lang):
        raise BadInput(f"lang={lang!r} names no Wikipedia. Expected a code such as en, de, zh or zh-yue.")
    if not contact.strip() or not contact.isprintable():
        raise BadInput(f"contact={contact!r}: expected an e-mail address or a web page, which Wikimedia's rules ask for.")
    wiki = _Wiki(api or f"https://{lang}.wikipedia.org/w/api.php", contact.strip(), attempts, timeout_s)
    articles, redirected, missing = dict[str, Article](), dict[str, str](), dict[str, str]()
    for batch in _batches(asked):
        pages, moves = wiki.pages(batch)
        for title in batch:
            final = _destination(title, moves)
            page = pages.get(final or "", {})
            if final is None or "extract" not in page:
                missing[title] = _why(page) if final else "a redirect that leads back to itself"
                continue
            articles.setdefault(final, Article(final, lang, page["extract"], page.get("fullurl", ""), page.get("lastrevid", 0)))
            if final != title:
                redirected[title] = final
    return Fetched(tuple(articles.values()), redirected, missing)


def _checked_title(title: str) -> str:
    found = " ".join(title.replace("_", " ").split())
    if not found or "|" in found:
        raise BadInput(f"{title!r} is no title of an article. Expected one that is not empty and has no | in it.")
    return found


def _batches(titles: list[str]) -> Iterator[list[str]]:
    batch, size = list[str](), 0
    for title in titles:
        length = len(quote(title)) + 3
        if batch and (len(batch) == _BATCH_TITLES or size + length > _BATCH_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(title)
        size += length
    if batch:
        yield batch


def _destination(title: str, moves: Mapping[str, str]) -> str | None:
    """Where normalisation and redirects lead; None if they go round in a circle."""
    seen = {title}
    while title in moves:
        title = moves[title]
        if title in seen:
            return None
        seen.add(title)
    return title


def _why(page: Mapping[str, Any]) -> str:
    if page.get("invalid"):
        return f"not a valid title ({page.get('invalidreason', 'no reason given')})"
    return "no such article" if page.get("missing") or not page else "a page without text"


class _Wiki:
    """The API of one wiki."""

    def __init__(self, api: str, contact: str, attempts: int, timeout_s: float) -> None:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        self._agent = f"shortlist/{__version__} ({contact}) Python-urllib/{python}".encode("ascii", "replace").decode()
        self._api, self._attempts, self._timeout_s = api, max(1, attempts), timeout_s

    def pages(self, titles: list[str]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Pages by their title, and where other titles lead.

        An answer holds the whole text of one page only, and says how to go on.
        """
        pages, moves = dict[str, dict[str, Any]](), dict[str, str]()
        further: dict[str, str] = {}
        seen: list[dict[str, str]] = []
        while further not in seen:
            seen.append(further)
            answer = self._ask({**_QUERY, "titles": "|".join(titles), **further})
            found = answer.get("query", {})
            for page in found.get("pages", []):
                pages.setdefault(page["title"], {}).update(page)
            for move in (*found.get("normalized", []), *found.get("redirects", [])):
                moves[move["from"]] = move["to"]
            if "continue" not in answer:
                return pages, moves
            further = answer["continue"]
        raise RemoteError(f"{self._api}: the answers go on in a circle ({further}). Ask for fewer titles, or try again later.")

    def _ask(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        """One answer of the API; what may pass is tried again."""
        problem, wait = "", 0.0
        for attempt in range(self._attempts):
            if attempt:
                sleep(wait)
            wait = float(2**attempt)
            try:
                answer, headers = self._get(parameters)
            except _TryAgain as busy:
                problem, wait = busy.problem, wait if busy.wait_s is None else busy.wait_s
            else:
                error = answer.get("error")
                if error is None:
                    return answer
                problem = f"{error.get('code')}: {error.get('info')}"
                if error.get("code") not in _TRY_AGAIN_CODES:
                    raise RemoteError(f"{self._api} refuses: {problem}.")
                asked = _retry_after(headers)
                wait = wait if asked is None else asked
            if wait > _LONGEST_WAIT_S:
                raise RemoteError(f"{self._api} asks to come back in {wait:.0f} s ({problem}). Try again then.")
        raise RemoteError(f"{self._api} did not answer in {self._attempts} attempts; the last: {problem}. Try again later.")

    def _get(self, parameters: Mapping[str, str]) -> tuple[dict[str, Any], Message]:
        request = Request(f"{self._api}?{urlencode(parameters)}", headers={"User-Agent": self._agent})
        try:
            with urlopen(request, timeout=self._timeout_s) as response:
                answer = json.loads(response.read())
                headers: Message = response.headers
        except HTTPError as error:
            with error:
                problem = f"HTTP status {error.code} {error.reason}"
                if error.code not in _TRY_AGAIN_STATUS:
                    raise RemoteError(f"{self._api} refuses: {' '.join(problem.split())}.") from error
                raise _TryAgain(problem, _retry_after(error.headers)) from error
        except (OSError, HTTPException, ValueError) as error:  # no connection, cut off, or not JSON
            raise _TryAgain(f"{type(error).__name__}: {error}") from error
        if not isinstance(answer, dict):
            raise RemoteError(f"{self._api}: the answer is no JSON object. Is it the address of a wiki's api.php?")
        return answer, headers


class _TryAgain(Exception):
    """A request that may succeed later; `wait_s` is how much later the server says."""

    def __init__(self, problem: str, wait_s: float | None = None) -> None:
        super().__init__(problem)
        self.problem, self.wait_s = problem, wait_s


def _retry_after(headers: Message) -> float | None:
    """Seconds: the header holds a number of them, or a date in GMT."""
    value = (headers.get("Retry-After") or "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value).replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
