"""Running servers for the tests: in a thread with tiny models, or as the process that a user starts."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index_tools import passages
from shortlist.encoder import Encoder
from shortlist.engines import Engine
from shortlist.index import Index
from shortlist.types import FloatArray, Tokens

PATIENCE_S = 60


class Held:
    """A real engine that waits before every batch until it is let go; `batches` are the sequences of each."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.gate, self.begun = engine, threading.Event(), threading.Event()
        self.batches: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, tokens: Tokens, pooling: str) -> FloatArray:
        self.batches.append(len(tokens))
        self.begun.set()
        assert self.gate.wait(PATIENCE_S)
        return self._engine.run(tokens, pooling)


def make_index(path: Path, encoder_folder: Path | None, count: int = 60) -> Path:
    """An index of small passages in four languages."""
    encoder = None if encoder_folder is None else Encoder.load(encoder_folder, threads=1)
    with Index.create(path, encoder=encoder) as index:
        index.add(passages(count))
    return path


@dataclass
class Running:
    """A server in a thread of this process."""

    url: str
    port: int
    shelf: Any


@contextmanager
def running(
    paths: list[Any],
    *,
    hosts: Any = None,
    keys: Any = (),
    limits: Any = None,
    held: bool = False,
    around: Callable[[Any], Any] = lambda service: service,
    **shelf: Any,
) -> Iterator:
    """A server over these indexes, the application wrapped in `around`.

    `held`: (Running, Held) with the first encoder's engine held back before each batch.
    """
    import uvicorn

    from shortlist.server import app, indexes, run, work

    limits = limits or work.Limits()
    served = indexes.Shelf([str(path) for path in paths], threads=1, limits=limits, **shelf)
    engines: list[Held] = []
    if held:
        name, encoder = next(iter(served.encoders.items()))

        def hold(batching: Any) -> Any:
            engines.append(Held(batching._engine))
            batching._engine = engines[0]
            return batching

        served.encoders[name] = encoder.with_engine(hold)
    service = around(app.build_app(served, keys=keys, hosts=hosts))
    listening = run.listen("127.0.0.1", 0)
    server = uvicorn.Server(run.config(service, limits))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    port = listening.getsockname()[1]
    one = Running(f"http://127.0.0.1:{port}", port, served)
    try:
        yield (one, engines[0]) if held else one
    finally:
        if engines:
            engines[0].gate.set()
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@contextmanager
def process(*words: Any, env: dict[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`shortlist serve … --port 0` as a process of its own, and its address."""
    command = [sys.executable, "-m", "shortlist", "serve", *map(str, words), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as server:
        try:
            assert server.stderr is not None
            first = server.stderr.readline()
            found = re.search(r"http://\S+", first)
            assert found, first + server.stderr.read()
            drain = threading.Thread(target=server.stderr.read, daemon=True)
            drain.start()
            yield server, found.group()
        finally:
            server.kill()
            server.wait(PATIENCE_S)
            drain.join(PATIENCE_S)


def as_array(numbers: Any) -> FloatArray:
    """float32 of what came as JSON."""
    return np.asarray(numbers, np.float32)
