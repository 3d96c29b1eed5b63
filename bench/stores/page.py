"""results/index.md from what index.json holds."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from typing import Any

from .engines import ENGINES
from .growth import NAME

Entry = Mapping[str, Any]
OURS, RIVAL = "shortlist", "tantivy"

HEAD = """# Our index beside other stores

Made by `make bench-index` (`bench/index.py`); Python {python}, {cpus} cores. Every engine has the same passages, vectors of
384 numbers and 1,000 questions, and a process of its own for every step. **The machine had other work
at times: the load at the start stands beside each engine (2 and less is the benchmark itself), and a time says something only
beside others of like load.** CPU seconds suffer less from that than seconds.

A search is for the 100 best; a store that keeps texts returns them too (ours whole passages). "recall" is recall@100
against brute force in float32; "top ten" the share of the ten best that also are the formula's, summed up in float64 with
the engine's own k1 and b. "open" goes from the start of a Python process to its first answers, page cache warm (of bm25s it
is mostly compilation by numba). "resident" counts mapped files, "own" does not. One passage is added or deleted at a time,
durable when the call returns as far as the engine promises it. "after kill -9": whether a search finds a passage whose
process was killed the moment the call had returned. The page cache survives that, so it is no power cut.
"""


def number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(columns: Mapping[str, Callable[[Entry], str]], entries: Mapping[str, Entry]) -> list[str]:
    lines = [f"| engine | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(cell(entry) for cell in columns.values())} |" for name, entry in entries.items()]
    return [*lines, ""]


def asked(kind: str, name: str) -> Callable[[Entry], str]:
    return lambda entry: number(entry["ask"][kind][name])


def building(entries: Mapping[str, Entry]) -> list[str]:
    built = {name: entry for name, entry in entries.items() if "build" in entry}
    rival = built.get(RIVAL)

    def ratio(name: str) -> Callable[[Entry], str]:
        return lambda entry: f"{entry['build'][name] / rival['build'][name]:.1f}" if rival else ""

    columns: dict[str, Callable[[Entry], str]] = {
        "build, s": lambda entry: number(entry["build"]["s"]),
        "CPU s": lambda entry: number(entry["build"]["cpu_s"]),
        f"time / {RIVAL}": ratio("s"),
        f"CPU / {RIVAL}": ratio("cpu_s"),
        "of it": lambda entry: ", ".join(f"{step} {number(s)}" for step, s in entry["build"]["steps"].items()),
        "peak MB": lambda entry: number(entry["build"]["mb"]),
        "disk MB": lambda entry: number(entry["disk_mb"]),
        "load": lambda entry: str(entry["load"]),
    }
    return table(columns, built)


def searching(entries: Mapping[str, Entry], kind: str, last: str, cell: Callable[[Entry], str]) -> list[str]:
    able = {name: entry for name, entry in entries.items() if kind in entry.get("ask", {})}
    columns = {"p50 ms": asked(kind, "p50"), "p99 ms": asked(kind, "p99"), last: cell, "questions": asked(kind, "asked")}
    return table({**columns, "questions": lambda entry: f"{entry['ask'][kind]['asked']:,}"}, able)


def serving(entries: Mapping[str, Entry]) -> list[str]:
    able = {name: entry for name, entry in entries.items() if "ask" in entry}

    def changed(name: str) -> Callable[[Entry], str]:
        return lambda entry: number(entry.get("change", {}).get(name))

    def noticed(entry: Entry) -> str:
        change = entry.get("change", {})
        faults = {"added ones not found": change.get("not_found"), "deleted ones found": change.get("still_found")}
        return ", ".join(f"{count} {what}" for what, count in faults.items() if count)

    columns: dict[str, Callable[[Entry], str]] = {
        "open ms": lambda entry: number(entry["first_ms"]),
        "resident MB": lambda entry: number(entry["ask"]["memory"]["resident"]),
        "own MB": lambda entry: number(entry["ask"]["memory"]["own"]),
        "add one, ms": changed("add_ms"),
        "delete one, ms": changed("delete_ms"),
        "peak MB while changing": changed("mb"),
        "after kill -9": lambda entry: {True: "there", False: "**lost**", None: ""}[entry.get("survived")],
        "wrong": noticed,
    }
    return table(columns, able)


def growing(entry: Entry) -> list[str]:
    first, second = entry["interrupted"], entry["resumed"]
    noted = first["noted"] + [(first["s"] + s, mb, held) for s, mb, held in second["noted"]]
    step = max(1, len(noted) // 16)
    parts = ", ".join(f"{part} {size / 1e6:,.0f} MB" for part, size in entry["bytes"].items() if size)
    return [
        f"`shortlist index passages.jsonl --model none --lang en --update` was interrupted after {first['s']:.0f} s and "
        f"left {entry['held']:,} passages; the same command took another {second['s']:.0f} s and left {entry['passages']:,}, "
        f"{entry['deleted']} deleted, every one once: {'yes' if entry['complete'] else '**no**'}. Peak of its own memory "
        f"{first['peak_mb']:.0f} and {second['peak_mb']:.0f} MB. On disk: {parts}.",
        "",
        "| second | own MB | passages |",
        "| ---: | ---: | ---: |",
        *(f"| {s:.0f} | {mb} | {held:,} |" for s, mb, held in noted[::step]),
        "",
    ]


def page(figures: Mapping[str, Mapping[str, Entry]]) -> str:
    lines = [HEAD.format(python=platform.python_version(), cpus=os.cpu_count())]
    for size, found in sorted(figures.items(), key=lambda item: -int(item[0])):
        entries = {name: found[name] for name in ENGINES if name in found}
        lines += [f"## {int(size):,} passages", "", "### Building", "", *building(entries)]
        exact = lambda entry: f"{entry['ask']['exact']:.3f}" if "exact" in entry["ask"] else ""  # noqa: E731
        lines += ["### Text", "", *searching(entries, "text", "top ten", exact)]
        lines += ["### Vectors", "", *searching(entries, "vector", "recall", lambda entry: f"{entry['ask']['recall']:.4f}")]
        lines += ["### Serving and changing", "", *serving(entries)]
        failed = {name: entry["failed"] for name, entry in entries.items() if "failed" in entry}
        if failed:
            lines += ["Not done: " + "; ".join(f"**{name}** {why}" for name, why in failed.items()) + ".", ""]
        if NAME in found:
            lines += ["### Interrupted and resumed", "", *growing(found[NAME])]
    settings: dict[str, str] = {}
    for found in figures.values():
        for name in ENGINES:
            if name in found:
                entry = found[name]
                settings[name] = f"| {name} | {entry.get('versions', '')} | {entry['date']} | {entry['about']} |"
    lines += ["## Settings", "", "| engine | versions | measured | settings |", "| --- | --- | --- | --- |", *settings.values()]
    return "\n".join(lines).rstrip() + "\n"
