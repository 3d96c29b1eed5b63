"""The page of the comparison from its figures (what encoder.json holds). Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peers.rates import cell, fastest, linear_operations, percentile, speedups, spread, table

OURS = "shortlist"
# Below these an engine computes something else, and is no peer.
LEAST_COSINE, LEAST_AGREEMENT = 0.98, 0.85
NAMES = {
    "passages": "passages of MS MARCO's lengths",
    "long": "passages of 512 tokens",
    "chinese": "Chinese passages",
}
Figures = Mapping[str, Any]


def page(figures: Figures, labels: Mapping[str, str]) -> str:
    """Markdown. `figures`: encoder.json; `labels`: engine -> name in words."""
    lines = ["# The encoder beside its peers", "", *_preface(figures), "", "## In short", "", *_summary(figures, labels), ""]
    for run in figures["runs"]:
        lines += _run(run, figures, labels)
    return "\n".join([*lines, *_settings(figures, labels)]) + "\n"


def peers(run: Figures, part: str, test: str) -> dict[str, list[float]]:
    """Seconds by round of the engines but ours that finished a test and whose numbers are right."""
    found = run[part].get(test, {})
    return {name: f["s"] for name, f in found.items() if name != OURS and agrees(run, part, test, name)}


def agrees(run: Figures, part: str, test: str, engine: str) -> bool:
    """Whether the engine computed what the float32 reference did; True where there is no reference."""
    found = run["agreement"].get(f"{part}/{test}", {}).get(engine)
    if found is None:
        return True
    return bool(found["mean"] >= LEAST_COSINE if part == "encode" else found["order"] >= LEAST_AGREEMENT)


def shares_of_peak(run: Figures, shape: Figures, test: str) -> list[float]:
    """Of each round: our linear layers' operations a second, network alone, over the int8 peak measured in that round."""
    work = linear_operations(run["tokens"][test], shape["layers"], shape["hidden"], shape["intermediate"])
    return [1e-9 * work / s / peak for s, peak in zip(run["network_s"][test], run["peak_gops"], strict=True)]


# ---------------------------------------------------------------------------------------------- parts of the page


def _preface(figures: Figures) -> list[str]:
    machine, texts = figures["machine"], figures["texts"]
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    missing = "; ".join(f"{name}: {why}" for name, why in figures["missing"].items())
    return [
        f"{figures['date']}, {machine['cpu']}, {machine['cores']} cores, kernels {machine['kernels']}, load average "
        f"{machine['load']:.2f} at the start. {versions}.",
        "",
        f"{figures['rounds']} rounds; in each every engine has its turn, in a process of its own, while the others are "
        "stopped. Figures are medians over the rounds, with the least and the greatest. *Times as fast* is a peer's seconds "
        "over ours in the same round. Text in, vectors or scores out, tokenizing included; *network* leaves it out where an "
        "engine lets us. Every engine has the same weights and texts, and the batch size and streams that were fastest of all "
        "that were tried.",
        "",
        f"Texts: {texts['source']}. {texts['counts']}.",
        "",
        "Gop/s counts the linear layers only (4 hidden² + 2 hidden x intermediate products a token and layer, two operations "
        "each); attention, norms and GELU come on top unseen. The peak is that of int8 dot products between registers, "
        "measured in every round.",
        "",
        f"Not measured: {missing}." if missing else "All peers were there.",
    ]


def _summary(figures: Figures, labels: Mapping[str, str]) -> list[str]:
    rows = []
    for run in figures["runs"]:
        for part, test, what in _tests(run):
            rivals, ours = peers(run, part, test), run[part][test].get(OURS)
            best = fastest(rivals)
            if not ours or not best:
                continue
            ratio = spread(speedups(ours["s"], rivals[best]))
            share = shares_of_peak(run, figures["bodies"][run["body"]], test) if part == "encode" else []
            peak = f"{100 * spread(share).median:.0f}%" if share else ""
            rows.append([run["body"], str(run["threads"]), what, labels[best], cell(ratio), peak])
    return table(["body", "threads", "test", "best peer", "times as fast", "share of the int8 peak"], rows)


def _tests(run: Figures) -> Iterator[tuple[str, str, str]]:
    """part, test and its name in words."""
    for test in run["encode"]:
        yield "encode", test, NAMES[test]
    if run["ask"]:
        yield "ask", "one", "one question"
    for test in run["rerank"]:
        yield "rerank", test, f"rerank {test}"


