from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tiny_models
from reference_network import ReferenceNetwork
from shortlist import models
from shortlist.errors import BadInput, ModelError, ModelMismatch, ModelNotFound
from shortlist.models.body import quantized, write_body
from shortlist.models.network import read_network
from shortlist.reranker import Reranker, probability
from shortlist.types import Tokens

QUERY = "how many people live in 柏林?"
PASSAGES = ["柏林 has 3,520,031 people.", "museums", "", "x " * 2000, "नमस्ते"]


@pytest.fixture(scope="module", params=["bert", "xlmr"])
def reranker(request, tiny_reranker_folder, tiny_xlmr_reranker_folder) -> Reranker:
    return Reranker.load({"bert": tiny_reranker_folder, "xlmr": tiny_xlmr_reranker_folder}[request.param], threads=2)


def test_tokens_cut_are_those_of_a_score(reranker):
    np.testing.assert_array_equal(reranker.tokens_cut(QUERY, PASSAGES), reranker.score_counted(QUERY, PASSAGES)[1])


def test_another_engine_gets_all_the_work(reranker):
    seen = []

    class Watching:
        def __init__(self, engine):
            self.engine = engine

        def __getattr__(self, name):
            return getattr(self.engine, name)

        def run(self, tokens, pooling):
            seen.append((len(tokens), pooling))
            return self.engine.run(tokens, pooling)

    other = reranker.with_engine(Watching)
    np.testing.assert_array_equal(other.score(QUERY, PASSAGES), reranker.score(QUERY, PASSAGES))
    assert seen == [(5, "score")]
    assert (other.name, other.max_tokens) == (reranker.name, reranker.max_tokens)


def test_scores(reranker):
    scores, cut = reranker.score_counted(QUERY, PASSAGES)
    assert scores.shape == (5,)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert len(set(scores.tolist())) == 5
    assert (cut > 0).tolist() == [False, False, False, True, False]
    assert reranker.score(QUERY, []).shape == (0,)


def test_a_score_does_not_depend_on_its_company(reranker):
    together = reranker.score(QUERY, PASSAGES * 100)
    assert [reranker.score(QUERY, [p])[0] for p in PASSAGES] == together[:5].tolist() == together[-5:].tolist()


MANY = ["the river and the city " * n for n in (3, 9, 1, 4, 12, 2, 2, 7, 3, 1) * 4]


@pytest.mark.parametrize("max_ms", [2, 15, 40, 100, 200])
def test_a_budget_is_used_up_and_kept(clock, reranker, max_ms):
    expected, cut = reranker.score_counted(QUERY, MANY)
    lengths = reranker.prepare_batch([QUERY] * len(MANY), MANY).attention_mask.sum(axis=1)
    start, clock.batches = clock.now, []
    scores, cut_within = reranker.score_within(QUERY, MANY, max_ms)
    read, left = len(scores), max_ms / 1000 - (clock.now - start)
    assert scores.tobytes() == expected[:read].tobytes()
    assert cut_within.tolist() == cut[:read].tolist()
    assert clock.batches[0] == 2
    assert sum(clock.batches) == read < len(MANY)
    first_ms = clock.token_ms * lengths[:2].max()
    if max_ms < first_ms:
        assert read == 2
    else:
        assert 0 <= left < clock.token_ms * lengths[read] / 1000


def test_enough_time_reads_everything_and_none_nothing(clock, reranker):
    for max_ms in (1e4, 1e15, float("inf")):
        assert reranker.score_within(QUERY, MANY, max_ms)[0].tobytes() == reranker.score(QUERY, MANY).tobytes()
    for max_ms in (0, -3.5):
        assert [len(array) for array in reranker.score_within(QUERY, MANY, max_ms)] == [0, 0]
    assert [len(array) for array in reranker.score_within(QUERY, [], 5)] == [0, 0]
    with pytest.raises(BadInput, match="query"):
        reranker.score_within("", MANY, 0)


def test_a_machine_that_slows_down_costs_one_sub_batch(clock, reranker):
    same, sizes = ["the river and the city"] * 200, []
    for slower in (1, 10):
        start, clock.token_ms, clock.batches = clock.now, 0.1, []
        passing = clock.pass_for

        def slowing(lengths, threads, slower=slower, passing=passing):
            passing(lengths, threads)
            if len(clock.batches) == 1:
                clock.token_ms *= slower

        clock.pass_for = slowing
        reranker.score_within(QUERY, same, 100)
        clock.pass_for = passing
        sizes.append((list(clock.batches), clock.now - start))
    (even, even_s), (slowed, slowed_s) = sizes
    assert even_s <= 0.1
    assert slowed == even[:2]  # the second was begun when the machine was fast; after it no time is left
    assert slowed_s <= 0.1 + 10 * 0.1 / 2


