"""Distill: a teacher's scores for every candidate of the groups, for a smaller reranker to learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from shortlist.errors import BadInput
from shortlist.reranker import Reranker
from shortlist.train.groups import Group, Groups, read_groups, write_groups

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
            taught = []
            for group in mine:
                taught.append(_taught(reranker, everything, group))
                if progress is not None:
                    progress(done + len(taught), len(everything))
            write_groups(Groups(tuple(taught), everything.queries, everything.passages), out)
        done += len(mine)
    return out


def _taught(reranker: Reranker, texts: Groups, group: Group) -> Group:
    """The group with the teacher's score at every candidate."""
    scores = reranker.score(texts.queries[group.query], [texts.passages[c.passage] for c in group.candidates])
    marked = (replace(c, teacher=round(float(s), 4)) for c, s in zip(group.candidates, scores, strict=True))
    return replace(group, candidates=tuple(marked))


def _check_same_teacher(note: Path, fingerprint: str) -> None:
    if note.exists() and note.read_text(encoding="utf-8") != fingerprint:
        raise BadInput(f"{note.parent} holds the scores of another teacher. Give another output folder, or remove it.")
    note.write_text(fingerprint, encoding="utf-8")
