"""Reading and writing the files of a model folder: JSON, checksums, folders that appear all at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from shortlist.errors import ModelError, ModelNotFound

WEIGHTS, SHARDS = "model.safetensors", "model.safetensors.index.json"
_STALE_AFTER_S = 24 * 3600


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ModelNotFound without a file, ModelError if it holds anything else."""
    content = read_json_value(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(content).__name__}.")
    return content


def read_json_value(path: Path) -> Any:
    """The JSON value in a file. Raises ModelError if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFound(f"there is no {path}. Give a folder that holds config.json and {WEIGHTS}.") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON: {error}. Fetch or save the model again.") from error


def write_json(path: Path, content: Mapping[str, Any] | list[Any], indent: int | None = 1) -> None:
    """The same bytes for the same content; `indent=None` for what nobody reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    separators = (",", ":") if indent is None else None
    text = json.dumps(content, indent=indent, separators=separators, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """`sha256`, read once in a process as long as the file, its size and the time of its last change stay."""
    state = path.stat()
    return _sha256_of(path, (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=64)
def _sha256_of(path: Path, state: tuple[int, ...]) -> str:
    return sha256(path)


def checksums(folder: Path) -> dict[str, str]:
    """Relative path -> sha256 of every file in the folder but card.json, which holds these sums."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "card.json")
    return {p.relative_to(folder).as_posix(): sha256(p) for p in files}


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Write a whole file so that any reader, at any time, finds the old one or the new one; several may write at once."""
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(draft).chmod(0o666 & ~mask)  # mkstemp makes files that only their owner can read
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name when the block ends without an error.

    A killed process leaves nothing under the final name. If another process was faster, its folder stays and ours goes.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)
        for path in folder.rglob("*"):
            if path.is_file():
                _sync(path)
        _rename(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rename(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove_stale(target: Path) -> None:
    """Folders that killed processes left more than a day ago."""
    for folder in target.parent.glob(f".{target.name}-*"):
        if folder.is_dir() and time.time() - folder.stat().st_mtime > _STALE_AFTER_S:
            shutil.rmtree(folder, ignore_errors=True)
