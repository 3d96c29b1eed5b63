"""What Prometheus reads at /metrics. Every name stands here and nowhere else; deploy/grafana-dashboard.json shows them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector, generate_latest

from shortlist import __version__
from shortlist.index import Index
from shortlist.models import ModelCard

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_TOKENS = (16, 64, 256, 1024, 2048, 4096, 8192, 16384, 65536)
_FIRST_RATE = 5000.0  # tokens a second, until it has been measured


class Metrics:
    """Counters of one server, in a registry of their own. Safe to use from several threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = self._counter("requests", "Requests answered", "route", "method", "status")
        self._request_s = self._histogram("request_seconds", "From the first byte to the last", _SECONDS, "route")
        self._stage_s = self._histogram("stage_seconds", "A stage of a search, or waiting for the engine", _SECONDS, "stage")
        self._in_flight = self._gauge("requests_in_flight", "Requests taken in and not yet done")
        self._queue = self._gauge("queue_tokens", "About how many tokens are waiting or being read")
        self._sequences = self._histogram("batch_sequences", "Sequences in a batch of the engine", _SIZES, "model")
        self._batch_tokens = self._histogram("batch_tokens", "Tokens in a batch of the engine", _TOKENS, "model")
        self._engine_s = self._counter("engine_seconds", "Time that the engine worked", "model")
        self._tokens = self._counter("tokens", "Tokens read by the engine", "model")
        self._truncated = self._counter("truncated_texts", "Texts that were longer than the model reads", "model")
        self._dropped = self._counter("dropped_requests", "Requests not answered", "reason")
        self._models = self._gauge("model_info", "A model that is served", "model", "kind", "dims", "max_tokens")
        self._passages = self._gauge("index_passages", "Passages in an index", "index")
        self._index_info = self._gauge("index_info", "An index that is served", "index", "analyzer", "encoder")
        self._gauge("build_info", "Version of shortlist", "version").labels(__version__).set(1)
        self._lock, self._rate = threading.Lock(), _FIRST_RATE

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"shortlist_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"shortlist_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"shortlist_{name}", text, labels, buckets=buckets, registry=self.registry)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, method, str(status)).inc()
        self._request_s.labels(route).observe(seconds)

    def stages(self, timings_ms: Mapping[str, float]) -> None:
        """The timings of a ranking, `NAME_ms` in milliseconds."""
        for name, ms in timings_ms.items():
            self._stage_s.labels(name.removesuffix("_ms")).observe(ms / 1000)

    def batch(self, model: str, sequences: int, tokens: int, seconds: float) -> None:
        """The engine has run a batch."""
        self._sequences.labels(model).observe(sequences)
        self._batch_tokens.labels(model).observe(tokens)
        self._engine_s.labels(model).inc(seconds)
        self._tokens.labels(model).inc(tokens)
        with self._lock:
            self._rate += 0.1 * (tokens / max(seconds, 1e-6) - self._rate)

    def tokens_per_s(self) -> float:
        """What the engine has read a second lately."""
        with self._lock:
            return self._rate

    def truncated(self, model: str, texts: int) -> None:
        """So many texts were cut."""
        self._truncated.labels(model).inc(texts)

    def queue(self, tokens: int, requests: int) -> None:
        """So many tokens are waiting now; `requests` were taken in (1) or are done (-1)."""
        self._queue.set(tokens)
        self._in_flight.inc(requests)

    def dropped(self, reason: str) -> None:
        """A request was not answered: overloaded, timeout or cancelled."""
        self._dropped.labels(reason).inc()

    def model(self, card: ModelCard, max_tokens: int) -> None:
        """A model is served."""
        self._models.labels(card.name, card.kind, str(card.dims), str(max_tokens)).set(1)

    def exposition(self, indexes: Iterable[tuple[str, Index]]) -> bytes:
        """All of it in Prometheus' text format, the sizes of the indexes as of now."""
        for name, index in indexes:
            manifest = index.manifest
            encoder = manifest["encoder"]["name"] if manifest["encoder"] else ""
            self._passages.labels(name).set(len(index))
            self._index_info.labels(name, manifest["analyzer"], encoder).set(1)
        return generate_latest(self.registry)
