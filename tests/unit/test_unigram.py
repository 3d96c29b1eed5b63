"""The native Unigram tokenizer against the tokenizers library: ids and normalised text must be the same, whatever the text."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import normalizers

import tiny_models
from shortlist import _native, models
from shortlist.models.unigram import open_compiled
from shortlist.tokens import _SAMPLES, READ_WHOLE, Tokenizer

LINES = [
    "Berlin has 3,520,031 inhabitants and the city is older than it looks.",
    "The quick brown fox jumps over the lazy dog; the dog sleeps, the fox does not.",
    "柏林有多少人口？柏林的人口是多少？",
    "नमस्ते दुनिया, यह एक परीक्षण है",
    "L'été à São Paulo, l'hiver à Zürich, le café est bon",
    "كم عدد سكان برلين؟ عدد سكان برلين كبير",
    "베를린의 인구는 얼마입니까 베를린",
    "กรุงเทพ มหานคร เมือง กรุง",
]
SPECIAL = ["<s>", "</s>", "<mask>", "<pad>", "<unk>", "<", "/s>", "＜s＞"]
SPACES = [
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\r",
    "\u3000",
    "\xa0",
    "\x85",
    "\u2028",
    "▁",
    "▁▁",
    "\u200b",
    "\u200c",
    "\u200d",
    "\ufeff",
]
CONTROL = ["\0", "\x01", "\x1f", "\x7f", "\x9f", "\xad", "\u061c", "\u2060", "\U000e0001"]
# First and last code point of what is likely to go wrong: marks, prepended marks, jamo, forms, emoji, flags, tags, planes.
BLOCKS = [
    *((0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x483, 0x489), (0x600, 0x61F), (0x64B, 0x65F), (0x900, 0x97F)),
    *((0xD00, 0xD4F), (0xE30, 0xE4E), (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x20D0, 0x20F0), (0x2100, 0x214F), (0x2460, 0x24FF)),
    *((0x2600, 0x27BF), (0x3040, 0x33FF), (0x4E00, 0x4E40), (0xAC00, 0xD7A3), (0xD7B0, 0xD7FB), (0xFB00, 0xFDFF)),
    *((0xFE00, 0xFE0F), (0xFE20, 0xFE2F), (0xFE70, 0xFEFF), (0xFF01, 0xFFEF), (0x110BD, 0x110CD), (0x16D63, 0x16D6A)),
    *((0x1D165, 0x1D180), (0x1F1E6, 0x1F1FF), (0x1F3FB, 0x1F3FF), (0x1F466, 0x1F469), (0x20000, 0x20020), (0xE0000, 0xE007F)),
]


def hostile(draw: random.Random) -> str:
    def part() -> str:
        kind = draw.random()
        if kind < 0.6:
            return chr(draw.randint(*draw.choice(BLOCKS)))
        if kind < 0.7:
            return draw.choice("éÅﬁ①ｶﾞ") + draw.choice(["\u0301", "\u0327", "\u0301\u0302", "\u200d", "\ufe0f", ""])
        return draw.choice(draw.choice([SPECIAL, SPACES, CONTROL, LINES, list("aeiou")]))

    return "".join(part() for _ in range(draw.choice([0, 1, 2, 4, 8, 16])))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model folder with a small trained tokenizer in XLM-RoBERTa's form."""
    made = tmp_path_factory.mktemp("unigram")
    tiny_models.trained_unigram(LINES * 3, tiny_models.nfkc_rules()).save(str(made / "tokenizer.json"))
    return made


