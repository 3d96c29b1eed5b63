"""The native engine against the plain numpy network, on shapes that fit no vector register."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference_network import ReferenceNetwork, cosines, numbers, random_folder, random_tokens
from shortlist.engines import native
from shortlist.engines.native import NativeEngine, available_instruction_sets
from shortlist.errors import BadInput, ModelError
from shortlist.models.network import MAXSIM, TABLE, read_network
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


def expected_of(reference: ReferenceNetwork, tokens: Tokens) -> dict[str, np.ndarray]:
    """What the reference gives in each pooling."""
    bounds = list(pairwise(tokens.offsets))
    segments = [tokens.segments[a:b] for a, b in bounds]
    states = [reference.states(tokens.ids[a:b], s) for (a, b), s in zip(bounds, segments, strict=True)]
    return {
        pooling: np.concatenate([reference.pool(*pair) for pair in zip(states, [pooling] * len(states), segments, strict=True)])
        for pooling in POOLINGS
    }


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_equals_the_reference(shape: dict, level: str, tmp_path: Path) -> None:
    network = read_network(random_folder(tmp_path, **shape, head=head_of(shape), labels=3))
    engine = NativeEngine(network, precision="float32", threads=2)
    assert engine.instruction_set == level
    tokens = random_tokens(network, LENGTHS)
    for pooling, expected in expected_of(ReferenceNetwork(network), tokens).items():
        np.testing.assert_allclose(engine.run(tokens, pooling), expected, rtol=1e-5, atol=1e-5, err_msg=pooling)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int8_computes_what_the_reference_rounds(shape: dict, level: str, tmp_path: Path) -> None:
    """Integer sums are exact, so one layer equals the reference with the same rounding, but for the rare activation that
    lies at the edge of an int8 step and falls to the other side. A second layer spreads such differences; they stay small
    beside what rounding itself costs."""
    network = read_network(random_folder(tmp_path, **shape, head=head_of(shape), labels=3))
    engine = NativeEngine(network, threads=2)
    tokens = random_tokens(network, LENGTHS)
    rounded, exact = (expected_of(ReferenceNetwork(network, int8=int8), tokens) for int8 in (True, False))
    for pooling in ("cls", "mean", "none"):
        states = engine.run(tokens, pooling)
        if network.layers == 1 and pooling == "none":
            assert np.median(np.abs(states - rounded[pooling])) < 1e-5
        assert cosines(states, rounded[pooling]).min() > 0.9997, pooling
        assert cosines(states, exact[pooling]).min() > 0.998, pooling
        loss, cost = 1 - cosines(states, rounded[pooling]), 1 - cosines(states, exact[pooling])
        assert loss.mean() < 0.4 * cost.mean(), pooling
    np.testing.assert_allclose(engine.run(tokens, "score"), rounded["score"], atol=0.05)


@given(
    head_size=st.integers(1, 70),
    heads=st.integers(1, 4),
    intermediate=st.integers(1, 200),
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=5),
    family=st.sampled_from(["bert", "xlm-roberta"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_float32_equals_the_reference_on_any_shape(
    head_size: int, heads: int, intermediate: int, lengths: list[int], family: str, seed: int, tmp_path: Path
) -> None:
    folder = random_folder(
        tmp_path,
        hidden=head_size * heads + (head_size * heads == 1),
        heads=heads if head_size * heads > 1 else 1,
        intermediate=intermediate,
        family=family,
        layers=1,
        seed=seed,
    )
    network = read_network(folder)
    tokens = random_tokens(network, lengths, seed)
    # Layer norm of a row whose numbers hardly differ divides by almost nothing: few columns make float32 visible.
    tolerance = 1e-5 if network.hidden_size > 16 else 2e-3
    states = NativeEngine(network, precision="float32", threads=1).run(tokens, "none")
    np.testing.assert_allclose(states, ReferenceNetwork(network).run(tokens, "none"), rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(len(available_instruction_sets()) < 2, reason="this processor has the portable kernels only")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_levels_agree(shape: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer gives the same numbers to 1e-5 on every level (see the test above for the rare exception); deeper networks
    spread the exceptions but stay together."""
    tokens = None
    for layers in (1, 3):
        network = read_network(random_folder(tmp_path / str(layers), **{**shape, "layers": layers}))
        tokens = tokens or random_tokens(network, LENGTHS)
        outputs = {}
        for name in available_instruction_sets():
            monkeypatch.setenv("SHORTLIST_ISA", name)
            outputs[name] = NativeEngine(network, threads=1).run(tokens, "none")
        for name in available_instruction_sets()[:-1]:
            if layers == 1:
                assert np.median(np.abs(outputs[name] - outputs["portable"])) < 1e-5
            assert cosines(outputs[name], outputs["portable"]).min() > 0.9995


