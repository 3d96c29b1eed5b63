"""The command line: each verb a few lines over one method of the library.

Text or JSON lines go in and out, messages to stderr. Exit status: 0 done, 1 refused (the message says why), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from shortlist import __version__
from shortlist.cli import indexing, lab, machine, modelling, searching, training
from shortlist.cli.show import complain
from shortlist.errors import ShortlistError

VERBS = (indexing, searching, lab, modelling, training, machine)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs; every verb's namespace carries the function that runs it as `verb`."""
    parser = argparse.ArgumentParser(
        prog="shortlist",
        description="Search that works in any language on an ordinary CPU.",
        epilog="Start with: shortlist models fetch shortlist-embed, then shortlist index docs/ -o my.idx, then "
        "shortlist search my.idx 'a question'",
    )
    parser.add_argument("--version", action="version", version=f"shortlist {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for module in VERBS:
        module.add_verbs(verbs)
    return parser


def run() -> NoReturn:
    """The console script: `main`, and out without giving back memory piece by piece.

    The system takes it all at once, where freeing a vocabulary of 250,000 pieces would cost a quarter of a second.
    """
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    args = build_parser().parse_args(argv)
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
