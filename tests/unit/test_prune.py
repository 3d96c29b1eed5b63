"""Trimming a vocabulary, judged by the files themselves, the tokenizers library and the untrimmed model."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

import tiny_models
from shortlist import models
from shortlist.encoder import Encoder
from shortlist.errors import BadInput, ModelError, ModelNotFound
from shortlist.models.body import write_body
from shortlist.reranker import Reranker
from shortlist.train.prune import HOLD_BACK, prune

TABLE = "embeddings.word_embeddings.weight"
WORDS = ["river", "mountain", "the", "long", "water", "lake", "er", "ing", "长江", "黄河", "река", "వర్షం", "query"]
SAMPLE = [f"the river number {i} is longer than the lake" for i in range(15)] + ["长江在上海注入东海。"] * 15
POLYGLOT = Path(__file__).resolve().parents[2] / "examples" / "polyglot"


def counted() -> list[str]:
    """The texts of SAMPLE that have a say."""
    return [text for i, text in enumerate(SAMPLE, 1) if i % HOLD_BACK]


def is_rare(piece: str) -> bool:
    """True for most ideographs: thousands of pieces that make tests slow and test nothing more."""
    return "丏" < piece < "龟" and piece not in "长江黄河在上海注入东京很"


def bert_layout() -> dict[str, Any]:
    """WordPiece with words, and with unused pieces before the special tokens, as BERT has them."""
    layout: dict[str, Any] = json.loads(tiny_models.bert_tokenizer().to_str())
    named = [piece for piece, _ in sorted(layout["model"]["vocab"].items(), key=lambda item: item[1]) if not is_rare(piece)]
    words = [*WORDS, *(f"##{word}" for word in WORDS)]
    named = [named[0], "[unused0]", "[unused1]", *named[1:], *dict.fromkeys(w for w in words if w not in named)]
    ids = layout["model"]["vocab"] = {piece: i for i, piece in enumerate(named)}
    for token in layout["added_tokens"]:
        token["id"] = ids[token["content"]]
    for name, token in layout["post_processor"]["special_tokens"].items():
        token["ids"] = [ids[name]]
    layout["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    return layout


def xlmr_layout() -> dict[str, Any]:
    """Unigram with words; <mask> stays the last piece."""
    layout: dict[str, Any] = json.loads(tiny_models.xlmr_tokenizer().to_str())
    layout["model"]["vocab"] = [[piece, score] for piece, score in layout["model"]["vocab"] if not is_rare(piece)]
    words = [[piece, -4.0 - i / 10] for i, piece in enumerate([*WORDS, *(f"▁{word}" for word in WORDS)])]
    layout["model"]["vocab"] += [*words, ["ᚠ", -20.0], ["<mask>", 0.0]]
    layout["added_tokens"][-1]["id"] = len(layout["model"]["vocab"]) - 1
    return layout


def write_tokenizer(folder: Path, layout: dict[str, Any], rows: int = 0, **tensors: Any) -> int:
    """Gives a tiny model this tokenizer and a table (`rows` more than it has pieces)."""
    text = json.dumps(layout, ensure_ascii=False)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    vocab = tokenizers.Tokenizer.from_str(text).get_vocab_size() + rows
    save_file(tiny_models.network_tensors(vocab, seed=7, **tensors), folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    tiny_models.write_json(folder / "config.json", config | {"vocab_size": vocab})
    return vocab


def write_bfloat16(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """A safetensors file of bfloat16 bits, which numpy has no type for."""
    header, end = {}, 0
    for name, bits in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [end, end + bits.nbytes]}
        end += bits.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(bits.tobytes() for bits in tensors.values()))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder over WordPiece; its table has three rows more than there are pieces, as multilingual-e5's has."""
    folder = tiny_models.write_encoder(tmp_path_factory.mktemp("bert") / "tiny")
    write_tokenizer(folder, bert_layout(), rows=3)
    return folder


