"""The HTTP service among enemies: whatever comes, the answer is a 4xx in the dialect's shape, and the next client is served."""

from __future__ import annotations

import json
import re
import socket
import time
from contextlib import suppress

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

from server_tools import PATIENCE_S, make_index, running  # noqa: E402
from shortlist.server.work import Limits  # noqa: E402

POSTS = ["/v1/embeddings", "/v1/rerank", "/v2/rerank", "/rerank", "/embed", "/v1/search", "/v1/indexes/wiki/passages"]
LIMITS = Limits(body_bytes=100_000, held_bytes=150_000, header_s=0.5, body_s=0.5, connections=50)
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_encoder_folder, tiny_reranker_folder):
    path = make_index(tmp_path_factory.mktemp("serve") / "wiki.idx", tiny_encoder_folder, 20)
    with running([path], rerank=str(tiny_reranker_folder), limits=LIMITS, hosts={"127.0.0.1"}) as one:
        yield one


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S, verify=False) as one:
        yield one
        assert one.get("/readyz").status_code == 200


def refused(reply, *statuses):
    """The answer is a refusal that a program can read and that shows nothing of the inside."""
    assert reply.status_code in (statuses or (400, 422))
    body = reply.json()
    message = body.get("message") or (body["error"] if isinstance(body["error"], str) else body["error"]["message"])
    assert 0 < len(message) < 1000
    assert "Traceback" not in reply.text
    assert "site-packages" not in reply.text
    return True


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"17",
        b'"x"',
        b"{}",
        b"\xff\xfe\x00",
        b"\xef\xbb\xbf{}",
        b'{"query": NaN}',
        b'{"query": "x", "input": [Infinity]}',
        b"1" * 5000,
        b'{"k": 1e999999}',
        b'{"k": ' + b"9" * 90_000 + b"}",
        b"[" * 50_000,
        b'{"a":' * 15_000,
        b'{"query": "\\ud800", "input": "\\udfff", "inputs": "\\ud800", "documents": ["\\ud800"], "texts": ["\\ud800"]}',
        b'{"query": 3, "documents": "x", "texts": {"a": 1}, "input": {}, "inputs": [[]], "passages": {"id": 1}}',
        b'{"query": "x", "documents": [1], "texts": [null], "input": [true], "inputs": [true], "passages": [[]]}',
    ],
    ids=lambda body: body[:24].decode("latin-1") if isinstance(body, bytes) else None,
)
def test_bodies_that_make_no_sense(client, path, body):
    assert refused(client.post(path, content=body, headers=JSON))


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x", "\x80"])
def test_only_json_is_read_so_no_page_of_another_site_can_post(client, path, kind):
    headers = {} if kind is None else {"Content-Type": kind.encode("latin-1")}
    body = {"input": "x", "inputs": "x", "query": "x", "documents": ["x"], "texts": ["x"]}
    assert refused(client.post(path, content=json.dumps(body), headers=headers))


def passage(**fields):
    return {"passages": [{"id": "a", "text": "b", **fields}], "mode": "add"}


@pytest.mark.parametrize(
    "body",
    [
        passage(id=""),
        passage(id="x" * 513),
        passage(id="a\u0000b"),
        passage(id=1),
        passage(text=None),
        passage(meta=[1]),
        passage(meta="x"),
        passage(lang="x" * 36),
        passage(nonsense=1),
        passage(meta={"a": json.loads("[" * 40 + "]" * 40)}),
        {"passages": [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], "mode": "add"},
        {"passages": [], "mode": "add"},
        {"passages": [{"id": "a", "text": "x"}], "mode": "replace"},
        {"passages": [{"text": "x"}], "mode": "add"},
    ],
)
def test_passages_that_cannot_be_stored(client, server, body):
    assert refused(client.post("/v1/indexes/wiki/passages", json=body))
    assert len(server.shelf.index("wiki").index) == 20


@pytest.mark.parametrize(
    "text",
    ['{"a": NaN}', '{"a": -Infinity}', '{"a": 1e400}', '{"a": "\\ud800"}', '{"\\ud800": 1}', '{"a": ' + "9" * 5000 + "}"],
)
def test_metadata_that_json_cannot_hold(client, server, text):
    body = '{"mode": "add", "passages": [{"id": "a", "text": "b", "meta": ' + text + "}]}"
    assert refused(client.post("/v1/indexes/wiki/passages", content=body, headers=JSON))
    assert len(server.shelf.index("wiki").index) == 20


@pytest.mark.parametrize("number", [0, -1, 1e30, 2**63, 10**400, 1.5, "5", True, None, [1]])
def test_numbers_out_of_range(client, number):
    for name in ("k", "candidates", "max_ms"):
        if (name, number) in (("candidates", None), ("max_ms", None), ("max_ms", 0), ("max_ms", 1.5)):
            continue
        content = json.dumps({"query": "river", name: number})
        assert refused(client.post("/v1/search", content=content, headers=JSON), 400, 413, 422), name
    content = json.dumps({"query": "river", "documents": ["x"], "top_n": number})
    assert number is None or refused(client.post("/v1/rerank", content=content, headers=JSON))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/indexes/nope/passages?id=a",
        "/v1/indexes/..%2f..%2fetc/passages?id=a",
        "/v1/indexes/%00/passages?id=a",
        "/v1/indexes/" + "x" * 300 + "/passages?id=a",
        "/v1/indexes/%ed%a0%80/passages?id=a",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
        "/../../etc/passwd",
        "/v1/%2e%2e/%2e%2e/etc/passwd",
        "/docs",
        "/redoc",
    ],
)
def test_paths_lead_nowhere(client, path):
    assert refused(client.get(path), 400, 404, 422)


