from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

import tiny_models
from shortlist.errors import BadInput, ModelError, ModelNotFound
from shortlist.tokens import READ_WHOLE, Tokenizer, best_window, chunks

TEXTS = ["Berlin has 3,520,031 inhabitants.", "柏林有多少人口？", "", "  ", "नमस्ते दुनिया", "x" * 300, "กรุงเทพ"]
# A character that the alphabet lacks becomes the unknown token, which is not a control token.
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module", params=["bert", "xlmr"])
def backend(request) -> Backend:
    return {"bert": tiny_models.bert_tokenizer, "xlmr": tiny_models.xlmr_tokenizer}[request.param]()


@pytest.fixture(scope="module")
def tokenizer(backend) -> Tokenizer:
    return Tokenizer(Backend.from_str(backend.to_str()))


def reference(backend: Backend, max_tokens: int, *texts) -> list[list[int]]:
    backend.enable_truncation(max_tokens, strategy="only_second" if len(texts) == 2 else "longest_first")
    return [backend.encode(*t).ids for t in zip(*texts, strict=True)]


def test_ids_are_those_of_the_library(backend, tokenizer):
    tokens, _ = tokenizer.encode(TEXTS, 64)
    assert [list(ids) for ids in tokens] == reference(backend, 64, TEXTS)
    assert tokens.ids.dtype == np.int32
    assert tokens.offsets.dtype == np.int32
    assert tokens.segments.dtype == np.uint8
    assert not tokens.segments.any()


def test_pairs_are_those_of_the_library(backend, tokenizer):
    tokens, _ = tokenizer.encode_pairs("how many 柏林?", TEXTS, 64)
    assert [list(ids) for ids in tokens] == reference(backend, 64, ["how many 柏林?"] * len(TEXTS), TEXTS)
    backend.enable_truncation(64, strategy="only_second")
    assert tokens.segments.tolist() == [s for t in TEXTS for s in backend.encode("how many 柏林?", t).type_ids]


def test_one_query_for_each_passage_equals_one_at_a_time(tokenizer):
    queries = ["a", "bb cc", "柏林"]
    together, cut = tokenizer.encode_pairs(queries, TEXTS[:3], 32)
    for i, sequence in enumerate(together):
        alone, alone_cut = tokenizer.encode_pairs(queries[i], [TEXTS[i]], 32)
        assert sequence.tolist() == alone.ids.tolist()
        assert cut[i] == alone_cut[0]


def test_what_is_cut_off_is_counted(tokenizer):
    whole, none_cut = tokenizer.encode(TEXTS, 1000)
    tokens, cut = tokenizer.encode(TEXTS, 20)
    assert not none_cut.any()
    assert (tokens.lengths + cut == whole.lengths).all()
    assert tokens.lengths.max() == 20
    assert cut.max() > 0


def test_only_the_passage_is_cut(tokenizer):
    query = "how many people live there"
    whole, _ = tokenizer.encode_pairs(query, ["y " * 400], 2000)
    tokens, cut = tokenizer.encode_pairs(query, ["y " * 400], 64)
    assert tokens.ids[:63].tolist() == whole.ids[:63].tolist()  # all but the closing token: the query is whole
    assert cut.tolist() == [len(whole.ids) - 64]


def test_a_query_that_would_leave_nothing_gets_half(tokenizer):
    tokens, cut = tokenizer.encode_pairs("q " * 400, ["y " * 400, "y"], 64)
    pieces = tokenizer.pieces(tokens.ids[: tokens.offsets[1]])
    assert len(tokens.take(0, 1).ids) == 64
    counts = [sum(p.strip("▁#") == letter for p in pieces) for letter in "qy"]
    assert counts[0] > 10
    assert counts[1] > 10
    assert cut[0] > cut[1] > 0


