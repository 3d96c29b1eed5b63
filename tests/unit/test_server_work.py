"""Sharing an engine: the same bits as alone, fair batches, errors and withdrawals that hit nobody else."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import numpy as np
import pytest

pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

from server_tools import PATIENCE_S, Held
from shortlist.encoder import Encoder
from shortlist.errors import BadInput
from shortlist.reranker import Reranker
from shortlist.server import work
from shortlist.server.metrics import Metrics
from shortlist.server.work import Batching, Desk, Limits, Overloaded, Ticket, TimedOut, TooMuch, Withdrawn

TEXTS = [f"柏林 {i} has {'museums and ' * (i % 23)}people" for i in range(60)]


class Caller(threading.Thread):
    """A call on a thread of its own, under a ticket."""

    def __init__(self, call, ticket=None):
        super().__init__(daemon=True)
        self.call, self.ticket, self.result, self.error = call, ticket, None, None
        self.start()

    def run(self):
        context = contextvars.copy_context()
        context.run(work._TICKET.set, self.ticket)
        try:
            self.result = context.run(self.call)
        except Exception as error:
            self.error = error

    def outcome(self):
        self.join(PATIENCE_S)
        assert not self.is_alive(), "it hangs"
        if self.error:
            raise self.error
        return self.result


def until(condition):
    """Wait until it holds."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def shared(model, batch_tokens=8192):
    """The model over a shared engine, that engine, and the held one below."""
    parts = []

    def wrap(engine):
        parts.append(Held(engine))
        parts.append(Batching(parts[0], model.name, Metrics(), batch_tokens))
        return parts[1]

    return model.with_engine(wrap), parts[1], parts[0]


@pytest.fixture(scope="module")
def encoder(tiny_encoder_folder):
    return Encoder.load(tiny_encoder_folder, threads=2)


def test_what_comes_while_the_engine_works_is_the_next_batch_and_has_the_same_bits(encoder):
    together, batching, held = shared(encoder)
    first = Caller(lambda: together.encode(TEXTS[:1]))
    assert held.begun.wait(PATIENCE_S)
    others = [Caller(lambda i=i: together.encode(TEXTS[i : i + 3])) for i in range(1, 11)]
    until(lambda: len(batching._jobs) == 11)
    held.gate.set()
    np.testing.assert_array_equal(first.outcome(), encoder.encode(TEXTS[:1]))
    for i, other in enumerate(others, 1):
        np.testing.assert_array_equal(other.outcome(), encoder.encode(TEXTS[i : i + 3]))
    assert held.batches == [1, 30]
    assert not batching._led
    assert not batching._jobs


def test_many_threads_get_the_bits_of_a_lone_call(encoder, tiny_reranker_folder):
    reranker = Reranker.load(tiny_reranker_folder, threads=2)
    encoding, _, held = shared(encoder, batch_tokens=200)
    scoring, _, held_too = shared(reranker, batch_tokens=200)
    held.gate.set()
    held_too.gate.set()
    calls = [Caller(lambda i=i: (encoding.encode(TEXTS[i:]), scoring.score(TEXTS[i], TEXTS[i:]))) for i in range(16)]
    for i, call in enumerate(calls):
        vectors, scores = call.outcome()
        np.testing.assert_array_equal(vectors, encoder.encode(TEXTS[i:]))
        np.testing.assert_array_equal(scores, reranker.score(TEXTS[i], TEXTS[i:]))


def test_a_short_call_does_not_wait_for_a_long_one(encoder):
    together, batching, held = shared(encoder, batch_tokens=500)
    long = Caller(lambda: together.encode(TEXTS * 20))
    assert held.begun.wait(PATIENCE_S)
    short = Caller(lambda: together.encode(["柏林"]))
    until(lambda: len(batching._jobs) == 2)
    held.gate.set()
    short.outcome()
    assert len(held.batches) < 20
    np.testing.assert_array_equal(long.outcome()[:60], encoder.encode(TEXTS))
    assert len(held.batches) > 30  # the long one went on in many batches


