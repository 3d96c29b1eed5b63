"""Traces for OpenTelemetry (extra `otel`): a span a request, with the times of its stages. Imported only if asked for."""

from __future__ import annotations

import asyncio
import os

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from shortlist import __version__
from shortlist.errors import BadInput
from shortlist.server.guard import OPEN, App, Message, Receive, Scope, Send

_PROTOCOL = "http/protobuf"
_WATCHED = (*OPEN, "/metrics")  # asked for by machines every few seconds


def exporting() -> TracerProvider:
    """A provider that sends spans to the collector which the standard OTEL_… variables name, in batches, from a thread.

    Raises BadInput if they ask for another protocol than OTLP over HTTP.
    """
    for name in ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"):
        if os.environ.get(name, _PROTOCOL) != _PROTOCOL:
            raise BadInput(
                f"{name}={os.environ[name]}: traces go over {_PROTOCOL} alone (port 4318). Set it to that, or unset it."
            )
    resource = Resource.create({"service.version": __version__})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "shortlist"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Traced:
    """Middleware around the application: a span a request, within the client's trace if it sends `traceparent`.

    It holds method, route, status, request id, tokens and the milliseconds of each stage. Nobody's text gets into it: the
    instrumentation is shown neither the path, which may be anything, nor the query string, which holds questions.
    """

    def __init__(self, app: App, provider: TracerProvider) -> None:
        self._app, self._provider = app, provider
        self._middleware = OpenTelemetryMiddleware(
            self._described,
            default_span_details=lambda scope: (scope["method"], {}),
            tracer_provider=provider,
            meter_provider=NoOpMeterProvider(),
            exclude_spans=["receive", "send"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._last_words(send))
        elif scope["type"] != "http" or scope["path"] in _WATCHED:
            await self._app(scope, receive, send)
        else:
            bare = {**scope, "path": "", "raw_path": b"", "query_string": b"", "shortlist.scope": scope}
            await self._middleware(bare, receive, send)

    async def _described(self, bare: Scope, receive: Receive, send: Send) -> None:
        scope, span = bare["shortlist.scope"], trace.get_current_span()

        async def send_described(message: Message) -> None:
            if message["type"] == "http.response.start":  # all is known; with the last of the body the span ends
                _describe(span, scope)
            await send(message)

        await self._app(scope, receive, send_described)

    def _last_words(self, send: Send) -> Send:
        """`send` of the lifespan: what is left is exported before the server is told that all is done."""

        async def send_last(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await asyncio.to_thread(self._provider.shutdown)
            await send(message)

        return send_last


def _describe(span: trace.Span, scope: Scope) -> None:
    route, state = getattr(scope.get("route"), "path", "none"), scope["state"]
    span.update_name(f"{scope['method']} {route}")
    span.set_attribute("http.route", route)
    for name, value in {"request_id": state["request_id"], **state.get("log", {})}.items():
        span.set_attribute(f"shortlist.{name}", value)
