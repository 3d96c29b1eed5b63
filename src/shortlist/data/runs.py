"""Runs in TREC form, and the manifest beside each that says where it comes from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from shortlist.data.lines import FLOAT32_MAX, StrPath, data_lines, existing, finite, pack, shown, unpacked_name
from shortlist.errors import BadInput
from shortlist.models.files import replace_file
from shortlist.types import Json, Run

COLUMNS = "6: query Q0 passage rank score tag"


def read_run(path: StrPath) -> Run:
    """A run, ranked as trec_eval ranks it; also .gz and .zst.

    TREC      `query Q0 passage rank score tag`
    MS MARCO  `query passage rank`, whose scores are the ranks, negative; its tag is the file's name

    trec_eval ignores the rank column, holds scores as float32 and puts tied passages in descending order of id, while
    `Run.ranked` orders them ascending. So that both agree, a tied score is lowered to the next float64 below its
    predecessor; scores without ties come back as written.

    Raises BadInput: malformed line, a score that is not a finite number, a passage twice for a query, no line at all.
    """
    source = existing(path)
    run, columns = Run(name=Path(unpacked_name(source)).stem), 0
    for number, line in data_lines(source):
        where = f"{source}:{number}"
        columns = columns or (3 if len(line.split()) == 3 else 6)
        cells = line.split(None, 5)
        if len(cells) != columns:
            raise BadInput(
                f"{where}: {len(cells)} columns; expected {'3: query passage rank' if columns == 3 else COLUMNS}. "
                f"Found: {shown(line)}"
            )
        query_id, passage_id, score = (cells[0], cells[2], cells[4]) if columns == 6 else (cells[0], cells[1], f"-{cells[2]}")
        if not run and columns == 6:
            run.name = cells[5]
        hits = run.setdefault(query_id, {})
        if passage_id in hits:
            raise BadInput(f"{where}: passage {passage_id!r} appears twice for query {query_id!r}; expected once.")
        hits[passage_id] = finite(score, where)
    if not run:
        raise BadInput(f"{source}: holds no result; expected lines of {COLUMNS.replace(':', ' columns:')}.")
    for query_id, hits in run.items():
        run[query_id] = _untied(hits)
    return run


def _untied(hits: Mapping[str, float]) -> dict[str, float]:
    """The same hits in trec_eval's order, tied scores made distinct."""
    order = sorted(hits, key=_utf8, reverse=True)
    order.sort(key=lambda passage_id: float(np.float32(hits[passage_id])), reverse=True)
    ordered: dict[str, float] = {}
    last = math.inf
    for passage_id in order:
        last = min(hits[passage_id], math.nextafter(last, -math.inf))
        ordered[passage_id] = last
    return ordered


def _utf8(text: str) -> bytes:
    return text.encode("utf-8")  # C's strcmp compares bytes


def write_run(run: Run, path: StrPath, manifest: Mapping[str, Json] | None = None) -> None:
    """Write a run in TREC form; the file appears whole or not at all. A name ending in .gz or .zst is packed.

    `manifest` says how the run was made and goes beside it, into PATH.manifest.json. Without one an older manifest is removed,
    because it would speak of another run.

    Order and ranks (from 1) follow `Run.ranked`: score descending, ties by passage id. Scores are written as float32 with
    nine significant digits, so that they read back exactly. trec_eval sorts again by score and would turn ties round;
    therefore a score that is not below its predecessor as float32 is written one float32 step lower, and every reader
    sees our order.

    Raises BadInput: an id or the run's name is empty or holds white space, a score is not finite.
    """
    target = Path(path)
    _checked_token(run.name, "the run's name")
    text = "".join(line for query_id in run for line in _run_lines(run, query_id)).encode("utf-8")
    if not target.parent.is_dir():
        raise BadInput(f"{target}: the folder {target.parent} does not exist. Create it first.")
    _manifest_path(target).unlink(missing_ok=True)
    replace_file(target, pack(text, target))
    if manifest is not None:
        write_manifest(manifest, target)


def write_manifest(manifest: Mapping[str, Json], path: StrPath) -> None:
    """Write PATH.manifest.json beside the run in PATH."""
    replace_file(_manifest_path(Path(path)), (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))


def read_manifest(path: StrPath) -> dict[str, Json] | None:
    """How the run in this file was made; None for a run without a manifest. Raises BadInput if it is no JSON object."""
    beside = _manifest_path(Path(path))
    if not beside.is_file():
        return None
    try:
        manifest = json.loads(beside.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{beside}: not JSON ({error}). Write the run again, or remove this file.") from error
    if not isinstance(manifest, dict):
        raise BadInput(f"{beside}: expected a JSON object. Write the run again, or remove this file.")
    return manifest


def _manifest_path(run: Path) -> Path:
    return run.with_name(f"{run.name}.manifest.json")


def _run_lines(run: Run, query_id: str) -> Iterator[str]:
    _checked_token(query_id, "query id")
    ranked = run.ranked(query_id)
    for passage_id, score in ranked:
        _checked_token(passage_id, f"passage id of query {query_id!r}")
        if not abs(score) < FLOAT32_MAX:
            raise BadInput(f"query {query_id!r}, passage {passage_id!r}: score {score}; expected a finite float32 number.")
    for rank, (passage_id, score) in enumerate(descending(ranked), 1):
        yield f"{query_id} Q0 {passage_id} {rank} {score:.9g} {run.name}\n"


def descending(ranked: Iterable[tuple[str, float]]) -> Iterator[tuple[str, float]]:
    """Passages in the same order with scores that differ as float32: one not below its predecessor goes a step lower."""
    last = np.float32(np.inf)
    for passage_id, score in ranked:
        last = min(np.float32(score), np.nextafter(last, np.float32(-np.inf)))
        yield passage_id, float(last)


def _checked_token(value: str, what: str) -> None:
    if not value or len(value.split()) != 1 or value != value.strip():
        raise BadInput(f"{what} {value!r} is empty or holds white space, which a TREC run cannot carry. Rename it.")
