"""The command line: each verb a few lines over one method of the library.

Text or JSON lines go in and out, messages to stderr. Exit status: 0 done, 1 refused (the message says why), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from shortlist import __version__
from shortlist.cli.show import complain
from shortlist.errors import ShortlistError

HOME = {
    "index": "indexing",
    "index info": "keeping",
    "index delete": "keeping",
    "index compact": "keeping",
    "index check": "keeping",
    "index backup": "keeping",
    "search": "searching",
    "compare": "searching",
    "run": "lab",
    "eval": "evaluating",
    "tune": "tuning",
    "mteb": "evaluating",
    "report": "reporting",
    "reproduce": "reproducing",
    "articles": "indexing",
    "bench": "timing",
    "encode": "modelling",
    "rerank": "modelling",
    "models": "modelling",
    "train": "training",
    "serve": "serving",
    "mcp": "agents",
    "doctor": "machine",
}
"""Verb, of one word or two -> the module here that registers it: of a command only that one is imported."""


def build_parser(verb: str = "") -> argparse.ArgumentParser:
    """The parser of all verbs, or of those that live in one module with `verb`.

    Every verb's namespace carries the function that runs it as `verb`.
    """
    parser = argparse.ArgumentParser(
        prog="shortlist",
        description="Search that works in any language on an ordinary CPU.",
        epilog="Start with: shortlist models fetch shortlist-embed, then shortlist index docs/ -o my.idx, then "
        "shortlist search my.idx 'a question'",
    )
    parser.add_argument("--version", action="version", version=f"shortlist {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for module in [HOME[verb]] if verb in HOME else dict.fromkeys(HOME.values()):
        import_module(f"shortlist.cli.{module}").add_verbs(verbs)
    return parser


def run() -> NoReturn:
    """The console script: `main`, and out without giving back memory piece by piece.

    The system takes it all at once, where freeing a vocabulary of 250,000 pieces would cost a quarter of a second. Only `train`
    multiplies matrices in numpy: for any other verb numpy's BLAS starts no threads of its own.
    """
    if sys.argv[1:2] != ["train"]:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        status: int = args.verb(args)
        sys.stdout.flush()
    except ShortlistError as error:
        complain(f"{type(error).__name__}: {error}")
        return 1
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output, such as `head`, has gone: nothing is wrong
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        complain(f"{type(error).__name__}: {error}")
        return 1
    except KeyboardInterrupt:
        complain("interrupted; what was committed before stays")
        return 130
    return status


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of one command. Exits with status 2 for wrong usage."""
    words = _with_one_verb(list(argv))
    return build_parser(words[0] if words else "").parse_args(words)


def _with_one_verb(words: list[str]) -> list[str]:
    """`index compact …` as ["index compact", …]: a verb of two words. A folder of that name is reached as ./compact."""
    return [" ".join(words[:2]), *words[2:]] if " ".join(words[:2]) in HOME and len(words) > 1 else words