def _run(run: Figures, figures: Figures, labels: Mapping[str, str]) -> list[str]:
    shape = figures["bodies"][run["body"]]
    threads = f"{run['threads']} thread{'s' if run['threads'] > 1 else ''}"
    peak = spread(run["peak_gops"])
    lines = [f"## {run['body']}, {threads}", "", f"Int8 peak {cell(peak, 0)} Gop/s.", ""]
    for test, found in run["encode"].items():
        tokens = run["tokens"][test]
        lines += [f"**{NAMES[test][0].upper()}{NAMES[test][1:]}**: {run['counts'][test]} texts, {tokens:,} tokens.", ""]
        rows = [_encode_row(run, test, engine, tokens, labels) for engine in found]
        lines += [*table(["engine", "tokens/s", "network", "ours is … times as fast", "cosine mean / min"], rows), ""]
        if run["network_s"].get(test):
            work = linear_operations(tokens, shape["layers"], shape["hidden"], shape["intermediate"])
            gops = spread(1e-9 * work / s for s in run["network_s"][test])
            share = spread(100 * s for s in shares_of_peak(run, shape, test))
            lines += [f"Our network: {cell(gops, 0)} Gop/s, {cell(share, 0)}% of the peak.", ""]
    if run["ask"]:
        lines += ["**One question**, milliseconds.", ""]
        rows = [_ask_row(run, engine, labels) for engine in run["ask"]["one"]]
        lines += [*table(["engine", "p50", "p99", "ours is … times as fast"], rows), ""]
    for test, found in run["rerank"].items():
        lines += [f"**Rerank {test} pairs**, milliseconds; {run['pair_tokens'][test]:,} tokens.", ""]
        rows = [_rerank_row(run, test, engine, labels) for engine in found]
        lines += [*table(["engine", "ms", "network", "ours is … times as fast", "correlation / same order"], rows), ""]
    lines += ["**Peak memory** after encoding, MB, mapped float32 weights included: " + _memory(run, labels) + ".", ""]
    for engine, why in run["failed"].items():
        lines += [f"{labels[engine]} failed: {why}", ""]
    return lines


def _encode_row(run: Figures, test: str, engine: str, tokens: int, labels: Mapping[str, str]) -> list[str]:
    found = run["encode"][test][engine]
    network = run["network_s"].get(test, []) if engine == OURS else [s for s in found["network_s"] if s is not None]
    cosine = run["agreement"].get(f"encode/{test}", {}).get(engine)
    return [
        labels[engine],
        cell(spread(tokens / s for s in found["s"]), 0),
        f"{spread(tokens / s for s in network).median:.0f}" if network else "",
        _times(run, "encode", test, engine),
        f"{cosine['mean']:.4f} / {cosine['min']:.4f}" if cosine else "",
    ]


def _ask_row(run: Figures, engine: str, labels: Mapping[str, str]) -> list[str]:
    every = [1000 * s for part in run["ask"]["one"][engine]["each_s"] for s in part]
    times = _times(run, "ask", "one", engine)
    return [labels[engine], f"{percentile(every, 50):.2f}", f"{percentile(every, 99):.2f}", times]


def _rerank_row(run: Figures, test: str, engine: str, labels: Mapping[str, str]) -> list[str]:
    found = run["rerank"][test][engine]
    network = [s for s in found["network_s"] if s is not None]
    same = run["agreement"].get(f"rerank/{test}", {}).get(engine)
    return [
        labels[engine],
        cell(spread(1000 * s for s in found["s"]), 1),
        f"{spread(1000 * s for s in network).median:.1f}" if network else "",
        _times(run, "rerank", test, engine),
        f"{same['correlation']:.4f} / {same['order']:.3f}" if same else "",
    ]


def _times(run: Figures, part: str, test: str, engine: str) -> str:
    ours = run[part][test].get(OURS)
    if engine == OURS or not ours:
        return ""
    if not agrees(run, part, test, engine):
        return "other numbers: no peer"
    return cell(spread(speedups(ours["s"], run[part][test][engine]["s"])))


def _memory(run: Figures, labels: Mapping[str, str]) -> str:
    return "; ".join(f"{labels[engine]} {mb:.0f}" for engine, mb in run["memory_mb"].items())


def _settings(figures: Figures, labels: Mapping[str, str]) -> list[str]:
    def words(setting: Sequence[int]) -> str:
        return f"{setting[0]} x {setting[1]}" if setting[1] > 1 else str(setting[0])

    rows = [
        [labels[engine], threads, *(words(found[test]) if test in found else "" for test in ("passages", "long", "rerank"))]
        for (engine, threads), found in ((key.split("/"), found) for key, found in figures["settings"].items())
        if engine != OURS
    ]
    head = ["engine", "threads", "passages", "long, Chinese", "rerank"]
    intro = "Chosen by trying all: the tokens of a batch, padding included (for engines that take text its texts), x streams."
    return ["## Settings", "", intro, "", *table(head, rows)]
