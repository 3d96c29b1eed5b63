"""Work: what is waiting, what is done next, and when it is given up.

`Desk` takes requests in, bounded in tokens, and runs them on threads beside the event loop. On those threads requests meet in
`Batching`, an engine that runs what several of them want as one ragged batch. There is no timer: the engine starts at once when
it is idle, and whatever has come meanwhile is the next batch. As nothing is padded and a result does not depend on the rest of
its batch, sharing costs nothing and changes nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from shortlist.engines import Engine
from shortlist.errors import ShortlistError
from shortlist.server.metrics import Metrics
from shortlist.types import FloatArray, Tokens

T = TypeVar("T")


class Overloaded(ShortlistError):
    """More work is waiting than the limit allows; `retry_s` is when to try again."""

    def __init__(self, waiting: int, retry_s: int) -> None:
        super().__init__(f"the server is busy: about {waiting} tokens are waiting. Try again in {retry_s} s.")
        self.retry_s = retry_s


class TooMuch(ShortlistError):
    """A single request is larger than the server takes."""


class TimedOut(ShortlistError):
    """A request took longer than it may; what was left of its work was dropped."""


class Withdrawn(ShortlistError):
    """The client has gone, or the time is over: the work is not wanted any more."""


@dataclass(frozen=True)
class Limits:
    """What one request and all together may ask for."""

    body_bytes: int = 4 << 20
    held_bytes: int = 128 << 20  # of the bodies of all requests together
    texts: int = 2048  # as many as OpenAI's clients send in one request
    text_chars: int = 122_880
    passages: int = 1000
    candidates: int = 1000
    queue_tokens: int = 1 << 18
    batch_tokens: int = 8192
    threads: int = 32
    writers: int = 4  # threads that write: who waits for the right to write keeps no searcher waiting
    connections: int = 1024
    header_s: float = 10.0
    body_s: float = 30.0
    request_s: float = 60.0
    shutdown_s: float = 30.0
    writer_idle_s: float = 10.0


class Ticket:
    """One request on its way: whether it is still wanted, and what it has cost so far."""

    def __init__(self) -> None:
        self.withdrawn = False
        self.tokens = 0
        self.waited_s = 0.0
        self.timings: dict[str, float] = {}  # milliseconds of each stage, NAME_ms


_TICKET: contextvars.ContextVar[Ticket | None] = contextvars.ContextVar("ticket", default=None)


def tokens_of(texts: Iterable[str], most: int, beside: int = 0) -> int:
    """About how many tokens the texts have: one for four bytes, at most `most` a text; `beside` bytes go with each."""
    return sum(min(most, 4 + (len(text.encode("utf-8", "replace")) + beside) // 4) for text in texts)


# --- the engine that requests share


class _Job:
    """What one call of `run` wants: sequences start.. of `tokens` are still to be done."""

    def __init__(self, tokens: Tokens, pooling: str, ticket: Ticket | None) -> None:
        self.tokens, self.pooling, self.ticket = tokens, pooling, ticket
        self.start, self.came = 0, perf_counter()
        self._out: FloatArray | None = None
        self.error: Exception | None = None
        self.wake = threading.Event()

    @property
    def done(self) -> bool:
        return self.error is not None or self.start == len(self.tokens)

    def reach(self, room: int) -> int:
        """How far `room` tokens lead, at least one sequence."""
        offsets = self.tokens.offsets
        fit = int(np.searchsorted(offsets, int(offsets[self.start]) + room, side="right")) - 1
        return min(max(fit, self.start + 1), len(self.tokens))

    def take(self, stop: int, rows: FloatArray) -> None:
        """Keep the results of the sequences up to `stop`."""
        if self._out is None:
            self._out = np.empty((len(self.tokens), rows.shape[1]), np.float32)
        self._out[self.start : stop] = rows
        self.start = stop

    def results(self) -> FloatArray:
        """All rows. Raises the error that the work ended with."""
        if self.error is not None or self._out is None:
            raise self.error or Withdrawn("nothing was done.")
        return self._out


_Part = tuple[_Job, int]


class Batching:
    """An engine over another one: calls from several threads share its batches.

    The first thread that finds the engine idle leads: it runs batches until its own work is done and then hands the lead to
    the next. A batch has at most about `batch_tokens`; every waiting call gets an equal share of it, and those that have come
    first get what the others leave. So a short call never waits for the whole of a long one. Work that nobody wants any more
    is left out. An error is the error of the call that caused it.
    """

    def __init__(self, engine: Engine, model: str, metrics: Metrics, batch_tokens: int = Limits.batch_tokens) -> None:
        self._engine, self._model, self._metrics = engine, model, metrics
        self._batch_tokens = batch_tokens
        self._lock = threading.Lock()
        self._jobs: list[_Job] = []
        self._led = False

    @property
    def hidden_size(self) -> int:
        """As the engine's."""
        return self._engine.hidden_size

    @property
    def max_tokens(self) -> int:
        """As the engine's."""
        return self._engine.max_tokens

    @property
    def threads(self) -> int:
        """As the engine's."""
        return self._engine.threads

    @property
    def instruction_set(self) -> str:
        """As the engine's."""
        return self._engine.instruction_set

    def run(self, tokens: Tokens, pooling: str) -> FloatArray:
        """`run` of the engine, to the last bit. Raises Withdrawn if the calling request is not wanted any more."""
        if pooling == "none" or not len(tokens):  # a row a token: nobody here asks for that
            return self._engine.run(tokens, pooling)
        job = _Job(tokens, pooling, _TICKET.get())
        with self._lock:
            self._jobs.append(job)
            leads, self._led = not self._led, True
        if not leads:
            job.wake.wait()
        if not job.done:  # nobody leads, and this one is the first in the line
            try:
                while not job.done:
                    self._batch()
            finally:
                self._hand_over(job)
        rows = job.results()
        if job.ticket is not None:
            job.ticket.tokens += len(tokens.ids)
        return rows

    def _hand_over(self, job: _Job) -> None:
        with self._lock:
            self._jobs = [one for one in self._jobs if one is not job]
            self._led = bool(self._jobs)
            if self._jobs:
                self._jobs[0].wake.set()

    def _batch(self) -> None:
        """Run one batch, and wake those whose work is done."""
        with self._lock:
            parts = self._next_parts()
        for job, _ in parts:
            if job.start == 0 and job.ticket is not None:
                job.ticket.waited_s += perf_counter() - job.came
        try:
            self._run(parts)
        except Exception as error:
            self._blame(parts, error)
        with self._lock:
            done = [job for job in self._jobs if job.done]
            served = {id(job) for job, _ in parts}
            waiting = [job for job in self._jobs if not job.done]
            self._jobs = sorted(waiting, key=lambda job: id(job) in served)  # who had a share goes to the end of the line
        for job in done:
            job.wake.set()

    def _next_parts(self) -> list[_Part]:
        """(job, stop) of the next batch: one pooling, an equal share for each, what is left to the first in the line."""
        for job in self._jobs:
            if job.ticket is not None and job.ticket.withdrawn:
                job.error = Withdrawn("the request was given up before its work began.")
        wanted = [job for job in self._jobs if not job.done]
        wanted = [job for job in wanted if job.pooling == wanted[0].pooling]
        share, left, stops = self._batch_tokens // max(1, len(wanted)), self._batch_tokens, list[int]()
        for job in wanted:
            if left <= 0:
                break
            stops.append(job.reach(min(share, left)))
            left -= _size(job, job.start, stops[-1])
        for i, (job, stop) in enumerate(zip(wanted, stops, strict=False)):
            more = job.reach(left + _size(job, job.start, stop))
            if left > 0 and more > stop and _size(job, stop, more) <= left:
                left -= _size(job, stop, more)
                stops[i] = more
        return list(zip(wanted, stops, strict=False))

    def _run(self, parts: list[_Part]) -> None:
        if not parts:
            return
        pieces = [job.tokens.take(job.start, stop) for job, stop in parts]
        start = perf_counter()
        rows = self._engine.run(_joined(pieces), parts[0][0].pooling)
        self._metrics.batch(self._model, len(rows), sum(len(piece.ids) for piece in pieces), perf_counter() - start)
        for (job, stop), piece in zip(parts, pieces, strict=True):
            job.take(stop, rows[: len(piece)])
            rows = rows[len(piece) :]

    def _blame(self, parts: list[_Part], error: Exception) -> None:
        """Find out whose sequences raised the error; the others get their results."""
        if len(parts) == 1:
            parts[0][0].error = error
            return
        for part in parts:
            try:
                self._run([part])
            except Exception as own:
                part[0].error = own