def test_bad_input(reranker):
    for query in ("", " \n", None, 3, "a\ud800"):
        with pytest.raises(BadInput, match="quer"):
            reranker.score(query, PASSAGES)
    for passages in ("one", [1], None):
        with pytest.raises(BadInput, match="passages"):
            reranker.score(QUERY, passages)


def test_probability():
    assert probability([0.0]).tolist() == [0.5]
    with np.errstate(all="raise"):
        p = probability(np.array([-1e30, -2, 2, 1e30], np.float32))
    assert p.dtype == np.float64
    np.testing.assert_allclose(p, [0, 1 / (1 + np.exp(2)), 1 / (1 + np.exp(-2)), 1], atol=1e-15)


def test_probability_at_a_temperature():
    np.testing.assert_allclose(probability([3.0, -3.0], 2.0), [1 / (1 + np.exp(-1.5)), 1 / (1 + np.exp(1.5))])
    with np.errstate(all="raise"):
        assert probability(np.array([-1e30, 1e30], np.float32), 0.01).tolist() == [0, 1]
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(BadInput, match="temperature="):
            probability([1.0], temperature)


def test_a_card_with_a_temperature_calibrates(tiny_reranker_folder, tmp_path):
    folder = shutil.copytree(tiny_reranker_folder, tmp_path / "model")
    assert Reranker.load(folder).probability([3.0]).tolist() == probability([3.0]).tolist()
    (folder / "card.json").write_text('{"temperature": 2}')
    assert Reranker.load(folder).probability([3.0]).tolist() == probability([1.5]).tolist()


# --- segments, window and MaxSim


@pytest.fixture(scope="module")
def maxsim_folder(tmp_path_factory):
    return tiny_models.write_maxsim_reranker(tmp_path_factory.mktemp("maxsim") / "tiny-maxsim")


