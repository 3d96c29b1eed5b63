"""Traces of the HTTP service: what spans hold, what never gets into them, and that nothing is loaded unless asked for."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

from server_tools import PATIENCE_S, make_index, process, running  # noqa: E402

SECRET = "zebrasecret"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

# `shortlist serve` up to where it would answer; then which parts of OpenTelemetry are loaded. FastAPI itself loads the API.
START = """
import sys
from shortlist.cli import main
from shortlist.server import run
parts = ("sdk", "exporter", "instrumentation", "proto", "semconv")
run.serve = lambda *_: print([part for part in parts if f"opentelemetry.{part}" in sys.modules])
sys.exit(main(["serve", sys.argv[1], "--rerank", "none", "--port", "0", *sys.argv[2:]]))
"""


def need_otel():
    for name in ("sdk.trace", "instrumentation.asgi", "exporter.otlp.proto.http.trace_exporter"):
        pytest.importorskip(f"opentelemetry.{name}", reason="the extra otel is not installed")


def started(*words, before="", **env):
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | env
    command = [sys.executable, "-c", before + START, *map(str, words)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def index_path(tmp_path_factory, tiny_encoder_folder):
    return make_index(tmp_path_factory.mktemp("otel") / "wiki.idx", tiny_encoder_folder, 20)


def test_off_loads_nothing_of_it(index_path):
    done = started(index_path)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize("how", [{"words": ["--otel"]}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}])
def test_without_the_extra_the_command_says_what_to_install(index_path, how):
    words = how.pop("words", [])
    done = started(index_path, *words, before="import sys; sys.modules['opentelemetry.exporter'] = None\n", **how)
    assert done.returncode == 1
    assert "needs the package 'opentelemetry.exporter" in done.stderr
    assert "shortlist[otel]" in done.stderr.replace("\n", "")
    assert "Traceback" not in done.stderr


def test_on_loads_what_it_needs(index_path):
    """So that the test above can fail."""
    need_otel()
    assert started(index_path, "--otel").stdout.startswith("['sdk', 'exporter', 'instrumentation'")


def test_another_protocol_is_refused(index_path):
    need_otel()
    done = started(index_path, "--otel", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert done.returncode == 1
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=grpc" in done.stderr


@pytest.fixture(scope="module")
def traced(index_path, tiny_reranker_folder):
    """(address, spans in memory) of a server."""
    need_otel()
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from shortlist.server.tracing import Traced

    spans, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with running([index_path], rerank=str(tiny_reranker_folder), around=partial(Traced, provider=provider)) as one:
        yield one.url, spans


def ask(traced, method, path, **request):
    """(reply, its only span)."""
    url, spans = traced
    spans.clear()
    reply = httpx.request(method, f"{url}{path}", timeout=PATIENCE_S, **request)
    return reply, waited_for(spans)


def waited_for(spans):
    """The only span; it may end a moment after the answer."""
    end = time.monotonic() + PATIENCE_S
    while not spans.get_finished_spans() and time.monotonic() < end:
        time.sleep(0.001)
    (span,) = spans.get_finished_spans()
    return span


def test_a_search_is_a_span_in_the_clients_trace_with_the_time_of_each_stage(traced):
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "r7"}
    reply, span = ask(traced, "POST", "/v1/search", json={"query": f"river {SECRET}"}, headers=headers)
    assert reply.status_code == 200
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert (span.name, span.kind.name) == ("POST /v1/search", "SERVER")
    assert (span.attributes["http.route"], span.attributes["shortlist.request_id"]) == ("/v1/search", "r7")
    assert 200 in (span.attributes.get("http.status_code"), span.attributes.get("http.response.status_code"))
    for stage, ms in reply.json()["timings"].items():
        assert span.attributes[f"shortlist.{stage}"] == pytest.approx(ms, abs=0.01)
    stages = ("waited", "analyze", "bm25", "encode", "dense", "fuse", "rerank", "total")
    assert {f"shortlist.{stage}_ms" for stage in stages} <= set(span.attributes)
    assert span.attributes["shortlist.tokens"] > 0
    took = (span.end_time - span.start_time) / 1e6
    assert span.attributes["shortlist.total_ms"] <= took


@pytest.mark.parametrize(
    ("path", "body", "stage"),
    [
        ("/v1/embeddings", {"input": "museum"}, "encode"),
        ("/rerank", {"query": "museum", "texts": ["river", "city"]}, "rerank"),
    ],
)
def test_models_have_their_stage_too(traced, path, body, stage):
    _, span = ask(traced, "POST", path, json=body)
    assert span.parent is None
    assert span.attributes[f"shortlist.{stage}_ms"] > 0
    assert len(span.attributes["shortlist.request_id"]) == 32


@pytest.mark.parametrize(
    ("method", "path", "body", "name"),
    [
        ("POST", "/v1/search", {"query": SECRET, "explain": True, "highlights": True}, "POST /v1/search"),
        ("POST", "/v1/rerank", {"query": SECRET, "documents": [SECRET]}, "POST /v1/rerank"),
        ("POST", "/v1/embeddings", {"input": [SECRET]}, "POST /v1/embeddings"),
        ("DELETE", "/v1/indexes/wiki/passages", {"ids": [SECRET]}, "DELETE /v1/indexes/{name}/passages"),
        ("GET", f"/v1/indexes/wiki/passages?id={SECRET}", None, "GET /v1/indexes/{name}/passages"),
        ("GET", f"/?q={SECRET}", None, "GET /"),
        ("GET", f"/{SECRET}?{SECRET}", None, "GET none"),
        ("POST", "/v1/search", {"query": SECRET, SECRET: 1}, "POST /v1/search"),
    ],
)
def test_no_text_of_a_user_gets_into_a_span(traced, method, path, body, name):
    _, span = ask(traced, method, path, json=body)
    assert span.name == name
    assert SECRET not in span.to_json()


def test_probes_and_unsampled_traces_leave_no_span(traced):
    url, spans = traced
    spans.clear()
    for path in ("/healthz", "/readyz", "/metrics"):
        httpx.get(f"{url}{path}")
    httpx.get(f"{url}/v1/models", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    httpx.get(f"{url}/v1/indexes")
    assert waited_for(spans).name == "GET /v1/indexes"


@contextmanager
def collector():
    """A collector that speaks OTLP over HTTP: (address, bodies that came)."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            packed = self.headers.get("Content-Encoding") == "gzip"
            assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
            bodies.append(gzip.decompress(body) if packed else body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", bodies
        finally:
            server.shutdown()
            thread.join(PATIENCE_S)


def test_a_collector_gets_the_spans_of_the_command_also_the_last_ones(index_path):
    need_otel()
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    with collector() as (address, bodies):
        env = {
            **os.environ,
            "OTEL_EXPORTER_OTLP_ENDPOINT": address,
            "OTEL_BSP_SCHEDULE_DELAY": "3600000",
            "FASTAPI_OTEL_AUTO_CONFIGURE": "true",  # FastAPI's own spans and logs would hold what a client has sent
        }
        with process(index_path, "--rerank", "none", env=env) as (server, url):
            assert httpx.post(f"{url}/v1/search", json={"query": 1, SECRET: SECRET}).status_code == 422
            body = {"query": SECRET, "strategy": "bm25"}
            httpx.post(f"{url}/v1/search", json=body, headers={"X-Request-ID": "r9"}).raise_for_status()
            server.send_signal(signal.SIGTERM)  # the next batch would leave in an hour
            server.wait(PATIENCE_S)
    (resource,) = [one for body in bodies for one in ExportTraceServiceRequest.FromString(body).resource_spans]
    described = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert (described["service.name"], bool(described["service.version"])) == ("shortlist", True)
    refused, span = [span for scope in resource.scope_spans for span in scope.spans]
    assert refused.name == span.name == "POST /v1/search"
    assert "r9" in {one.value.string_value for one in span.attributes if one.key == "shortlist.request_id"}
    assert SECRET.encode() not in b"".join(bodies)


def test_a_collector_that_is_not_there_keeps_nobody_waiting(index_path):
    need_otel()
    env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with process(index_path, "--rerank", "none", env=env) as (server, url):
        assert httpx.get(f"{url}/v1/models").status_code == 200
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        server.wait(PATIENCE_S)
        assert time.monotonic() - began < 20