def _size(job: _Job, start: int, stop: int) -> int:
    return int(job.tokens.offsets[stop] - job.tokens.offsets[start])


def _joined(pieces: list[Tokens]) -> Tokens:
    """One ragged batch of all the pieces."""
    if len(pieces) == 1:
        return pieces[0]
    lengths = np.concatenate([piece.lengths for piece in pieces])
    return Tokens(
        np.concatenate([piece.ids for piece in pieces]),
        np.concatenate([piece.segments for piece in pieces]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
    )


# --- requests


class Desk:
    """Takes in work and runs it on a bounded pool of threads. Its methods belong to the event loop."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._readers = ThreadPoolExecutor(limits.threads, thread_name_prefix="read")
        self._writers = ThreadPoolExecutor(limits.writers, thread_name_prefix="write")
        self._waiting = 0

    async def run(
        self,
        work: Callable[[], T],
        *,
        tokens: int,
        gone: Callable[[], Awaitable[object]],
        ticket: Ticket,
        writes: bool = False,
    ) -> T:
        """What `work()` gives. `tokens` is about how much it will read; `gone()` ends if the client leaves.

        Raises TooMuch, Overloaded, TimedOut, Withdrawn (the client has gone), and whatever the work raises.
        """
        self._admit(tokens)
        context = contextvars.copy_context()
        context.run(_TICKET.set, ticket)
        loop = asyncio.get_running_loop()
        future = (self._writers if writes else self._readers).submit(context.run, work)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave, tokens))
        done = asyncio.wrap_future(future)
        left = asyncio.ensure_future(gone())
        try:
            both: set[asyncio.Future[Any]] = {done, left}
            await asyncio.wait(both, timeout=self._limits.request_s, return_when=asyncio.FIRST_COMPLETED)
            if done.done():
                return done.result()
            self._metrics.dropped("cancelled" if left.done() else "timeout")
            if left.done():
                raise Withdrawn("the client has left.")
            raise TimedOut(f"the request took longer than {self._limits.request_s:g} s. Ask for less at a time.")
        finally:
            ticket.withdrawn = True
            left.cancel()
            future.cancel()  # if it has not begun

    def close(self) -> None:
        """Wait for what is running, and end the threads."""
        for pool in (self._readers, self._writers):
            pool.shutdown(wait=True, cancel_futures=True)

    def _admit(self, tokens: int) -> None:
        most = self._limits.queue_tokens
        if tokens > most:
            raise TooMuch(f"the request is about {tokens} tokens, the server takes at most {most} at a time. Split it.")
        if self._waiting and self._waiting + tokens > most:
            self._metrics.dropped("overloaded")
            raise Overloaded(self._waiting, min(60, max(1, math.ceil(self._waiting / self._metrics.tokens_per_s()))))
        self._waiting += tokens
        self._metrics.queue(self._waiting, 1)

    def _leave(self, tokens: int) -> None:
        self._waiting -= tokens
        self._metrics.queue(self._waiting, -1)
