"""Memory: flat whatever is handed over, and what a vocabulary of 250,000 pieces costs, part by part."""

from __future__ import annotations

import gzip
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="this system does not tell memory apart")

MEASURE = """
import json, re, sys
from pathlib import Path

def resident_mb():
    parts = dict(re.findall(r"(\\w+): +(\\d+) kB", Path("/proc/self/smaps_rollup").read_text()))
    return int(parts["Rss"]) / 1024

def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
"""


def measured(script: str, *arguments: str | Path, env: dict[str, str] | None = None) -> dict[str, float]:
    """What a script prints as JSON, run in a process of its own."""
    command = [sys.executable, "-c", MEASURE + script, *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=env)
    assert found.returncode == 0, found.stderr
    return dict(json.loads(found.stdout))


FLAT = """
import numpy as np
from shortlist.encoder import Encoder
from shortlist.reranker import Reranker

encoder, reranker = Encoder.load(sys.argv[1], threads=2), Reranker.load(sys.argv[2], threads=2)
draw = np.random.default_rng(0)
texts = [("museums of 柏林 " * 40)[: int(n)] for n in draw.integers(1, 250, 2500)]

def work(batch):
    encoder.encode(batch)
    reranker.score("how many people?", batch)

for batch in (texts[:600], ["x y " * 20_000] * 4):
    work(batch)
before = peak_mb()
for size in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 255, 256, 257, 377, 610, 800, 987, 2500):
    work(texts[:size])
many = peak_mb()
for long in (["x y " * 50_000] * 10, ["x y " * 1_000_000], ["museum " * 300] * 500):
    work(long)
print(json.dumps({"before": before, "many": many, "long": peak_mb()}))
"""


def test_memory_does_not_grow_with_the_batch(tiny_encoder_folder: Path, tiny_reranker_folder: Path) -> None:
    """After a few internal batches of every kind the peak hardly moves, with 2,500 texts, or with megabytes of text."""
    found = measured(FLAT, tiny_encoder_folder, tiny_reranker_folder)
    assert found["many"] - found["before"] < 24  # 300,000 tokens at once would take 50
    assert found["long"] - found["before"] < 64  # a million tokens at once would take more than 100


READING = """
from shortlist.data import read_passages

before = peak_mb()
count = sum(1 for _ in read_passages(sys.argv[1]))
print(json.dumps({"passages": count, "grown": peak_mb() - before}))
"""


def test_memory_does_not_grow_with_a_file(tmp_path: Path) -> None:
    """200 MB of passages, plain and packed, are read in a few megabytes."""
    block = "".join(json.dumps({"id": f"d{n}", "text": "words and more of them " * 400}) + "\n" for n in range(200)).encode()
    for name, content in {"c.jsonl": block, "c.jsonl.gz": gzip.compress(block)}.items():
        with (tmp_path / name).open("wb") as file:
            file.writelines([content] * (200_000_000 // len(block) + 1))
    assert (tmp_path / "c.jsonl").stat().st_size > 200_000_000
    for name in ("c.jsonl", "c.jsonl.gz"):
        found = measured(READING, tmp_path / name)
        assert found["passages"] > 20_000
        assert found["grown"] < 12


VOCABULARY = """
from shortlist import models
import shortlist.encoder, shortlist.index
from shortlist.engines.native import NativeEngine
from shortlist.models.network import read_network
from shortlist.tokens import Tokenizer

marks = [resident_mb()]
folder = models.resolve("shortlist-embed")
engine = NativeEngine(read_network(folder), threads=2)
marks.append(resident_mb())
loading = peak_mb()
tokenizer = Tokenizer.load(folder)
marks.append(resident_mb())
encoder = shortlist.encoder.Encoder(folder, models.read_card(folder), tokenizer, engine)
# Pieces from all over the vocabulary: the worst that texts can do to a table that is read row by row.
pieces = [piece.strip("\\u2581") for piece in tokenizer.pieces(range(4, 250_000, 14))]
for i in range(0, len(pieces), 50):
    encoder.encode([" ".join(pieces[i : i + 50])])
encoder.encode([" ".join(pieces[i : i + 50]) for i in range(0, len(pieces) // 4, 50)])
marks.append(resident_mb())
steps = [b - a for a, b in zip(marks, marks[1:])]
print(json.dumps(dict(zip(("imports", "network", "tokenizer", "work"), (marks[0], *steps))) | {"loading": loading}))
"""


@pytest.mark.weights
def test_a_vocabulary_of_250000_pieces_costs_little(capsys: pytest.CaptureFixture[str]) -> None:
    """The table of 192 MB stays in its file, whatever texts touch: the encoder is within 150 MB at any time.

    Measured: imports 35 MB, network 22 (its body as int8), tokenizer 13, work 19 to 35 (buffers of two threads, the table's
    frequent rows), loading 100 at most (the body's float16 pages are mapped until they are packed).
    """
    found = measured(VOCABULARY)
    with capsys.disabled():
        sys.stdout.write(f"\nMB: { ({part: round(size, 1) for part, size in found.items()}) }\n")
    assert found["network"] < 30
    assert found["work"] < 60
    assert found["tokenizer"] < 40
    assert sum(found[part] for part in ("imports", "network", "tokenizer", "work")) < 150
    assert found["loading"] < 125


THREADS = """
import threading
import numpy as np

if sys.argv[1] == "bound":
    from shortlist.server.run import bound_heap
    bound_heap()
before, ready = resident_mb(), threading.Barrier(17)

def work():
    for mb in (8, 4, 2, 1):
        np.ones(mb << 20, np.uint8)
    ready.wait()
    ready.wait()

for _ in range(16):
    threading.Thread(target=work).start()
ready.wait()
print(json.dumps({"kept": resident_mb() - before}), flush=True)
ready.wait()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_the_service_has_the_c_library_give_memory_back() -> None:
    """Sixteen threads have had 8 MiB each and idle: glibc keeps most of it, unless it is told not to."""
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    assert measured(THREADS, "bound", env=clean)["kept"] < 12
    assert measured(THREADS, "bound", env=clean | {"MALLOC_ARENA_MAX": "16"})["kept"] > 24, (
        "whoever has set it is not overruled"
    )
    assert measured(THREADS, "as it is", env=clean)["kept"] > 24, "or this test tells nothing"
