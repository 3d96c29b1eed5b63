"""Texts to ragged token batches, exactly as a model folder's tokenizer.json says, without padding.

The content of a text and the special tokens around it are handled apart: the text goes through the tokenizer with no
special tokens at all, so that `</s>` inside a text stays four characters, and the model's own template (`[CLS] a [SEP]`,
`<s> a </s></s> b </s>`, ...) is laid around the ids afterwards. The template is learnt from the tokenizer by encoding one
letter, so every post-processor of the library works.

A Unigram model in XLM-RoBERTa's form is read by the native tokenizer from a compiled, memory-mapped file (ADR 7); any other
by the tokenizers library, which is imported only then. The ids are the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from shortlist.errors import BadInput, ModelError, ModelNotFound
from shortlist.models.files import sha256_once
from shortlist.models.unigram import Compiled, compile_tokenizer, keep, open_compiled
from shortlist.types import IntArray, Tokens

if TYPE_CHECKING:
    import tokenizers

# A text up to this many characters is read whole and what is cut off is counted exactly. Of a longer one only as much is
# read as the model can take, and the count of the rest is extrapolated from the part that was read.
READ_WHOLE = 1 << 16

# Bounds of one internal batch: memory stays flat and an interrupt is seen soon, whatever the caller hands over.
CHUNK_TEXTS = 256
CHUNK_CHARACTERS = 1 << 18


def checked_texts(texts: Sequence[str], what: str = "texts") -> Sequence[str]:
    """`texts` itself. Raises BadInput if it is no list of str, or if a text is not well-formed Unicode."""
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise BadInput(f"{what}: got {type(texts).__name__}, expected a list of str. Put the text into a list.")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadInput(f"{what}[{i}] is {type(text).__name__}, expected str. Convert or leave out that item.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadInput(
                f"{what}[{i}] holds a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}: not valid "
                f"Unicode. Decode the text again from its bytes, or replace that character."
            ) from error
    return texts


def chunks(texts: Sequence[str], size: int = CHUNK_TEXTS) -> Iterator[range]:
    """Index ranges of neighbouring texts: at most `size` texts and, unless a single text is longer, CHUNK_CHARACTERS."""
    start, characters = 0, 0
    for i, text in enumerate(texts):
        length = min(len(text), READ_WHOLE)
        if i > start and (i - start == size or characters + length > CHUNK_CHARACTERS):
            yield range(start, i)
            start, characters = i, 0
        characters += length
    if start < len(texts):
        yield range(start, len(texts))


def best_window(query: Sequence[int], passage: Sequence[int], width: int) -> int:
    """Start of the `width` tokens of `passage` that share most with `query`; 0 if the passage has no more than `width`.

    Windows start every width // 2 tokens, the last one ends with the passage. One is worth the sum over the distinct ids that
    it shares with the query of log(2 + id): a vocabulary is sorted by frequency, so by Zipf's law the log of the rank stands
    for the information of a piece. The earliest of equals wins. Raises BadInput if `width` is below 1.
    """
    if width < 1:
        raise BadInput(f"width={width}: a window has at least one token.")
    last = len(passage) - width
    if last <= 0:
        return 0
    worth = {token: math.log(2 + token) for token in query}
    asked = set(worth)
    starts: list[int] = [*range(0, last, max(1, width // 2)), last]
    # fsum rounds once, so that equal sets are equal whatever the order of their tokens
    values = [math.fsum(worth[t] for t in asked.intersection(passage[start : start + width])) for start in starts]
    return starts[values.index(max(values))]


@dataclass(frozen=True)
class _Template:
    """What stands before, between and after the texts: ids and segments of each piece, and the segment of each text."""

    fixed: tuple[list[int], ...]
    fixed_segments: tuple[list[int], ...]
    text_segments: tuple[int, ...]

    @classmethod
    def learn(cls, encoding: tokenizers.Encoding, texts: int) -> _Template:
        """From the encoding of `texts` one-letter texts with special tokens."""
        fixed: list[list[int]] = [[] for _ in range(texts + 1)]
        segments: list[list[int]] = [[] for _ in range(texts + 1)]
        text_segments = [0] * texts
        place = 0
        for id_, segment, owner in zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True):
            if owner is None:
                fixed[place].append(id_)
                segments[place].append(segment)
            else:
                text_segments[owner] = segment
                place = owner + 1
        return cls(tuple(fixed), tuple(segments), tuple(text_segments))

    def marked(self) -> _Template:
        """The same ids, where the last text and what closes it are of segment 1 and all the rest is of segment 0."""
        last = len(self.fixed) - 1
        segments = tuple([int(i == last)] * len(piece) for i, piece in enumerate(self.fixed))
        return _Template(self.fixed, segments, tuple(int(i == last - 1) for i in range(last)))

    @property
    def size(self) -> int:
        return sum(map(len, self.fixed))


class _Batch:
    """Collects sequences; `tokens` gives them as one ragged batch."""

    def __init__(self, template: _Template, segments: bool) -> None:
        self._template, self._with_segments = template, segments
        self._ids: list[int] = []
        self._segments: list[int] = []
        self._offsets = [0]

    def add(self, *texts: list[int]) -> None:
        t = self._template
        self._append(t.fixed[0], t.fixed_segments[0])
        for i, ids in enumerate(texts):
            self._append(ids, [t.text_segments[i]] * len(ids))
            self._append(t.fixed[i + 1], t.fixed_segments[i + 1])
        self._offsets.append(len(self._ids))

    def _append(self, ids: list[int], segments: list[int]) -> None:
        self._ids += ids
        if self._with_segments:
            self._segments += segments

    def tokens(self) -> Tokens:
        ids = np.array(self._ids, np.int32)
        segments = np.array(self._segments, np.uint8) if self._with_segments else np.zeros(len(ids), np.uint8)
        return Tokens(ids, segments, np.array(self._offsets, np.int32))


class _Library:
    """Contents to ids by the tokenizers library."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.padding_id: int | None = (backend.padding or {}).get("pad_id")
        backend.no_truncation()
        backend.no_padding()
        self.single = _Template.learn(backend.encode("a"), 1)
        self.pair = _Template.learn(backend.encode("a", "a"), 2)
        backend.encode_special_tokens = True
        self._backend = backend
        special = {i: t.content for i, t in backend.get_added_tokens_decoder().items() if t.special}
        unknown = getattr(backend.model, "unk_token", None) or "<unk>"
        self._special = list(special.values())
        self._control = frozenset(i for i, content in special.items() if content != unknown)
        self._plain = self._without_control(backend, self._special)

    def ids(self, texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = [e.ids for e in self._backend.encode_batch_fast(texts, add_special_tokens=False)]
        for i, ids in enumerate(found):
            if not self._control.isdisjoint(ids):
                found[i] = self._plain.encode(texts[i], add_special_tokens=False).ids
        return found

    def piece(self, id_: int) -> str:
        return self._backend.id_to_token(id_) or ""

    def find(self, piece: str) -> int | None:
        return self._backend.token_to_id(piece)

    def note(self) -> dict[str, Any]:
        """All that `_Native` needs beside the model."""
        return {
            "single": asdict(self.single),
            "pair": asdict(self.pair),
            "padding_id": self.padding_id,
            "control": sorted(self._control),
            "special": self._special,
        }

    @staticmethod
    def _without_control(backend: tokenizers.Tokenizer, special: list[str]) -> tokenizers.Tokenizer:
        """A tokenizer over the same model that cannot produce control tokens from text.

        A Unigram model holds them as ordinary pieces; here every occurrence is split after its first character
        before the model sees it.
        """
        from tokenizers import Regex, Tokenizer, pre_tokenizers

        plain = Tokenizer(backend.model)
        if backend.normalizer is not None:
            plain.normalizer = backend.normalizer
        longer = [s for s in special if len(s) > 1]
        split: list[Any] = []
        if longer:
            pattern = "|".join(f"{re.escape(s[0])}(?={re.escape(s[1:])})" for s in sorted(longer))
            split = [pre_tokenizers.Split(Regex(pattern), "merged_with_previous")]
        own = [] if backend.pre_tokenizer is None else [backend.pre_tokenizer]
        plain.pre_tokenizer = pre_tokenizers.Sequence([*own, *split])
        return plain


class _Native:
    """Contents to ids by the native Unigram tokenizer; the interpreter is free while it works."""

    def __init__(self, compiled: Compiled) -> None:
        self._model, note = compiled.model, compiled.note
        self._model.set_control(note["control"], note["special"])
        self.single, self.pair = _Template(**note["single"]), _Template(**note["pair"])
        self.padding_id: int | None = note["padding_id"]

    def ids(self, texts: list[str]) -> list[list[int]]:
        ids, offsets = self._model.encode(texts)
        flat = ids.tolist()
        return [flat[start:end] for start, end in pairwise(offsets.tolist())]

    def piece(self, id_: int) -> str:
        return self._model.piece(id_)

    def find(self, piece: str) -> int | None:
        found = self._model.find(piece)
        return None if found < 0 else found


class Tokenizer:
    """The tokenizer of one model folder.

    `pad_id` is the id of the padding token, for people and foreign runtimes that want padded arrays; no batch here has one.
    """

    def __init__(self, backend: tokenizers.Tokenizer | _Native | _Library, *, pad_id: int = 0, segments: bool = True) -> None:
        """`segments=False`: the network takes no segments, all are 0 whatever the tokenizer's template says."""
        self._words = backend if isinstance(backend, _Native | _Library) else _Library(backend)
        self._single, self._pair = self._words.single, self._words.pair
        self._segments = segments
        self.pad_id = pad_id

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """From `tokenizer.json` in the folder, with `tokenizer_config.json` and `config.json` where present.

        A tokenizer that is in use already is shared: an encoder and a reranker over one table read its vocabulary once.
        Raises ModelNotFound if there is no tokenizer.json, ModelError if it cannot be read.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelNotFound(
                f"{folder}: tokenizer.json is missing. Save the model's fast tokenizer there (transformers: "
                f"AutoTokenizer.from_pretrained(...).save_pretrained(folder))."
            )
        key = (str(path.resolve()), path.stat().st_mtime_ns)
        shared = _IN_USE.get(key)
        if shared is None:
            shared = _IN_USE[key] = cls._read(folder, path)
        return shared

    @classmethod
    def _read(cls, folder: Path, path: Path) -> Tokenizer:
        words = _read(path)
        settings, config = _json(folder / "tokenizer_config.json"), _json(folder / "config.json")
        names = settings.get("model_input_names")
        if names is not None and not isinstance(names, list):
            raise ModelError(f"{folder / 'tokenizer_config.json'}: model_input_names={names!r:.80}; expected a list of names.")
        segments = config.get("type_vocab_size", 2) > 1 and (names is None or "token_type_ids" in names)
        return cls(words, pad_id=_pad_id(words, settings, config), segments=segments)

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tokens, IntArray]:
        """Each text with its special tokens, at most `max_tokens` in all, and int32[n]: tokens that were cut off (0 = whole).

        For a text longer than READ_WHOLE characters the number cut off is an estimate, never 0 if anything was cut.
        Raises BadInput for anything but a list of well-formed str.
        """
        checked_texts(texts)
        room = self._room(max_tokens, self._single)
        batch, cut = _Batch(self._single, self._segments), np.zeros(len(texts), np.int32)
        for i, (ids, total) in enumerate(self._contents(texts, room)):
            batch.add(ids[:room])
            cut[i] = total - min(len(ids), room)
        return batch.tokens(), cut

    def encode_pairs(
        self,
        query: str | Sequence[str],
        passages: Sequence[str],
        max_tokens: int,
        *,
        segments: bool = False,
        window: int = 0,
    ) -> tuple[Tokens, IntArray]:
        """Each passage after the query (one for all, or one for each), and int32[n]: how many tokens of the pair were left out.

        The passage gives way. Only a query longer than half of the room, in a pair that does not fit, is cut to that half.
        segments=True: all from the passage's first token on is of segment 1, all before it of 0, whatever the template says.
        With a window, a passage of more than `window` tokens is first reduced to its `best_window`; of one longer than
        READ_WHOLE characters, the best of what was read.

        Raises BadInput for anything but well-formed str, or if there are not as many queries as passages.
        """
        checked_texts(passages, "passages")
        queries = checked_texts([query] if isinstance(query, str) else query, "queries")
        if not isinstance(query, str) and len(queries) != len(passages):
            raise BadInput(f"{len(queries)} queries for {len(passages)} passages: expected one query, or one for each passage.")
        room = self._room(max_tokens, self._pair)
        batch = _Batch(self._pair.marked(), True) if segments else _Batch(self._pair, self._segments)
        cut = np.zeros(len(passages), np.int32)
        firsts = list(self._contents(queries, room))
        for i, (ids, total) in enumerate(self._contents(passages, max(room, window))):
            first, first_total = firsts[0 if isinstance(query, str) else i]
            if window:
                start = best_window(first[:room], ids, window)
                ids = ids[start : start + window]
            kept = first[: max(room // 2, room - len(ids))]
            rest = ids[: room - len(kept)]
            batch.add(kept, rest)
            cut[i] = first_total - len(kept) + total - len(rest)
        return batch.tokens(), cut

    def pieces(self, ids: Sequence[int] | IntArray) -> list[str]:
        """The tokens as strings, for people."""
        return [self._words.piece(int(i)) or f"<{i}>" for i in ids]

    def _room(self, max_tokens: int, template: _Template) -> int:
        if max_tokens <= template.size:
            raise BadInput(f"max_tokens={max_tokens}: {template.size} are special tokens. Give at least {template.size + 1}.")
        return max_tokens - template.size

    def _contents(self, texts: Sequence[str], needed: int) -> Iterator[tuple[list[int], int]]:
        """Ids of each text without special tokens (at least `needed` of them if it has so many), and how many it has in all."""
        for chunk in chunks(texts):
            heads = [_head(texts[i], READ_WHOLE) for i in chunk]
            for i, head, ids in zip(chunk, heads, self._words.ids(heads), strict=True):
                yield (ids, len(ids)) if len(head) == len(texts[i]) else self._long(texts[i], ids, len(head), needed)

    def _long(self, text: str, ids: list[int], read: int, needed: int) -> tuple[list[int], int]:
        while len(ids) <= needed and read < len(text):  # a text that is almost all white space, for example
            head = _head(text, 2 * read)
            ids, read = self._words.ids([head])[0], len(head)
        if read == len(text):
            return ids, len(ids)
        return ids, max(len(ids) + 1, round(len(ids) * len(text) / read))


# Compared before a compiled tokenizer is trusted: scripts, clusters, white space, marks and names of special tokens.
_SAMPLES = [
    "Berlin has 3,520,031 inhabitants; l'été à São Paulo.",
    "柏林有多少人口？　「東京」ｶﾞｷﾞ ﷺ ①² ﬁn",
    "नमस्ते दुनिया กรุงเทพ 각ᄒᆞᆫ Αθήνα שלום",
    "e\u0301 ②\u0301 क़\u0301 ™\u200d™\u0301 👩\u200d👩\u200d👧 🇩🇪🇫",
    " \t\u3000 ▁a▁▁b \r\n\u0001\u200b\u0085\ufeff x\u00adx",
    "<s> </s><unk><mask> a<pad>b \U000e0001\U0002a6d6\ue000\ue001",
    "",
]


def _read(path: Path) -> _Native | _Library:
    """The tokenizer of a tokenizer.json, compiled if it can be and has not been yet."""
    compiled = open_compiled(sha256_once(path))
    if compiled is not None:
        return _Native(compiled)
    from tokenizers import Tokenizer as Backend

    content = path.read_bytes()
    try:
        backend = Backend.from_buffer(content)
    except Exception as error:  # the library raises plain Exception
        raise ModelError(f"{path}: not a tokenizer that this version of tokenizers reads: {error}") from error
    library = _Library(backend)
    made = compile_tokenizer(backend, hashlib.sha256(content).hexdigest(), library.note())
    if made is None:
        return library
    native = _Native(made[0])
    if native.ids(_SAMPLES) != library.ids(_SAMPLES):  # a later version of the library that splits otherwise
        return library
    keep(*made)
    return native


def _head(text: str, characters: int) -> str:
    """The first `characters` of a text, ended at a space where there is one in the second half: no word is cut in two."""
    if len(text) <= characters:
        return text
    space = text.rfind(" ", characters // 2, characters)
    return text[: space if space > 0 else characters]


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(content).__name__}.")
    return content


def _pad_id(words: _Native | _Library, settings: dict[str, Any], config: dict[str, Any]) -> int:
    token = settings.get("pad_token")
    content = token.get("content") if isinstance(token, dict) else token
    found = words.find(content) if isinstance(content, str) else None
    if found is None:
        found = config.get("pad_token_id") if words.padding_id is None else words.padding_id
    return int(found or 0)


_IN_USE: WeakValueDictionary[tuple[str, int], Tokenizer] = WeakValueDictionary()
"""(file, time of its last change) -> tokenizer, for as long as anybody holds it."""