def test_ids_that_nobody_has(client):
    reply = client.get("/v1/indexes/wiki/passages", params={"id": ["", "\x00", "💥" * 500, "' OR 1=1 --", "p1"]})
    assert [one["id"] for one in reply.json()["data"]] == ["p1"]
    assert refused(client.get("/v1/indexes/wiki/passages", params={"id": ["x"] * 1001}))
    assert refused(client.get("/v1/indexes/wiki/passages"))


def test_a_body_that_is_too_large_is_refused_before_it_is_read(client, server):
    assert refused(client.post("/embed", content=b"x" * 100_001, headers=JSON), 413)

    def pieces():
        for _ in range(20):
            yield b"x" * 10_000

    assert refused(client.post("/embed", content=pieces(), headers=JSON), 413)
    with raw(server) as one:
        one.sendall(b"POST /embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999999999999\r\n\r\n")
        assert b" 413 " in one.recv(4096) or b" 400 " in one.recv(4096)


def raw(server):
    return socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)


def ended(connection):
    """Whether the server closes the connection; what it said before that."""
    said = b""
    connection.settimeout(PATIENCE_S)
    try:
        while piece := connection.recv(4096):
            said += piece
    except ConnectionResetError:
        pass
    return said


@pytest.mark.parametrize("first", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: "])
def test_slow_headers_are_not_waited_for(client, server, first):
    start = time.monotonic()
    with raw(server) as one:
        one.sendall(first)
        assert ended(one) == b""
    assert 0.3 < time.monotonic() - start < 10


def test_headers_that_drip_do_not_stretch_the_time(client, server):
    start = time.monotonic()
    with raw(server) as one, suppress(OSError):
        one.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        while time.monotonic() - start < 10:
            one.sendall(b"X-A: b\r\n")
            time.sleep(0.05)
    assert time.monotonic() - start < 5


def test_a_kept_connection_has_its_time_again(client, server):
    with raw(server) as one:
        for _ in range(2):
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            said = b""
            while not said.endswith(b"}"):
                said += one.recv(4096)
            assert b"200 OK" in said
            time.sleep(0.7)  # longer than headers may take: between requests the keep-alive time holds
        one.sendall(b"GET /hea")
        assert ended(one) == b""


def test_a_slow_body_is_408(client, server):
    with raw(server) as one:
        one.sendall(b"POST /embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
        assert b" 408 " in ended(one)


def test_an_answer_that_nobody_reads_is_not_kept(client, server):
    content = json.dumps({"inputs": ["x"] * 2000}).encode()
    head = b"POST /embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", server.port))
        one.sendall(3 * (head % len(content) + content))  # more than the system holds back for a connection
        assert one.recv(12) == b"HTTP/1.1 200"
        time.sleep(1.5)  # the answer may wait half a second
        said = ended(one)
    (length, *_) = re.findall(rb"content-length: (\d+)", said)
    assert len(said) < 3 * int(length)


def test_a_flood_of_headers_is_cut_short(client, server):
    with raw(server) as one:
        try:
            one.sendall(
                b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"".join(b"X-%d: %d\r\n" % (i, i) for i in range(100_000))
            )
        except OSError:
            return
        assert b"200 OK" not in ended(one)


def test_two_hosts_or_none_are_refused(client, server):
    for hosts in (b"", b"Host: 127.0.0.1\r\nHost: evil.example\r\n", b"Host: evil.example\r\n"):
        with raw(server) as one:
            one.sendall(b"GET /v1/models HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
            assert b"200 OK" not in ended(one)


def test_bodies_of_many_are_bounded_together(client, server):
    held = []
    try:
        for _ in range(2):
            held.append(raw(server))
            held[-1].sendall(b"POST /embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 90000\r\n\r\n" + b"x" * 80_000)
        assert any(b" 429 " in ended(one) for one in held)
    finally:
        for one in held:
            one.close()


def test_connections_are_bounded(client, server):
    held = [raw(server) for _ in range(LIMITS.connections)]
    try:
        replies = [httpx.get(f"{server.url}/healthz").status_code for _ in range(3)]
        assert 503 in replies
    finally:
        for one in held:
            one.close()
    time.sleep(0.1)


def test_markup_in_a_passage_comes_back_as_json_and_nothing_else(client):
    text = "<script>alert(1)</script> zebra"
    assert client.post("/v1/indexes/wiki/passages", json=passage(id="<b>", text=text)).status_code == 200
    reply = client.post("/v1/search", json={"query": "zebra", "k": 1, "strategy": "bm25"})
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["hits"][0]["text"] == text
    assert client.request("DELETE", "/v1/indexes/wiki/passages", json={"ids": ["<b>"]}).status_code == 200
