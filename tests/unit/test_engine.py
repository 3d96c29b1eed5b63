"""The native engine against the plain numpy network, on shapes that fit no vector register."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference_network import ReferenceNetwork, cosines, numbers, random_folder, random_tokens
from shortlist.engines import native
from shortlist.engines.native import NativeEngine, available_instruction_sets
from shortlist.errors import BadInput, ModelError
from shortlist.models.network import TABLE, read_network
from shortlist.types import Tokens

LENGTHS = [1, 2, 8, 9, 16, 17, 33, 49, 70]
SHAPES = [
    {"hidden": 40, "heads": 5, "intermediate": 72},
    {"hidden": 64, "heads": 2, "intermediate": 128},
    {"hidden": 66, "heads": 3, "intermediate": 130, "layers": 1},
    {"hidden": 128, "heads": 2, "intermediate": 200, "activation": "gelu_new"},
    {"hidden": 24, "heads": 24, "intermediate": 1, "layers": 3},
    {"hidden": 96, "heads": 2, "intermediate": 64, "family": "xlm-roberta", "types": 1},
    {"hidden": 7, "heads": 1, "intermediate": 5, "family": "xlm-roberta", "layers": 1},
]
POOLINGS = ("cls", "mean", "none", "score")


@pytest.fixture(params=available_instruction_sets())
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SHORTLIST_ISA", request.param)
    return str(request.param)


def head_of(shape: dict) -> str:
    return "roberta" if shape.get("family") == "xlm-roberta" else "bert"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_equals_the_reference(shape: dict, level: str, tmp_path: Path) -> None:
    network = read_network(random_folder(tmp_path, **shape, head=head_of(shape), labels=3))
    engine = NativeEngine(network, precision="float32", threads=2)
    assert engine.instruction_set == level
    tokens = random_tokens(network, LENGTHS)
    for pooling in POOLINGS:
        expected = ReferenceNetwork(network).run(tokens, pooling)
        np.testing.assert_allclose(engine.run(tokens, pooling), expected, rtol=1e-5, atol=1e-5, err_msg=pooling)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int8_computes_what_the_reference_rounds(shape: dict, level: str, tmp_path: Path) -> None:
    """Against the reference with the same rounding only a rare activation at a step's edge differs; against the one
    without rounding the loss is what 8 bits cost in a random network of few columns."""
    network = read_network(random_folder(tmp_path, **shape, head=head_of(shape), labels=3))
    engine = NativeEngine(network, threads=2)
    tokens = random_tokens(network, LENGTHS)
    rounded, exact = ReferenceNetwork(network, int8=True), ReferenceNetwork(network)
    for pooling in ("cls", "mean", "none"):
        states = engine.run(tokens, pooling)
        assert np.median(np.abs(states - rounded.run(tokens, pooling))) < 2e-4, pooling
        assert cosines(states, rounded.run(tokens, pooling)).min() > 0.9995, pooling
        assert cosines(states, exact.run(tokens, pooling)).min() > 0.99, pooling
    np.testing.assert_allclose(engine.run(tokens, "score"), rounded.run(tokens, "score"), atol=0.05)


@given(
    head_size=st.integers(1, 70),
    heads=st.integers(1, 4),
    intermediate=st.integers(1, 200),
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=5),
    family=st.sampled_from(["bert", "xlm-roberta"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_float32_equals_the_reference_on_any_shape(
    head_size: int, heads: int, intermediate: int, lengths: list[int], family: str, seed: int, tmp_path: Path
) -> None:
    folder = random_folder(
        tmp_path, hidden=head_size * heads + (head_size * heads == 1), heads=heads if head_size * heads > 1 else 1,
        intermediate=intermediate, family=family, layers=1, seed=seed,
    )  # fmt: skip
    network = read_network(folder)
    tokens = random_tokens(network, lengths, seed)
    # Layer norm of a row whose numbers hardly differ divides by almost nothing: few columns make float32 visible.
    tolerance = 1e-5 if network.hidden_size > 16 else 2e-3
    states = NativeEngine(network, precision="float32", threads=1).run(tokens, "none")
    np.testing.assert_allclose(states, ReferenceNetwork(network).run(tokens, "none"), rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(len(available_instruction_sets()) < 2, reason="this processor has the portable kernels only")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_levels_agree(shape: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Integer sums are exact on every level. The float steps around them differ in their last bits, which now and then
    moves an activation to the next int8 step: between levels that leaves 1e-5 in the typical number, not in the worst."""
    network = read_network(random_folder(tmp_path, **shape))
    tokens = random_tokens(network, LENGTHS)
    outputs = {}
    for name in available_instruction_sets():
        monkeypatch.setenv("SHORTLIST_ISA", name)
        outputs[name] = NativeEngine(network, threads=1).run(tokens, "none")
    for name in available_instruction_sets()[:-1]:
        difference = np.abs(outputs[name] - outputs["portable"])
        assert np.median(difference) < 1e-5
        assert cosines(outputs[name], outputs["portable"]).min() > 0.9999


