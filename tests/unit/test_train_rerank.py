"""Training a reranker on tiny models: what is trained is what our engine runs, it learns, and a stop changes nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shortlist.errors import BadInput
from shortlist.models.weights import read_folder
from shortlist.reranker import Reranker
from shortlist.train.groups import Groups, read_groups, sampled_candidates

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on two threads, many times so on a busy machine."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_groups(folder: Path, count: int = 48) -> Path:
    """The relevant passage is the one that shares letters with the question; the first stage puts it last."""
    draw = random.Random(5)
    home = folder / "letters"
    home.mkdir(parents=True)
    alphabets = ["abcdef", "ghijkl", "mnopqr", "stuvwx"]
    queries, passages, groups = [], [], []
    for number in range(count):
        right = draw.randrange(4)
        queries.append({"_id": f"q{number}", "text": " ".join(draw.sample(alphabets[right], 4))})
        order = [i for i in range(4) if i != right] + [right]
        texts = {i: " ".join(draw.choices(alphabets[i], k=12)) for i in order}
        passages += [{"_id": f"p{number}.{i}", "text": text} for i, text in texts.items()]
        rows = [[f"p{number}.{i}", 1.0 - 0.5 * place, int(i == right), 0.5] for place, i in enumerate(order)]
        groups.append({"query": f"q{number}", "candidates": rows})
    for name, lines in (("queries", queries), ("passages", passages), ("groups", groups)):
        (home / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Groups:
    return read_groups(write_groups(tmp_path_factory.mktemp("groups")))


def settings(**changes: object):  # type: ignore[no-untyped-def]
    from shortlist.train.rerank import RerankerSettings

    base = RerankerSettings(exits=(1, 2), windows=(8, 16), negatives=3, batch=8, epochs=6, rate=2e-3, head_rate=1.0)
    return replace(base, **changes)


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in read_folder(folder).items()}


@pytest.fixture(scope="module")
def trained(groups: Groups, tiny_encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    from shortlist.train.rerank import tune_reranker

    out = tmp_path_factory.mktemp("out") / "run"
    return tune_reranker(groups, tiny_encoder_folder, out, settings(), watched=groups, watch_every=18)


def test_it_learns_to_put_the_relevant_passage_first(trained: dict[int, Path], groups: Groups) -> None:
    for folder in trained.values():
        reranker = Reranker.load(folder, precision="float32")
        right = 0
        for group in groups.groups:
            scores = reranker.score(groups.queries[group.query], [groups.passages[c.passage] for c in group.candidates])
            right += group.candidates[int(scores.argmax())].relevant
        assert right / len(groups) > 0.9


def test_our_engine_gives_the_scores_of_the_network_that_was_trained(
    groups: Groups, tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    import torch

    from shortlist.tokens import Tokenizer
    from shortlist.train.joint import Batch, save_reranker, start_reader
    from shortlist.train.rerank import tune_reranker

    made = tune_reranker(groups, tiny_encoder_folder, tmp_path / "run", settings(epochs=1))
    query, passages = "a b c d", ["a b c", "x", "q r s t a b d d d c"]
    tokenizer = Tokenizer.load(tiny_encoder_folder)
    tokens, _ = tokenizer.encode_pairs(query, passages, 512, segments=True, window=6)
    for depth, folder in made.items():
        model = start_reader(folder, [depth], maxsim=True)
        with torch.no_grad():
            expected = model(Batch.of(tokens, range(3)))[depth].numpy()
        found = Reranker.load(folder, precision="float32", window=6).score(query, passages)
        np.testing.assert_allclose(found, expected, atol=2e-4)
        again = save_reranker(model, depth, tmp_path / f"again-{depth}", {"table": str(tiny_encoder_folder)})
        for name, tensor in weights(folder).items():
            np.testing.assert_allclose(weights(again)[name], tensor, atol=1e-6)


def test_a_run_that_was_stopped_ends_with_the_same_weights(
    trained: dict[int, Path], groups: Groups, tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    from shortlist.train.rerank import read_log, tune_reranker

    out = tmp_path / "run"
    for steps in (10, 7):
        assert tune_reranker(groups, tiny_encoder_folder, out, settings(), save_every=5, stop_after=steps) == {}
    made = tune_reranker(groups, tiny_encoder_folder, out, settings(), watched=groups, watch_every=18)
    for depth, folder in trained.items():
        for name, tensor in weights(folder).items():
            np.testing.assert_allclose(weights(made[depth])[name], tensor, atol=1e-6, err_msg=name)
    logged = [(line["step"], line["loss"]) for line in read_log(out) if "loss" in line]
    assert [step for step, _ in logged] == [20, 29]


def test_some_groups_of_each_collection_are_put_aside_and_never_drawn(
    groups: Groups, tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    from shortlist.train.rerank import parted, tune_reranker

    tune_reranker(groups, tiny_encoder_folder, tmp_path / "run", settings(epochs=0.5))
    unseen = {g.query for g in read_groups(tmp_path / "run" / "unseen").groups}
    aside, rest = parted(groups.groups)
    assert unseen == {g.query for g in aside}
    assert len(aside) == 9, "a fifth of 48"
    assert [*aside, *rest] == list(groups.groups)
    few = tuple(replace(g, source="few") for g in groups.groups[:4])
    assert parted([*few, *groups.groups])[0] == aside, "four groups are too few to put one aside"


@pytest.mark.parametrize(("balance", "expected"), [(1.0, (400, 20)), (0.5, (343, 77)), (0.0, (210, 210))])
def test_balance_repeats_small_collections(groups: Groups, balance: float, expected: tuple[int, int]) -> None:
    from shortlist.train.rerank import drawn

    large = [replace(groups.groups[0], source="large")] * 400
    small = [replace(groups.groups[0], source="small")] * 20
    order = drawn([*large, *small], 420, balance, 7)
    counts = np.bincount(order, minlength=420)
    assert (int(counts[:400].sum()), int(counts[400:].sum())) == expected
    for part in (counts[:400], counts[400:]):
        assert part.max() - part.min() <= 1, "all come before one comes again"
    assert order == drawn([*large, *small], 420, balance, 7)
    assert order != sorted(order)


def test_a_checkpoint_of_other_settings_is_refused(groups: Groups, tiny_encoder_folder: Path, tmp_path: Path) -> None:
    from shortlist.train.rerank import tune_reranker

    tune_reranker(groups, tiny_encoder_folder, tmp_path, settings(), stop_after=1)
    with pytest.raises(BadInput, match="other settings"):
        tune_reranker(groups, tiny_encoder_folder, tmp_path, settings(rate=1e-5))


def test_frozen_layers_and_the_embeddings_stay_as_they_were(groups: Groups, tiny_encoder_folder: Path, tmp_path: Path) -> None:
    from shortlist.train.rerank import tune_reranker

    made = tune_reranker(groups, tiny_encoder_folder, tmp_path / "run", settings(exits=(2,), frozen=1, epochs=1))
    before, after = weights(tiny_encoder_folder), weights(made[2])
    plain = {name: array.astype(np.float32) for name, array in before.items() if f"bert.{name}" in after}
    same = {name: np.array_equal(array, after[f"bert.{name}"]) for name, array in plain.items()}
    assert all(same[n] for n in same if n.startswith(("encoder.layer.0.", "embeddings.LayerNorm")))
    assert not any(same[n] for n in same if n.startswith("encoder.layer.1.") and "key.bias" not in n)


def test_a_deeper_size_takes_its_lower_layers_from_a_trained_one(
    trained: dict[int, Path], groups: Groups, tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    from shortlist.train.rerank import tune_reranker

    made = tune_reranker(
        groups, tiny_encoder_folder, tmp_path / "run", settings(exits=(2,), frozen=1, epochs=1), lower=[trained[1]]
    )
    lower, upper = weights(trained[1]), weights(made[2])
    for name in lower:
        if name.startswith(("bert.encoder.layer.0.", "bert.embeddings.")):
            np.testing.assert_array_equal(upper[name], lower[name])


def test_a_training_goes_on_from_all_its_exits(trained: dict[int, Path], tiny_encoder_folder: Path) -> None:
    import torch

    from shortlist.tokens import Tokenizer
    from shortlist.train.joint import Batch, start_reader

    model = start_reader(tiny_encoder_folder, [1, 2], maxsim=True, lower=[trained[2], trained[1]])
    tokens, _ = Tokenizer.load(tiny_encoder_folder).encode_pairs("a b c d", ["a b c", "x"], 512, segments=True, window=6)
    with torch.no_grad():
        scores = model(Batch.of(tokens, range(2)))
    for depth, folder in trained.items():
        expected = Reranker.load(folder, precision="float32", window=6).score("a b c d", ["a b c", "x"])
        np.testing.assert_allclose(scores[depth].numpy(), expected, atol=2e-4)


def test_a_layer_computes_what_transformers_computes(tiny_encoder_folder: Path) -> None:
    import torch

    from shortlist.train.joint import start_reader, through

    model = start_reader(tiny_encoder_folder, [2], maxsim=True).eval()
    layer, heads = model.body.encoder.layer[1], model.body.config.num_attention_heads
    states = torch.randn(3, 7, model.body.config.hidden_size, generator=torch.Generator().manual_seed(4))
    hidden = torch.zeros(3, 7)
    hidden[1, 5:] = hidden[2, 2:] = -1e4
    expected = layer(states, attention_mask=hidden[:, None, None, :])
    expected = expected[0] if isinstance(expected, tuple) else expected
    found = through(layer, states, hidden, heads, torch.float32)
    np.testing.assert_allclose(found.detach(), expected.detach(), atol=2e-6)
    wrong = [torch.autograd.grad(x.square().sum(), list(layer.parameters()), retain_graph=True) for x in (found, expected)]
    for ours, theirs in zip(*wrong, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4 * float(theirs.abs().max() + 1))
    rough = through(layer, states.bfloat16(), hidden.bfloat16(), heads, torch.bfloat16)
    assert rough.dtype == torch.bfloat16
    np.testing.assert_allclose(rough.detach().float(), expected.detach(), atol=0.05)


def test_the_pointwise_loss_is_the_cross_entropy_of_each_pair() -> None:
    import torch

    from shortlist.train.groups import Candidate
    from shortlist.train.rerank import NO_CANDIDATE, losses

    logits = [[1.5, -0.5, 0.25], [0.1, 0.7]]
    lists = [[Candidate(str(i), 0.0, i == 0, 0.0, None) for i in range(len(row))] for row in logits]
    scores = {2: torch.tensor([logits[0], [*logits[1], NO_CANDIDATE]])}
    chance = [[1 / (1 + np.exp(-x)) for x in row] for row in logits]
    expected = -np.mean([np.log(p if i == 0 else 1 - p) for row in chance for i, p in enumerate(row)])
    added = losses(scores, lists, settings(pointwise=0.5))[0] - losses(scores, lists, settings())[0]
    assert float(added) == pytest.approx(0.5 * expected, abs=1e-6)


def test_a_training_starts_with_logits_at_the_level_of_the_odds(
    groups: Groups, tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    from shortlist.train.rerank import tune_reranker

    made = tune_reranker(groups, tiny_encoder_folder, tmp_path / "run", settings(epochs=0.2, rate=1e-9))
    for folder in made.values():
        reranker = Reranker.load(folder, precision="float32")
        scores = [
            reranker.score(groups.queries[g.query], [groups.passages[c.passage] for c in g.candidates]) for g in groups.groups
        ]
        assert float(np.mean(scores)) == pytest.approx(np.log(1 / 3), abs=0.5)


def test_a_student_follows_its_teacher(trained: dict[int, Path], tiny_encoder_folder: Path, tmp_path: Path) -> None:
    from shortlist.train.distill import ask_teacher
    from shortlist.train.rerank import tune_reranker

    source = write_groups(tmp_path / "groups")
    taught = ask_teacher(source, trained[2], tmp_path / "taught")
    found = read_groups(taught)
    teacher = Reranker.load(trained[2])
    group = found.groups[3]
    expected = teacher.score(found.queries[group.query], [found.passages[c.passage] for c in group.candidates])
    np.testing.assert_allclose([c.teacher for c in group.candidates], expected, atol=1e-3)
    made = tune_reranker(found, tiny_encoder_folder, tmp_path / "student", settings(exits=(1,), taught=1.0))
    student = Reranker.load(made[1], precision="float32")
    together = []
    for group in found.groups:
        texts = [found.passages[c.passage] for c in group.candidates]
        margins = [c.teacher - group.candidates[-1].teacher for c in group.candidates[:-1]]
        scores = student.score(found.queries[group.query], texts)
        together.append(np.c_[margins, scores[:-1] - scores[-1]])
    assert np.corrcoef(np.concatenate(together).T)[0, 1] > 0.5
    with pytest.raises(BadInput, match="another teacher"):
        ask_teacher(source, trained[1], taught)


def test_negatives_are_neither_relevant_nor_likely_to_be(groups: Groups) -> None:
    group = groups.groups[0]
    likely = replace(group.candidates[0], dense=0.9)
    changed = replace(group, candidates=(likely, *group.candidates[1:]))
    for seed in range(20):
        chosen = sampled_candidates(changed, 3, 0.02, random.Random(seed))
        assert chosen[0].relevant
        assert likely not in chosen
        assert len({c.passage for c in chosen}) == len(chosen) == 3
