"""Distill: a teacher's scores for every candidate of the groups, for a smaller reranker to learn from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from shortlist.errors import BadInput
from shortlist.reranker import Reranker
from shortlist.train.groups import FILES, read_groups

Progress = Callable[[int, int | None], None]


def ask_teacher(groups: Path, teacher: str | Path, out: Path, *, progress: Progress | None = None) -> Path:
    """Copies the groups to `out` with the teacher's logit for every candidate; returns `out`.

    A teacher's scores are those of our own engine. What was asked before is kept, collection by collection; another teacher
    needs another folder. Raises BadInput if `out` was made by another teacher.
    """
    reranker = Reranker.load(teacher)
    out.mkdir(parents=True, exist_ok=True)
    _check_same_teacher(out / "teacher", reranker.fingerprint)
    everything = read_groups(groups)
    done = 0
    for name in dict.fromkeys(g.source for g in everything.groups):
        mine = [g for g in everything.groups if g.source == name]
        if not (out / name / "groups.jsonl").exists():
            scores: list[list[float]] = []
            for group in mine:
                texts = [everything.passages[c.passage] for c in group.candidates]
                scores.append([round(float(s), 4) for s in reranker.score(everything.queries[group.query], texts)])
                if progress is not None:
                    progress(done + len(scores), len(everything))
            _write(groups / name, out / name, scores)
        done += len(mine)
    return out


def _check_same_teacher(note: Path, fingerprint: str) -> None:
    if note.exists() and note.read_text(encoding="utf-8") != fingerprint:
        raise BadInput(f"{note.parent} holds the scores of another teacher. Give another output folder, or remove it.")
    note.write_text(fingerprint, encoding="utf-8")


def _write(source: Path, target: Path, scores: list[list[float]]) -> None:
    """The collection's files with the scores; groups.jsonl comes last, so that a killed writing is done again."""
    target.mkdir(exist_ok=True)
    for name in FILES[:2]:
        (target / name).write_bytes((source / name).read_bytes())
    rows = [json.loads(line) for line in (source / FILES[2]).read_text(encoding="utf-8").splitlines()]
    part = target / "groups.part"
    lines = (
        json.dumps({**row, "teacher": row_scores}, ensure_ascii=False) for row, row_scores in zip(rows, scores, strict=True)
    )
    part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    part.replace(target / FILES[2])
