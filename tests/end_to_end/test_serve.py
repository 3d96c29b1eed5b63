"""The HTTP service as plain HTTP clients see it: a real server, small real models, the library itself as the judge."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

from server_tools import PATIENCE_S, as_array, make_index, process, running  # noqa: E402
from shortlist.encoder import Encoder  # noqa: E402
from shortlist.errors import BadInput  # noqa: E402
from shortlist.index import Index  # noqa: E402
from shortlist.pipeline import Pipeline  # noqa: E402
from shortlist.reranker import Reranker  # noqa: E402
from shortlist.server import guard  # noqa: E402
from shortlist.server.work import Limits  # noqa: E402
from shortlist.text import sentences as sentences_of  # noqa: E402
from shortlist.types import Passage  # noqa: E402

TEXTS = ["the river in the city", "北京大学图书馆", "", "museum " * 200]


@pytest.fixture(scope="module")
def index_path(tmp_path_factory, tiny_encoder_folder):
    return make_index(tmp_path_factory.mktemp("serve") / "wiki.idx", tiny_encoder_folder)


@pytest.fixture(scope="module")
def server(index_path, tmp_path_factory, tiny_reranker_folder):
    words = make_index(tmp_path_factory.mktemp("serve") / "words.idx", None)
    with running([index_path, words], rerank=str(tiny_reranker_folder)) as one:
        yield one


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S, verify=False) as one:
        yield one


@pytest.fixture(scope="module")
def encoder(tiny_encoder_folder):
    return Encoder.load(tiny_encoder_folder, threads=1)


@pytest.fixture(scope="module")
def reranker(tiny_reranker_folder):
    return Reranker.load(tiny_reranker_folder, threads=1)


# --- embeddings


def test_openai_embeddings_are_the_encoders(client, encoder):
    reply = client.post("/v1/embeddings", json={"model": encoder.name, "input": TEXTS, "user": "u", "unknown": 1})
    assert reply.status_code == 200
    body = reply.json()
    assert set(body) == {"object", "data", "model", "usage"}
    assert [(one["object"], one["index"]) for one in body["data"]] == [("embedding", i) for i in range(4)]
    np.testing.assert_array_equal(as_array([one["embedding"] for one in body["data"]]), encoder.encode(TEXTS, kind=""))
    tokens = len(encoder._tokenize(TEXTS, "")[0].ids)
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert reply.headers["x-truncated-texts"] == "1"


def test_openai_embeddings_in_base64_of_one_text_with_a_prompt(client, encoder):
    body = {"input": "a river", "encoding_format": "base64", "dimensions": encoder.dims, "input_type": "query"}
    reply = client.post("/v1/embeddings", json=body)
    (one,) = reply.json()["data"]
    vector = np.frombuffer(base64.b64decode(one["embedding"]), "<f4")
    np.testing.assert_array_equal(vector, encoder.encode(["a river"], kind="query")[0])
    assert "x-truncated-texts" not in reply.headers


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({"input": [1, 2, 3]}, 400, None, "token ids"),
        ({"input": [[1], [2]]}, 400, None, "token ids"),
        ({"input": "x", "model": "gpt"}, 404, "model_not_found", "tiny-encoder"),
        ({"input": "x", "dimensions": 32}, 400, None, "64"),
        ({"input": []}, 400, None, "input"),
        ({"input": [1.5]}, 400, None, "input"),
        ({}, 400, None, "input"),
        ({"input": "x", "encoding_format": "int8"}, 400, None, "encoding_format"),
        ({"input": ["x"] * 2049}, 413, None, "2048"),
        ({"input": "x" * 122_881}, 413, None, "122880"),
    ],
)
def test_openai_errors_have_openais_shape(client, body, status, code, words):
    reply = client.post("/v1/embeddings", json=body)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]
    assert error["code"] == code


def test_tei_embed(client, encoder):
    for inputs in ("a river", ["a river", "a bridge"]):
        found = client.post("/embed", json={"inputs": inputs, "prompt_name": "passage", "normalize": True}).json()
        texts = [inputs] if isinstance(inputs, str) else inputs
        np.testing.assert_array_equal(as_array(found), encoder.encode(texts))
    assert len(client.post("/embed", json={"inputs": "museum " * 200}).json()) == 1


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"inputs": "museum " * 200, "truncate": False}, 413, "Validation"),
        ({"inputs": "x", "normalize": False}, 422, "Validation"),
        ({"inputs": "x", "truncation_direction": "left"}, 422, "Validation"),
        ({"inputs": "x", "prompt_name": "nothing"}, 422, "Validation"),
        ({"inputs": 3}, 422, "Validation"),
    ],
)
def test_tei_errors_have_teis_shape(client, body, status, kind):
    reply = client.post("/embed", json=body)
    assert (reply.status_code, reply.json()["error_type"]) == (status, kind)
    assert set(reply.json()) == {"error", "error_type"}


# --- rerank

QUERY, DOCUMENTS = "river city", ["the river in the city", "北京大学图书馆", "museum of the ocean", "river"]


@pytest.fixture(scope="module")
def logits(reranker):
    return reranker.score(QUERY, DOCUMENTS)


def best(scores):
    return [int(i) for i in np.argsort(-scores, kind="stable")]


def test_jina_rerank(client, reranker, logits):
    documents = [DOCUMENTS[0], {"text": DOCUMENTS[1]}, *DOCUMENTS[2:]]
    body = {"model": reranker.name, "query": QUERY, "documents": documents, "top_n": 3, "return_documents": True}
    reply = client.post("/v1/rerank", json=body).json()
    assert [one["index"] for one in reply["results"]] == best(logits)[:3]
    for one in reply["results"]:
        assert one["relevance_score"] == pytest.approx(1 / (1 + np.exp(-np.float64(logits[one["index"]]))))
        assert one["document"] == {"text": DOCUMENTS[one["index"]]}
    assert reply["usage"]["total_tokens"] == len(reranker._tokenize(QUERY, DOCUMENTS)[0].ids)
    assert (reply["object"], reply["model"]) == ("rerank", reranker.name)
    raw = client.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, "raw_scores": True}).json()["results"]
    assert [one["relevance_score"] for one in raw] == [float(logits[i]) for i in best(logits)]
    assert "document" not in raw[0]


def test_cohere_rerank(client, reranker, logits):
    body = {"model": reranker.name, "query": QUERY, "documents": DOCUMENTS, "max_tokens_per_doc": 4096}
    reply = client.post("/v2/rerank", json=body).json()
    assert set(reply) == {"id", "results", "meta"}
    assert [one["index"] for one in reply["results"]] == best(logits)
    assert all(set(one) == {"index", "relevance_score"} for one in reply["results"])
    wrong = client.post("/v2/rerank", json={**body, "model": "rerank-v3.5"})
    assert (wrong.status_code, set(wrong.json())) == (404, {"message"})
    assert client.post("/v2/rerank", json={**body, "documents": []}).status_code == 400


def test_tei_rerank(client, logits):
    reply = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "return_text": True, "raw_scores": True}).json()
    assert reply == [{"index": i, "score": float(logits[i]), "text": DOCUMENTS[i]} for i in best(logits)]
    assert client.post("/rerank", json={"query": " ", "texts": DOCUMENTS}).json()["error_type"] == "Validation"


def test_jinas_clients_read_detail(client):
    reply = client.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, "model": "jina-reranker"})
    assert reply.status_code == 404
    assert "tiny-reranker" in reply.json()["detail"]


# --- search


@pytest.mark.parametrize("strategy", ["two-stage", "rerank", "hybrid", "dense", "bm25"])
def test_search_gives_what_the_library_gives(client, index_path, reranker, strategy):
    body = {"query": "Häuser river 北京", "index": "wiki", "k": 7, "strategy": strategy}
    found = client.post("/v1/search", json=body).json()
    index = Index.open(index_path)
    if strategy in ("two-stage", "rerank"):
        first = "none" if strategy == "rerank" else None
        ranking = Pipeline(index, reranker)(body["query"], k=7, first=first)
    else:
        ranking = index.search(body["query"], 7, first=strategy)
    assert [(hit["id"], hit["score"]) for hit in found["hits"]] == [(hit.id, hit.score) for hit in ranking]
    for shown, hit in zip(found["hits"], ranking, strict=True):
        assert (shown["scores"], shown["ranks"]) == (dict(hit.scores), dict(hit.ranks))
        assert shown["text"] == hit.passage.text
        assert shown["meta"] == dict(hit.passage.meta)
        logit = hit.scores.get("rerank")
        assert shown["probability"] == (None if logit is None else reranker.probability(logit))
    assert set(found["timings"]) == {name for name in ranking.timings if name != "load_ms"}
    assert (found["strategy"], found["scored"]) == (strategy, dict(ranking.scored))


def test_search_marks_words_and_the_deciding_sentence(client, server, reranker):
    with Index.open(server.shelf.index("words").path, write=True) as index:
        text = "Nothing here. Die alten Türme und Häuser am Fluss. 没有。"
        index.add([Passage("h1", text, "Ein Turm", "de")])
    body = {"query": "Turm Haus 有", "index": "words", "k": 60, "highlights": True, "explain": True}
    found = client.post("/v1/search", json=body).json()
    assert found["timings"]["explain_ms"] > 0
    hit = next(hit for hit in found["hits"] if hit["id"] == "h1")
    assert [text[a:b] for a, b in hit["highlights"]["text"]] == ["Türme"]  # houses stand in most of these German passages
    assert hit["highlights"]["title"] == [[4, 8]]
    sentences = ["Nothing here.", "Die alten Türme und Häuser am Fluss.", "没有。"]
    scores = reranker.score(body["query"], sentences)
    start, stop = hit["explain"]["sentence"]
    assert text[start:stop] == sentences[int(scores.argmax())]
    assert hit["explain"]["score"] == float(scores.max())
    for one in found["hits"]:
        own = reranker.score(body["query"], sentences_of(one["text"], one["lang"]))
        assert one["explain"] == (None if not len(own) else {**one["explain"], "score": float(own.max())})


def test_search_says_what_it_cannot_do(client):
    def ask(**body):
        reply = client.post("/v1/search", json={"query": "river", **body})
        return reply.status_code, reply.json()["error"]["message"]

    assert ask() == (404, "index None is not served here. Give one of: wiki, words.")
    assert ask(index="other")[0] == 404
    assert ask(index="../wiki")[0] == 422
    assert ask(index="words", strategy="dense")[0] == 422
    assert ask(index="wiki", k=50, candidates=20) == (
        422,
        "k=50 but candidates=20: the second stage cannot return more than it reads. Raise candidates to at least 50.",
    )
    assert ask(index="wiki", candidates=5000)[0] == 413
    assert ask(index="wiki", nonsense=1)[0] == 422
    assert ask(index="wiki", max_ms=-1)[0] == 422
    assert ask(index="wiki", query="  ")[0] == 422
    reply = client.post("/v1/search", json={"index": "wiki"})
    assert reply.json()["error"]["param"] == "query"


def test_a_reranker_that_would_read_too_much_is_refused_unless_a_filter_leaves_less(index_path, tiny_reranker_folder):
    with running([index_path], rerank=str(tiny_reranker_folder), limits=Limits(queue_tokens=2000)) as one:
        ask = {"query": "river", "strategy": "rerank", "k": 5}
        assert httpx.post(f"{one.url}/v1/search", json=ask).status_code == 413
        found = httpx.post(f"{one.url}/v1/search", json={**ask, "where": {"id": {"in": ["p1", "p2", "none"]}}})
        assert {hit["id"] for hit in found.json()["hits"]} == {"p1", "p2"}
        assert httpx.post(f"{one.url}/v1/search", json={**ask, "where": {"nofield": 1}}).status_code == 422


def test_search_with_a_filter(client):
    body = {"query": "river", "index": "wiki", "k": 50, "strategy": "bm25", "where": {"lang": "en"}}
    hits = client.post("/v1/search", json=body).json()["hits"]
    assert hits
    assert {hit["lang"] for hit in hits} == {"en"}
    wrong = client.post("/v1/search", json={**body, "where": {"nofield": 1}})
    assert wrong.status_code == 422


# --- passages


def test_passages_come_and_go(client, tmp_path, tiny_encoder_folder):
    path = make_index(tmp_path / "new.idx", tiny_encoder_folder, 5)
    with running([path], limits=Limits(writer_idle_s=0.05)) as one, httpx.Client(base_url=one.url) as own:
        url, new = "/v1/indexes/new/passages", {"id": "n1", "text": "a wondrous river", "meta": {"year": 2020}}
        stored = own.post(url, json={"passages": [new], "mode": "add"})
        assert (stored.status_code, stored.json()) == (200, {"stored": 1, "truncated": 0, "passages": 6})
        reply = own.get(url, params={"id": ["n1", "nope", "p0"]}).json()
        assert [passage["id"] for passage in reply["data"]] == ["n1", "p0"]
        assert reply["data"][0] == {"id": "n1", "title": "", "text": "a wondrous river", "lang": "", "meta": {"year": 2020}}
        assert reply["missing"] == ["nope"]
        assert own.post("/v1/search", json={"query": "wondrous"}).json()["hits"][0]["id"] == "n1"
        assert own.post(url, json={"passages": [new], "mode": "add"}).status_code == 422
        about = own.get("/v1/indexes").json()["data"][0]
        assert about["fields"]["year"] == {
            "types": ["number"],
            "values": [{"value": 2020, "passages": 1}],
            "complete": True,
            "range": [2020, 2020],
        }
        assert own.get("/v1/indexes/new").json() == about
        assert about["bytes"] == one.shelf.index("new").index.sizes()
        assert sum(about["languages"].values()) == 6
        assert about["passages"] == 6
        assert own.request("DELETE", url, json={"ids": ["n1", "p0"]}).json() == {"deleted": 2, "passages": 4}
        assert "year" not in own.get("/v1/indexes/new").json()["fields"]
        assert own.request("DELETE", url, json={"ids": ["n1"]}).status_code == 422
        assert own.request("DELETE", url, json={}).status_code == 422
        wait_for(lambda: one.shelf.index("new")._writer is None)
        Index.open(path, write=True).close()  # the right to write has been handed back


def test_upsert_takes_the_place_of_the_old_passage(tmp_path):
    path = make_index(tmp_path / "new.idx", None, 5)
    with running([path]) as one, httpx.Client(base_url=one.url) as own:
        reply = own.post("/v1/indexes/new/passages", json={"passages": [{"id": "p1", "text": "altogether new"}]})
        assert (reply.status_code, reply.json()["passages"]) == (200, 5)
        assert reply.json()["stored"] == 1
        assert own.get("/v1/indexes/new/passages?id=p1").json()["data"][0]["text"] == "altogether new"


def test_a_writer_elsewhere_is_named_and_what_it_commits_is_found(tmp_path):
    path = make_index(tmp_path / "new.idx", None, 5)
    code = (
        "import sys; from shortlist import Index, Passage\n"
        "index = Index.open(sys.argv[1], write=True); print('open', flush=True); input()\n"
        "index.add([Passage('x', 'a zebra')]); print('added', flush=True); input()\n"
    )
    with running([path]) as one, httpx.Client(base_url=one.url) as own:
        ask = {"query": "zebra", "strategy": "bm25"}
        assert own.post("/v1/search", json=ask).json()["hits"] == []
        with subprocess.Popen(
            [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout.readline() == "open\n"
            body = {"passages": [{"id": "y", "text": "a yak"}], "mode": "add"}
            reply = own.post("/v1/indexes/new/passages", json=body)
            assert reply.status_code == 409
            assert f"process {other.pid}" in reply.json()["error"]["message"]
            assert str(tmp_path) not in reply.text
            assert reply.headers["retry-after"] == "5"
            other.stdin.write("\n")
            other.stdin.flush()
            assert other.stdout.readline() == "added\n"
            assert [hit["id"] for hit in own.post("/v1/search", json=ask).json()["hits"]] == ["x"]
            other.communicate("\n")
        assert own.post("/v1/indexes/new/passages", json=body).status_code == 200


# --- load: batches, queue, time


def test_a_lone_request_is_answered_at_once(client):
    """Not after the 40 ms that a kept connection waits where small packets are held back."""
    times = []
    for _ in range(20):
        start = time.perf_counter()
        client.post("/v1/embeddings", json={"input": "x"})
        times.append(time.perf_counter() - start)
    assert sorted(times)[5] < 0.035


def test_results_do_not_depend_on_who_else_asks(client, encoder, reranker):
    texts = [f"river {i} " + "museum " * (i % 40) for i in range(64)]

    async def main():
        async with httpx.AsyncClient(base_url=str(client.base_url), timeout=PATIENCE_S) as many:
            vectors = [many.post("/v1/embeddings", json={"input": texts[i : i + 4]}) for i in range(60)]
            scores = [many.post("/rerank", json={"query": texts[i], "texts": texts, "raw_scores": True}) for i in range(20)]
            return await asyncio.gather(*vectors, *scores)

    replies = [reply.json() for reply in asyncio.run(main())]
    for i, reply in enumerate(replies[:60]):
        np.testing.assert_array_equal(
            as_array([one["embedding"] for one in reply["data"]]), encoder.encode(texts[i : i + 4], kind="")
        )
    for i, reply in enumerate(replies[60:]):
        scores = {one["index"]: one["score"] for one in reply}
        np.testing.assert_array_equal(as_array([scores[j] for j in range(64)]), reranker.score(texts[i], texts))


def test_too_much_is_429_with_a_time_to_wait(index_path):
    limits = Limits(queue_tokens=300)
    with running([index_path], held=True, limits=limits) as (one, engine), httpx.Client(base_url=one.url) as own:
        long = {"input": ["museum " * 100] * 2}
        threads = [in_thread(lambda: httpx.post(f"{one.url}/v1/embeddings", json=long, timeout=PATIENCE_S))]
        assert engine.begun.wait(PATIENCE_S)
        reply = own.post("/v1/embeddings", json=long)
        assert reply.status_code == 429
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.json()["error"]["type"] == "rate_limit_error"
        assert own.get("/healthz").status_code == 200
        assert own.post("/v1/embeddings", json={"input": ["museum " * 100] * 9}).status_code == 413
        engine.gate.set()
        assert threads[0].result().status_code == 200


def test_a_request_that_takes_too_long_is_504(index_path):
    with running([index_path], held=True, limits=Limits(request_s=0.1)) as (one, _):
        assert httpx.post(f"{one.url}/v1/embeddings", json={"input": "x"}).status_code == 504


def test_work_of_a_client_that_left_is_dropped(index_path):
    with running([index_path], held=True) as (one, engine):
        first = in_thread(lambda: httpx.post(f"{one.url}/v1/embeddings", json={"input": "x"}, timeout=PATIENCE_S))
        assert engine.begun.wait(PATIENCE_S)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{one.url}/v1/embeddings", json={"input": ["y"] * 50}, timeout=0.3)
        wait_for(lambda: 'shortlist_dropped_requests_total{reason="cancelled"} 1.0' in httpx.get(f"{one.url}/metrics").text)
        engine.gate.set()
        assert first.result().status_code == 200
        assert httpx.post(f"{one.url}/v1/embeddings", json={"input": ["z"] * 3}).status_code == 200
        assert engine.batches == [1, 3]


# --- who may come in

KEYS = "read reader aaaaaaaaaaaaaaaa\nwrite writer bbbbbbbbbbbbbbbb\n"


@pytest.fixture(scope="module")
def locked(index_path, tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# ours\n\n{KEYS}")
    with running([index_path], keys=guard.read_keys(file), hosts={"localhost", "127.0.0.1"}) as one:
        yield one


@pytest.mark.parametrize(
    ("header", "reads", "writes"),
    [
        (None, 401, 401),
        ("Bearer nonsense", 401, 401),
        ("Basic aaaaaaaaaaaaaaaa", 401, 401),
        ("Bearer", 401, 401),
        ("bearer aaaaaaaaaaaaaaaa", 200, 403),
        ("Bearer bbbbbbbbbbbbbbbb", 200, 200),
    ],
)
def test_keys(locked, header, reads, writes):
    headers = {"Authorization": header} if header else {}
    for path in ("/v1/models", "/metrics", "/v1/indexes", "/v1/indexes/wiki", "/openapi.json"):
        reply = httpx.get(locked.url + path, headers=headers)
        assert reply.status_code == reads
        assert ("www-authenticate" in reply.headers) == (reads == 401)
    body = {"passages": [{"id": f"k{header}", "text": "x"}], "mode": "add"}
    assert httpx.post(f"{locked.url}/v1/indexes/wiki/passages", json=body, headers=headers).status_code == writes
    assert httpx.get(f"{locked.url}/healthz").status_code == 200


def test_errors_at_the_door_speak_the_dialect_too(locked):
    assert set(httpx.post(f"{locked.url}/v2/rerank", json={}).json()) == {"message"}
    assert set(httpx.post(f"{locked.url}/embed", json={}).json()) == {"error", "error_type"}
    assert httpx.post(f"{locked.url}/v1/embeddings", json={}).json()["error"]["type"] == "authentication_error"


def test_another_name_in_the_host_header_is_refused(locked):
    headers = {"Authorization": "Bearer aaaaaaaaaaaaaaaa"}
    for host, status in (("evil.example", 421), ("127.0.0.1.evil.example:80", 421), ("localhost:1", 200), ("", 421)):
        assert httpx.get(f"{locked.url}/v1/models", headers={**headers, "Host": host}).status_code == status


@pytest.mark.parametrize(
    "text",
    ["read a", "own a aaaaaaaaaaaaaaaa", "read a short", "read a b c", "read a sha256:12", "read ä aaaaaaaaaaaaaaaa", ""],
)
def test_a_file_of_keys_that_does_not_fit_is_refused_without_showing_it(tmp_path, text):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(BadInput) as error:
        guard.read_keys(tmp_path / "keys")
    assert "aaaaaaaaaaaaaaaa" not in str(error.value)


def test_keys_by_hash_and_from_the_environment(monkeypatch):
    digest = "f34ad4b3ae1e2cf33092e2abb60dc0444781c15d0e2e9ecdb37e4b14176a0164"
    monkeypatch.setenv("SHORTLIST_KEYS", f"read one cccccccccccccccc,write two sha256:{digest}")
    one, two = guard.read_keys(None)
    assert (one.name, one.write, two.name, two.write) == ("one", False, "two", True)
    assert "cccccccccccccccc" not in repr(one)
    monkeypatch.setenv("SHORTLIST_KEYS", "read one cccccccccccccccc,write two cccccccccccccccc")
    with pytest.raises(BadInput, match="twice"):
        guard.read_keys(None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "127.0.0.1.nip.io"])
def test_beyond_loopback_there_must_be_a_key(host, monkeypatch):
    with pytest.raises(BadInput, match="there is no key"):
        guard.checked_address(host, ())
    monkeypatch.setenv("SHORTLIST_KEYS", KEYS.replace("\n", ","))
    assert not guard.checked_address(host, guard.read_keys(None))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_needs_none(host):
    assert guard.checked_address(host, ())


# --- what can be seen


def test_every_answer_has_an_id_and_the_headers_of_a_careful_server(client):
    for reply in (client.get("/v1/models"), client.get("/nothing"), client.put("/v1/rerank"), client.post("/embed")):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["content-security-policy"].startswith("default-src 'none'")
        assert len(reply.headers["x-request-id"]) == 32
        assert "server" not in reply.headers
    assert client.get("/nothing").status_code == 404
    assert client.put("/v1/rerank").status_code == 405
    assert client.get("/healthz", headers={"X-Request-ID": "my-id.7"}).headers["x-request-id"] == "my-id.7"
    assert client.get("/healthz", headers={"X-Request-ID": "my id"}).headers["x-request-id"] != "my id"


def test_the_log_has_one_line_a_request_and_no_text_of_it(client, caplog):
    logging.getLogger("shortlist.access").setLevel(logging.INFO)
    with caplog.at_level(logging.INFO, "shortlist.access"):
        client.post("/v1/rerank?secret=1", json={"query": "secret", "documents": ["secret"]}, headers={"X-Request-ID": "r1"})
        wait_for(lambda: caplog.records)
    (record,) = caplog.records
    line = json.loads(record.message)
    assert "secret" not in record.message
    assert (line["request_id"], line["route"], line["status"], line["method"]) == ("r1", "/v1/rerank", 200, "POST")
    assert line["tokens"] > 0
    assert line["ms"] > 0


def test_a_mistake_of_ours_is_500_with_an_id_and_no_traceback(index_path, monkeypatch, caplog):
    with running([index_path]) as one:
        monkeypatch.setattr(one.shelf.indexes["wiki"].index, "search", lambda *_, **__: 1 / 0)
        with caplog.at_level(logging.ERROR, "shortlist.access"):
            reply = httpx.post(f"{one.url}/v1/search", json={"query": "x"}, headers={"X-Request-ID": "r2"})
            wait_for(lambda: caplog.records)
    assert reply.status_code == 500
    assert "r2" in reply.json()["error"]["message"]
    assert "Zero" not in reply.text
    assert "ZeroDivisionError" in json.loads(caplog.records[0].message)["error"]


def test_metrics_count_what_happened(client, encoder):
    client.post("/v1/embeddings", json={"input": ["museum " * 200]})
    client.post("/v1/search", json={"query": "river", "index": "wiki"})
    text = client.get("/metrics").text
    for line in (
        'shortlist_requests_total{method="POST",route="/v1/embeddings",status="200"}',
        'shortlist_stage_seconds_count{stage="rerank"}',
        'shortlist_stage_seconds_count{stage="wait"}',
        f'shortlist_batch_sequences_count{{model="{encoder.name}"}}',
        f'shortlist_tokens_total{{model="{encoder.name}"}}',
        f'shortlist_truncated_texts_total{{model="{encoder.name}"}}',
        "shortlist_queue_tokens 0.0",
        "shortlist_requests_in_flight 0.0",
        'shortlist_index_passages{index="wiki"}',
        'shortlist_model_info{dims="64",kind="encoder",max_tokens="128",model="tiny-encoder"} 1.0',
    ):
        assert f"\n{line}" in text, line


def test_models_and_readiness(client, encoder, reranker):
    data = client.get("/v1/models").json()["data"]
    assert [(one["id"], one["object"], one["kind"]) for one in data] == [
        (encoder.name, "model", "encoder"),
        (reranker.name, "model", "reranker"),
    ]
    assert client.get("/readyz").json() == {"status": "ok"}


def test_a_damaged_index_is_not_ready(tmp_path):
    path = make_index(tmp_path / "new.idx", None, 5)
    with running([path]) as one:
        content = (path / "published").read_bytes()
        (path / "published").write_bytes(content[:-3])
        reply = httpx.get(f"{one.url}/readyz")
        assert (reply.status_code, reply.json()["error"]["type"]) == (503, "server_error")
        assert str(tmp_path) not in reply.text


# --- the process


def test_the_command_finishes_what_it_took_when_it_is_told_to_end(tmp_path, tiny_encoder_folder):
    path = make_index(tmp_path / "new.idx", tiny_encoder_folder, 5)
    with process(path, "--rerank", "none", "--threads", "1") as (server, url):
        assert httpx.get(f"{url}/readyz").status_code == 200
        body = {"input": ["museum of the river " * 30] * 1500}
        reply = in_thread(lambda: httpx.post(f"{url}/v1/embeddings", json=body, timeout=PATIENCE_S))
        wait_for(lambda: "shortlist_requests_in_flight 1.0" in httpx.get(f"{url}/metrics").text)
        server.send_signal(signal.SIGTERM)
        assert reply.result().status_code == 200
        assert server.wait(PATIENCE_S) in (0, -signal.SIGTERM)
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


class Writer(threading.Thread):
    """A client that stores, replaces and deletes passages of its own until the server is gone, and remembers what it was told.

    `held` is id -> text by the acknowledged answers; `before` and `after` are that and what it is if the last request, to which
    no answer came, was done after all.
    """

    def __init__(self, url, name):
        super().__init__(daemon=True)
        self._address, self._name = f"{url}/v1/indexes/new/passages", name
        self.held, self.after, self.answers = {}, {}, 0
        self.start()

    def run(self):
        rng = random.Random(self._name)
        with suppress(httpx.TransportError), httpx.Client(timeout=PATIENCE_S, verify=False) as client:
            for number in itertools.count():
                known = sorted(self.held)
                if number % 4 == 3:  # some go
                    some = rng.sample(known, min(2, len(known)))
                    self._ask(client, "DELETE", {"ids": some}, {name: self.held[name] for name in known if name not in some})
                    continue
                replaced = rng.sample(known, min(2, len(known))) if number % 4 == 2 else []
                fresh = [f"{self._name}-{number}-{i}" for i in range(rng.randint(1, 5))]
                texts = {name: f"zebra {name} of {number}" for name in [*replaced, *fresh]}
                self._ask(client, "POST", {"passages": as_passages(texts)}, {**self.held, **texts})

    def _ask(self, client, method, body, after):
        self.after = after
        client.request(method, self._address, json=body).raise_for_status()
        self.held, self.answers = after, self.answers + 1


def as_passages(texts):
    return [{"id": name, "text": text} for name, text in texts.items()]


def of_writer(index, name):
    return {one.id: one.text for one in index.passages() if one.id.startswith(f"{name}-")}


@pytest.mark.parametrize("rounds", [3, pytest.param(25, marks=pytest.mark.durability)])
def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path, tiny_encoder_folder, rounds):
    """Each round: a server, three clients that write, and SIGKILL at a moment that nobody chose."""
    path = make_index(tmp_path / "new.idx", tiny_encoder_folder, 5)
    rng, kept = random.Random(int(os.environ.get("SHORTLIST_TEST_SEED", "1"))), {}
    for round_ in range(rounds):
        with process(path, "--rerank", "none", "--threads", "1") as (server, url):
            writers = {f"{round_}{letter}": Writer(url, f"{round_}{letter}") for letter in "abc"}
            wait_for(lambda some=writers: all(one.answers > 3 for one in some.values()))
            time.sleep(rng.uniform(0, 0.3))
            server.send_signal(signal.SIGKILL)
            for one in writers.values():
                one.join(PATIENCE_S)
        for write in (False, True):  # as a reader finds it, and after what a writer completes
            with Index.open(path, write=write) as index:
                for name, one in writers.items():
                    kept[name] = of_writer(index, name)
                    assert kept[name] in (one.held, one.after)
                assert {name: of_writer(index, name) for name in kept} == kept
    with Index.open(path, write=True) as index:
        assert index.check().sound
        stored = {name for some in kept.values() for name in some}
        assert {hit.id for hit in index.search("zebra", 10**6, first="bm25")} == stored
        assert stored <= {hit.id for hit in index.search("zebra", 10**6, first="dense")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rerank", "none"], "nothing to serve"),
        (["--host", "0.0.0.0", "--rerank", "none", "--model", "x"], "there is no key"),
        (["nowhere.idx", "--rerank", "none"], "no such index"),
        (["a/one.idx", "b/one.idx", "--rerank", "none"], "two indexes"),
        (["-x=y.idx", "--rerank", "none"], "unrecognized"),
        ([".idx", "--rerank", "none"], "cannot be the name"),
        (["x.idx", "--max-queue", "1"], "queue_tokens=1"),
    ],
)
def test_the_command_refuses(tmp_path, words, message):
    done = subprocess.run(
        [sys.executable, "-m", "shortlist", "serve", *words], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode in (1, 2)
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_the_command_opens_the_page(tmp_path):
    path, seen = make_index(tmp_path / "new.idx", None, 5), tmp_path / "seen"
    (tmp_path / "browser").write_text(f'#!/bin/sh\nprintf %s "$1" > {seen}.part && mv {seen}.part {seen}\n')
    (tmp_path / "browser").chmod(0o755)
    with process(path, "--rerank", "none", "--open", env={**os.environ, "BROWSER": f"{tmp_path}/browser %s"}) as (_, url):
        wait_for(seen.exists)
        assert seen.read_text() == url
        assert "<title>shortlist</title>" in httpx.get(url).text


def test_without_the_extra_the_command_says_what_to_install():
    code = "import sys; sys.modules['fastapi'] = None; from shortlist.cli import main; sys.exit(main(['serve', 'x.idx']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert "MissingExtra: `shortlist serve` needs the package 'fastapi'" in done.stderr
    assert "shortlist[serve]" in done.stderr


# --- helpers


class in_thread(threading.Thread):
    """A call on a thread; `result` waits for it."""

    def __init__(self, call):
        super().__init__(daemon=True)
        self._call, self._result, self._error = call, None, None
        self.start()

    def run(self):
        try:
            self._result = self._call()
        except Exception as error:
            self._error = error

    def result(self):
        self.join(PATIENCE_S)
        assert not self.is_alive()
        if self._error:
            raise self._error
        return self._result


def wait_for(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