@pytest.mark.parametrize("precision", native.PRECISIONS)
@pytest.mark.parametrize(("pooling", "maxsim"), [*((p, False) for p in POOLINGS), ("score", True)])
def test_a_result_does_not_depend_on_its_company(
    precision: str, pooling: str, maxsim: bool, level: str, tmp_path: Path
) -> None:
    """Bit-identical alone, in a batch, in another order, with any number of threads."""
    network = read_network(random_folder(tmp_path, head="bert", maxsim=maxsim))
    lengths = np.random.default_rng(3).integers(1, 60, 60).tolist()
    tokens = random_tokens(network, lengths)
    engine = NativeEngine(network, precision=precision, threads=1)
    together = engine.run(tokens, pooling)
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(
            NativeEngine(network, precision=precision, threads=threads).run(tokens, pooling), together
        )
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


# --- the MaxSim part of the head


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_maxsim_equals_the_loop(shape: dict, level: str, tmp_path: Path) -> None:
    """In float32; in int8 as near as rounding of the states allows. Where the network has one token type, segments of the
    batch still say what is the query's."""
    network = read_network(random_folder(tmp_path, **shape, head=head_of(shape), maxsim=True))
    lengths = [1, 2, 9, 17, 24, 40]
    tokens = random_tokens(network, lengths)
    tokens = replace(tokens, segments=random_tokens(replace(network, type_vocab_size=2), lengths).segments)
    as_read = replace(tokens, segments=tokens.segments % network.type_vocab_size)
    for precision, tolerance in (("float32", 1e-5), ("int8", 0.05)):
        reference = ReferenceNetwork(network, int8=precision == "int8")
        states = [reference.states(as_read.ids[a:b], as_read.segments[a:b]) for a, b in pairwise(tokens.offsets)]
        segments = [tokens.segments[a:b] for a, b in pairwise(tokens.offsets)]
        expected = np.concatenate([reference.score(*pair) for pair in zip(states, segments, strict=True)])
        scores = NativeEngine(network, precision=precision, threads=2).run(tokens, "score")
        np.testing.assert_allclose(scores, expected, rtol=tolerance, atol=tolerance, err_msg=precision)
        parts = [reference.maxsim(*pair) for pair in zip(states, segments, strict=True)]
        assert np.ptp(parts) > 10 * tolerance


