"""From a socket to the application: uvicorn with limits on connections, headers and shutdown, and the log on stderr."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import socket
import sys
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from shortlist.server.guard import App
from shortlist.server.work import Limits

_HEADER_BYTES = 16384
_HEAP = {-8: 2, -3: 1 << 18, -1: 1 << 18}
"""mallopt: M_ARENA_MAX, M_MMAP_THRESHOLD (blocks from this size on go straight back), M_TRIM_THRESHOLD."""


def bound_heap() -> None:
    """Have glibc give memory back to the system when it is free again; to be called before there are threads.

    Left alone it keeps an arena for each of many threads and, once blocks of some megabytes have come and gone, blocks of that
    size in every one of them: after a storm of 64 clients twice the memory stayed that the work had needed
    (bench/results/load.md). Whoever has set its variables is not overruled. Other C libraries have no such thing.
    """
    if not sys.platform.startswith("linux") or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _HEAP.items():
            mallopt(option, value)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises OSError, for example if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio sends small packets at once only where it is: else an answer waits 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host.strip("[]"), port))
        listening.listen(1024)
    except BaseException:
        listening.close()
        raise
    return listening


def serve(app: App, listening: socket.socket, limits: Limits) -> None:
    """Answer until SIGTERM or SIGINT; then finish what was taken in, within `limits.shutdown_s`."""
    log = logging.getLogger("shortlist")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers = [logging.StreamHandler(sys.stderr)]
    uvicorn.Server(config(app, limits)).run(sockets=[listening])


def config(app: App, limits: Limits) -> uvicorn.Config:
    """How uvicorn is to behave."""
    return uvicorn.Config(
        app,
        http=_protocol(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=round(limits.shutdown_s),
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )


def _protocol(limits: Limits) -> type[asyncio.Protocol]:
    """HTTP/1.1 of uvicorn, which does not wait for headers that do not come, nor for a client that does not read its answer."""

    class Protocol(H11Protocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._timers: dict[str, asyncio.TimerHandle] = {}

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._start("headers", limits.header_s)

        def data_received(self, data: bytes) -> None:
            if "headers" not in self._timers and self.conn.their_state is h11.IDLE:
                self._start("headers", limits.header_s)
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._stop("headers")

        def pause_writing(self) -> None:
            super().pause_writing()
            self._start("answer", limits.body_s)

        def resume_writing(self) -> None:
            self._stop("answer")
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop(*self._timers)
            super().connection_lost(exc)

        def _start(self, name: str, seconds: float) -> None:
            self._timers[name] = self.loop.call_later(seconds, self.transport.abort)

        def _stop(self, *names: str) -> None:
            for name in names:
                if name in self._timers:
                    self._timers.pop(name).cancel()

    return Protocol
