"""Tiny random models, built in a second without torch: real folders in the layouts of the hub, with real tokenizers.

The tokenizers know single characters of many scripts, so that any text gives tokens and texts that share characters
get similar mean-pooled vectors: enough for every test that needs a model but no language.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HIDDEN, LAYERS, HEADS, FFN, POSITIONS = 64, 2, 4, 128, 512

# First and last code point of blocks whose characters get a token each.
ALPHABETS = [
    (0x21, 0x7E),
    (0xA1, 0x24F),
    (0x370, 0x3FF),
    (0x400, 0x45F),
    (0x5D0, 0x5EA),
    (0x620, 0x64A),
    (0x660, 0x669),
    (0x904, 0x963),
    (0x985, 0x9B9),
    (0xB85, 0xBCD),
    (0xC05, 0xC4D),
    (0xE01, 0xE5B),
    (0x1100, 0x11FF),
    (0x1200, 0x137C),
]
IDEOGRAPHS = [(0x3041, 0x30FF), (0x3001, 0x3011), (0xFF01, 0xFF5E), (0x4E00, 0x9FFF)]


def _characters(blocks: Iterable[tuple[int, int]]) -> list[str]:
    return [chr(c) for first, last in blocks for c in range(first, last + 1)]


def bert_tokenizer() -> Tokenizer:
    """WordPiece over single characters in BERT's form: [CLS] a [SEP] b [SEP], segments 0 and 1."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = _characters(ALPHABETS)
    pieces = dict.fromkeys([*special, *letters, *(f"##{c}" for c in letters), *_characters(IDEOGRAPHS)])
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return tokenizer


def xlmr_tokenizer() -> Tokenizer:
    """Unigram over single characters in XLM-RoBERTa's form: <s> a </s></s> b </s>, no segments."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = dict.fromkeys(["▁", *_characters(ALPHABETS), *_characters(IDEOGRAPHS)])
    tokenizer = Tokenizer(models.Unigram([*((s, 0.0) for s in special), *((p, -5.0) for p in pieces)], unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.add_special_tokens([AddedToken("<mask>", special=True, lstrip=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def charsmap(rules: Mapping[str, str]) -> bytes:
    """`text -> replacement` in SentencePiece's compiled form: a darts-clone trie, then the replacements, each ended by NUL.

    Every inner node has a block of 256 units of its own; the values of leaves share blocks.
    """
    trie: dict[int, Any] = {}
    for key, value in rules.items():
        node = trie
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node[-1] = value
    units, texts, free = [0] * 256, bytearray(), iter(())

    def place(position: int, node: dict[int, Any], label: int) -> None:
        nonlocal free
        children = [byte for byte in node if byte >= 0]
        base = None if children else next(free, None)
        if base is None:
            base = len(units)
            units.extend([0] * 256)
            free = free if children else iter(range(base + 1, base + 256))
        units[position] = label | (-1 in node) << 8 | (base ^ position) << 10
        if -1 in node:
            units[base] = 1 << 31 | len(texts)
            texts.extend(node[-1].encode() + b"\0")
        for byte in children:
            place(base ^ byte, node[byte], byte)

    place(0, trie, 0)
    packed = np.array(units, "<u4").tobytes()
    return len(packed).to_bytes(4, "little") + packed + bytes(texts)


def nfkc_rules() -> dict[str, str]:
    """Much of SentencePiece's `nmt_nfkc`: compatibility forms, composed pairs, control characters away, all spaces alike."""
    rules = {chr(c): " " for c in (9, 10, 13, 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x3000, *range(0x2000, 0x200C))}
    rules |= {chr(c): "" for c in (*range(1, 9), 11, 12, *range(14, 32), 0x7F)}
    for code in (*range(0xA1, 0xAC00), *range(0xF900, 0x10000)):
        char = chr(code)
        if (form := unicodedata.normalize("NFKC", char)) != char:
            rules.setdefault(char, form)
        parts = unicodedata.normalize("NFD", char)
        if len(parts) == 2 and unicodedata.normalize("NFC", parts) == char:
            rules[parts] = char
    return rules


