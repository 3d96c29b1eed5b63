"""Models of the Hugging Face hub: downloaded only when asked, at one commit, checked, and never looked up again.

`huggingface_hub` does the work (tokens, mirrors by HF_ENDPOINT, HF_HUB_OFFLINE); it is the extra `hub`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from shortlist.errors import ChecksumError, MissingExtra, ModelError, ModelNotFound, ShortlistError
from shortlist.models.card import read_card
from shortlist.models.files import appearing, checksums, sha256, write_json

# What a model needs. Copies of the same weights in other forms (torch, ONNX, OpenVINO) are left out.
_WANTED: Final = ["*.json", "*.txt", "model.safetensors", "model-*-of-*.safetensors", "sentencepiece.bpe.model", "README.md"]
_NOT_WANTED: Final = ["onnx/*", "openvino/*", "coreml/*", "*.onnx", "*.bin"]

# Prompts that the authors ask for in their README but do not state in a file that programs read.
_PROMPTS: Final = {
    "intfloat/multilingual-e5-": {"query": "query: ", "passage": "passage: "},
    "intfloat/e5-": {"query": "query: ", "passage": "passage: "},
}


def fetch_repository(repository: str, target: Path, revision: str | None, progress: Callable[[str], None]) -> None:
    """Downloads a model repository (`owner/name`) at a revision (default: the newest commit) into the folder `target`.

    The commit goes into card.json. Raises MissingExtra without huggingface_hub, ModelNotFound if there is no such repository or
    revision, if it holds no model that can be read or when offline, ChecksumError if a file is not the published one.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtra("huggingface_hub", "hub", f"downloading {repository}") from error
    progress(f"looking up {repository}")
    info = _asked(repository, lambda: huggingface_hub.HfApi().model_info(repository, revision=revision, files_metadata=True))
    with appearing(target) as folder:
        progress(f"downloading {repository} at {info.sha[:12]}")
        _asked(
            repository,
            lambda: huggingface_hub.snapshot_download(
                repository,
                revision=info.sha,
                local_dir=folder,
                allow_patterns=_WANTED,
                ignore_patterns=_NOT_WANTED,
            ),
        )
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        progress("checking")
        _check(folder, info)
        write_json(folder / "card.json", _card(repository, info, folder))
        read_card(folder)


def _asked(repository: str, ask: Callable[[], Any]) -> Any:
    """What the hub answers; its errors as ours."""
    from huggingface_hub import errors

    try:
        return ask()
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(
            f"{repository}: the hub has no such revision. Give a branch, a tag or a commit that exists."
        ) from error
    except errors.RepositoryNotFoundError as error:  # gated repositories too
        raise ModelNotFound(
            f"{repository}: the hub has no such model, or it needs a login (`hf auth login`). Check the spelling of owner/name."
        ) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise ModelNotFound(
            f"{repository} was not fetched yet and the hub is out of reach (offline, or HF_HUB_OFFLINE is set). Run "
            f"`shortlist models fetch {repository}` with a connection."
        ) from error
    except ShortlistError:
        raise
    except Exception as error:  # whatever the HTTP library raises
        raise ModelError(f"{repository}: the hub could not be read: {error}. Try again later.") from error


def _check(folder: Path, info: Any) -> None:
    """Every file against what the hub published: sha256 of large files, the git blob id of small ones."""
    published = {s.rfilename: s for s in info.siblings}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        entry = published.get(name)
        if entry is None:
            raise ChecksumError(f"{name} is not a file of {info.id} at {info.sha}. Nothing was kept; try again.")
        large = entry.lfs is not None
        expected, found = (entry.lfs.sha256, sha256(path)) if large else (entry.blob_id, _git_blob(path))
        if found != expected:
            raise ChecksumError(f"{name} of {info.id}: checksum {found}, published {expected}. Nothing was kept; try again.")


def _git_blob(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _card(repository: str, info: Any, folder: Path) -> dict[str, object]:
    data = info.card_data.to_dict() if info.card_data is not None else {}
    languages = data.get("language") or []
    card: dict[str, object] = {
        "name": repository,
        "source": f"hub {repository} at commit {info.sha}",
        "licence": str(data.get("license") or ""),
        "languages": [languages] if isinstance(languages, str) else list(languages),
        "sha256": checksums(folder),
    }
    known = next((p for prefix, p in _PROMPTS.items() if repository.startswith(prefix)), None)
    if known and not any(read_card(folder).prompts.values()):
        card |= {"prompts": known, "notes": ["prompts are those of the authors' README"]}
    return card
