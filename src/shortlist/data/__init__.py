"""Readers and writers of retrieval data: passages, queries, judgements and runs, each in the forms the field uses.

All files are UTF-8 (a byte order mark is accepted) and may be packed with gzip (name ending in .gz) or Zstandard (.zst). A line
that cannot be read raises BadInput with file and line: nothing is skipped unless a `Skipped` is given to count it, nothing is
guessed.
"""

from __future__ import annotations

from shortlist.data.judged import Collection, read_collection, read_miracl, read_qrels, read_queries
from shortlist.data.lines import Skipped
from shortlist.data.passages import PASSAGE_CHARS, read_passages, write_passages
from shortlist.data.runs import read_manifest, read_run, write_manifest, write_run

__all__ = [
    "PASSAGE_CHARS",
    "Collection",
    "Skipped",
    "read_collection",
    "read_manifest",
    "read_miracl",
    "read_passages",
    "read_qrels",
    "read_queries",
    "read_run",
    "write_manifest",
    "write_passages",
    "write_run",
]