@pytest.fixture(scope="module")
def xlmr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder in XLM-RoBERTa's form: Unigram, positions counted from the id of <pad>."""
    folder = tiny_models.write_xlmr_reranker(tmp_path_factory.mktemp("xlmr") / "tiny")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["XLMRobertaModel"]
    tiny_models.write_json(folder / "config.json", {k: v for k, v in config.items() if k not in ("id2label", "label2id")})
    write_tokenizer(folder, xlmr_layout(), positions=tiny_models.POSITIONS + 2, types=1)
    return folder


def backend(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def table(folder: Path) -> np.ndarray:
    return next(array for name, array in load_file(folder / "model.safetensors").items() if name.endswith(TABLE))


def pieces_of(folder: Path, text: str) -> list[str]:
    found = backend(folder)
    found.no_padding()
    return found.encode(text).tokens


# --- what is the same as before ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "xlmr"])
def test_texts_of_the_sample_keep_their_vectors_to_the_bit(name, request, tmp_path):
    folder = request.getfixturevalue(name)
    prune(folder, tmp_path / "small", SAMPLE, table="float32")
    before, after = Encoder.load(folder), Encoder.load(tmp_path / "small")
    np.testing.assert_array_equal(after.encode(counted()), before.encode(counted()))
    np.testing.assert_array_equal(after.encode(["the river"], kind="query"), before.encode(["the river"], kind="query"))


@pytest.mark.parametrize("name", ["bert", "xlmr"])
def test_every_piece_has_the_row_that_it_had(name, request, tmp_path):
    folder = request.getfixturevalue(name)
    result = prune(folder, tmp_path / "small", SAMPLE, table="float32")
    before, after = backend(folder).get_vocab(), backend(tmp_path / "small").get_vocab()
    old, new = table(folder), table(tmp_path / "small")
    assert len(new) == len(after) == result.pieces_after < len(before) <= result.pieces_before == len(old)
    assert sorted(after.values()) == list(range(len(new)))
    assert json.loads((tmp_path / "small" / "config.json").read_text())["vocab_size"] == len(new)
    for piece, i in after.items():
        np.testing.assert_array_equal(new[i], old[before[piece]])
    assert [p for p, _ in sorted(after.items(), key=lambda x: x[1])] == sorted(after, key=before.__getitem__)


@pytest.mark.parametrize("name", ["bert", "xlmr"])
def test_the_other_weights_and_files_stay(name, request, tmp_path):
    folder = request.getfixturevalue(name)
    prune(folder, tmp_path / "small", SAMPLE)
    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "small"))
    assert before.keys() == after.keys()
    for key in before.keys() - {k for k in before if k.endswith(TABLE)}:
        np.testing.assert_array_equal(after[key], before[key])
    card, old = models.read_card(tmp_path / "small"), models.read_card(folder)
    same = ("kind", "pooling", "dims", "layers", "max_tokens", "prompts", "normalize", "lowercase")
    assert all(getattr(card, field) == getattr(old, field) for field in same)


