"""Tuning an encoder, on a tiny model and a toy set: it learns, resumes, averages exactly and leaves the table alone."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shortlist.encoder import Encoder
from shortlist.errors import BadInput, ModelError
from shortlist.models.files import checksums
from shortlist.models.weights import read_folder
from shortlist.train.encoder import EncoderSettings, read_log, tune_encoder

# Foreign libraries warn about their own past.
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
TABLE = "embeddings.word_embeddings.weight"
SETTINGS = EncoderSettings(batch=8, scale=20.0, rate=1e-3, steps=48, save_steps=15, log_steps=5, average=1.0, bf16=False)


def letters(draw: random.Random, alphabet: str) -> str:
    return " ".join(draw.choice(alphabet) for _ in range(3))


def write_groups(folder: Path, count: int = 16, distractors: int = 32) -> Path:
    """Two collections with questions in Latin, passages in Greek letters, paired at random: only training can know the pairs.

    Each question has a relevant passage of its own and two of the distractors.
    """
    draw = random.Random(5)
    for name in ("one", "two"):
        texts = {
            "queries": {f"q{i}": letters(draw, "abcdefghijklmnopqrstuvwxyz") for i in range(count)},
            "passages": {f"p{i}": letters(draw, "αβγδεζηθικλμνξοπρστυφχψω") for i in range(count + distractors)},
        }
        rows = []
        for q in range(count):
            others = [count + (2 * q + i) % distractors for i in range(2)]
            rows.append({"query": f"q{q}", "candidates": [[f"p{q}", 1.0, 1, 0.9], *([f"p{i}", 0.0, 0, 0.8] for i in others)]})
        files = {file: [{"_id": i, "text": text} for i, text in values.items()] for file, values in texts.items()}
        for file, lines in {**files, "groups": rows}.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / f"{file}.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_groups(tmp_path_factory.mktemp("groups"))


@pytest.fixture(scope="module")
def tuned(groups: Path, tiny_encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sentence_transformers")
    return tune_encoder(groups, tiny_encoder_folder, tmp_path_factory.mktemp("out") / "tuned", SETTINGS)


def rank_of_relevant(encoder: Encoder, groups: Path) -> float:
    """Mean place (0 = best) of each question's passage among all of its collection."""
    texts = [
        [json.loads(line)["text"] for line in (groups / "one" / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()]
        for file in ("queries", "passages")
    ]
    cosines = encoder.encode(texts[0], kind="query") @ encoder.encode(texts[1], kind="passage").T
    return float((cosines > np.diag(cosines)[:, None]).sum(axis=1).mean())


def test_it_learns_which_texts_belong_together(tuned, groups, tiny_encoder_folder):
    losses = [line["loss"] for line in read_log(tuned / "log.jsonl")]
    assert losses[-1] < 0.5 * losses[0]
    before = rank_of_relevant(Encoder.load(tiny_encoder_folder, precision="float32"), groups)
    after = rank_of_relevant(Encoder.load(tuned, precision="float32"), groups)
    assert before > 15  # chance is 23.5
    assert after < 4


def test_log_manifest_and_card_say_what_was_done(tuned, groups):
    lines = read_log(tuned / "log.jsonl")
    assert [line["step"] for line in lines] == [*range(5, 46, 5), 48]
    assert [line["pairs"] for line in lines] == [8 * line["step"] for line in lines]
    assert max(line["rate"] for line in lines) <= SETTINGS.rate
    manifest = json.loads((tuned / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["groups"] == checksums(groups)
    assert (manifest["pairs"], manifest["settings"]["rate"]) == (48 * 8, SETTINGS.rate)
    encoder = Encoder.load(tuned)
    assert encoder.verify() == []
    assert (encoder.name, encoder.card.prompt("query")) == ("tuned", "query: ")
    assert "one (16), two (16)" in encoder.card.training_data


def test_the_table_is_untouched_and_the_rest_is_not(tuned, tiny_encoder_folder):
    before, after = read_folder(tiny_encoder_folder), read_folder(tuned)
    assert set(before) == set(after)
    assert before[TABLE].dtype == after[TABLE].dtype
    assert np.array_equal(before[TABLE], after[TABLE])
    trained = read_folder(tuned.with_name("tuned.work") / "checkpoint-48")  # float32, before the table is copied from the start
    assert np.array_equal(before[TABLE].astype(np.float32), trained[TABLE])
    layers = [name for name in before if name.startswith("encoder.layer.") and name.endswith("query.weight")]
    assert all(np.abs(before[name].astype(np.float32) - after[name]).max() > 1e-4 for name in layers)


def test_averaging_is_exact_and_needs_no_new_training(tuned, groups, tiny_encoder_folder, tmp_path):
    """A quarter of the tuned weights is what the formula says; 0 gives the start's vectors back."""
    (tmp_path / "quarter.work").symlink_to(tuned.with_name("tuned.work"))
    (tmp_path / "none.work").symlink_to(tuned.with_name("tuned.work"))
    steps: list[int] = []
    quarter = tune_encoder(
        groups, tiny_encoder_folder, tmp_path / "quarter", replace(SETTINGS, average=0.25), lambda done, _: steps.append(done)
    )
    assert steps == []
    start, whole, mixed = (read_folder(folder) for folder in (tiny_encoder_folder, tuned, quarter))
    for name in start:
        if name != TABLE:
            expected = 0.25 * whole[name].astype(np.float64) + 0.75 * start[name].astype(np.float64)
            np.testing.assert_allclose(mixed[name], expected, rtol=0, atol=1e-6)
    none = tune_encoder(groups, tiny_encoder_folder, tmp_path / "none", replace(SETTINGS, average=0.0))
    texts = ["a b c", "αβγ δ"]
    expected = Encoder.load(tiny_encoder_folder, precision="float32").encode(texts)
    np.testing.assert_allclose(Encoder.load(none, precision="float32").encode(texts), expected, atol=1e-6)


class Killed(Exception):
    pass


def test_a_run_that_is_stopped_goes_on_to_the_same_weights(tuned, groups, tiny_encoder_folder, tmp_path):
    steps: list[int] = []

    def progress(done: int, total: int | None) -> None:
        steps.append(done)
        if len(steps) == 37:
            raise Killed

    out = tmp_path / "stopped"
    with pytest.raises(Killed):
        tune_encoder(groups, tiny_encoder_folder, out, SETTINGS, progress)
    assert not out.exists()
    tune_encoder(groups, tiny_encoder_folder, out, SETTINGS, progress)
    assert steps == [*range(1, 38), *range(31, 49)]  # the checkpoint is of step 30
    uninterrupted, resumed = read_folder(tuned), read_folder(out)
    for name, array in uninterrupted.items():
        np.testing.assert_allclose(resumed[name], array, rtol=0, atol=1e-6, err_msg=name)
    assert [(x["step"], x["loss"]) for x in read_log(out / "log.jsonl")] == [
        (x["step"], x["loss"]) for x in read_log(tuned / "log.jsonl")
    ]


def test_other_settings_do_not_go_on_with_old_checkpoints(tuned, groups, tiny_encoder_folder, tmp_path):
    (tmp_path / "other.work").symlink_to(tuned.with_name("tuned.work"))
    with pytest.raises(BadInput, match="other rate"):
        tune_encoder(groups, tiny_encoder_folder, tmp_path / "other", replace(SETTINGS, rate=2e-3))


def test_what_cannot_be_tuned_is_refused(tuned, groups, tiny_encoder_folder, tiny_reranker_folder, tmp_path):
    with pytest.raises(BadInput, match="exists already"):
        tune_encoder(groups, tiny_encoder_folder, tuned, SETTINGS)
    with pytest.raises(BadInput, match="one has 16 groups, two has 16 groups"):
        tune_encoder(groups, tiny_encoder_folder, tmp_path / "a", replace(SETTINGS, batch=17))
    with pytest.raises(BadInput, match=r"average=1.5 is out of range"):
        tune_encoder(groups, tiny_encoder_folder, tmp_path / "b", replace(SETTINGS, average=1.5))
    with pytest.raises(ModelError, match="cannot be tuned"):
        tune_encoder(groups, tiny_reranker_folder, tmp_path / "c", SETTINGS)


def test_batches_that_cannot_be_filled_are_refused(tiny_encoder_folder, tmp_path):
    groups = write_groups(tmp_path / "groups", distractors=1)
    with pytest.raises(BadInput, match="ended after 0 of 48 steps"):
        tune_encoder(groups, tiny_encoder_folder, tmp_path / "out", SETTINGS)


def test_in_chunks_the_weights_come_out_the_same(tuned, groups, tiny_encoder_folder, tmp_path):
    chunked = tune_encoder(groups, tiny_encoder_folder, tmp_path / "chunked", replace(SETTINGS, max_tokens=64, chunk=64))
    expected = Encoder.load(tuned, precision="float32").encode(["a b c", "αβγ δ"])
    np.testing.assert_allclose(Encoder.load(chunked, precision="float32").encode(["a b c", "αβγ δ"]), expected, atol=1e-3)