def test_maxsim_scores_are_those_of_the_reference(maxsim_folder):
    """The batch that people see, through the plain network: the same segments, the same scores."""
    reranker = Reranker.load(maxsim_folder, precision="float32")
    inputs = reranker.prepare_batch(QUERY, PASSAGES[:3])
    real = inputs.attention_mask == 1
    offsets = np.concatenate([[0], real.sum(1).cumsum()]).astype(np.int32)
    tokens = Tokens(inputs.input_ids[real].astype(np.int32), inputs.token_type_ids[real].astype(np.uint8), offsets)
    assert 0 < tokens.segments.mean() < 1
    reference = ReferenceNetwork(read_network(maxsim_folder))
    np.testing.assert_allclose(reranker.score(QUERY, PASSAGES[:3]), reference.run(tokens, "score")[:, 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(Reranker.load(maxsim_folder).score(QUERY, PASSAGES), reranker.score(QUERY, PASSAGES), atol=0.2)


def test_segments_are_those_that_the_card_states(maxsim_folder, tmp_path):
    inputs = Reranker.load(maxsim_folder).prepare_batch("ab", ["cd", ""])
    assert inputs.tokens[0] == ("<s>", "▁", "a", "b", "</s>", "</s>", "▁", "c", "d", "</s>")
    assert inputs.token_type_ids.tolist() == [[0] * 6 + [1] * 4, [0] * 6 + [1] + [0] * 3]
    plain = tiny_models.write_maxsim_reranker(tmp_path / "plain", segments=False)
    assert not Reranker.load(plain).prepare_batch("ab", ["cd"]).token_type_ids.any()


def test_a_maxsim_score_does_not_depend_on_its_company(maxsim_folder):
    reranker = Reranker.load(maxsim_folder, threads=2)
    together = reranker.score(QUERY, PASSAGES * 20)
    assert [reranker.score(QUERY, [p])[0] for p in PASSAGES] == together[:5].tolist() == together[-5:].tolist()


def test_the_window_is_read_where_the_answer_is(maxsim_folder, tmp_path):
    """A passage longer than the window scores as the window alone, and what lies outside of it is counted."""
    passage = "z" * 100 + "柏林" + "y" * 100
    whole = Reranker.load(maxsim_folder)
    windowed = Reranker.load(tiny_models.write_maxsim_reranker(tmp_path / "w", window=20))
    shown = windowed.prepare_batch("柏林?", [passage]).tokens[0]
    assert "".join(shown[-21:-1]) in passage
    assert "柏林" in "".join(shown)
    scores, cut = windowed.score_counted("柏林?", [passage, "柏林"])
    assert cut.tolist() == [203 - 20, 0]  # the word boundary is a token too
    assert scores[1] == whole.score("柏林?", ["柏林"])[0]
    assert scores[0] != whole.score("柏林?", [passage])[0]
    overridden = Reranker.load(maxsim_folder, window=20)
    assert overridden.score("柏林?", [passage])[0] == scores[0]
    assert overridden.card.window == 20
    back = Reranker.load(tmp_path / "w", window=0)
    assert back.score("柏林?", [passage])[0] == whole.score("柏林?", [passage])[0]
    assert overridden.fingerprint == windowed.fingerprint != back.fingerprint == whole.fingerprint
    with pytest.raises(BadInput, match="window=-1"):
        Reranker.load(maxsim_folder, window=-1)


def test_prepared_batch(reranker):
    inputs = reranker.prepare_batch(QUERY, PASSAGES[:3])
    longest = max(map(len, inputs.tokens))
    assert set(inputs.shapes.values()) == {(3, longest)}
    assert all(a.dtype == np.int64 for a in inputs.arrays.values())
    for i, tokens in enumerate(inputs.tokens):
        assert inputs.attention_mask[i].tolist() == [1] * len(tokens) + [0] * (longest - len(tokens))
        assert not inputs.token_type_ids[i, len(tokens) :].any()
    pieces = "".join(t.strip("▁#") for t in inputs.tokens[1])
    assert "museums" in pieces
    pairs = reranker.prepare_batch(["a", "b"], ["c", "d"])
    assert pairs.input_ids.shape[0] == 2


def test_picture_as_text(reranker):
    inputs = reranker.prepare_batch(QUERY, PASSAGES[:2])
    rows, columns = inputs.input_ids.shape
    lines = inputs.plot(width=200).splitlines()
    assert [line.split()[0] for line in lines[:: rows + 1]] == ["input_ids", "attention_mask", "token_type_ids"]
    assert f"{rows} x {columns}" in lines[0]
    ids, masks = lines[1].strip(), lines[rows + 2].strip()
    assert len(ids) == columns
    assert masks == "1" * len(inputs.tokens[0]) + "." * (columns - len(inputs.tokens[0]))
    same = [ids[i] for i in range(columns) if inputs.input_ids[0, i] == inputs.input_ids[0, -1] and inputs.attention_mask[0, i]]
    assert len(set(same)) <= 1
    assert "\x1b" not in inputs.plot()
    assert "\x1b[48;5;" in inputs.plot(color=True)
    assert f"+{columns - 8}" in inputs.plot(width=8)


def test_picture_as_image(reranker, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    inputs = reranker.prepare_batch(QUERY, PASSAGES[:3])
    assert inputs.plot(tmp_path / "batch.png").startswith("input_ids")
    assert (tmp_path / "batch.png").read_bytes().startswith(b"\x89PNG")


def test_load_refuses_what_is_no_reranker(tiny_encoder_folder, tiny_reranker_folder, tmp_path):
    with pytest.raises(ModelError, match=r"Encoder\.load"):
        Reranker.load(tiny_encoder_folder)
    folder = shutil.copytree(tiny_reranker_folder, tmp_path / "two")
    config = json.loads((folder / "config.json").read_text()) | {"id2label": {"0": "a", "1": "b"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="2 labels"):
        Reranker.load(folder)


# --- bodies that share the token table of another model


@pytest.fixture
def shared_table(tmp_path, monkeypatch, tiny_encoder_folder):
    """The tiny encoder, fetched under the name `tests/table`, and a reranker trained over its table."""
    monkeypatch.setenv("SHORTLIST_HOME", str(tmp_path / "home"))
    table = shutil.copytree(tiny_encoder_folder, tmp_path / "home" / "tests--table")
    (table / "card.json").write_text('{"name": "tests/table"}')
    source = tiny_models.write_reranker(tmp_path / "trained")
    tensors = load_file(source / "model.safetensors")
    tensors["bert.embeddings.word_embeddings.weight"] = load_file(table / "model.safetensors")[
        "embeddings.word_embeddings.weight"
    ]
    save_file({k: v.astype(np.float32) for k, v in tensors.items()}, source / "model.safetensors")
    return source


FIELDS = {"name": "tiny-rerank", "table": "tests/table", "licence": "Apache-2.0"}


def test_body_scores_like_its_source(shared_table, tmp_path):
    write_body(shared_table, tmp_path / "body", FIELDS)
    body, source = Reranker.load(tmp_path / "body"), Reranker.load(shared_table)
    assert (body.card.name, body.card.table, body.card.labels) == ("tiny-rerank", "tests/table", 1)
    np.testing.assert_allclose(body.score(QUERY, PASSAGES), source.score(QUERY, PASSAGES), atol=0.08)
    assert models.verify(tmp_path / "body") == []
    assert body.fingerprint != source.fingerprint


def test_body_is_small_int8_and_the_same_every_time(shared_table, tmp_path):
    for name in ("one", "two"):
        write_body(shared_table, tmp_path / name, FIELDS)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    tensors, source = load_file(tmp_path / "one" / "model.safetensors"), load_file(shared_table / "model.safetensors")
    assert not any("word_embeddings" in name for name in tensors)
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    assert tensors[name].dtype == np.int8
    scale = tensors[f"{name}_scale"]
    assert (np.abs(tensors[name] * scale[:, None] - source[name]) <= scale[:, None] * 0.501).all()


@pytest.fixture
def trained_maxsim(tmp_path, monkeypatch):
    """A reranker as training leaves it: a MaxSim head, a card that names the table, neither table nor tokenizer."""
    monkeypatch.setenv("SHORTLIST_HOME", str(tmp_path / "home"))
    table = tiny_models.write_maxsim_reranker(tmp_path / "home" / "tests--table", seed=1)
    (table / "card.json").write_text('{"name": "tests/table"}')
    source = tiny_models.write_maxsim_reranker(tmp_path / "trained", table="tests/table", window=24, temperature=1.5)
    tensors = load_file(source / "model.safetensors")
    del tensors["bert.embeddings.word_embeddings.weight"]
    save_file(tensors, source / "model.safetensors")
    (source / "tokenizer.json").unlink()
    return source


def test_body_of_a_source_without_a_table(trained_maxsim, tmp_path):
    write_body(trained_maxsim, tmp_path / "body", {**FIELDS, "temperature": 2.5})
    tensors, source = (load_file(f / "model.safetensors") for f in (tmp_path / "body", trained_maxsim))
    for name in ("maxsim.weight", "maxsim.bias", "maxsim.gain"):
        assert tensors[name].dtype == np.float32
        np.testing.assert_array_equal(tensors[name], source[name])
    body = Reranker.load(tmp_path / "body")
    assert (body.card.segments, body.card.window, body.card.temperature) == (True, 24, 2.5)
    assert models.verify(tmp_path / "body") == []
    # the source is loaded over the same table: its card names no fingerprint of it, so it gets the body's
    card = json.loads((trained_maxsim / "card.json").read_text()) | {"table_fingerprint": body.card.table_fingerprint}
    (trained_maxsim / "card.json").write_text(json.dumps(card))
    expected = Reranker.load(trained_maxsim, precision="float32").score(QUERY, PASSAGES)
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(body.score(QUERY, PASSAGES), expected, atol=0.2)
    np.testing.assert_allclose(Reranker.load(tmp_path / "body", precision="float32").score(QUERY, PASSAGES), expected, atol=0.1)


def test_body_over_a_table_of_another_size_or_none(trained_maxsim, tiny_encoder_folder, tmp_path):
    other = shutil.copytree(tiny_encoder_folder, tmp_path / "home" / "tests--other")
    (other / "card.json").write_text('{"name": "tests/other"}')
    with pytest.raises(ModelMismatch, match="not the shape of tests/other's"):
        write_body(trained_maxsim, tmp_path / "body", {**FIELDS, "table": "tests/other"})
    with pytest.raises(ModelNotFound, match="tests/nowhere"):
        write_body(trained_maxsim, tmp_path / "body", {**FIELDS, "table": "tests/nowhere"})


def test_quantisation_of_rows_of_zeros():
    codes, scale = quantized(np.zeros((2, 4), np.float32))
    assert not codes.any()
    assert scale.tolist() == [1, 1]


def test_body_of_another_table_is_refused(shared_table, tmp_path):
    tensors = load_file(shared_table / "model.safetensors")
    tensors["bert.embeddings.word_embeddings.weight"][::2] *= 1.5
    save_file(tensors, shared_table / "model.safetensors")
    with pytest.raises(ModelMismatch, match="Keep the table frozen"):
        write_body(shared_table, tmp_path / "body", FIELDS)


def test_a_changed_table_is_noticed_on_loading(shared_table, tmp_path):
    write_body(shared_table, tmp_path / "body", FIELDS)
    weights = tmp_path / "home" / "tests--table" / "model.safetensors"
    tensors = load_file(weights)
    tensors["embeddings.word_embeddings.weight"] += np.float16(0.5)
    save_file(tensors, weights)
    with pytest.raises(ModelMismatch, match="shortlist models fetch tests/table"):
        Reranker.load(tmp_path / "body")
    assert "another token table" in models.verify(tmp_path / "body")[0]


def test_verify_notices_other_scores(tiny_reranker_folder, tmp_path):
    folder = shutil.copytree(tiny_reranker_folder, tmp_path / "model")
    score = float(Reranker.load(folder).score("a", ["b\nc"])[0])
    (folder / "card.json").write_text(json.dumps({"canonical": {"a\nb\nc": [score]}}))
    assert Reranker.load(folder).verify() == []
    (folder / "card.json").write_text(json.dumps({"canonical": {"a\nb\nc": [score + 1]}}))
    assert "published" in Reranker.load(folder).verify()[0]
