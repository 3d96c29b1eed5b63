"""Articles through the real client, against a local HTTP server that speaks MediaWiki's API and its troubles."""

from __future__ import annotations

import json
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from time import time
from urllib.parse import parse_qs, urlsplit

import pytest

from shortlist.cli import main
from shortlist.data import read_passages, wikipedia
from shortlist.data.wikipedia import fetch_articles
from shortlist.errors import BadInput, RemoteError

ARTICLES = {
    "Berlin": "Berlin is the capital. Dr. Ada lives there.\n\n\n== History ==\nIt is old!\n=== Later ===\n",
    "Ancient history": "Long ago.\n…\nVery long ago.",
    "柏林": "柏林是德国首都。它有三百五十二万人口。",
    "Empty": "",
}
REDIRECTS = {"B-Town": "Bärlin", "Bärlin": "Berlin", "Round": "About", "About": "Round", "Nowhere": "Gone"}


class Wiki(ThreadingHTTPServer):
    """`troubles` are what it does instead of answering, one a request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, str]] = []
        self.agents: list[str] = []
        self.troubles: list = []

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/w/api.php"


class Handler(BaseHTTPRequestHandler):
    server: Wiki

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        self.server.requests.append(asked)
        self.server.agents.append(self.headers["User-Agent"])
        if self.server.troubles:
            self.server.troubles.pop(0)(self)
        else:
            self.send(json.dumps(answer(asked)).encode())

    def send(self, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


def answer(asked: dict[str, str]) -> dict:
    """What MediaWiki's action=query gives: one extract an answer, all pages in each."""
    assert (asked["action"], asked["format"], asked["redirects"], asked["explaintext"]) == ("query", "json", "1", "1")
    titles = asked["titles"].split("|")
    assert len(titles) <= 50
    normalized = [{"from": t, "to": t[0].upper() + t[1:]} for t in titles if t[0].islower()]
    followed, finals = [], []
    for title in (t[0].upper() + t[1:] for t in titles):
        passed = [title]
        while passed[-1] in REDIRECTS and REDIRECTS[passed[-1]] not in passed:
            passed.append(REDIRECTS[passed[-1]])
        if passed[-1] in REDIRECTS:
            passed.append(REDIRECTS[passed[-1]])
        followed += [{"from": a, "to": b} for a, b in pairwise(passed)]
        finals.append(passed[-1])
    pages = [page(title) for title in dict.fromkeys(finals)]
    texts = [p for p in pages if p["title"] in ARTICLES]
    start = int(asked.get("excontinue", 0))
    for one in texts[start : start + 1]:
        one["extract"] = ARTICLES[one["title"]]
    found: dict = {"query": {"normalized": normalized, "redirects": followed, "pages": pages}}
    if start + 1 < len(texts):
        found["continue"] = {"excontinue": str(start + 1), "continue": "||info"}
    return found


def page(title: str) -> dict:
    if title.startswith("Talk<"):
        return {"title": title, "invalid": True, "invalidreason": "it holds <"}
    if title not in ARTICLES:
        return {"ns": 0, "title": title, "missing": True}
    return {"ns": 0, "title": title, "pageid": 7, "lastrevid": 42, "fullurl": f"https://example.org/wiki/{title}"}


@pytest.fixture
def wiki(monkeypatch):
    server = Wiki()
    server.waits = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setattr(wikipedia, "sleep", server.waits.append)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(wiki: Wiki, *titles: str, lang: str = "en", **more):
    return fetch_articles(titles, lang, contact="ada@example.org", api=wiki.api, **more)


def test_articles_in_sentences(wiki):
    found = fetch(wiki, "Berlin", "ancient_history")
    assert [a.title for a in found.articles] == ["Berlin", "Ancient history"]
    assert found.redirected == {"ancient history": "Ancient history"}
    assert not found.missing
    berlin, ancient = (list(a.passages()) for a in found.articles)
    assert [(p.id, p.text) for p in berlin] == [
        ("Berlin#0", "Berlin is the capital."),
        ("Berlin#1", "Dr. Ada lives there."),
        ("Berlin#2", "It is old!"),
    ]
    assert [p.id for p in ancient] == ["Ancient_history#0", "Ancient_history#1"]
    assert (berlin[0].title, berlin[0].lang) == ("Berlin", "en")
    assert berlin[0].meta == {"url": "https://example.org/wiki/Berlin", "revision": 42}
    assert len(wiki.requests) == 2  # one text an answer
    assert set(wiki.agents) == {wiki.agents[0]}
    assert wiki.agents[0].startswith("shortlist/")
    assert "(ada@example.org)" in wiki.agents[0]
    assert wiki.requests[0]["maxlag"] == "5"


def test_the_verb_writes_what_index_reads(wiki, tmp_path, capsys):
    out = tmp_path / "wiki.jsonl.gz"
    command = [
        "articles",
        "B-Town",
        "Absent",
        "--lang",
        "en",
        "--contact",
        "ada@example.org",
        "--api",
        wiki.api,
        "-o",
        str(out),
    ]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "3 sentences of 1 articles" in told.out
    assert "B-Town is the article Berlin" in told.err
    assert "Absent: no such article" in told.err
    (article,) = fetch(wiki, "Berlin").articles
    assert list(read_passages(out)) == list(article.passages())
    assert main([*command[:1], "Absent", *command[3:]]) == 1


def test_a_language_without_spaces(wiki):
    (article,) = fetch(wiki, "柏林", lang="zh").articles
    assert [p.text for p in article.passages()] == ["柏林是德国首都。", "它有三百五十二万人口。"]