def brute_force_window(query: list[int], passage: list[int], width: int) -> int:
    best, best_worth = 0, -1.0
    start = 0
    while True:
        start = min(start, max(0, len(passage) - width))
        worth, seen = [], []
        for token in passage[start : start + width]:
            if token in query and token not in seen:
                seen.append(token)
                worth.append(math.log(2 + token))
        if math.fsum(worth) > best_worth:
            best, best_worth = start, math.fsum(worth)
        if start + width >= len(passage):
            return best
        start += max(1, width // 2)


@given(
    query=st.lists(st.integers(0, 30), max_size=8),
    passage=st.lists(st.integers(0, 30), max_size=60),
    width=st.integers(1, 25),
)
@settings(max_examples=300, deadline=None)
def test_best_window_equals_brute_force(query, passage, width):
    assert best_window(query, passage, width) == brute_force_window(query, passage, width)


def test_best_window_weighs_rare_tokens_and_counts_each_once():
    common, rare = [5, 5, 5, 5, 6, 6], [90_000, 80_000]
    assert best_window([5, 6, 90_000, 80_000], common + [1] * 12 + rare, 6) == 14  # flush with the end
    assert best_window([5, 6], common + [1] * 12 + rare, 6) == 0
    assert best_window([7], common + [1] * 12 + rare, 6) == 0  # all equal: the earliest
    assert best_window([1], [1, 2], 6) == 0
    with pytest.raises(BadInput, match="width=0"):
        best_window([1], [1], 0)


def test_segments_mark_the_passage_whatever_the_template_says(tokenizer):
    tokens, _ = tokenizer.encode_pairs("how many 柏林?", TEXTS, 64, segments=True)
    plain, _ = tokenizer.encode_pairs("how many 柏林?", TEXTS, 64)
    assert tokens.ids.tolist() == plain.ids.tolist()
    empty, _ = tokenizer.encode_pairs("how many 柏林?", [""], 64)
    before = len(empty.ids) - 1  # all but the closing token stands before the passage
    for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        assert tokens.segments[a:b].tolist() == [0] * before + [1] * (b - a - before)


def test_a_window_comes_before_the_limit(tokenizer):
    passage = "z" * 90 + " 柏林 " + "y" * 90
    whole, none_cut = tokenizer.encode_pairs("柏林", [passage, "柏林"], 512)
    tokens, cut = tokenizer.encode_pairs("柏林", [passage, "柏林"], 512, window=16)
    pieces = [p.strip("▁#") for p in tokenizer.pieces(tokens.take(0, 1).ids)]
    assert pieces.count("柏") == pieces.count("林") == 2
    assert not none_cut.any()
    assert cut.tolist() == [whole.lengths[0] - tokens.lengths[0], 0]
    empty, _ = tokenizer.encode_pairs("柏林", [""], 512)
    assert tokens.lengths[0] == len(empty.ids) + 16
    short, short_cut = tokenizer.encode_pairs("柏林", [passage], len(empty.ids) + 10, window=16)
    assert len(short.ids) == len(empty.ids) + 10
    assert short_cut.tolist() == [whole.lengths[0] - len(short.ids)]
    assert short.ids[:-1].tolist() == tokens.ids[: len(short.ids) - 1].tolist()  # the beginning of the same window
    wide, _ = tokenizer.encode_pairs("柏林", [passage, "柏林"], 512, window=1000)
    assert wide.ids.tolist() == whole.ids.tolist()


def test_a_window_in_a_huge_text_counts_the_rest(backend, tokenizer):
    text = "abc 柏林 " * (3 * READ_WHOLE // 7)
    _, cut = tokenizer.encode_pairs("林", [text], 512, window=100)
    backend.no_truncation()
    assert cut[0] == pytest.approx(len(backend.encode(text).ids) - 102, rel=0.01)


@given(parts=st.lists(st.one_of(anything, st.sampled_from(["</s>", "<s>", "<mask>", "<pad>", "[SEP]", "[CLS]", "＜s＞"]))))
@settings(max_examples=200, deadline=None)
def test_text_never_becomes_a_control_token(tokenizer, parts):
    text = "".join(parts)
    outer = {int(i) for i in tokenizer.encode([""], 8)[0].ids}
    tokens, _ = tokenizer.encode([text], 4096)
    inner = tokens.ids[1:-1].tolist()
    assert outer.isdisjoint(inner)
    assert not {"<mask>", "<pad>", "[MASK]", "[PAD]"} & set(tokenizer.pieces(inner))


def test_special_strings_keep_the_text_around_them(tokenizer):
    pieces = [p.strip("▁#") for p in tokenizer.pieces(tokenizer.encode(["a </s> b"], 64)[0].ids)]
    assert "".join(pieces[1:-1]) == "a</s>b"


def test_no_segments_where_the_network_has_none(tiny_xlmr_reranker_folder, tiny_reranker_folder, tmp_path):
    assert not Tokenizer.load(tiny_xlmr_reranker_folder).encode_pairs("a", ["b"], 32)[0].segments.any()
    assert Tokenizer.load(tiny_reranker_folder).encode_pairs("a", ["b"], 32)[0].segments.any()
    (tmp_path / "tokenizer.json").write_bytes((tiny_reranker_folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_input_names": ["input_ids", "attention_mask"]}))
    assert not Tokenizer.load(tmp_path).encode_pairs("a", ["b"], 32)[0].segments.any()


def test_stored_truncation_and_padding_are_ignored(tiny_encoder_folder, tmp_path):
    backend = Backend.from_file(str(tiny_encoder_folder / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=16)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).encode(["abcdefgh", "a"], 128)[0].lengths.tolist() == [10, 3]


def test_a_huge_text_is_not_read_to_its_end(backend, tokenizer):
    unit = "abc 柏林 "
    text = unit * (3 * READ_WHOLE // len(unit))
    tokens, cut = tokenizer.encode([text], 128)
    short, _ = tokenizer.encode([text[: READ_WHOLE // 2]], 128)
    assert tokens.ids.tolist() == short.ids.tolist()
    backend.no_truncation()
    assert cut[0] == pytest.approx(len(backend.encode(text).ids) - 128, rel=0.01)


def test_a_huge_text_of_spaces_is_read_until_tokens_come():
    tokenizer = Tokenizer(tiny_models.bert_tokenizer())
    text = " " * (5 * READ_WHOLE) + "abc"
    assert tokenizer.encode([text], 32)[0].ids.tolist() == tokenizer.encode(["abc"], 32)[0].ids.tolist()


def test_bad_input(tokenizer):
    with pytest.raises(BadInput, match=r"texts\[1\] is int"):
        tokenizer.encode(["a", 3], 32)
    with pytest.raises(BadInput, match="expected a list"):
        tokenizer.encode("a text", 32)
    with pytest.raises(BadInput, match=r"texts\[1\] holds a lone surrogate .U.D800. at character 2"):
        tokenizer.encode(["fine", "ab\ud800c"], 32)
    with pytest.raises(BadInput, match="special tokens"):
        tokenizer.encode(["a"], 2)
    with pytest.raises(BadInput, match="2 queries for 1 passages"):
        tokenizer.encode_pairs(["a", "b"], ["c"], 32)


def test_no_text(tokenizer):
    tokens, cut = tokenizer.encode([], 32)
    assert len(tokens) == 0
    assert tokens.offsets.tolist() == [0]
    assert len(cut) == 0


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ModelNotFound, match=r"tokenizer\.json is missing"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ModelError, match="not a tokenizer"):
        Tokenizer.load(tmp_path)


@given(st.lists(st.integers(0, 3 * READ_WHOLE), max_size=30), st.integers(1, 5))
@settings(deadline=None, max_examples=50)
def test_chunks_cover_every_text_once(lengths, size):
    texts = ["x" * n for n in lengths]
    ranges = list(chunks(texts, size))
    assert [i for r in ranges for i in r] == list(range(len(texts)))
    assert all(0 < len(r) <= size for r in ranges)
