"""The HTTP service under load on loopback: throughput, latency, refusals and memory. It stops by itself.

    python bench/load.py my.idx                                1, 8, 64, 256 clients on embeddings, rerank and search
    python bench/load.py my.idx --seconds 10 -o bench/results/load.json
    python bench/load.py my.idx --flat 100000 --rerank L-2     memory over so many requests, nothing else
    python bench/load.py my.idx --rerank FOLDER --infinity BIN/infinity_emb
                                                               the same requests to infinity_emb, cell by cell

It starts `shortlist serve` as a process of its own with a queue of --max-queue tokens. Every client is one kept connection that
sends its next request when the answer to the last has come; after a 429 it waits a tenth of the time that it was told. Queries
and texts are those of the index, different ones each time. Client and server share the machine's processors: the figures are
those of both together.

With --flat eight clients send phrases from the index, hardly one of them twice: half embeddings, a quarter rerankings of two
passages, a quarter searches (hybrid, and two-stage with highlights), and one time in a thousand the embeddings of 16 whole
passages. The server's resident memory is read a hundred times on the way. It is called flat if, over the last half of the
requests, a straight line through the readings rises by less than 2% of their median and none lies more than 5% above it.

infinity_emb (`pip install torch 'infinity-emb[server,torch]'` in an environment of its own) serves the same weights: the
encoder of the index and FOLDER, a cross-encoder in the plain layout of transformers, such as `make bench-encoder` leaves in
build/bench-encoder/L-6/reranker. It has no index, so /v1/search is ours alone. Each cell is measured on both servers, one after
the other, while the other one rests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from shortlist import Index, __version__, models

OURS, PEER = "shortlist", "infinity"
CLIENTS = (1, 8, 64, 256)
PATIENCE_S = 120
PASSAGES, PHRASE = 2000, 32  # of the index, and characters of a phrase


def requests(texts: list[str], encoder: str, reranker: str) -> dict[str, list[bytes]]:
    """Endpoint -> requests of one kind, as bytes."""
    queries = [" ".join(text.split()[:8])[:60] for text in texts]
    bodies = {
        "/v1/embeddings": [{"model": encoder, "input": text, "encoding_format": "base64"} for text in texts],
        "/v1/rerank": [
            {"model": reranker, "query": query, "documents": (texts[i:] + texts)[:10]} for i, query in enumerate(queries)
        ],
        "/v1/search": [{"query": query, "k": 5, "candidates": 10} for query in queries],
    }
    return {path: [request(path, body) for body in some] for path, some in bodies.items()}


def request(path: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def client(port: int, source, results: list[tuple[int, float]], go_on) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while go_on():
            start = time.perf_counter()
            writer.write(next(source))
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = re.findall(rb"(?i)\r\ncontent-length: (\d+)", head)
            await reader.readexactly(int(length))
            status = int(head[9:12])
            results.append((status, time.perf_counter() - start))
            if status == 429:
                (wait,) = re.findall(rb"(?i)\r\nretry-after: (\d+)", head)
                await asyncio.sleep(int(wait) / 10)
    finally:
        writer.close()


async def storm(port: int, kinds: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    """`clients` ask for `seconds`."""
    source, results, end = itertools.cycle(kinds), [], time.monotonic() + seconds
    start = time.perf_counter()
    outcomes = await asyncio.gather(
        *(client(port, source, results, lambda: time.monotonic() < end) for _ in range(clients)), return_exceptions=True
    )
    took = time.perf_counter() - start
    served = np.array([seconds for status, seconds in results if status == 200] or [np.nan])
    statuses = Counter(status for status, _ in results)
    broken = sum(isinstance(one, BaseException) for one in outcomes)
    return {
        "clients": clients,
        "per_s": round(statuses[200] / took, 1),
        "p50_ms": round(float(np.percentile(served, 50)) * 1000, 1),
        "p99_ms": round(float(np.percentile(served, 99)) * 1000, 1),
        "ok": statuses[200],
        "busy_429": statuses[429],
        "errors": sum(statuses.values()) - statuses[200] - statuses[429] + broken,
    }


def phrases(texts: list[str]) -> Iterator[bytes]:
    """Requests of all kinds without end: mostly short, so that many are soon done."""
    rng = random.Random(1)

    def phrase() -> str:
        text = rng.choice(texts)
        start = rng.randrange(max(1, len(text) - PHRASE))
        return text[start : start + PHRASE].strip() or "?"

    for number in itertools.count(1):
        if number % 1000 == 0:
            yield request("/v1/embeddings", {"input": rng.sample(texts, 16)})
        elif number % 2:
            yield request("/v1/embeddings", {"input": phrase(), "encoding_format": "base64"})
        elif number % 4:
            yield request("/v1/rerank", {"query": phrase(), "documents": [phrase(), phrase()]})
        elif number % 8:
            yield request("/v1/search", {"query": phrase(), "strategy": "hybrid", "k": 5})
        else:
            yield request("/v1/search", {"query": phrase(), "candidates": 4, "k": 4, "highlights": True})


async def flat(port: int, source: Iterator[bytes], total: int, memory: Callable[[], float]) -> dict[str, object]:
    """Memory (requests so far, MiB) at a hundred points of `total` requests by eight clients, and what is to be said of it."""
    results, points, began = [], [(0, memory())], time.perf_counter()
    for part in range(1, 101):
        upto = total * part // 100
        await asyncio.gather(*(client(port, source, results, lambda upto=upto: len(results) < upto) for _ in range(8)))
        points.append((len(results), memory()))
        print(points[-1], file=sys.stderr)
    statuses = Counter(status for status, _ in results)
    took = time.perf_counter() - began
    return {"requests": len(results), "seconds": round(took), "statuses": statuses, **verdict(points), "memory_mib": points}


def verdict(points: list[tuple[int, float]]) -> dict[str, object]:
    """Whether memory is flat over the last half of the points: see above."""
    half = np.array(points[len(points) // 2 :])
    middle = float(np.median(half[:, 1]))
    rise = float(np.polyfit(half[:, 0], half[:, 1], 1)[0] * (half[-1, 0] - half[0, 0]))
    above = float(half[:, 1].max()) - middle
    return {
        "median_mib": round(middle, 1),
        "rise_mib": round(rise, 1),
        "highest_mib": round(middle + above, 1),
        "flat": rise < 0.02 * middle and above < 0.05 * middle,
    }


def rss_mib(pid: int) -> float:
    (kib,) = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return round(int(kib) / 1024, 1)


def start(args: argparse.Namespace) -> tuple[subprocess.Popen[str], int]:
    options = ["--port", "0", "--max-queue", str(args.max_queue), "--rerank", str(args.rerank)]
    command = [sys.executable, "-m", "shortlist", "serve", str(args.index), *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    first = server.stderr.readline()
    threading.Thread(target=lambda: server.stderr.read(), daemon=True).start()
    return server, int(first.rsplit(":", 1)[1])


def start_infinity(command: str, encoder: Path, reranker: Path) -> tuple[subprocess.Popen[str], int]:
    """infinity_emb with our folders under the names "encoder" and "reranker", when it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = [word for name, folder in (("encoder", encoder), ("reranker", reranker)) for word in _infinity_model(name, folder)]
    options = ["--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--url-prefix", "/v1", "--log-level", "error"]
    quiet = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen(
        [command, "v2", "--host", "127.0.0.1", "--port", str(port), *served, *options],
        env=os.environ | quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(PATIENCE_S):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
            return server, port
        time.sleep(1)
    server.kill()
    raise SystemExit(f"{command} was not ready within {PATIENCE_S} s")


def _infinity_model(name: str, folder: Path) -> list[str]:
    return ["--model-id", str(folder), "--served-model-name", name]


def measure(servers: dict[str, tuple[subprocess.Popen[str], int]], args: argparse.Namespace) -> dict[str, object]:
    with Index.open(args.index) as index:
        texts = [passage.content for passage in itertools.islice(index.passages(), PASSAGES)]
    kinds = {OURS: requests(texts[:200], "", "")}
    if PEER in servers:
        kinds[PEER] = {
            path: some for path, some in requests(texts[:200], "encoder", "reranker").items() if path != "/v1/search"
        }
    for name, (_, port) in servers.items():  # everything is loaded and mapped
        asyncio.run(storm(port, [one for some in kinds[name].values() for one in some[:20]], 1, 1))
    if args.flat:
        server, port = servers[OURS]
        return asyncio.run(flat(port, phrases(texts), args.flat, lambda: rss_mib(server.pid)))
    rows = []
    before = {name: rss_mib(server.pid) for name, (server, _) in servers.items()}
    for path, clients in itertools.product(kinds[OURS], args.clients):
        for name, (_, port) in servers.items():
            if path in kinds[name]:
                figures = asyncio.run(storm(port, kinds[name][path], clients, args.seconds))
                rows.append({"endpoint": path, "server": name, **figures})
                print(rows[-1], file=sys.stderr)
    after = {name: rss_mib(server.pid) for name, (server, _) in servers.items()}
    return {"rows": rows, "memory_mib": {"before": before, "after": after}}


def markdown(report: dict) -> str:
    columns = ("endpoint", "clients", "server", "per_s", "p50_ms", "p99_ms", "ok", "busy_429", "errors")
    if "flat" in report:
        points = "".join(f"| {requests:,} | {mib} |\n" for requests, mib in report["memory_mib"][::10])
        said = {name: value for name, value in report.items() if name != "memory_mib"}
        return f"| requests | MiB |\n|---|---|\n{points}\n{said}"
    lines = ["| endpoint | clients | server | requests/s | p50 ms | p99 ms | ok | 429 | other |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(str(row[name]) for name in columns)} |" for row in report.get("rows", [])]
    return "\n".join([*lines, "", f"Memory (MiB): {report['memory_mib']}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--seconds", type=float, default=5, help="of each cell of the table")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--max-queue", type=int, default=1 << 18)
    parser.add_argument("--rerank", default="L-6", help="size or folder of the reranker")
    parser.add_argument("--infinity", metavar="COMMAND", help="infinity_emb, to be measured beside ours")
    parser.add_argument("--flat", type=int, metavar="N", help="memory over N requests")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    servers = {OURS: start(args)}
    try:
        if args.infinity:
            with Index.open(args.index) as index:
                encoder = models.resolve(index.manifest["encoder"]["address"])
            servers[PEER] = start_infinity(args.infinity, encoder, Path(args.rerank))
        report = measure(servers, args)
    finally:
        for server, _ in servers.values():
            server.send_signal(signal.SIGTERM)
            server.wait(PATIENCE_S)
    report |= {"shortlist": __version__, "python": platform.python_version(), "index": args.index.name}
    print(markdown(report))
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