@pytest.mark.parametrize("precision", native.PRECISIONS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_result_does_not_depend_on_its_company(precision: str, pooling: str, level: str, tmp_path: Path) -> None:
    """Bit-identical alone, in a batch, in another order, with any number of threads."""
    network = read_network(random_folder(tmp_path, head="bert"))
    lengths = np.random.default_rng(3).integers(1, 80, 120).tolist()
    tokens = random_tokens(network, lengths)
    engine = NativeEngine(network, precision=precision, threads=1)
    together = engine.run(tokens, pooling)
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(NativeEngine(network, precision=precision, threads=threads).run(tokens, pooling), together)
    parts = [engine.run(tokens.take(i, i + 1), pooling) for i in range(len(tokens))]
    np.testing.assert_array_equal(np.concatenate(parts), together)
    order = np.random.default_rng(4).permutation(len(tokens))
    singles = [tokens.take(i, i + 1) for i in order]
    offsets = np.concatenate([[0], np.cumsum([len(s.ids) for s in singles])]).astype(np.int32)
    shuffled = Tokens(np.concatenate([s.ids for s in singles]), np.concatenate([s.segments for s in singles]), offsets)
    np.testing.assert_array_equal(engine.run(shuffled, pooling), np.concatenate([parts[i] for i in order]))


def test_cls_is_the_first_state(level: str, tmp_path: Path) -> None:
    """The shortcut of the last layer (rows of the first tokens only) changes nothing."""
    network = read_network(random_folder(tmp_path, head="bert"))
    tokens = random_tokens(network, LENGTHS)
    for precision in native.PRECISIONS:
        engine = NativeEngine(network, precision=precision, threads=1)
        np.testing.assert_array_equal(engine.run(tokens, "cls"), engine.run(tokens, "none")[tokens.offsets[:-1]])


def test_several_python_threads_at_once(tmp_path: Path) -> None:
    network = read_network(random_folder(tmp_path))
    engine = NativeEngine(network, threads=2)
    batches = [random_tokens(network, [3 + i, 50, 20], seed=i) for i in range(8)]
    alone = [engine.run(batch, "mean") for batch in batches]
    results: dict[int, list[np.ndarray]] = {i: [] for i in range(8)}

    def work(i: int) -> None:
        results[i].extend(engine.run(batches[i], "mean") for _ in range(20))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i, runs in results.items():
        assert len(runs) == 20
        for run in runs:
            np.testing.assert_array_equal(run, alone[i])


def bfloat16_bits(array: np.ndarray) -> np.ndarray:
    return (array.view(np.uint32) >> 16).astype(np.uint16)


def int8_rows(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = (np.abs(array).max(1) / 127).astype(np.float32)
    return np.round(array / scale[:, None]).astype(np.int8), scale


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("precision", native.PRECISIONS)
def test_stored_types(kind: str, precision: str, level: str, tmp_path: Path) -> None:
    """Table and weights in each type give what the numbers they stand for give."""
    network = read_network(random_folder(tmp_path))
    tensors, table_scale = {}, None
    for name, array in {TABLE: network.table, **network.tensors}.items():
        if kind == "int8" and array.ndim == 2 and ("dense" in name or "self" in name or name == TABLE):
            tensors[name], tensors[f"{name}_scale"] = int8_rows(array)
        elif kind != "int8":
            tensors[name] = array.astype(np.float16) if kind == "float16" else bfloat16_bits(array)
        else:
            tensors[name] = array
    table_scale = tensors.pop(f"{TABLE}_scale", None)
    stored = replace(network, table=tensors.pop(TABLE), table_scale=table_scale, tensors=tensors)
    tokens = random_tokens(stored, LENGTHS)
    states = NativeEngine(stored, precision=precision, threads=1).run(tokens, "none")
    expected = ReferenceNetwork(stored).run(tokens, "none")
    if precision == "float32":
        np.testing.assert_allclose(states, expected, rtol=1e-5, atol=1e-5)
    else:
        assert cosines(states, expected).min() > 0.999


def test_every_float16_is_read_right(tmp_path: Path) -> None:
    """All finite half-precision numbers pass through a table row of 64 numbers; position and type rows are zero."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = np.where(np.isfinite(halves), halves, np.float16(1)).reshape(-1, 64)
    network = read_network(random_folder(tmp_path, hidden=64, heads=4, layers=1, vocabulary=len(halves), positions=len(halves)))
    zeros = {name: np.zeros_like(network.tensors[name]) for name in network.tensors if "position_" in name or "token_type" in name}
    network = replace(network, table=halves, tensors={**network.tensors, **zeros})
    tokens = random_tokens(network, [1] * len(halves))
    tokens = Tokens(np.arange(len(halves), dtype=np.int32), tokens.segments, tokens.offsets)
    as_floats = replace(network, table=numbers(halves).astype(np.float32))
    outputs = [NativeEngine(n, precision="float32", threads=1).run(tokens, "none") for n in (network, as_floats)]
    np.testing.assert_array_equal(*outputs)


def test_table_is_read_where_it_lies(tmp_path: Path) -> None:
    """Rows come from the caller's memory at each run, not from a copy."""
    network = read_network(random_folder(tmp_path))
    table = np.array(network.table)
    engine = NativeEngine(replace(network, table=table), threads=1)
    tokens = random_tokens(network, [5])
    before = engine.run(tokens, "mean")
    table[tokens.ids] = table[0]
    assert not np.array_equal(engine.run(tokens, "mean"), before)


def test_no_sequences(level: str, tmp_path: Path) -> None:
    engine = NativeEngine(read_network(random_folder(tmp_path, head="bert", labels=2)), threads=2)
    nothing = Tokens(np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(1, np.int32))
    assert engine.run(nothing, "mean").shape == (0, 40)
    assert engine.run(nothing, "none").shape == (0, 40)
    assert engine.run(nothing, "score").shape == (0, 2)


def test_long_sequences(level: str, tmp_path: Path) -> None:
    """More tokens than a block and than any position table of today's small models."""
    network = read_network(random_folder(tmp_path, hidden=16, heads=2, layers=1, positions=1500))
    tokens = random_tokens(network, [1500, 3, 1029])
    states = NativeEngine(network, precision="float32", threads=2).run(tokens, "mean")
    np.testing.assert_allclose(states, ReferenceNetwork(network).run(tokens, "mean"), rtol=1e-4, atol=1e-4)


def test_bad_input_names_the_numbers(tmp_path: Path) -> None:
    network = read_network(random_folder(tmp_path))
    engine = NativeEngine(network, threads=1)
    good = random_tokens(network, [4, 5])

    def refused(message: str, pooling: str = "mean", **changes: object) -> None:
        with pytest.raises(BadInput, match=message):
            engine.run(replace(good, **changes), pooling)

    def ids(value: int) -> np.ndarray:
        return np.where(np.arange(9) == 7, value, good.ids).astype(np.int32)

    refused("token id 101 is outside the vocabulary of 101", ids=ids(101))
    refused("token id -1 is outside", ids=ids(-1))
    refused("segments 0 to 1", segments=np.full(9, 2, np.uint8))
    refused("sequence 1 has 0 tokens", offsets=np.array([0, 9, 9], np.int32))
    refused("sequence 1 has -4 tokens", offsets=np.array([0, 9, 5, 9], np.int32))
    refused("begin with 0 and end with 9", offsets=np.array([0, 4, 8], np.int32))
    refused("begin with 0 and end with 9", offsets=np.zeros(0, np.int32))
    refused("9 ids but 8 segments", segments=good.segments[:8])
    refused("ids is int64", ids=good.ids.astype(np.int64))
    refused("segments is bool", segments=good.segments.astype(bool))
    refused("offsets is list", offsets=[0, 4, 9])
    refused(r"ids is int32\[9, 1\]", ids=good.ids[:, None])
    refused("no score head", pooling="score")
    refused("pooling='max'", pooling="max")
    with pytest.raises(BadInput, match="sequence 0 has 91 tokens; this network takes at most 90"):
        engine.run(random_tokens(network, [91]), "mean")


def test_arrays_with_gaps_are_accepted(tmp_path: Path) -> None:
    network = read_network(random_folder(tmp_path))
    engine, good = NativeEngine(network, threads=1), random_tokens(network, [4, 5])
    spread = np.repeat(good.ids, 2)[::2]
    np.testing.assert_array_equal(engine.run(replace(good, ids=spread), "mean"), engine.run(good, "mean"))


def test_settings_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = read_network(random_folder(tmp_path))
    with pytest.raises(BadInput, match="precision='int4'"):
        NativeEngine(network, precision="int4")
    with pytest.raises(BadInput, match="threads=0"):
        NativeEngine(network, threads=0)
    monkeypatch.setenv("SHORTLIST_ISA", "sse9")
    with pytest.raises(BadInput, match="SHORTLIST_ISA='sse9' cannot run here; available are .*portable"):
        NativeEngine(network)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["encoder.layer.1.output.dense.weight", "encoder.layer.0.attention.self.key.bias", "embeddings.LayerNorm.weight"])
def test_weights_that_are_not_finite(name: str, value: float, tmp_path: Path) -> None:
    network = read_network(random_folder(tmp_path))
    broken = np.array(network.tensors[name])
    broken.flat[3] = value
    with pytest.raises(ModelError, match=f"{name} holds NaN or infinity"):
        NativeEngine(replace(network, tensors={**network.tensors, name: broken}))


def test_table_rows_that_are_not_finite(tmp_path: Path) -> None:
    network = read_network(random_folder(tmp_path))
    table = np.array(network.table)
    table[17, 3] = np.nan
    engine = NativeEngine(replace(network, table=table), threads=2)
    tokens = random_tokens(network, [30] * 20)
    with pytest.raises(ModelError, match="row 17"):
        engine.run(replace(tokens, ids=np.where(np.arange(600) == 411, 17, 5).astype(np.int32)), "mean")
    assert engine.run(replace(tokens, ids=np.full(600, 5, np.int32)), "mean").shape == (20, 40)


def test_facts_of_the_engine(tmp_path: Path) -> None:
    engine = NativeEngine(read_network(random_folder(tmp_path, family="xlm-roberta", head="roberta", labels=4)))
    assert (engine.hidden_size, engine.layers, engine.labels, engine.max_tokens) == (40, 2, 4, 88)
    assert engine.instruction_set in available_instruction_sets()
    assert available_instruction_sets()[-1] == "portable"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_cgroup_quota(files: dict[str, str], expected: float | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert native._cgroup_quota(tmp_path) == expected
    assert native.available_cpus() >= 1