def test_withdrawn_work_is_left_out(encoder):
    together, batching, held = shared(encoder)
    first, ticket, kept = Caller(lambda: together.encode(TEXTS[:1])), Ticket(), Ticket()
    assert held.begun.wait(PATIENCE_S)
    gone = Caller(lambda: together.encode(TEXTS), ticket)
    stays = Caller(lambda: together.encode(TEXTS[:2]), kept)
    until(lambda: len(batching._jobs) == 3)
    ticket.withdrawn = True
    held.gate.set()
    with pytest.raises(Withdrawn):
        gone.outcome()
    assert len(stays.outcome()) == 2
    assert len(first.outcome()) == 1
    assert held.batches == [1, 2]
    assert ticket.tokens == 0
    assert kept.tokens > 0


def test_a_leader_that_is_withdrawn_stops_and_hands_over(encoder):
    together, batching, held = shared(encoder, batch_tokens=200)
    ticket = Ticket()
    leader = Caller(lambda: together.encode(TEXTS * 4), ticket)
    assert held.begun.wait(PATIENCE_S)
    other = Caller(lambda: together.encode(TEXTS[:2]))
    until(lambda: len(batching._jobs) == 2)
    ticket.withdrawn = True
    held.gate.set()
    assert len(other.outcome()) == 2
    with pytest.raises(Withdrawn):
        leader.outcome()
    assert sum(held.batches) < 60


def test_an_error_is_the_error_of_the_call_that_caused_it(encoder):
    """Ids outside of the vocabulary come from a broken caller: the others in the batch get their results."""
    _, batching, held = shared(encoder)
    tokens, _ = encoder._tokenize(TEXTS[:3], "")
    bad = work.Tokens(tokens.ids + 100_000, tokens.segments, tokens.offsets)
    first = Caller(lambda: batching.run(tokens, "mean"))
    assert held.begun.wait(PATIENCE_S)
    broken, good = Caller(lambda: batching.run(bad, "mean")), Caller(lambda: batching.run(tokens, "mean"))
    until(lambda: len(batching._jobs) == 3)
    held.gate.set()
    with pytest.raises(BadInput, match="outside the vocabulary"):
        broken.outcome()
    np.testing.assert_array_equal(good.outcome(), first.outcome())


def test_two_poolings_do_not_mix(encoder):
    _, batching, held = shared(encoder)
    tokens, _ = encoder._tokenize(TEXTS[:3], "")
    first = Caller(lambda: batching.run(tokens, "mean"))
    assert held.begun.wait(PATIENCE_S)
    second = Caller(lambda: batching.run(tokens, "cls"))
    until(lambda: len(batching._jobs) == 2)
    held.gate.set()
    np.testing.assert_array_equal(second.outcome(), encoder._engine.run(tokens, "cls"))
    np.testing.assert_array_equal(first.outcome(), encoder._engine.run(tokens, "mean"))


# --- the desk


async def never():
    await asyncio.Event().wait()


def desk(**limits):
    return Desk(Limits(**limits), Metrics())


def test_the_queue_is_bounded_in_tokens():
    gate = threading.Event()

    async def main():
        one = desk(queue_tokens=1000, threads=2)
        jobs = [
            asyncio.ensure_future(one.run(lambda: gate.wait(PATIENCE_S), tokens=400, gone=never, ticket=Ticket()))
            for _ in range(2)
        ]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="Try again in 1 s") as error:
            await one.run(lambda: 1, tokens=400, gone=never, ticket=Ticket())
        assert error.value.retry_s == 1
        with pytest.raises(TooMuch, match="at most 1000"):
            await one.run(lambda: 1, tokens=1001, gone=never, ticket=Ticket())
        gate.set()
        assert await asyncio.gather(*jobs) == [True, True]
        await asyncio.sleep(0.05)
        assert await one.run(lambda: 7, tokens=1000, gone=never, ticket=Ticket()) == 7
        one.close()

    asyncio.run(main())


def test_work_that_takes_too_long_or_is_not_wanted_is_given_up():
    gate, ran = threading.Event(), []

    async def left():
        await asyncio.sleep(0.01)

    async def main():
        one, ticket = desk(request_s=0.05, threads=1), Ticket()
        with pytest.raises(TimedOut, match=r"0.05 s"):
            await one.run(lambda: gate.wait(PATIENCE_S), tokens=1, gone=never, ticket=ticket)
        assert ticket.withdrawn
        with pytest.raises(Withdrawn):  # waits for the only thread when its client leaves: it never begins
            await one.run(lambda: ran.append(1), tokens=1, gone=left, ticket=Ticket())
        gate.set()
        await asyncio.sleep(0.05)
        one.close()

    asyncio.run(main())
    assert not ran