def test_unigram_scores_and_special_tokens_stay(xlmr, tmp_path):
    prune(xlmr, tmp_path / "small", SAMPLE)
    layout = json.loads((tmp_path / "small" / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = layout["model"]["vocab"]
    assert [piece for piece, _ in vocab[:4]] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert vocab[-1][0] == "<mask>"
    assert layout["model"]["unk_id"] == 3
    old = dict(xlmr_layout()["model"]["vocab"])
    assert all(old[piece] == score for piece, score in vocab)
    assert ["ᚠ", -20.0] in vocab  # the lowest score, from which that of an unknown character is derived
    assert {t["content"]: t["id"] for t in layout["added_tokens"]} == {
        p: vocab.index([p, s]) for p, s in vocab if p[0] == "<" != p
    }


def test_bert_ids_are_mapped_everywhere(bert, tmp_path):
    folder = shutil.copytree(bert, tmp_path / "model")
    old = backend(folder).get_vocab()
    settings = {"added_tokens_decoder": {str(old["[CLS]"]): {"content": "[CLS]"}, str(old["[MASK]"]): {"content": "[MASK]"}}}
    tiny_models.write_json(folder / "tokenizer_config.json", settings)
    config = json.loads((folder / "config.json").read_text())
    tiny_models.write_json(folder / "config.json", config | {"sep_token_id": old["[SEP]"], "eos_token_id": None})
    prune(folder, tmp_path / "small", SAMPLE)
    new = backend(tmp_path / "small").get_vocab()
    assert "[unused0]" not in new
    assert [new[t] for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == [0, 1, 2, 3, 4]
    assert pieces_of(tmp_path / "small", "the river") == ["[CLS]", "the", "river", "[SEP]"]
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert (config["pad_token_id"], config["sep_token_id"], config["eos_token_id"]) == (0, 3, None)
    decoder = json.loads((tmp_path / "small" / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {i: t["content"] for i, t in decoder.items()} == {"2": "[CLS]", "4": "[MASK]"}


@pytest.mark.parametrize("kind", ["BertProcessing", "RobertaProcessing", "Sequence"])
def test_every_post_processor_gets_the_new_ids(kind, bert, tmp_path):
    folder, layout = shutil.copytree(bert, tmp_path / "model"), bert_layout()
    ids = layout["model"]["vocab"]
    own = {"type": kind, "sep": ["[SEP]", ids["[SEP]"]], "cls": ["[CLS]", ids["[CLS]"]]}
    if kind == "RobertaProcessing":
        own |= {"trim_offsets": True, "add_prefix_space": False}
    layout["post_processor"] = {"type": kind, "processors": [layout["post_processor"]]} if kind == "Sequence" else own
    write_tokenizer(folder, layout)
    prune(folder, tmp_path / "small", SAMPLE, table="float32")
    assert pieces_of(tmp_path / "small", "the river") == ["[CLS]", "the", "river", "[SEP]"]
    np.testing.assert_array_equal(Encoder.load(tmp_path / "small").encode(counted()), Encoder.load(folder).encode(counted()))


def test_pad_does_not_move_where_positions_are_counted_from_it(xlmr, tmp_path):
    """As in CamemBERT, whose first pieces are placeholders."""
    folder, layout = shutil.copytree(xlmr, tmp_path / "model"), xlmr_layout()
    layout["model"]["vocab"][0] = ["unused", 0.0]
    layout["added_tokens"] = layout["added_tokens"][1:]
    ends = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    layout["post_processor"] |= {"single": ends, "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}}
    layout["post_processor"]["pair"] = [*ends, {"Sequence": {"id": "B", "type_id": 0}}]
    (folder / "tokenizer.json").write_text(json.dumps(layout), encoding="utf-8")
    config = json.loads((folder / "config.json").read_text())
    tiny_models.write_json(folder / "config.json", {k: v for k, v in config.items() if k != "bos_token_id"})
    prune(folder, tmp_path / "small", SAMPLE, table="float32")
    assert backend(tmp_path / "small").token_to_id("<pad>") == 1
    np.testing.assert_array_equal(Encoder.load(tmp_path / "small").encode(counted()), Encoder.load(folder).encode(counted()))


# --- what stays and what goes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "xlmr"])
def test_used_pieces_and_single_characters_stay(name, request, tmp_path):
    prune(request.getfixturevalue(name), tmp_path / "small", SAMPLE)
    bare = {p.removeprefix("##").removeprefix("▁") for p in backend(tmp_path / "small").get_vocab()}
    assert {"the", "river", "long", "lake"} <= bare
    assert ("长江" in bare) is (name == "xlmr")  # BERT reads Chinese character by character
    assert not {"mountain", "water", "黄河", "река", "వర్షం"} & bare
    assert {"a", "Z" if name == "xlmr" else "z", "é", "7", "٣", "?", "。", "京"} <= bare  # never seen, but cheap
    assert not {"ж", "క", "ひ", "א"} & bare  # letters of scripts in which the sample is not written


def test_words_of_known_letters_are_spelt_and_others_are_unknown(xlmr, tmp_path):
    prune(xlmr, tmp_path / "small", SAMPLE)
    assert pieces_of(tmp_path / "small", "mad")[1:-1] == ["▁", "m", "a", "d"]
    found = backend(tmp_path / "small").encode("жук")
    assert set(found.ids[2:-1]) == {3}
    vectors = Encoder.load(tmp_path / "small").encode(["жук", "", "🦆", "the жук", "\x00"])
    assert np.isfinite(vectors).all()


def test_min_count(bert, tmp_path):
    sample = ["the river"] * 27 + ["the mountain"] * 3  # the tenth, twentieth and thirtieth have no say: 2 mountains count
    for min_count, stays in ((2, True), (3, False)):
        prune(bert, tmp_path / str(min_count), sample, min_count=min_count)
        assert ("mountain" in backend(tmp_path / str(min_count)).get_vocab()) is stays
        assert "river" in backend(tmp_path / str(min_count)).get_vocab()


def test_a_stray_name_does_not_bring_its_alphabet(xlmr, tmp_path):
    sample = SAMPLE * 20
    sample[0] += " ж"
    prune(xlmr, tmp_path / "small", sample)
    vocab = backend(tmp_path / "small").get_vocab()
    assert "ж" in vocab
    assert "ш" not in vocab


def test_whole_scripts_and_extra_characters(xlmr, tmp_path):
    prune(xlmr, tmp_path / "small", SAMPLE, whole_scripts=["CJK", "telugu"], extra_characters="жא")
    vocab = backend(tmp_path / "small").get_vocab()
    assert {"黄河", "▁黄河", "వర్షం", "క", "ж", "א"} <= vocab.keys()
    assert not {"mountain", "река", "ш"} & vocab.keys()
    with pytest.raises(BadInput, match=r"no piece in KLINGON\. It has pieces in LATIN, ETHIOPIC, "):
        prune(xlmr, tmp_path / "no", SAMPLE, whole_scripts=["klingon", "CJK"])
    with pytest.raises(BadInput, match="expected a list of names"):
        prune(xlmr, tmp_path / "no", SAMPLE, whole_scripts="CJK")


def test_what_text_is_split_into_control_tokens_are_not(xlmr, tmp_path):
    prune(xlmr, tmp_path / "small", [*SAMPLE, "a <mask> and </s> in a text"], table="float32")
    text = ["a <mask> and </s> in a text"]
    np.testing.assert_array_equal(Encoder.load(tmp_path / "small").encode(text), Encoder.load(xlmr).encode(text))


# --- types of the table -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "least"), [("float16", 0.9999), ("int8", 0.999)])
def test_types_of_the_table(kind, least, bert, tmp_path):
    result = prune(bert, tmp_path / "small", SAMPLE, table=kind)
    found = load_file(tmp_path / "small" / "model.safetensors")
    assert found[TABLE].dtype == np.dtype(kind)
    rows = found[TABLE].astype(np.float32)
    if kind == "int8":
        rows *= found[f"{TABLE}_scale"][:, None]
        assert "read by shortlist only" in (tmp_path / "small" / "README.md").read_text(encoding="utf-8")
    before, after = backend(bert).get_vocab(), backend(tmp_path / "small").get_vocab()
    old, new = table(bert)[[before[piece] for piece in after]], rows[list(after.values())]
    np.testing.assert_allclose(new, old, atol=np.abs(old).max() / (250 if kind == "int8" else 2000))
    a, b = Encoder.load(bert).encode(counted()), Encoder.load(tmp_path / "small").encode(counted())
    assert (a * b).sum(axis=1).min() > least
    assert result.size_after == sum(t.nbytes for t in found.values()) + (tmp_path / "small" / "tokenizer.json").stat().st_size


def test_from_an_int8_or_bfloat16_table(bert, tmp_path):
    prune(bert, tmp_path / "int8", SAMPLE, table="int8")
    for i, kind in enumerate(("int8", "float32")):  # as it is, and written out
        prune(tmp_path / "int8", tmp_path / str(i), SAMPLE, table=kind)
        a, b = Encoder.load(tmp_path / "int8").encode(counted()), Encoder.load(tmp_path / str(i)).encode(counted())
        np.testing.assert_allclose(a, b, atol=1e-6)
    folder = shutil.copytree(bert, tmp_path / "bf16")
    whole = {name: array.view(np.uint32) & 0xFFFF0000 for name, array in load_file(bert / "model.safetensors").items()}
    write_bfloat16(folder / "model.safetensors", {name: (bits >> 16).astype("<u2") for name, bits in whole.items()})
    prune(folder, tmp_path / "from-bf16", SAMPLE, table="float32")
    found = load_file(tmp_path / "from-bf16" / "model.safetensors")
    np.testing.assert_array_equal(found["embeddings.LayerNorm.weight"].view(np.uint32), whole["embeddings.LayerNorm.weight"])
    river = backend(folder).get_vocab()["river"], backend(tmp_path / "from-bf16").get_vocab()["river"]
    np.testing.assert_array_equal(found[TABLE].view(np.uint32)[river[1]], whole[TABLE][river[0]])


def test_a_table_that_float16_cannot_hold_is_refused(bert, tmp_path):
    folder = shutil.copytree(bert, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors[TABLE][0, 0] = 1e6
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(BadInput, match=r"goes to 1e\+06\. Use 'float32'"):
        prune(folder, tmp_path / "small", SAMPLE)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_heads_of_pretraining_go(bert, tmp_path):
    folder = shutil.copytree(bert, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    extra = {"cls.predictions.bias": np.zeros(len(tensors[TABLE]), np.float32)}
    save_file({f"bert.{name}": array for name, array in tensors.items()} | extra, folder / "model.safetensors")
    prune(folder, tmp_path / "small", SAMPLE)
    assert {f"bert.{name}" for name in tensors} == set(load_file(tmp_path / "small" / "model.safetensors"))


# --- rerankers --------------------------------------------------------------------------------------------------------


def test_a_reranker(tmp_path):
    folder = tiny_models.write_xlmr_reranker(tmp_path / "model")
    write_tokenizer(folder, xlmr_layout(), head="roberta", positions=tiny_models.POSITIONS + 2, types=1)
    result = prune(folder, tmp_path / "small", SAMPLE, table="float32")
    before, after = Reranker.load(folder), Reranker.load(tmp_path / "small")
    np.testing.assert_array_equal(after.score("the lake", counted()), before.score("the lake", counted()))
    assert 0 < result.min_cosine <= result.mean_cosine <= 1


def test_a_reranker_that_shares_its_table_gets_its_own(bert, tmp_path):
    trained = tiny_models.write_reranker(tmp_path / "trained")
    tensors = tiny_models.network_tensors(len(table(bert)), seed=11, head="bert") | {f"bert.{TABLE}": table(bert)}
    save_file(tensors, trained / "model.safetensors")
    body = tmp_path / "body"
    facts = {"kind": "reranker", "pooling": "score", "dims": 64, "layers": 2, "labels": 1, "max_tokens": 100}
    write_body(trained, body, facts | {"name": "ours", "table": str(bert), "fusion_weight": 0.3, "window": 64})
    config = json.loads((body / "config.json").read_text())
    tiny_models.write_json(body / "config.json", config | {"vocab_size": len(table(bert))})
    before = Reranker.load(body)
    result = prune(body, tmp_path / "small", SAMPLE, table="float32")
    after = Reranker.load(tmp_path / "small")
    np.testing.assert_array_equal(after.score("the lake", counted()), before.score("the lake", counted()))
    own = json.loads((tmp_path / "small" / "card.json").read_text(encoding="utf-8"))
    assert not {"table", "table_fingerprint"} & own.keys()
    assert (own["fusion_weight"], own["window"], own["max_tokens"]) == (0.3, 64, 100)
    assert load_file(tmp_path / "small" / "model.safetensors")[f"bert.{TABLE}"].shape == (result.pieces_after, 64)
    assert models.verify(tmp_path / "small") == []
    size = sum(a.nbytes for f in (body, bert) for n, a in load_file(f / "model.safetensors").items() if f == body or n == TABLE)
    assert result.size_before == size + (bert / "tokenizer.json").stat().st_size


# --- what is told -----------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_texts_without_a_say(xlmr, tmp_path):
    held = {"the mountain is far": 4, "黄河很长": 2, "the river is long": 0, "река": 0}
    sample = [text for text in held for text in [*["the lake is a long river, 长江"] * 9, text]]
    seen: list[tuple[int, int | None]] = []
    result = prune(xlmr, tmp_path / "small", sample, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(40, 40)]
    a, b = (Encoder.load(folder).encode(list(held)) for folder in (xlmr, tmp_path / "small"))
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    before, after = ([pieces_of(folder, text) for text in held] for folder in (xlmr, tmp_path / "small"))
    # Nothing moves in these texts, so that a multiset tells what went.
    gone = [(Counter(x) - Counter(y)).total() for x, y in zip(before, after, strict=True)]
    tokens = [len(x) for x in before]
    assert gone[2] == 0 < gone[0]
    assert result.tokens == sum(tokens)
    assert result.texts == 36
    assert result.tokens_changed == pytest.approx(sum(gone) / sum(tokens))
    assert result.mean_cosine == pytest.approx(cosines.mean(), abs=1e-5)
    assert result.min_cosine == pytest.approx(cosines.min(), abs=1e-5)
    chinese = result.by_language["zh"]
    assert (chinese.texts, chinese.tokens, chinese.tokens_changed) == (1, tokens[1], gone[1] / tokens[1])
    assert chinese.mean_cosine == chinese.min_cosine == pytest.approx(cosines[1], abs=1e-5)
    assert sum(loss.texts for loss in result.by_language.values()) == 4


def test_card_and_readme(bert, tmp_path):
    folder = shutil.copytree(bert, tmp_path / "model")
    texts = ["the river", "the mountain"]
    numbers = Encoder.load(folder).encode(texts, kind="")[:, :5].tolist()
    facts = {"name": "tiny", "licence": "MIT", "source": "drawn at random", "canonical": dict(zip(texts, numbers, strict=True))}
    tiny_models.write_json(folder / "card.json", facts)
    (folder / "LICENSE").write_text("MIT")
    result = prune(folder, tmp_path / "tiny-zh", (text for text in SAMPLE))  # any iterable
    card = models.read_card(tmp_path / "tiny-zh")
    assert (card.name, card.licence) == ("tiny-zh", "MIT")
    assert card.source == "tiny, vocabulary trimmed; drawn at random"
    assert list(card.canonical) == ["the river"]  # the other is not split as it was
    assert Encoder.load(tmp_path / "tiny-zh").verify() == []
    assert set(card.languages) == set(result.languages) == {"en", "zh"}
    assert models.verify(tmp_path / "tiny-zh") == []
    assert {"README.md", "LICENSE", "tokenizer.json", "1_Pooling/config.json"} <= card.sha256.keys()
    own = json.loads((tmp_path / "tiny-zh" / "card.json").read_text(encoding="utf-8"))["pruned"]
    assert own["from"] == "tiny"
    assert own["pieces"] == [result.pieces_before, result.pieces_after]
    assert own["loss"]["zh"]["tokens"] == result.by_language["zh"].tokens
    readme = (tmp_path / "tiny-zh" / "README.md").read_text(encoding="utf-8")
    assert f"{result.pieces_after:,} of its {result.pieces_before:,} pieces" in readme
    assert "| zh | 2 |" in readme


def test_the_same_sample_gives_the_same_bytes(bert, tmp_path):
    for parent in ("a", "b"):
        prune(bert, tmp_path / parent / "small", SAMPLE)
    a, b = ({p.name: p.read_bytes() for p in (tmp_path / x / "small").iterdir() if p.is_file()} for x in ("a", "b"))
    assert a == b


# --- input that cannot be used ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "0 texts that are not blank; expected at least 10"),
        (["", " \n"] * 20, "0 texts that are not blank"),
        (["a text"] * 9, "9 texts that are not blank"),
        ("one long text", "got str, expected an iterable of str"),
        (7, "got int, expected an iterable"),
        ([*["x"] * 300, None], r"texts\[256:\]\[44\] is NoneType"),
        (["x"] * 20 + ["\ud800"], "lone surrogate"),
    ],
)
def test_a_sample_that_cannot_be_used(texts, said, bert, tmp_path):
    with pytest.raises(BadInput, match=said):
        prune(bert, tmp_path / "small", texts)
    assert not list(tmp_path.iterdir())


def test_options_that_cannot_be_used(bert, tmp_path):
    with pytest.raises(BadInput, match="min_count=0"):
        prune(bert, tmp_path / "small", SAMPLE, min_count=0)
    with pytest.raises(BadInput, match="table='int4': expected one of float16, int8, float32"):
        prune(bert, tmp_path / "small", SAMPLE, table="int4")
    (tmp_path / "small").mkdir()
    with pytest.raises(BadInput, match="small exists already"):
        prune(bert, tmp_path / "small", SAMPLE)


def test_models_that_cannot_be_used(bert, tmp_path):
    with pytest.raises(ModelNotFound, match="nowhere"):
        prune(tmp_path / "nowhere", tmp_path / "small", SAMPLE)
    folder = shutil.copytree(bert, tmp_path / "no-tokenizer")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFound, match=r"tokenizer\.json missing"):
        prune(folder, tmp_path / "small", SAMPLE)
    folder = shutil.copytree(bert, tmp_path / "bpe")
    tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "<unk>": 1}, [], unk_token="<unk>")).save(
        str(folder / "tokenizer.json")
    )
    with pytest.raises(ModelError, match="a tokenizer of type BPE"):
        prune(folder, tmp_path / "small", SAMPLE)
    folder = shutil.copytree(bert, tmp_path / "short-table")
    write_tokenizer(folder, bert_layout(), rows=-5)
    with pytest.raises(ModelError, match="pieces, the token table has"):
        prune(folder, tmp_path / "small", SAMPLE)
    assert not [path for path in tmp_path.iterdir() if "small" in path.name]


# --- real models, foreign readers -------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["bert", "xlmr"])
def test_foreign_libraries_read_the_folder(name, request, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    prune(request.getfixturevalue(name), tmp_path / "small", SAMPLE)
    texts = [f"passage: {text}" for text in [*counted(), "the mountain", "黄河"]]
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "small"), device="cpu").encode(texts)
    ours = Encoder.load(tmp_path / "small", precision="float32").encode(texts, kind="")
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def polyglot(*languages: str) -> list[str]:
    with (POLYGLOT / "corpus.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [f"{row['title']}\n{row['text']}" for row in rows if row["lang"] in languages]


@pytest.mark.weights
def test_the_real_encoder_in_chinese_and_english(tmp_path):
    try:
        before = Encoder.load("shortlist-embed")
    except ModelNotFound as error:
        pytest.skip(str(error))
    sample = polyglot("zh", "en")
    result = prune("shortlist-embed", tmp_path / "small", sample, whole_scripts=["CJK"])
    assert result.size_after < 65e6 < 240e6 < result.size_before
    assert result.pieces_before == 250_037
    assert {"zh", "en"} <= set(result.languages)
    after = Encoder.load(tmp_path / "small")
    seen = [text for i, text in enumerate(sample, 1) if i % HOLD_BACK]
    np.testing.assert_array_equal(after.encode(seen), before.encode(seen))
    assert "passage: 柏林是德国的首都，有三百多万人口。" in after.card.canonical
    assert after.verify() == []
    assert result.by_language["zh"].mean_cosine > 0.99
    assert (before.encode(polyglot("ru")) * after.encode(polyglot("ru"))).sum(axis=1).mean() < 0.95
