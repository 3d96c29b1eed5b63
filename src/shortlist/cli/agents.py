"""`mcp`: the tools of an agent over stdio or HTTP."""

from __future__ import annotations

import argparse
from typing import Any

from shortlist.cli.show import complain, example
from shortlist.index import Index, named_paths
from shortlist.mcp import build
from shortlist.pipeline import Pipeline
from shortlist.reranker import FAMILY, Reranker

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_verbs(verbs: Any) -> None:
    """Register `mcp`."""
    parser = verbs.add_parser(
        "mcp",
        help="tools for agents (Model Context Protocol)",
        description="The tools search, rerank, get_passage and list_indexes over stdio, as agents start them, or over "
        "streamable HTTP at /mcp on this machine.",
        **example("shortlist mcp my.idx    or    shortlist mcp my.idx wiki.idx --http --port 8642"),
    )
    parser.add_argument("indexes", nargs="+", metavar="IDX", help="an index, or NAME=PATH; its name is else that of its folder")
    parser.add_argument(
        "--rerank", default=FAMILY.default, metavar="SIZE", help="a size, a name, a folder, or none (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads of the reranker (default: all that it may use)")
    parser.add_argument("--http", action="store_true", help="streamable HTTP in place of stdio")
    parser.add_argument("--host", choices=LOOPBACK, default=LOOPBACK[0], help="with --http (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8642, help="with --http (default: %(default)s)")
    parser.set_defaults(verb=run_mcp)


def run_mcp(args: argparse.Namespace) -> int:
    """Serve until the agent closes its end, or Ctrl-C."""
    reranker = None if args.rerank == "none" else Reranker.load(args.rerank, threads=args.threads)
    indexes = {name: Index.open(path) for name, path in named_paths(args.indexes).items()}
    server = build({name: Pipeline(index, reranker) for name, index in indexes.items()})
    if args.http:
        complain(f"tools at http://{args.host}:{args.port}/mcp; Ctrl-C ends it")
        server.run("streamable-http", host=args.host, port=args.port)
    else:
        server.run()
    return 0
