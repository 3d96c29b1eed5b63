"""How our own index grows, by its command line: memory over time, Ctrl-C in the middle and going on, size of each part."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from .corpus import Corpus

NAME = "growth"
_COMMAND = [sys.executable, "-m", "shortlist"]
_INTERRUPTED_AT = 0.4  # of the passages are in


def own_mb(pid: int) -> float:
    """Resident memory of a process without mapped files."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), 0.0)


def info(index: Path) -> dict[str, Any]:
    """What `shortlist index info --json` says; {} while there is no index."""
    found = subprocess.run([*_COMMAND, "index", "info", str(index), "--json"], capture_output=True, text=True, check=False)
    return json.loads(found.stdout) if found.returncode == 0 else {}


def measured(corpus: Corpus, work: Path) -> dict[str, Any]:
    """Index the corpus with `shortlist index`, interrupt it, and run the same command again."""
    folder = work / "growth"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    index, source = folder / "grown.idx", folder / "passages.jsonl"
    with source.open("w", encoding="utf-8") as out, (corpus.folder / "passages.jsonl").open(encoding="utf-8") as lines:
        out.writelines(line for _, line in zip(range(corpus.count), lines, strict=False))
    command = [*_COMMAND, "index", str(source), "-o", str(index), "--model", "none", "--lang", "en", "--update"]
    try:
        first = _watched(command, index, int(corpus.count * _INTERRUPTED_AT))
        held = info(index)["passages"]
        second = _watched(command, index, None)
        after = info(index)
        return {
            "interrupted": first,
            "held": held,
            "resumed": second,
            "passages": after["passages"],
            "deleted": after["deleted"],
            "bytes": after["bytes"],
            "complete": _same_ids(index, corpus.count),
        }
    finally:
        shutil.rmtree(folder)


def _watched(command: list[str], index: Path, until: int | None) -> dict[str, Any]:
    """Run a command, noting (second, MB, passages in the index); Ctrl-C as soon as so many passages are in."""
    began = time.monotonic()
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell has its background jobs ignore Ctrl-C
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    noted: list[tuple[float, float, int]] = []
    most = 0.0
    while process.poll() is None:
        mb = own_mb(process.pid)
        most = max(most, mb)
        if not noted or time.monotonic() - began - noted[-1][0] > 2:
            held = _slots(index)
            noted.append((round(time.monotonic() - began, 1), round(mb), held))
            if until is not None and held >= until:
                process.send_signal(signal.SIGINT)
                until = None
        time.sleep(0.1)
    said = "".join(process.communicate()).replace(f"{index.parent}/", "")
    took = time.monotonic() - began
    return {"s": took, "peak_mb": most, "noted": noted, "status": process.returncode, "said": said[-300:]}


def _slots(index: Path) -> int:
    """Passages that the index has published, without opening it."""
    try:
        return int(json.loads((index / "published").read_bytes().partition(b"\n")[0])["point"][1])
    except (OSError, ValueError, KeyError):
        return 0


def _same_ids(index: Path, count: int) -> bool:
    """Whether the index holds every passage once and nothing else."""
    from shortlist.index import Index

    with Index.open(index) as opened:
        ids = [passage.id for passage in opened.passages()]
    return len(ids) == count and set(ids) == {f"p{number}" for number in range(count)}