def trained_unigram(lines: Iterable[str], rules: Mapping[str, str], *, words: bool = True, size: int = 500) -> Tokenizer:
    """XLM-RoBERTa's tokenizer trained on a few lines; `words=False`: without the split at white space before "▁" is put."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(charsmap(rules)), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    mark = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), mark]) if words else mark
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def network_tensors(vocab: int, *, seed: int, head: str = "", positions: int = POSITIONS, layers: int = LAYERS, types: int = 2):
    """Random weights of a BERT-family network, float32, in transformers' names; `head` is "", "bert" or "roberta"."""
    draw = np.random.default_rng(seed)

    def weights(*shape: int, scale: float = 0.08) -> np.ndarray:
        return (draw.standard_normal(shape, np.float32) * scale).astype(np.float32)

    def norm(prefix: str) -> dict[str, np.ndarray]:
        return {f"{prefix}.weight": 1 + weights(HIDDEN, scale=0.1), f"{prefix}.bias": weights(HIDDEN)}

    def linear(prefix: str, rows: int, columns: int, scale: float = 0.12) -> dict[str, np.ndarray]:
        return {f"{prefix}.weight": weights(rows, columns, scale=scale), f"{prefix}.bias": weights(rows)}

    body = {
        "embeddings.word_embeddings.weight": weights(vocab, HIDDEN, scale=1.0),
        "embeddings.position_embeddings.weight": weights(positions, HIDDEN),
        "embeddings.token_type_embeddings.weight": weights(types, HIDDEN, scale=0.3),
        **norm("embeddings.LayerNorm"),
    }
    for i in range(layers):
        p = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            body |= linear(f"{p}.attention.self.{part}", HIDDEN, HIDDEN)
        body |= linear(f"{p}.attention.output.dense", HIDDEN, HIDDEN) | norm(f"{p}.attention.output.LayerNorm")
        body |= linear(f"{p}.intermediate.dense", FFN, HIDDEN) | linear(f"{p}.output.dense", HIDDEN, FFN)
        body |= norm(f"{p}.output.LayerNorm")
    if not head:
        return body
    if head == "bert":
        body |= linear("pooler.dense", HIDDEN, HIDDEN)
        return {f"bert.{k}": v for k, v in body.items()} | linear("classifier", 1, HIDDEN, scale=0.5)
    body = {f"roberta.{k}": v for k, v in body.items()}
    return body | linear("classifier.dense", HIDDEN, HIDDEN) | linear("classifier.out_proj", 1, HIDDEN, scale=0.5)


def bert_config(vocab: int, architecture: str = "BertModel", **changes: object) -> dict[str, object]:
    """config.json of a tiny BERT."""
    config: dict[str, object] = {
        "architectures": [architecture],
        "model_type": "bert",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": FFN,
        "vocab_size": vocab,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
    }
    return config | changes


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def write_encoder(folder: Path, *, seed: int = 7, pooling: str = "mean") -> Path:
    """A sentence-transformers folder: tiny BERT, prompts `query: ` and `passage: `, normalised, 128 tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = bert_tokenizer()
    tensors = network_tensors(tokenizer.get_vocab_size(), seed=seed)
    save_file({k: v.astype(np.float16) for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "config.json", bert_config(tokenizer.get_vocab_size()))
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 512, "do_lower_case": True}
    )
    kinds = ["Transformer", "Pooling", "Normalize"]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"}
        for i, (k, p) in enumerate(zip(kinds, paths, strict=True))
    ]
    write_json(folder / "modules.json", modules)
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": HIDDEN,
            "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    prompts = {"query": "query: ", "passage": "passage: "}
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "similarity_fn_name": "cosine"})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": False})
    return folder


def write_reranker(folder: Path, *, seed: int = 11, layers: int = LAYERS) -> Path:
    """A plain transformers folder: tiny BertForSequenceClassification with one label."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = bert_tokenizer()
    vocab = tokenizer.get_vocab_size()
    save_file(network_tensors(vocab, seed=seed, head="bert", layers=layers), folder / "model.safetensors", {"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    changes = {"num_hidden_layers": layers, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    write_json(folder / "config.json", bert_config(vocab, "BertForSequenceClassification", **changes))
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 512, "do_lower_case": True}
    )
    return folder


def write_maxsim_reranker(folder: Path, *, seed: int = 17, **card: object) -> Path:
    """A BERT reranker over an XLM-R vocabulary with a MaxSim head, its card with segments; `card` adds or changes fields."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = xlmr_tokenizer()
    vocab = tokenizer.get_vocab_size()
    draw = np.random.default_rng(seed)
    maxsim = {
        "maxsim.weight": 0.2 * draw.standard_normal((1, HIDDEN), np.float32),
        "maxsim.bias": np.full(1, 0.3, np.float32),
        "maxsim.gain": np.full(1, 4.0, np.float32),
    }
    save_file(network_tensors(vocab, seed=seed, head="bert") | maxsim, folder / "model.safetensors", {"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    changes = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    write_json(folder / "config.json", bert_config(vocab, "BertForSequenceClassification", **changes))
    write_json(folder / "card.json", {"name": folder.name, "segments": True, **card})
    return folder


def write_xlmr_reranker(folder: Path, *, seed: int = 13) -> Path:
    """A plain transformers folder: tiny XLMRobertaForSequenceClassification with one label."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = xlmr_tokenizer()
    vocab = tokenizer.get_vocab_size()
    tensors = network_tensors(vocab, seed=seed, head="roberta", positions=POSITIONS + 2, types=1)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    changes = {
        "model_type": "xlm-roberta",
        "max_position_embeddings": POSITIONS + 2,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "layer_norm_eps": 1e-5,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    write_json(folder / "config.json", bert_config(vocab, "XLMRobertaForSequenceClassification", **changes))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512})
    return folder
