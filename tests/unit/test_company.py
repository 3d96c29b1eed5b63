"""A vector and a score are the same to the last bit in any company: any batch, any order, any number of threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny_models
from shortlist.encoder import Encoder
from shortlist.reranker import Reranker
from shortlist.types import FloatArray

Work = Callable[[list[str]], FloatArray]
THREADS = (1, 2, 5)

WORDS = st.sampled_from(
    ["柏林", "people", "नमस्ते", "มิวเซียม", "</s>", "[SEP]", "\n", "  ", "é", "👩‍👩‍👧", "a" * 150, "0.5", "как"]
)
TEXT = st.one_of(
    st.lists(WORDS, max_size=40).map(" ".join),
    st.tuples(WORDS, st.integers(1, 900)).map(lambda pair: (pair[0] + " ") * pair[1]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
)


@pytest.fixture(scope="module")
def models(
    tiny_encoder_folder: Path,
    tiny_reranker_folder: Path,
    tiny_xlmr_reranker_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[Work]]:
    """Kind of model -> what it does with texts, once for each number of threads."""
    maxsim = tiny_models.write_maxsim_reranker(tmp_path_factory.mktemp("company") / "maxsim", window=24)
    rerankers = {"bert": tiny_reranker_folder, "xlmr": tiny_xlmr_reranker_folder, "maxsim": maxsim}

    def scorer(folder: Path, threads: int) -> Work:
        model = Reranker.load(folder, threads=threads)
        return lambda texts: model.score("how many people live in 柏林?", texts)

    return {
        "encoder": [Encoder.load(tiny_encoder_folder, threads=threads).encode for threads in THREADS],
        **{name: [scorer(folder, threads) for threads in THREADS] for name, folder in rerankers.items()},
    }


@pytest.mark.parametrize("kind", ["encoder", "bert", "xlmr", "maxsim"])
@given(texts=st.lists(TEXT, min_size=1, max_size=12), data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_result_is_the_same_in_any_company(
    kind: str, texts: list[str], data: st.DataObject, models: dict[str, list[Work]]
) -> None:
    alone = {text: models[kind][0]([text])[0] for text in texts}
    for work in models[kind]:
        company = data.draw(st.lists(st.sampled_from(texts), min_size=1, max_size=40))
        found = work(company)
        assert len(found) == len(company)
        for text, result in zip(company, found, strict=True):
            np.testing.assert_array_equal(result, alone[text])


@pytest.mark.parametrize("kind", ["encoder", "maxsim"])
def test_a_result_is_the_same_in_many_internal_batches(kind: str, models: dict[str, list[Work]]) -> None:
    """More texts than an internal batch takes, by number and by characters."""
    draw = np.random.default_rng(5)
    texts = [("people of 柏林 " * int(n))[: int(n)] for n in draw.integers(0, 60, 700)]
    texts[100], texts[300], texts[301] = "museum " * 9000, "x" * 300_000, " " * 100_000
    first, *others = (work(texts) for work in models[kind])
    for other in others:
        np.testing.assert_array_equal(other, first)
    order = draw.permutation(len(texts))
    np.testing.assert_array_equal(models[kind][1]([texts[i] for i in order]), first[order])
    for i in (0, 99, 100, 255, 256, 300, 301, 302, 699):
        np.testing.assert_array_equal(models[kind][0]([texts[i]])[0], first[i])
