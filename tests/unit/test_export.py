"""Exported models: judged by our engine in float32, by torch and by the foreign runtimes' own readers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tiny_models
from reference_network import ReferenceNetwork, cosines, random_folder, random_tokens
from shortlist import models
from shortlist.encoder import Encoder
from shortlist.errors import BadInput, MissingExtra, ModelError, ModelNotFound
from shortlist.models.body import write_body
from shortlist.models.network import read_network
from shortlist.models.registry import table_folder
from shortlist.reranker import Reranker, padded
from shortlist.tokens import Tokenizer
from shortlist.train import export as module
from shortlist.train import forward, onnx_graph, samples
from shortlist.train.export import FORMS, Exported, Tolerance, export

os.environ["HF_HUB_OFFLINE"] = "1"
foreign = pytest.mark.filterwarnings("ignore")  # foreign libraries warn about their own past

QUERY = "how many people live in 柏林?"
PASSAGES = ["柏林 has 3,520,031 people.", "museums", "x " * 2000, "नमस्ते", "กรุงเทพ"]
TEXTS = ["柏林 has people", "", "x" * 600, "a b c " * 100, "नमस्ते"]


@pytest.fixture(scope="module")
def maxsim_folder(tmp_path_factory) -> Path:
    """A reranker as we train them: MaxSim head, segments that its tokenizer does not mark."""
    return tiny_models.write_maxsim_reranker(tmp_path_factory.mktemp("models") / "tiny-maxsim")


@pytest.fixture
def body(tmp_path, monkeypatch, maxsim_folder) -> Path:
    """The same as an int8 body over the token table of another model, `tests/table`."""
    monkeypatch.setenv("SHORTLIST_HOME", str(tmp_path / "home"))
    table = shutil.copytree(maxsim_folder, tmp_path / "home" / "tests--table")
    (table / "card.json").write_text('{"name": "tests/table"}')
    write_body(maxsim_folder, tmp_path / "body", {"name": "tiny-body", "table": "tests/table", "segments": True})
    return tmp_path / "body"


def manifest(made: Exported) -> dict:
    return json.loads((made.path / "manifest.json").read_text(encoding="utf-8"))


# --- refusals, and what is left behind


def test_unknown_forms_and_precisions(tiny_encoder_folder, tmp_path):
    with pytest.raises(BadInput, match="standard, onnx, onnx-int8, gguf"):
        export(tiny_encoder_folder, tmp_path / "out", "openvino")
    for form, precisions in FORMS.items():
        with pytest.raises(BadInput, match=", ".join(precisions)):
            export(tiny_encoder_folder, tmp_path / "out", form, precision="int3")
    with pytest.raises(BadInput, match="exists already"):
        export(tiny_encoder_folder, tmp_path, "standard")
    with pytest.raises(ModelNotFound, match="no such folder"):
        export(tmp_path / "nowhere", tmp_path / "out", "standard")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("form", "package"), [("onnx", "onnx"), ("onnx-int8", "onnxruntime"), ("gguf", "gguf")])
def test_a_missing_package_is_named(form, package, tiny_encoder_folder, tmp_path, monkeypatch):
    if package == "onnxruntime":
        monkeypatch.setattr(module, "write_onnx", lambda *args, **options: None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=package):
        export(tiny_encoder_folder, tmp_path / "out", form)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["tiny_encoder_folder", "tiny_reranker_folder"])
def test_a_model_that_became_another_is_refused(kind, request, tmp_path, monkeypatch):
    write = module.write_weights

    def damage(draft, network, precision):
        write(draft, network, precision)
        tensors = load_file(draft / "model.safetensors")
        name = next(name for name in tensors if name.endswith("layer.1.output.dense.weight"))
        tensors[name] = tensors[name][::-1].copy()
        save_file(tensors, draft / "model.safetensors")

    monkeypatch.setattr(module, "write_weights", damage)
    with pytest.raises(ModelError, match=r"Nothing was written\. Choose a finer precision"):
        export(request.getfixturevalue(kind), tmp_path / "out", "standard")
    assert list(tmp_path.iterdir()) == []


def test_results_that_are_no_numbers_are_refused():
    ours, broken = np.ones((3, 4), np.float32), np.full((3, 4), np.nan, np.float32)
    for columns in (1, 4):
        checks = module._checks([ours[:, :columns]], [broken[:, :columns]])
        with pytest.raises(ModelError, match="nan"):
            module._refuse_if_different("x", checks, Tolerance(-1, 1e9, 0))


def test_a_lost_order_is_refused():
    ours = np.arange(8, dtype=np.float32)[:, None]
    checks = module._checks([ours], [ours[::-1]])
    assert checks["rank_agreement"] == 0
    with pytest.raises(ModelError, match="keep their order"):
        module._refuse_if_different("x", checks, Tolerance(-1, 1e9, 0.5))


@pytest.mark.parametrize("step", ["write_weights", "_refuse_if_different", "write_json"])
def test_a_killed_export_leaves_nothing_that_passes_for_one(step, tiny_encoder_folder, tmp_path):
    code = (
        "import os, sys; from shortlist.train import export as m; "
        f"m.{step} = lambda *args: os._exit(9); m.export(sys.argv[1], sys.argv[2], 'standard')"
    )
    out = tmp_path / "made" / "out"
    done = subprocess.run([sys.executable, "-c", code, str(tiny_encoder_folder), str(out)], check=False)
    assert done.returncode == 9
    assert not out.exists()
    assert all(p.name.startswith(".") and not (p / "manifest.json").exists() for p in out.parent.iterdir())
    assert export(tiny_encoder_folder, out, "standard").checks["min_cosine"] > 0.99999  # the leftovers are not in the way


# --- standard folders


def test_standard_encoder(tiny_encoder_folder, tmp_path):
    made = export(tiny_encoder_folder, tmp_path / "out", "standard")
    assert made.size_bytes == sum(p.stat().st_size for p in made.path.rglob("*") if p.is_file())
    source, copy = (Encoder.load(f, precision="float32") for f in (tiny_encoder_folder, made.path))
    for kind in ("query", "passage"):
        np.testing.assert_array_equal(copy.encode(TEXTS, kind=kind), source.encode(TEXTS, kind=kind))
    assert manifest(made)["source_fingerprint"] == source.fingerprint
    assert models.verify(made.path) == []
    half = export(tiny_encoder_folder, tmp_path / "half", "standard", precision="float16")
    assert half.size_bytes < 0.6 * made.size_bytes
    assert {t.dtype for t in load_file(half.path / "model.safetensors").values()} == {np.dtype(np.float16)}


def test_standard_body_gets_its_table_and_its_segments(body, tmp_path, monkeypatch):
    made = export(body, tmp_path / "out", "standard")
    source = Reranker.load(body, precision="float32")
    expected = source.score(QUERY, PASSAGES)
    monkeypatch.setenv("SHORTLIST_HOME", str(tmp_path / "empty"))
    copy = Reranker.load(made.path, precision="float32")
    assert (copy.card.table, copy.card.segments, copy.card.name) == ("", True, "tiny-body")
    np.testing.assert_allclose(copy.score(QUERY, PASSAGES), expected, atol=1e-6)
    # the tokenizer alone now says what the card says: segment 1 from the passage on
    tokens, _ = Tokenizer.load(made.path).encode_pairs(QUERY, PASSAGES, 128)
    marked, _ = Tokenizer.load(made.path).encode_pairs(QUERY, PASSAGES, 128, segments=True)
    assert tokens.segments.tolist() == marked.segments.tolist()
    assert 0 < tokens.segments.mean() < 1
    assert "plain transformers" in (made.path / "README.md").read_text(encoding="utf-8")


@pytest.mark.oracle
@foreign
def test_sentence_transformers_reads_a_standard_encoder(tiny_encoder_folder, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    made = export(tiny_encoder_folder, tmp_path / "out", "standard")
    reference = sentence_transformers.SentenceTransformer(str(made.path))
    ours = Encoder.load(tiny_encoder_folder, precision="float32")
    assert reference.max_seq_length == ours.max_tokens
    for kind in ("query", "passage"):
        np.testing.assert_allclose(reference.encode(TEXTS, prompt_name=kind), ours.encode(TEXTS, kind=kind), atol=2e-5)


@pytest.mark.oracle
@foreign
@pytest.mark.parametrize("kind", ["tiny_reranker_folder", "tiny_xlmr_reranker_folder"])
def test_cross_encoder_reads_a_standard_reranker(kind, request, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    torch = pytest.importorskip("torch")
    folder = request.getfixturevalue(kind)
    made = export(folder, tmp_path / "out", "standard")
    reference = sentence_transformers.CrossEncoder(str(made.path), max_length=512)
    expected = reference.predict([(QUERY, p) for p in PASSAGES], activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(Reranker.load(folder, precision="float32").score(QUERY, PASSAGES), expected, atol=1e-4)


@pytest.mark.oracle
@foreign
def test_transformers_reads_all_but_the_maxsim_part(body, maxsim_folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    made = export(body, tmp_path / "out", "standard")
    tokenizer = transformers.AutoTokenizer.from_pretrained(made.path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(made.path)
    batch = tokenizer([QUERY] * 5, PASSAGES, padding=True, truncation="only_second", max_length=512, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).logits[:, 0].numpy()
    without = shutil.copytree(body, tmp_path / "without")
    tensors = {k: v for k, v in load_file(body / "model.safetensors").items() if not k.startswith("maxsim")}
    save_file(tensors, without / "model.safetensors")
    found = Reranker.load(without, precision="float32").score(QUERY, PASSAGES)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(Reranker.load(body, precision="float32").score(QUERY, PASSAGES) - expected).max() > 0.1


# --- ONNX


def graph_of(folder: Path, out: Path, form: str, **options: str):
    """(output name, session) of the exported graph."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    made = export(folder, out, form, **options)
    (path,) = (made.path / "onnx").glob("*.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["input_ids", "attention_mask", "token_type_ids"]
    return made, session


def encoder_inputs(folder: Path, texts: list[str]) -> dict[str, np.ndarray]:
    tokenizer = Tokenizer.load(folder)
    tokens, _ = tokenizer.encode([f"query: {text}" for text in texts], Encoder.load(folder).max_tokens)
    return padded(tokens, tokenizer).arrays


@pytest.mark.oracle
@foreign
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_onnx_encoder(pooling, tmp_path):
    folder = tiny_models.write_encoder(tmp_path / "model", pooling=pooling)
    made, session = graph_of(folder, tmp_path / "out", "onnx")
    expected = Encoder.load(folder, precision="float32").encode(TEXTS, kind="query")
    inputs = encoder_inputs(folder, TEXTS)
    (found,) = session.run(["sentence_embedding"], inputs)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    (states,) = session.run(["last_hidden_state"], inputs)
    assert states.shape == (*inputs["input_ids"].shape, 64)
    assert set(manifest(made)["versions"]) == {"shortlist", "onnx", "onnxruntime"}


@pytest.mark.oracle
@foreign
@pytest.mark.parametrize("kind", ["tiny_reranker_folder", "tiny_xlmr_reranker_folder", "maxsim_folder", "body"])
def test_onnx_reranker(kind, request, tmp_path):
    folder = request.getfixturevalue(kind)
    ours = Reranker.load(folder, precision="float32")
    expected, inputs = ours.score(QUERY, PASSAGES), ours.prepare_batch(QUERY, PASSAGES).arrays
    _, session = graph_of(folder, tmp_path / "out", "onnx")
    np.testing.assert_allclose(session.run(["logits"], inputs)[0][:, 0], expected, atol=1e-4)
    made, session = graph_of(folder, tmp_path / "int8", "onnx-int8")
    found = session.run(["logits"], inputs)[0]
    np.testing.assert_allclose(found[:, 0], Reranker.load(folder).score(QUERY, PASSAGES), atol=0.15)
    alone = {name: array[1:2, : inputs["attention_mask"][1].sum()] for name, array in inputs.items()}
    np.testing.assert_allclose(session.run(["logits"], alone)[0], found[1:2], atol=1e-5)  # padding changes nothing
    assert made.checks["rank_agreement"] >= manifest(made)["tolerances"]["rank_agreement"]


@pytest.mark.oracle
@foreign
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize("head", ["", "bert", "roberta"])
def test_onnx_graph_against_the_reference(activation, head, tmp_path):
    """Straight from the network, with a head of several labels and sizes that fit no block."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    labels = {"labels": 3} if head else {}
    family = "xlm-roberta" if head == "roberta" else "bert"
    folder = random_folder(tmp_path / "model", activation=activation, head=head, family=family, **labels)
    network, pooling = read_network(folder), "score" if head else "mean"
    tokens = random_tokens(network, [5, 1, 40])
    onnx_graph.write_onnx(tmp_path / "m.onnx", network, pooling, normalize=False, table="float32", int8=False)
    inputs = padded(tokens, Tokenizer(tiny_models.bert_tokenizer())).arrays
    found = onnx_graph.session(tmp_path / "m.onnx").run(None, inputs)[-1]
    np.testing.assert_allclose(found, ReferenceNetwork(network).run(tokens, pooling), atol=1e-4)


@pytest.mark.oracle
@foreign
def test_onnx_without_a_passage_has_no_maxsim_part(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    network = read_network(random_folder(tmp_path / "model", head="bert", maxsim=True))
    onnx_graph.write_onnx(tmp_path / "m.onnx", network, "score", normalize=False, table="float32", int8=False)
    ids = np.arange(24).reshape(2, 12)
    session, ones = onnx_graph.session(tmp_path / "m.onnx"), np.ones_like(ids)
    for segments in (0 * ones, ones):
        inputs = {"input_ids": ids, "attention_mask": ones, "token_type_ids": segments}
        tokens = module._ragged(module.Inputs(ids, ones, segments, ()))
        np.testing.assert_allclose(session.run(None, inputs)[0], ReferenceNetwork(network).run(tokens, "score"), atol=1e-4)


@pytest.mark.oracle
@foreign
def test_onnx_tables(tiny_encoder_folder, tmp_path):
    """Smaller tables make smaller files; a graph beyond protobuf's limit keeps its weights beside it."""
    expected = Encoder.load(tiny_encoder_folder, precision="float32").encode(TEXTS, kind="query")
    inputs = encoder_inputs(tiny_encoder_folder, TEXTS)
    sizes = []
    for table in ("float32", "float16", "int8"):
        made, session = graph_of(tiny_encoder_folder, tmp_path / table, "onnx-int8", precision=table)
        sizes.append(made.size_bytes)
        assert cosines(session.run(["sentence_embedding"], inputs)[0], expected).min() > 0.995
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.oracle
@foreign
def test_onnx_beyond_the_limit_of_a_file(tiny_encoder_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph, "_LARGEST_FILE", 1000)
    made, session = graph_of(tiny_encoder_folder, tmp_path / "out", "onnx")
    assert (
        (made.path / "onnx" / "model.onnx").stat().st_size < 100_000 < (made.path / "onnx" / "model.onnx_data").stat().st_size
    )
    found = session.run(["sentence_embedding"], encoder_inputs(tiny_encoder_folder, TEXTS))[0]
    expected = Encoder.load(tiny_encoder_folder, precision="float32").encode(TEXTS, kind="query")
    np.testing.assert_allclose(found, expected, atol=1e-4)


# --- GGUF, and the numpy network that reads it


@pytest.mark.parametrize("case", [
    {}, {"activation": "gelu_tanh"}, {"family": "xlm-roberta", "head": "roberta", "types": 1},
    {"head": "bert", "labels": 3}, {"head": "bert", "maxsim": True},
])  # fmt: skip
def test_numpy_network_against_the_reference(case, tmp_path):
    network = read_network(random_folder(tmp_path / "model", **case))
    tokens = random_tokens(network, [7, 1, 60])
    for pooling in ["cls", "mean", *(["score"] if network.head else [])]:
        found = forward.run(network, tokens, pooling)
        np.testing.assert_allclose(found, ReferenceNetwork(network).run(tokens, pooling), atol=2e-5)


@pytest.mark.oracle
@foreign
@pytest.mark.parametrize("kind", ["tiny_encoder_folder", "tiny_reranker_folder", "tiny_xlmr_reranker_folder", "body"])
def test_gguf(kind, request, tmp_path):
    gguf = pytest.importorskip("gguf")
    folder = request.getfixturevalue(kind)
    made = export(folder, tmp_path / "out", "gguf", precision="q8_0")
    (path,) = made.path.glob("*-q8_0.gguf")
    reader = gguf.GGUFReader(str(path))
    values = {name: field.contents() for name, field in reader.fields.items() if not name.endswith(("tokens", "scores"))}
    card, shared = models.read_card(folder), table_folder(folder, models.read_card(folder))
    network = read_network(folder, shared)
    assert values["general.architecture"] == "bert"
    assert values["bert.pooling_type"] == {"mean": 1, "cls": 2, "score": 4}[card.pooling]
    assert values["bert.attention.causal"] is False
    tensors = {t.name: t for t in reader.tensors}
    assert tensors["token_embd.weight"].shape.tolist() == [network.hidden_size, network.vocab_size]
    assert tensors["position_embd.weight"].shape.tolist() == [network.hidden_size, values["bert.context_length"]]
    assert {name: t.tensor_type.name for name, t in tensors.items() if name.startswith("blk.0.")}[
        "blk.0.ffn_up.weight"
    ] == "Q8_0"
    weight = gguf.quants.dequantize(tensors["blk.1.attn_k.weight"].data, tensors["blk.1.attn_k.weight"].tensor_type)
    original = forward.float_tensors(network)["encoder.layer.1.attention.self.key.weight"]
    assert np.abs(weight - original).max() < np.abs(original).max() / 100
    assert ("shortlist.maxsim.weight" in tensors) == network.maxsim
    # the vocabulary, by the tokenizer itself
    backend = Tokenizer.load(shared)
    pieces = reader.get_field("tokenizer.ggml.tokens").contents()
    assert len(pieces) == network.vocab_size
    if values["tokenizer.ggml.model"] == "t5":
        assert pieces == backend.pieces(range(len(pieces)))
        assert len(reader.get_field("tokenizer.ggml.scores").contents()) == len(pieces)
    else:
        marked = [
            p if p[:1] == "[" and len(p) > 1 else p[2:] if p[:2] == "##" and len(p) > 2 else f"▁{p}"
            for p in backend.pieces(range(len(pieces)))
        ]
        assert pieces == marked
    (single,) = backend.encode(["a"], 16)[0]
    assert [values["tokenizer.ggml.bos_token_id"], values["tokenizer.ggml.eos_token_id"]] == [single[0], single[-1]]
    assert values["tokenizer.ggml.add_sep_token"] is (values["tokenizer.ggml.model"] == "t5")


@pytest.mark.oracle
@foreign
def test_gguf_precisions(tiny_encoder_folder, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    made = {p: export(tiny_encoder_folder, tmp_path / p, "gguf", precision=p) for p in FORMS["gguf"]}
    assert made["f32"].checks["max_difference"] < 1e-5
    assert made["f32"].size_bytes > made["f16"].size_bytes > made["q8_0"].size_bytes > made["q4_0"].size_bytes
    # four bits are felt, and a tolerance just above what was measured refuses them
    worst = made["q4_0"].checks["min_cosine"]
    assert worst < 0.995
    monkeypatch.setattr(module, "TOLERANCES", {"q4_0": Tolerance(worst + 1e-4, 0, 1)})
    with pytest.raises(ModelError, match="q4_0"):
        export(tiny_encoder_folder, tmp_path / "refused", "gguf", precision="q4_0")
    assert not (tmp_path / "refused").exists()


@pytest.mark.oracle
@foreign
def test_gguf_of_another_tokenizer_is_refused(tiny_encoder_folder, tmp_path):
    pytest.importorskip("gguf")
    folder = shutil.copytree(tiny_encoder_folder, tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"] = {"type": "BPE", "vocab": content["model"]["vocab"], "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match="WordPiece and Unigram only"):
        export(folder, tmp_path / "out", "gguf")
    assert not (tmp_path / "out").exists()


# --- a real model


@pytest.mark.oracle
@pytest.mark.weights
@foreign
@pytest.mark.parametrize(("form", "precision", "least"), [
    ("standard", "float16", 0.999999), ("onnx", "float16", 0.999999), ("onnx-int8", "int8", 0.997), ("gguf", "q8_0", 0.9998),
])  # fmt: skip
def test_the_real_encoder(form, precision, least, tmp_path):
    for package in ("onnxruntime", "onnx", "gguf"):
        pytest.importorskip(package)
    try:
        folder = models.resolve("shortlist-embed")
    except ModelNotFound as error:
        pytest.skip(str(error))
    made = export(folder, tmp_path / "out", form, precision=precision)
    assert made.checks["min_cosine"] > least
    assert made.size_bytes < 300e6


@pytest.mark.oracle
@pytest.mark.weights
@foreign
def test_llama_cpp_reads_the_real_encoder(tmp_path):
    """Tokenizer, pooling and network by llama.cpp itself; its GELU is the tanh approximation, its activations are q8_0."""
    xllamacpp = pytest.importorskip("xllamacpp")
    try:
        ours = Encoder.load("shortlist-embed", precision="float32")
    except ModelNotFound as error:
        pytest.skip(str(error))
    made = export("shortlist-embed", tmp_path / "out", "gguf", precision="q8_0")
    params = xllamacpp.CommonParams()
    params.model.path = str(made.path / "shortlist-embed-q8_0.gguf")
    params.embedding, params.n_parallel, params.cpuparams.n_threads = True, 1, 1
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    texts = samples.texts()[:-1]
    prompt = ours.card.prompt("passage")
    answer = xllamacpp.Server(params).handle_embeddings({"model": "m", "input": [prompt + text for text in texts]})
    found = np.array([row["embedding"] for row in answer["data"]], np.float32)
    assert cosines(found, ours.encode(texts)).min() > 0.9995  # 0.99985 measured with xllamacpp 2026.10
