"""Groups: a question with its candidates, some of them judged relevant. What `mine` writes and training reads.

    GROUPS/NAME/queries.jsonl    {"_id", "text"}
    GROUPS/NAME/passages.jsonl   {"_id", "text"}: title and text joined, those that some group names
    GROUPS/NAME/groups.jsonl     {"query", "candidates": [[passage id, first-stage z-score, label, dense score], …],
                                  "teacher": [score, …]}: the last where `distill` has asked a teacher

One folder a collection. Candidates are in the first stage's order; relevant ones that it did not find stand at the end with
the lowest z-score and dense score of the others.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shortlist.errors import BadInput
from shortlist.models.files import appearing

FILES = ("queries.jsonl", "passages.jsonl", "groups.jsonl")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One passage of a group. `first` is the first stage's score as a z-score over the group's candidates."""

    passage: str
    first: float
    relevant: bool
    dense: float
    teacher: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """One question of the collection `source`. Ids are those of the folder's `queries` and `passages`."""

    source: str
    query: str
    candidates: tuple[Candidate, ...]

    @property
    def relevant(self) -> tuple[Candidate, ...]:
        """The candidates that were judged relevant; at least one."""
        return tuple(c for c in self.candidates if c.relevant)


@dataclass(frozen=True)
class Groups:
    """All groups of a folder; `queries` and `passages` are texts by "NAME/id"."""

    groups: tuple[Group, ...]
    queries: dict[str, str]
    passages: dict[str, str]

    def __len__(self) -> int:
        return len(self.groups)


def read_groups(folder: Path, names: Sequence[str] = ()) -> Groups:
    """The groups of all collections of a folder, or of the named ones.

    Raises BadInput for a folder without groups, an unknown name, a malformed line, and a group without a relevant passage.
    """
    found = sorted(path.parent.name for path in folder.glob("*/groups.jsonl"))
    if not found:
        raise BadInput(f"{folder} holds no groups. Write some with: shortlist train mine COLLECTION -o {folder}")
    unknown = sorted(set(names) - set(found))
    if unknown:
        raise BadInput(f"{folder} has no groups of {', '.join(unknown)}; it has {', '.join(found)}.")
    groups: list[Group] = []
    queries: dict[str, str] = {}
    passages: dict[str, str] = {}
    for name in names or found:
        for texts, file in ((queries, "queries.jsonl"), (passages, "passages.jsonl")):
            texts.update((f"{name}/{row['_id']}", row["text"]) for row in _rows(folder / name / file))
        groups += [_group(name, row, folder) for row in _rows(folder / name / "groups.jsonl")]
    _check(groups, queries, passages, folder)
    return Groups(tuple(groups), queries, passages)


def joined(parts: Sequence[Groups]) -> Groups:
    """The groups of several folders. Raises BadInput if two folders hold the same collection's question."""
    groups = tuple(g for part in parts for g in part.groups)
    if len({g.query for g in groups}) < len(groups):
        raise BadInput("two of the folders hold a group of the same question. Name each folder once.")
    queries = {i: text for part in parts for i, text in part.queries.items()}
    return Groups(groups, queries, {i: text for part in parts for i, text in part.passages.items()})


def write_groups(groups: Groups, folder: Path) -> None:
    """The inverse of `read_groups`: one folder a collection, each appearing at once; one that is there is left as it is."""
    for name in dict.fromkeys(g.source for g in groups.groups):
        if (folder / name / "groups.jsonl").exists():
            continue
        mine = [g for g in groups.groups if g.source == name]
        queries = dict.fromkeys(g.query for g in mine)
        passages = dict.fromkeys(c.passage for g in mine for c in g.candidates)
        rows: dict[str, list[dict[str, object]]] = {
            "queries.jsonl": [{"_id": i.removeprefix(f"{name}/"), "text": groups.queries[i]} for i in queries],
            "passages.jsonl": [{"_id": i.removeprefix(f"{name}/"), "text": groups.passages[i]} for i in passages],
            "groups.jsonl": [_row(g) for g in mine],
        }
        with appearing(folder / name) as part:
            for file, lines in rows.items():
                text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
                (part / file).write_text(text, encoding="utf-8")


def _row(group: Group) -> dict[str, object]:
    """A group as its line says it."""
    start = len(group.source) + 1
    candidates = [[c.passage[start:], c.first, int(c.relevant), c.dense] for c in group.candidates]
    taught = {} if group.candidates[0].teacher is None else {"teacher": [c.teacher for c in group.candidates]}
    return {"query": group.query[start:], "candidates": candidates, **taught}


def first_of_each(groups: Groups, count: int) -> Groups:
    """At most `count` groups of every collection, the first ones."""
    seen: dict[str, int] = {}
    kept = []
    for group in groups.groups:
        seen[group.source] = seen.get(group.source, 0) + 1
        if seen[group.source] <= count:
            kept.append(group)
    return Groups(tuple(kept), groups.queries, groups.passages)


def sampled_candidates(group: Group, negatives: int, margin: float, draw: random.Random) -> list[Candidate]:
    """One relevant candidate, then `negatives` others: half from the group's best eight, the rest from below.

    Left out are other relevant ones and, since unjudged passages may be relevant too, those whose dense score is more than
    `margin` above the relevant one's. Fewer come back where the group has no more.
    """
    chosen = draw.choice(group.relevant)
    usable = [c for c in group.candidates if not c.relevant and c.dense <= chosen.dense + margin]
    near, far = usable[:8], usable[8:]
    picked = draw.sample(near, min(len(near), negatives - negatives // 2))
    picked += draw.sample(far, min(len(far), negatives - len(picked)))
    rest = [c for c in near if c not in picked]
    return [chosen, *picked, *draw.sample(rest, min(len(rest), negatives - len(picked)))]


def _rows(path: Path) -> Iterator[dict]:  # type: ignore[type-arg]
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BadInput(f"{path}, line {number}: not valid JSON ({error}). Mine this collection again.") from error
            if not isinstance(row, dict):
                raise BadInput(f"{path}, line {number}: expected a JSON object, got {type(row).__name__}.")
            yield row


def _group(name: str, row: dict, folder: Path) -> Group:  # type: ignore[type-arg]
    try:
        taught = row.get("teacher") or [None] * len(row["candidates"])
        candidates = tuple(
            Candidate(f"{name}/{passage}", float(first), bool(label), float(dense), teacher)
            for (passage, first, label, dense), teacher in zip(row["candidates"], taught, strict=True)
        )
        group = Group(name, f"{name}/{row['query']}", candidates)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{folder / name / 'groups.jsonl'}: {row!r:.120} is not a group ({error!r}).") from error
    if not group.relevant:
        raise BadInput(f"{folder / name / 'groups.jsonl'}: the group of {row['query']} has no relevant candidate.")
    return group


def _check(groups: Sequence[Group], queries: dict[str, str], passages: dict[str, str], folder: Path) -> None:
    for group in groups:
        missing = [c.passage for c in group.candidates if c.passage not in passages]
        if group.query not in queries or missing:
            raise BadInput(
                f"{folder}: the group of {group.query} names texts that are not there: {(missing or [group.query])[:3]}."
            )