def test_redirects_and_titles_without_an_article(wiki):
    found = fetch(wiki, "B-Town", "Berlin", "Round", "Nowhere", "Absent", "Talk<x", "Empty", "Berlin")
    assert [a.title for a in found.articles] == ["Berlin", "Empty"]
    assert found.redirected == {"B-Town": "Berlin"}
    assert found.missing == {
        "Round": "a redirect that leads back to itself",
        "Nowhere": "no such article",
        "Absent": "no such article",
        "Talk<x": "not a valid title (it holds <)",
    }
    assert list(found.articles[1].passages()) == []


def test_titles_go_in_batches(wiki):
    titles = [f"Nothing {n}" for n in range(120)] + ["汉" * 80 + str(n) for n in range(10)]
    assert list(fetch(wiki, *titles).missing) == titles
    assert sum(len(r["titles"].split("|")) for r in wiki.requests) == 130
    assert max(len(r["titles"].encode()) for r in wiki.requests) < 4000
    assert len(wiki.requests) >= 4


def busy(**headers: str):
    return lambda handler: handler.send(b"slow down", 429, **headers)


def lagged(handler: Handler) -> None:
    handler.send(json.dumps({"error": {"code": "maxlag", "info": "Waiting for db: 7 s lagged"}}).encode(), Retry_After="7")


def cut_off(handler: Handler) -> None:
    handler.send(json.dumps(answer(handler.server.requests[-1])).encode()[:50], length=10_000)


def not_json(handler: Handler) -> None:
    handler.send(b"<html>Our servers are under maintenance</html>")


@pytest.mark.parametrize(
    ("trouble", "wait"),
    [
        (busy(), 1),
        (busy(Retry_After="3"), 3),
        (lambda handler: handler.send(b"", 500), 1),
        (lambda handler: handler.send(b"", 503, Retry_After="11"), 11),
        (lagged, 7),
        (cut_off, 1),
        (not_json, 1),
        (lambda handler: handler.connection.close(), 1),
    ],
    ids=["429", "429 with a time", "500", "503 with a time", "maxlag", "cut off", "not JSON", "hung up"],
)
def test_what_may_pass_is_tried_again(wiki, trouble, wait):
    wiki.troubles = [trouble]
    assert [a.title for a in fetch(wiki, "Berlin").articles] == ["Berlin"]
    assert wiki.waits == [wait]
    assert len(wiki.requests) == 2


def test_a_date_to_come_back(wiki):
    wiki.troubles = [busy(Retry_After=formatdate(time() + 60, usegmt=True)), busy(Retry_After=formatdate(time() - 60))]
    assert fetch(wiki, "Berlin").articles
    assert 55 < wiki.waits[0] <= 60
    assert wiki.waits[1] == 0


def test_waits_grow_and_end(wiki):
    wiki.troubles = [not_json] * 4
    with pytest.raises(RemoteError, match="did not answer in 4 attempts; the last: JSONDecodeError"):
        fetch(wiki, "Berlin", attempts=4)
    assert wiki.waits == [1, 2, 4]


def test_a_server_that_wants_to_be_left_alone_for_long(wiki):
    wiki.troubles = [busy(Retry_After="3600")]
    with pytest.raises(RemoteError, match="asks to come back in 3600 s"):
        fetch(wiki, "Berlin")
    assert wiki.waits == []


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (lambda h: h.send(b"no agent", 403), "refuses: HTTP status 403"),
        (lambda h: h.send(b'{"error": {"code": "badvalue", "info": "no"}}'), "refuses: badvalue: no"),
        (lambda h: h.send(b"[]"), "no JSON object. Is it the address"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(wiki, trouble, message):
    wiki.troubles = [trouble]
    with pytest.raises(RemoteError, match=message):
        fetch(wiki, "Berlin")
    assert len(wiki.requests) == 1


def test_addresses_that_redirect_in_a_circle(wiki):
    wiki.troubles = [lambda h: h.send(b"", 302, Location=h.path)] * 50
    with pytest.raises(RemoteError, match="infinite loop"):
        fetch(wiki, "Berlin")
    assert len(wiki.requests) < 15


def test_answers_that_go_on_in_a_circle(wiki):
    going_on = json.dumps({"query": {"pages": []}, "continue": {"excontinue": "1"}}).encode()
    wiki.troubles = [lambda h: h.send(going_on)] * 5
    with pytest.raises(RemoteError, match="go on in a circle"):
        fetch(wiki, "Berlin")


def test_nobody_there(monkeypatch):
    monkeypatch.setattr(wikipedia, "sleep", lambda _: None)
    with pytest.raises(RemoteError, match="did not answer in 2 attempts"):
        fetch_articles(["Berlin"], "en", contact="a@b.c", api="http://127.0.0.1:9/w/api.php", attempts=2)


@pytest.mark.parametrize(
    ("titles", "lang", "contact", "message"),
    [
        (["a|b"], "en", "a@b.c", "no title of an article"),
        ([" _ "], "en", "a@b.c", "no title of an article"),
        (["a"], "en.evil.org/", "a@b.c", "names no Wikipedia"),
        (["a"], "en", " ", "expected an e-mail address or a web page"),
        (["a"], "en", "a\r\nX-Evil: 1", "expected an e-mail address or a web page"),
    ],
)
def test_arguments_that_cannot_be(titles, lang, contact, message):
    with pytest.raises(BadInput, match=message):
        fetch_articles(titles, lang, contact=contact)