@pytest.fixture(params=["words", "text"])
def both(request, folder, tmp_path) -> tuple[Tokenizer, Tokenizer]:
    """(native, library), with and without a split at white space."""
    content = json.loads((folder / "tokenizer.json").read_text())
    if request.param == "text":
        content["pre_tokenizer"] = content["pre_tokenizer"]["pretokenizers"][1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    native, library = Tokenizer.load(tmp_path), Tokenizer(Backend.from_str(json.dumps(content)))
    assert is_native(native)
    assert not is_native(library)
    return native, library


def is_native(tokenizer: Tokenizer) -> bool:
    return type(tokenizer._words).__name__ == "_Native"


def same(native: Tokenizer, library: Tokenizer, texts: list[str]) -> None:
    found, expected = (list(t.encode(texts, 100_000)[0]) for t in (native, library))
    for text, a, b in zip(texts, found, expected, strict=True):
        assert a.tolist() == b.tolist(), ascii(text)


def test_hostile_texts_give_the_ids_of_the_library(both):
    draw = random.Random(7)
    same(*both, [hostile(draw) for _ in range(4000)])


def test_ordinary_and_long_texts_give_the_ids_of_the_library(both):
    long = ["柏林" * 3000, "a" * 20_000, " " * 5000 + "x", "\u0301" * 3000, "🇩🇪" * 500, "é\u0301" * 999, "x\u0327 " * 2000]
    same(*both, [*LINES, *_SAMPLES, "", " ", "\n\n", "▁", " ▁ ", *long, "berlin 柏林 " * (READ_WHOLE // 8)])


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_the_ids_of_the_library(folder, text):
    native, library = Tokenizer.load(folder), Tokenizer(Backend.from_file(str(folder / "tokenizer.json")))
    same(native, library, [text])


@pytest.mark.parametrize(
    "text", ["<s>", "</s></s>", "a<mask>b", "x </s> y <pad>", "＜/s＞", "<<s>>", "<unk>", "\U0002ffff<unk>x"]
)
def test_names_of_special_tokens_are_text(both, text):
    native, library = both
    same(native, library, [text])
    inner = native.encode([text], 64)[0].ids[1:-1].tolist()
    assert not {0, 1, 2, 4} & set(inner)


def test_neighbouring_unknown_characters_are_one_token(folder):
    tokenizer = Tokenizer.load(folder)
    pieces = tokenizer.pieces(tokenizer.encode(["a\U0002ffff\U0002fffe\U0002fffdb"], 64)[0].ids)
    assert pieces.count("<unk>") == 1


def probes(char: str) -> str:
    """A character where each rule of grapheme clusters can show: between what has a replacement, which swallows its cluster."""
    stops = "\n \n"
    return (
        f"a{char}\u0301{stops}{char}a{stops}{char}\u0301\u0301{stops}\xa9{char}\u200d\u2122\u0301{stops}\xa9\u200d{char}{stops}"
        f"\u0915\u094d{char}\u0301{stops}\u0915{char}\u0915\u0301{stops}\u0915\u094d{char}\u0915\u0301{stops}"
        f"\u0915\u094d{char}\u094d\u0915\u0301{stops}{char}\u1100\u0301{stops}{char}\u1161\u0301{stops}{char}\u11a8\u0301{stops}"
    )


def test_grapheme_clusters_are_those_of_the_library():
    """Every character that is not alone of its kind, in every position that a rule of UAX #29 asks about."""
    codes = [*range(1, 0x3400), *range(0xA000, 0xAC40), *range(0xD790, 0x12000), *range(0x16000, 0x17000)]
    codes += [*range(0x1B000, 0x20000), *range(0xE0000, 0xE1000)]
    chars = [chr(c) for c in codes if not 0xD800 <= c < 0xE000]
    rules = dict.fromkeys((*"a\xa9\u2122\u0915\u1100\u1161\u11a8", *chars[:0x600]), "Y") | {"\u0301": "Z"}
    blob = tiny_models.charsmap(rules)
    made = _native.compile_unigram(["<unk>"], np.zeros(1), 0, blob, split_spaces=True, collapse_spaces=False, note=b"")
    native, library = _native.Unigram(np.frombuffer(made, np.uint8)), normalizers.Precompiled(blob)
    for start in range(0, len(chars), 1000):
        text = "".join(map(probes, chars[start : start + 1000]))
        if native.normalized(text) != library.normalize_str(text):
            wrong = [c for c in chars[start : start + 1000] if native.normalized(probes(c)) != library.normalize_str(probes(c))]
            pytest.fail(f"other clusters around {[f'U+{ord(c):04X}' for c in wrong]}")


def test_scores_are_the_library_s_own(folder):
    """The library reads decimals less exactly than Python: of two ways that differ in the last bit both must take the same."""
    draw = random.Random(3)
    content = json.loads((folder / "tokenizer.json").read_text())
    words = ["".join(draw.choice("abc") for _ in range(draw.randint(1, 5))) for _ in range(300)]
    content["model"]["vocab"] = [["<unk>", 0.0], ["▁", -1.5]] + [
        [w, -float(f"{draw.random() * 4:.4f}1234567890123")] for w in {*words}
    ]
    content |= {"added_tokens": [], "post_processor": None}
    content["model"]["unk_id"] = 0
    backend = Backend.from_str(json.dumps(content))
    folder = folder / "decimals"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    texts = ["".join(draw.choice("abc") for _ in range(60)) for _ in range(500)]
    native = Tokenizer.load(folder)
    assert is_native(native)
    same(native, Tokenizer(backend), texts)


@pytest.mark.parametrize(("score", "pieces"), [(9.9, ["▁", "ab"]), (10.1, ["▁", "<unk>", "b"])])
def test_an_unknown_character_costs_ten_more_than_the_worst_piece(folder, tmp_path, score, pieces):
    """Only where a score is above 0 does it matter how much."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"] |= {"vocab": [["<unk>", 0.0], ["▁", -0.5], ["ab", -3.0], ["b", score]], "unk_id": 0}
    content |= {"added_tokens": [], "post_processor": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    native = Tokenizer.load(tmp_path)
    same(native, Tokenizer(Backend.from_str(json.dumps(content))), ["ab"])
    assert is_native(native)
    assert native.pieces(native.encode(["ab"], 9)[0].ids) == pieces


def test_a_second_load_reads_the_compiled_file_and_not_the_library(folder):
    Tokenizer.load(folder)
    code = (
        "import sys; from pathlib import Path; from shortlist.tokens import Tokenizer\n"
        f"tokenizer = Tokenizer.load(Path({str(folder)!r}))\n"
        "print('tokenizers' in sys.modules, tokenizer.encode(['Berlin </s>'], 64)[0].ids.tolist(), tokenizer.pad_id)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    library = Tokenizer(Backend.from_file(str(folder / "tokenizer.json")))
    assert done.stdout.split(" ", 1) == ["False", f"{library.encode(['Berlin </s>'], 64)[0].ids.tolist()} 0\n"]


def compiled_file(folder: Path) -> Path:
    Tokenizer.load(folder)
    return models.home() / "tokenizers" / f"{models.files.sha256(folder / 'tokenizer.json')}.unigram"


def test_a_changed_tokenizer_is_compiled_again(folder, tmp_path):
    content = json.loads((folder / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    before = Tokenizer.load(tmp_path)
    content["model"]["vocab"].append(["▁柏林有多少人口", -0.5])
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    after = Tokenizer.load(tmp_path)
    assert len(after.encode(["柏林有多少人口"], 64)[0].ids) == 3
    assert len(before.encode(["柏林有多少人口"], 64)[0].ids) > 3


def test_a_damaged_file_is_never_used_and_made_again(folder):
    place = compiled_file(folder)
    whole = place.read_bytes()
    expected = Tokenizer.load(folder).encode(LINES, 64)[0].ids.tolist()
    draw = random.Random(5)
    damaged = [b"", whole[:7], whole[:64], whole[: len(whole) // 2], whole[:-8], whole + bytes(8), bytes(len(whole))]
    for _ in range(40):
        at = draw.randrange(len(whole))
        damaged.append(whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :])
    digest = place.stem
    for content in damaged:
        place.write_bytes(content)
        assert open_compiled(digest) is None
    tokenizer = Tokenizer._read(folder, folder / "tokenizer.json")
    assert tokenizer.encode(LINES, 64)[0].ids.tolist() == expected
    assert place.read_bytes() == whole


def test_a_file_that_lies_about_its_inside_cannot_read_outside(folder):
    """With checksums set right, every number that the reader follows is a hostile one: no crash, whatever the ids."""
    whole = compiled_file(folder).read_bytes()
    draw = random.Random(9)
    for _ in range(100):
        content = np.frombuffer(whole, np.uint8).copy()
        for _ in range(50):
            content[draw.randrange(64, len(content) // 4 * 3)] = draw.randrange(256)
        try:
            model = _native.Unigram(_with_checksum(content))
        except ValueError:
            continue
        model.encode(LINES)
        assert all(isinstance(model.piece(i), str) for i in range(0, model.size, 7))


def _with_checksum(content: np.ndarray) -> np.ndarray:
    """The file with the checksum that fits it, as unigram.cpp computes it."""
    odd, mask = 0x9E3779B97F4A7C15, 2**64 - 1

    def checksum(data: bytes, seed: int) -> int:
        lanes = [(seed + i) & mask for i in range(4)]
        for i, word in enumerate(np.frombuffer(data, "<u8").tolist()):
            value = (lanes[i % 4] ^ word) * odd & mask
            lanes[i % 4] = value ^ value >> 29
        for lane in lanes[1:]:
            lanes[0] = (lanes[0] ^ lane) * odd & mask
        return lanes[0]

    data = content.tobytes()
    content[56:64] = np.frombuffer(checksum(data[64:], checksum(data[:56], 0)).to_bytes(8, "little"), np.uint8)
    return content


def test_an_unwritable_cache_leaves_the_library(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SHORTLIST_HOME", str(tmp_path / "file" / "below"))
    tokenizer = Tokenizer._read(folder, folder / "tokenizer.json")
    assert not is_native(tokenizer)
    assert tokenizer.encode(LINES, 64)[0].lengths.all()


def change(content: dict, *path: str, value: object) -> dict:
    changed = json.loads(json.dumps(content))
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("normalizer",), {"type": "NFKC"}),
        (("normalizer",), None),
        (("pre_tokenizer",), {"type": "WhitespaceSplit"}),
        (("pre_tokenizer",), None),
        (("pre_tokenizer",), {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}),
        (("model", "byte_fallback"), True),
        (
            ("model", "vocab"),
            [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["<mask>", 0.0], ["a", -1.0], ["a", -2.0]],
        ),
        (("added_tokens",), []),
    ],
)
def test_any_other_form_is_left_to_the_library(folder, tmp_path, path, value):
    content = change(json.loads((folder / "tokenizer.json").read_text()), *path, value=value)
    if path == ("added_tokens",):  # a word that is no special token, and one that the model does not hold
        token = {"content": "柏", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        content["added_tokens"] = [{"id": len(content["model"]["vocab"]), **token}]
        content["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = Tokenizer.load(tmp_path)
    assert not is_native(tokenizer)
    same(tokenizer, Tokenizer(Backend.from_str(json.dumps(content))), LINES)


def test_what_cannot_be_compiled(folder):
    def compile_(pieces, scores, unknown=0):
        return _native.compile_unigram(
            pieces,
            np.array(scores),
            unknown,
            tiny_models.charsmap({"a": "b"}),
            split_spaces=True,
            collapse_spaces=True,
            note=b"",
        )

    assert _native.Unigram(np.frombuffer(compile_(["<unk>", "a"], [0.0, -1.0]), np.uint8)).find("a") == 1
    for pieces, scores, unknown in [
        ([], [], 0),
        (["a", "a"], [0.0, 0.0], 0),
        (["a", ""], [0.0, 0.0], 0),
        (["a", "b\0c"], [0.0, 0.0], 0),
        (["a"], [0.0], 1),
        (["a"], [float("nan")], 0),
        (["a", "b"], [0.0], 0),
    ]:
        with pytest.raises(ValueError):
            compile_(pieces, scores, unknown)


@pytest.mark.weights
@pytest.mark.data
def test_forty_languages_give_the_ids_of_the_library(data_folder):
    import gzip

    source = models.resolve("shortlist-embed")
    native, library = Tokenizer.load(source), Tokenizer(Backend.from_file(str(source / "tokenizer.json")))
    assert is_native(native)
    for path in sorted((data_folder / "parallel-ntrex").glob("*.txt.gz")):
        with gzip.open(path, "rt") as file:
            same(native, library, file.read().split("\n")[:200])


@pytest.mark.weights
def test_hostile_texts_with_a_real_vocabulary():
    source = models.resolve("shortlist-embed")
    native, library = Tokenizer.load(source), Tokenizer(Backend.from_file(str(source / "tokenizer.json")))
    draw = random.Random(11)
    same(native, library, [hostile(draw) for _ in range(20_000)])
    assert native.pad_id == native.encode([""], 8)[0].ids[0] + 1
    assert native.pieces([0, 1, 2, 3, 250_001, 250_002]) == library.pieces([0, 1, 2, 3, 250_001, 250_002])
