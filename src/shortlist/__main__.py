"""`python -m shortlist`: the command line."""

from shortlist.cli import run

run()
