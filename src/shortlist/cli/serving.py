"""`serve`: indexes and models over HTTP."""

from __future__ import annotations

import argparse
import os
import threading
import webbrowser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from shortlist.cli.show import complain, example
from shortlist.errors import BadInput, MissingExtra
from shortlist.reranker import FAMILY

_COLLECTOR = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def add_verbs(verbs: Any) -> None:
    """Register `serve`."""
    parser = verbs.add_parser(
        "serve",
        help="answer over HTTP, in the dialects that clients know",
        description="Search, embeddings and reranking over HTTP: OpenAI's, Cohere's, Jina's and TEI's endpoints and our own. "
        "Listens on this machine alone unless --host says otherwise, which needs keys.",
        **example("shortlist serve my.idx docs=other.idx --port 8080 --keys keys.txt"),
    )
    parser.add_argument("indexes", nargs="*", metavar="IDX", help="indexes to serve: PATH or NAME=PATH")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="port, 0 for any that is free (default: %(default)s)")
    parser.add_argument(
        "--keys", type=Path, metavar="FILE", help="lines `read NAME SECRET` or `write NAME SECRET` (or SHORTLIST_KEYS)"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that the Host header may have, for a proxy here",
    )
    parser.add_argument("--model", metavar="NAME", help="an encoder beside those of the indexes")
    parser.add_argument("--rerank", default=FAMILY.default, metavar="SIZE", help="reranker, or none (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads of a model (default: all that it may use)")
    parser.add_argument("--max-queue", type=int, metavar="TOKENS", help="tokens that may wait; beyond that clients get 429")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds that a request may take")
    parser.add_argument(
        "--otel", action="store_true", help="send OpenTelemetry traces (also on if OTEL_EXPORTER_OTLP_ENDPOINT is set)"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.set_defaults(verb=run_serve)


def run_serve(args: argparse.Namespace) -> int:
    """Open everything, listen, and answer until a signal comes."""
    try:
        from shortlist.server import app, guard, indexes, run, work
    except ImportError as error:
        raise MissingExtra(str(error.name), "serve", "`shortlist serve`") from error
    keys = guard.read_keys(args.keys)
    loopback = guard.checked_address(args.host, keys)
    limits = _limits(args, work.Limits())
    if not args.indexes and not args.model and args.rerank == "none":
        raise BadInput("there is nothing to serve. Give an index, --model or --rerank.")
    traced = _tracing(args.otel)
    run.bound_heap()
    shelf = indexes.Shelf(
        args.indexes,
        model=args.model,
        rerank=None if args.rerank == "none" else args.rerank,
        threads=args.threads,
        limits=limits,
    )
    hosts = {"localhost", "127.0.0.1", "[::1]", args.host.lower(), *map(str.lower, args.allow_host)} if loopback else None
    service = traced(app.build_app(shelf, keys=keys, hosts=hosts))
    listening = run.listen(args.host, args.port)
    host, port = listening.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    complain(f"serving {', '.join(shelf.indexes) or 'models'} at {url}")
    if args.open:  # on a thread: a browser in the terminal returns only when it is left
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    run.serve(service, listening, limits)
    return 0


def _tracing(asked: bool) -> Callable[[Any], Any]:
    """What is put around the application: what sends spans to a collector, or nothing."""
    if not asked and not any(map(os.environ.get, _COLLECTOR)):
        return lambda service: service
    try:
        from shortlist.server import tracing
    except ImportError as error:
        raise MissingExtra(str(error.name), "otel", f"OpenTelemetry (--otel or {_COLLECTOR[0]})") from error
    return partial(tracing.Traced, provider=tracing.exporting())


def _limits(args: argparse.Namespace, limits: Any) -> Any:
    from dataclasses import replace

    for name, value, least in (("queue_tokens", args.max_queue, 1024), ("request_s", args.timeout, 0.1)):
        if value is not None:
            if not value >= least:
                raise BadInput(f"{name}={value}: expected at least {least}.")
            limits = replace(limits, **{name: value})
    return limits
