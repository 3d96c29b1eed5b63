"""What the suites of durability share: a scripted session, the model that judges it, and the disk after a loss of power.

As a program it tries faults (`durability.py faults FOLDER CLASSES KIND FIRST STEP`, under tests/faults.cpp) or kills writers
(`durability.py kills FOLDER ROUNDS SEED`).
"""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from index_tools import HashEncoder, passages
from shortlist.errors import ShortlistError
from shortlist.index import Index
from shortlist.types import Passage

ENCODER = HashEncoder(dims=16)
QUERIES = ("the river museum", "北京大学 häuser")
Model = dict[str, Passage]

WRITE, SYNC, NAME, TRUNCATE, OPEN, READ = 1, 2, 4, 8, 16, 32
CHANGES = WRITE | SYNC | NAME | TRUNCATE | OPEN
COUNT, FAIL_IO, FAIL_FULL, CUT_SHORT, KILL = range(5)


def script() -> list[tuple[Callable[[Index], object], Model]]:
    """Steps after the creation of an index, each with what the index holds after it."""
    steps: list[tuple[Callable[[Index], object], Model]] = []
    model: Model = {}

    def step(action: Callable[[Index], object], added: list[Passage], gone: list[str]) -> None:
        model.update({one.id: one for one in added})
        for name in gone:
            del model[name]
        steps.append((action, dict(model)))

    first, second = passages(12), passages(5, seed=1, prefix="q")
    step(lambda index: index.add(first), first, [])
    step(lambda index: index.add(second), second, [])
    changed = [*passages(2, seed=8), *passages(2, seed=9, prefix="r"), second[0]]
    step(lambda index: index.upsert(changed), changed, [])
    step(lambda index: index.delete(["p3", "q1", "r0"]), [], ["p3", "q1", "r0"])
    third = passages(1, seed=3, prefix="s")
    step(lambda index: index.add(third), third, [])  # the fourth file of its size: these are merged
    step(lambda index: index.compact(), [], [])
    fourth = passages(3, seed=4, prefix="t")
    step(lambda index: index.add(fourth), fourth, [])
    arabic = [name for name, one in model.items() if one.lang == "ar"]
    step(lambda index: index.delete(where="lang=ar"), [], arabic)
    return steps


def play(path: Path, say: Callable[[int], object]) -> None:
    """The whole session with a second opening for writing in it; `say(n)` when step n has returned, 0 is the creation."""
    steps = script()
    with Index.create(path, encoder=ENCODER) as index:
        say(0)
        for number, (action, _) in enumerate(steps[:5], 1):
            action(index)
            say(number)
    with Index.open(path, encoder=ENCODER, write=True) as index:
        for number, (action, _) in enumerate(steps[5:], 6):
            action(index)
            say(number)


def held(index: Index, sample: int = 100) -> Model:
    """All passages, after the ways to find them have agreed on some of them."""
    found = {one.id: one for one in index.passages()}
    assert len(index) == len(found)
    for query in QUERIES if found else ():
        dense = index.search(query, k=10_000, first="dense")
        assert set(dense.ids) == set(found)
        for hit in (*dense, *index.search(query, k=10_000, first="bm25")):
            assert hit.passage == found[hit.id]
    for name in list(found)[-sample:]:
        assert index.get(name) == found[name]
        assert name in index.search(found[name].text, k=10_000, first="bm25").ids
    return found


def judge(path: Path, said: int) -> None:
    """An index after `said` steps have returned, one more perhaps begun: all of what was said, all or nothing of the rest."""
    steps = [{}, *(model for _, model in script())]
    fitting = steps[max(said, 0) : said + 2]
    if said < 0 and not (path.exists() and any(path.iterdir())):
        return
    with Index.open(path, encoder=ENCODER) as reader:
        assert held(reader) in fitting, "a reader"
    with Index.open(path, encoder=ENCODER, write=True) as writer:
        assert held(writer) in fitting, "a writer"
        assert writer.check().sound, writer.check()
        late = Passage("late", "one more river", "", "en")
        writer.add([late])
        assert writer.get("late") == late


# --- a loss of power