@given(
    hidden=st.sampled_from([16, 17, 48, 64, 80, 200]),
    segments=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=40), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_maxsim_equals_the_loop_for_any_segments(
    hidden: int, segments: list[list[int]], seed: int, level: str, tmp_path: Path
) -> None:
    """Segments in any order, or of one kind only."""
    folder = random_folder(tmp_path, hidden=hidden, heads=1, layers=1, intermediate=8, head="bert", maxsim=True, seed=seed)
    network = read_network(folder)
    tokens = random_tokens(network, [len(s) for s in segments], seed)
    tokens = replace(tokens, segments=np.concatenate(segments).astype(np.uint8))
    scores = NativeEngine(network, precision="float32", threads=1).run(tokens, "score")
    np.testing.assert_allclose(scores, ReferenceNetwork(network).run(tokens, "score"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", native.PRECISIONS)
def test_without_a_query_or_a_passage_maxsim_adds_nothing(precision: str, level: str, tmp_path: Path) -> None:
    """To the last bit; so does a gain of 0, although then all rows of the last layer are computed."""
    network = read_network(random_folder(tmp_path, head="bert", maxsim=True))
    plain = NativeEngine(replace(network, maxsim=False), precision=precision, threads=1)
    engine = NativeEngine(network, precision=precision, threads=1)
    off = replace(network, tensors={**network.tensors, "maxsim.gain": np.zeros(1, np.float32)})
    tokens = random_tokens(network, LENGTHS)
    for segment in (0, 1):
        one_kind = replace(tokens, segments=np.full(len(tokens.ids), segment, np.uint8))
        np.testing.assert_array_equal(engine.run(one_kind, "score"), plain.run(one_kind, "score"))
    np.testing.assert_array_equal(
        NativeEngine(off, precision=precision, threads=1).run(tokens, "score"), plain.run(tokens, "score")
    )
    assert not np.array_equal(engine.run(tokens, "score"), plain.run(tokens, "score"))
    for pooling in ("cls", "mean", "none"):
        np.testing.assert_array_equal(engine.run(tokens, pooling), plain.run(tokens, pooling))


@pytest.mark.parametrize("bias", [-1e30, -200.0, 0.0, 90.0, 1e30])
@pytest.mark.parametrize("size", [0.0, 1.0])
def test_extreme_maxsim_heads_stay_finite(bias: float, size: float, level: str, tmp_path: Path) -> None:
    """Weights that all vanish or are huge; with `size` 0 all states are rows of zeros, which have no direction."""
    network = read_network(random_folder(tmp_path, head="bert", maxsim=True))
    changed = {
        name: size * np.array(a) for name, a in network.tensors.items() if name.startswith("encoder.layer.1.output.Layer")
    }
    changed["maxsim.bias"] = np.full(1, bias, np.float32)
    engine = NativeEngine(replace(network, tensors={**network.tensors, **changed}), threads=1)
    assert np.isfinite(engine.run(random_tokens(network, LENGTHS), "score")).all()


def test_maxsim_of_long_sequences(level: str, tmp_path: Path) -> None:
    """More tokens than a block."""
    network = read_network(random_folder(tmp_path, hidden=16, heads=2, layers=1, positions=1100, head="bert", maxsim=True))
    tokens = random_tokens(network, [1100, 3, 1029])
    tokens = replace(tokens, segments=np.concatenate([np.arange(n) >= min(n - 1, 30) for n in tokens.lengths]).astype(np.uint8))
    scores = NativeEngine(network, precision="float32", threads=2).run(tokens, "score")
    np.testing.assert_allclose(scores, ReferenceNetwork(network).run(tokens, "score"), rtol=1e-4, atol=1e-4)


def test_maxsim_tensors_of_another_shape(tmp_path: Path) -> None:
    network = read_network(random_folder(tmp_path, head="bert", maxsim=True))
    for name in MAXSIM:
        wrong = {**network.tensors, name: np.ones((2, 3), np.float32)}
        with pytest.raises(ModelError, match=rf"tensor {name} has shape \[2, 3\]"):
            NativeEngine(replace(network, tensors=wrong))
        with pytest.raises(ModelError, match=f"tensor {name} is missing"):
            NativeEngine(replace(network, tensors={k: v for k, v in network.tensors.items() if k != name}))


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
        assert cosines(states, expected).min() > 0.998


def test_every_float16_is_read_right(tmp_path: Path) -> None:
    """All finite half-precision numbers pass through a table row of 64 numbers; position and type rows are zero."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = np.where(np.isfinite(halves), halves, np.float16(1)).reshape(-1, 64)
    network = read_network(random_folder(tmp_path, hidden=64, heads=4, layers=1, vocabulary=len(halves), positions=len(halves)))
    zeros = {
        name: np.zeros_like(network.tensors[name]) for name in network.tensors if "position_" in name or "token_type" in name
    }
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
    network = read_network(random_folder(tmp_path, hidden=16, heads=2, layers=1, positions=1100))
    tokens = random_tokens(network, [1100, 3, 1029])
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
    with pytest.raises(BadInput, match=r"SHORTLIST_ISA='sse9' cannot run here; available are .*portable"):
        NativeEngine(network)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name",
    [
        "encoder.layer.1.output.dense.weight",
        "encoder.layer.0.attention.self.key.bias",
        "embeddings.LayerNorm.weight",
        *MAXSIM,
    ],
)
def test_weights_that_are_not_finite(name: str, value: float, tmp_path: Path) -> None:
    network = read_network(random_folder(tmp_path, head="bert", maxsim=True))
    broken = np.array(network.tensors[name])
    broken.flat[3 % broken.size] = value
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
