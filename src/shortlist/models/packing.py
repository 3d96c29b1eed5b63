"""Models in fewer bits: the same folder with smaller weights, which our engine reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shortlist.errors import BadInput
from shortlist.models.blocks import BLOCK, to_blocks
from shortlist.models.body import quantized
from shortlist.models.card import read_card
from shortlist.models.files import WEIGHTS, appearing, checksums, read_json, write_json
from shortlist.models.network import TABLE, read_network
from shortlist.models.registry import table_folder
from shortlist.models.weights import Array, read_folder

BITS = (8, 4)
_STEP = 1 << 14  # rows of a table at a time
_WEIGHT_FILES = (".safetensors", ".bin", ".onnx", ".gguf", ".h5", ".msgpack", ".pt", ".ot")
_MEASURED = (".md", ".png", ".svg")  # a README tells of other weights


def pack(source: Path, target: Path, *, bits: int = 8) -> Path:
    """Writes the model of `source` with smaller weights into the new folder `target`, and returns that.

    Matrices of the layers become int8 with one scale a row (bits=8) or 4-bit blocks (bits=4; those whose rows are no
    multiple of 32 stay int8); the model's own token table becomes int8 rows; other matrices float16, vectors float32.
    Tokenizer and settings are copied. The packed model is another model: an index knows it by another fingerprint.

    Raises BadInput for other bits, a model in 4 bits already and if `target` exists; ModelError or ModelNotFound if `source`
    cannot be read.
    """
    if bits not in BITS:
        raise BadInput(f"bits={bits}: expected 8 or 4.")
    if target.exists():
        raise BadInput(f"{target} exists already. Give another folder, or remove it first.")
    card = read_card(source)
    read_network(source, table_folder(source, card))  # says what is wrong with a model that cannot run
    with appearing(target) as folder:
        _copy_settings(source, folder)
        _write_weights(folder / WEIGHTS, dict(_packed(read_folder(source), bits)))
        own = read_json(source / "card.json") if (source / "card.json").is_file() else {}
        words = f"{card.source or card.name}, packed into {bits} bits"
        write_json(folder / "card.json", {**own, "name": target.name, "source": words, "sha256": checksums(folder)})
    return target


def _copy_settings(source: Path, folder: Path) -> None:
    """Every file but the weights, and what was measured with them."""
    for path in source.rglob("*"):
        if (
            path.is_file()
            and path.suffix not in (*_WEIGHT_FILES, *_MEASURED)
            and not path.name.endswith((".index.json", "card.json"))
        ):
            copy = folder / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _write_weights(path: Path, tensors: Mapping[str, Array]) -> None:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path, {"format": "pt"})
    path.chmod(0o644)


def _packed(tensors: Mapping[str, Array], bits: int) -> Iterator[tuple[str, Array]]:
    for name, array in tensors.items():
        if name.endswith("_scale"):
            continue
        scale = tensors.get(f"{name}_scale")
        matrix = array.ndim == 2 and "encoder.layer." in name
        if array.dtype == np.uint8:
            raise BadInput(f"the model is in 4-bit blocks already ({name}). Pack the model that it was made from.")
        if name.endswith(TABLE) or (matrix and (bits == 8 or array.shape[1] % BLOCK)):
            codes = [_rows(array, scale, at) for at in range(0, len(array), _STEP)]
            yield name, np.concatenate([c for c, _ in codes])
            yield f"{name}_scale", np.concatenate([s for _, s in codes])
        elif matrix:
            yield from zip((name, f"{name}_scale"), to_blocks(_floats(array, scale)), strict=True)
        else:
            whole = array.ndim < 2 or "classifier" in name or "maxsim" in name
            yield name, _floats(array, scale).astype(np.float32 if whole else np.float16)


def _rows(array: Array, scale: Array | None, at: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Some rows as int8 and a scale each; what is int8 already stays as it is."""
    part = slice(at, at + _STEP)
    if scale is not None:
        return array[part], scale.reshape(-1)[part]
    return quantized(_floats(array[part], None))


def _floats(array: Array, scale: Array | None) -> npt.NDArray[np.float32]:
    if array.dtype == np.uint16:  # bfloat16: the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    values: npt.NDArray[np.float32] = array.astype(np.float32)
    return values if scale is None else values * scale.reshape(-1, 1)