class Disk:
    """A file system that keeps for certain only what was synced, fed with the log of faults.cpp.

    A file's content is safe after its own sync, a name after that of its folder. Of what was not synced any part may be there:
    any of the names, and any pages of what was written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now: dict[Path, int] = {root: 0}  # names as the process sees them
        self.known: dict[int, int] = {}  # inode -> our number; the system gives inodes of removed files to new ones
        self.safe: dict[int, dict[str, int] | bytearray] = {0: {}}
        self.loose: dict[int, list[tuple]] = {0: []}

    def apply(self, verb: str, inode: int, path: Path, other: Path, offset: int, data: bytes) -> None:
        if verb in ("create", "mkdir"):
            number = self.known[inode] = self.now[path] = len(self.safe)
            self.safe[number], self.loose[number] = ({} if verb == "mkdir" else bytearray()), []
            self._name(path, number)
        elif verb == "unlink":
            del self.now[path]
            self._name(path, None)
        elif verb == "rename":
            self._rename(path, other)
        elif path == self.root or inode in self.known:
            number = 0 if path == self.root else self.known[inode]
            if verb == "sync":
                for change in self.loose[number]:
                    self.safe[number] = _changed(self.safe[number], change)
                self.loose[number] = []
            else:
                self.loose[number].append((verb, offset, data))

    def _name(self, path: Path, number: int | None) -> None:
        self.loose[self.now[path.parent]].append(("name", {path.name: number}, b""))

    def _rename(self, path: Path, other: Path) -> None:
        number = self.now[path]
        self.loose[self.now[path.parent]].append(("name", {path.name: None, other.name: number}, b""))
        for old in [one for one in self.now if one == path or path in one.parents]:
            self.now[other / old.relative_to(path)] = self.now.pop(old)

    def after_the_loss(self, target: Path, rng: random.Random | None) -> None:
        """Write what is there after power comes back: only what was synced, or with `rng` some of the rest as well."""
        self._write(target, 0, rng)

    def _write(self, target: Path, number: int, rng: random.Random | None) -> None:
        content = self.safe[number]
        content = dict(content) if isinstance(content, dict) else bytearray(content)
        for change in self.loose[number] if rng else ():
            for part in _pages(change):
                if rng.random() < 0.5:
                    content = _changed(content, part)
        if isinstance(content, bytearray):
            target.write_bytes(content)
            return
        target.mkdir(exist_ok=True)
        for name, inner in content.items():
            self._write(target / name, inner, rng)


def _changed(content, change):
    verb, at, data = change
    if verb == "name":
        names = {**content, **at}
        return {name: number for name, number in names.items() if number is not None}
    if verb == "truncate":
        return content[:at] + bytes(max(0, at - len(content)))
    return content[:at] + bytes(max(0, at - len(content))) + data + content[at + len(data) :]


def _pages(change):
    verb, at, data = change
    if verb != "write":
        yield change
        return
    for start in range(0, len(data), 4096):
        yield verb, at + start, data[start : start + 4096]


def records(log: Path) -> Iterator[tuple[str, int, Path, Path, int, bytes]]:
    """What faults.cpp wrote down."""
    with log.open("rb") as file:
        while line := file.readline():
            verb, number, path, other, offset, size = line.decode().rstrip("\n").split("\t")
            yield verb, int(number), Path(path), Path(other), int(offset), file.read(int(size))


# --- under the failing file layer


class Layer:
    """tests/faults.cpp, under which this process runs."""

    def __init__(self, folder: Path) -> None:
        self.library = ctypes.CDLL(None)
        self.folder = folder

    def try_one(self, classes: int, kind: int, at: int) -> tuple[int, bytes]:
        """Play the session while its `at`-th call fails; returns how the process has ended, and a dot for each step.

        A process that was not killed says behind them how many calls there were.
        """
        shutil.rmtree(self.folder / "disk", ignore_errors=True)
        (self.folder / "disk").mkdir(parents=True)
        read_end, write_end = os.pipe()
        status = forked(lambda: self._play(classes, kind, at, write_end))
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            return status, pipe.read()

    @property
    def path(self) -> Path:
        return self.folder / "disk" / "new" / "a.idx"

    def _play(self, classes: int, kind: int, at: int, end: int) -> None:
        def say(step: int) -> None:
            self.library.faults_mark(str(step).encode())
            os.write(end, b".")

        log = str(self.folder / "log").encode() if kind == COUNT else None
        self.library.faults_begin(str(self.folder / "disk").encode(), classes, ctypes.c_long(at), kind, log)
        try:
            play(self.path, say)
        except ShortlistError as error:
            if kind == COUNT or str(self.path) not in str(error):
                raise
        finally:
            os.write(end, b"%d" % self.library.faults_end())


def faults(folder: str, classes: str, kind: str, first: str, step: str) -> None:
    """Play the session once for every `step`-th call of these classes from the `first` on, which fails; judge what is left.

    Prints how many calls a session has and how many were tried. The log of a session without faults stays in FOLDER/log.
    """
    layer = Layer(Path(folder))
    status, said = layer.try_one(int(classes), COUNT, -1)
    assert status == 0
    total = int(said.strip(b"."))
    tried = range(int(first), total + 1, int(step)) if int(kind) != COUNT else ()
    for at in tried:
        status, said = layer.try_one(int(classes), int(kind), at)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert status == 0 or (int(kind) == KILL and killed), f"call {at} of {total}, kind {kind}: ended with {status}"
        steps = said.count(b".")
        assert forked(lambda done=steps: judge(layer.path, done - 1)) == 0, f"call {at} of {total}, kind {kind}, {steps} steps"
    sys.stdout.write(f"{total} {len(tried)}\n")


# --- killed at random moments


def random_step(rng: random.Random, model: Model, prefix: str) -> tuple[Callable[[Index], object], Model]:
    """A step that may come next, and what the index holds after it. The same for the same state of `rng`."""
    what, known = rng.random(), sorted(model)
    made = [
        Passage(f"{prefix}-{one.id}", one.text, one.title, one.lang, one.meta) for one in passages(9, seed=rng.getrandbits(30))
    ]
    new = made[: rng.randint(1, 9)]
    if what < 0.45 or len(known) < 9:
        return lambda index: index.add(new), {**model, **{one.id: one for one in new}}
    some = rng.sample(known, rng.randint(1, 8))
    if what < 0.7:
        changed = [Passage(name, one.text, "", one.lang) for name, one in zip(some, made, strict=False)] + new[:1]
        return lambda index: index.upsert(changed), {**model, **{one.id: one for one in changed}}
    if what < 0.95:
        return lambda index: index.delete(some), {name: one for name, one in model.items() if name not in some}
    return lambda index: index.compact(), model


def plan(seed: str, model: Model) -> Iterator[tuple[Callable[[Index], object], Model]]:
    """Random steps without end."""
    rng = random.Random(seed)
    for number in itertools.count():
        action, model = random_step(rng, model, f"{seed}-{number}")
        yield action, model


def kills(folder: str, rounds: str, seed: str) -> None:
    """Kill a writer at a random moment, `rounds` times, and each time compare what is left with the model.

    Prints how many steps had returned, and how many that had not were there nevertheless.
    """
    rng, path, model = random.Random(seed), Path(folder) / "a.idx", {}
    returned = there = 0
    for number in range(int(rounds)):
        if number % 50 == 0:
            shutil.rmtree(path, ignore_errors=True)
            Index.create(path, encoder=ENCODER).close()
            model = {}
        said = killed(path, plan(f"{seed}.{number}", model), rng.uniform(0, 0.15))
        states = [model, *(after for _, after in itertools.islice(plan(f"{seed}.{number}", model), said + 1))][-2:]
        status = forked(lambda states=states, number=number: sys.exit(10 + found_state(path, states, checked=number % 3 == 0)))
        which = os.waitstatus_to_exitcode(status) - 10
        assert which in (0, 1), f"round {number}: {status}"
        model = states[which]
        returned, there = returned + said, there + (which == 1 and states[0] != states[1])
    sys.stdout.write(f"{returned} {there}\n")


def killed(path: Path, steps: Iterator[tuple[Callable[[Index], object], Model]], wait: float) -> int:
    """Let a writer take steps for a while and kill it; returns how many had returned."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        with Index.open(path, encoder=ENCODER, write=True) as index:
            for action, _ in steps:
                action(index)
                os.write(write_end, b".")
    os.close(write_end)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "the writer has ended by itself"
    with os.fdopen(read_end, "rb") as pipe:
        return len(pipe.read())


def found_state(path: Path, states: list[Model], *, checked: bool) -> int:
    """Which of the two states the index is in, to a reader and to a writer, who also checks it if `checked`."""
    with Index.open(path, encoder=ENCODER) as reader:
        assert held(reader, 5) in states, "a reader"
    with Index.open(path, encoder=ENCODER, write=True) as writer:
        found = held(writer, 5)
        assert found in states, "a writer"
        if checked:
            assert writer.check().sound, writer.check()
    return states.index(found)


def forked(action: Callable[[], None]) -> int:
    """Run it in a process of its own; returns how that has ended."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        action()
    except SystemExit as wanted:
        os._exit(int(wanted.code or 0))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    {"faults": faults, "kills": kills}[sys.argv[1]](*sys.argv[2:])
