"""Our encoder and our pipeline as mteb's models, so that its tasks, C-MTEB's too, can be run on them.

mteb (https://github.com/embeddings-benchmark/mteb) is the extra [mteb]; it brings torch, which nothing here uses.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from shortlist.data.runs import descending
from shortlist.encoder import Encoder
from shortlist.errors import BadInput, MissingExtra
from shortlist.index import Index
from shortlist.pipeline import CANDIDATES, FirstStage, Pipeline, rerank
from shortlist.reranker import Reranker
from shortlist.types import FloatArray, Hit, Passage

C_MTEB_RETRIEVAL = (
    "T2Retrieval",
    "MMarcoRetrieval",
    "DuRetrieval",
    "CovidRetrieval",
    "CmedqaRetrieval",
    "EcomRetrieval",
    "MedicalRetrieval",
    "VideoRetrieval",
)
"""The retrieval tasks of C-MTEB, by mteb's names."""


class MtebEncoder:
    """An encoder as mteb's `EncoderProtocol`, for any of its tasks on embeddings. Prompts are those of the model's card."""

    def __init__(self, model_name: str | Encoder, revision: str | None = None, *, device: str | None = None, **_: Any) -> None:
        """`model_name` is what `Encoder.load` takes, or an encoder. `device` is mteb's; we run on the CPU."""
        self.encoder = model_name if isinstance(model_name, Encoder) else Encoder.load(model_name, revision=revision)

    def encode(self, inputs: Iterable[Mapping[str, Any]], *, prompt_type: Any = None, **_: Any) -> FloatArray:
        """float32[n, dims] for batches whose "text" is a list of n str in all; `prompt_type` is query, document or None."""
        kind = {"query": "query", "document": "passage"}.get(str(getattr(prompt_type, "value", prompt_type)), "")
        return self.encoder.encode([text for batch in inputs for text in batch["text"]], kind=kind)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> FloatArray:
        """float32[n, m], inner products: cosines where the card says that vectors have length 1."""
        return np.atleast_2d(np.asarray(embeddings1, np.float32)) @ np.atleast_2d(np.asarray(embeddings2, np.float32)).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> FloatArray:
        """float32[n], inner products of rows with rows."""
        found: FloatArray = (np.asarray(embeddings1, np.float32) * np.asarray(embeddings2, np.float32)).sum(axis=-1)
        return found

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb writes beside results."""
        card = self.encoder.card
        facts = {"max_tokens": self.encoder.max_tokens, "embed_dim": card.dims, "use_instructions": any(card.prompts.values())}
        return _meta(self.encoder.name, self.encoder.fingerprint, **facts)


class MtebSearch:
    """Two-stage search as mteb's `SearchProtocol`, for its retrieval and reranking tasks.

    Each task's corpus is indexed into a temporary folder, which goes with the next one.
    """

    def __init__(
        self,
        encoder: Encoder | None,
        reranker: Reranker | None = None,
        *,
        first: FirstStage | None = None,
        candidates: int = CANDIDATES,
    ) -> None:
        """`first` and `candidates` are those of `Pipeline`; without an encoder the first stage is BM25."""
        self.encoder, self.reranker = encoder, reranker
        self._first, self._candidates = first, candidates
        self._folder: TemporaryDirectory[str] | None = None
        self._index: Index | None = None

    def index(self, corpus: Iterable[Mapping[str, Any]], **_: Any) -> None:
        """Index rows with id, text and perhaps title."""
        self.close()
        self._folder = TemporaryDirectory(prefix="shortlist-mteb-")
        self._index = Index.create(Path(self._folder.name) / "corpus.idx", encoder=self.encoder)
        self._index.add(Passage(str(row["id"]), row["text"], row.get("title") or "") for row in corpus)

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Query id -> passage id -> score, `top_k` for each row with id and text.

        Scores are made distinct, because mteb breaks ties in its own way. With `top_ranked` (reranking tasks) only those
        passages are put in order, and the reranker reads them all.

        Raises BadInput without a corpus, and for conversations, which are no single text.
        """
        if self._index is None:
            raise BadInput("search() before index(): there is no corpus yet. Index one first.")
        texts = {str(row["id"]): _text(row) for row in queries}
        if top_ranked is None:
            run = Pipeline(self._index, self.reranker).run(texts, k=top_k, candidates=self._reads(), first=self._first)
            return {query_id: dict(descending(run.ranked(query_id))) for query_id in run}
        found: dict[str, dict[str, float]] = {}
        for query_id, text in texts.items():
            hits = self._ordered(self._index, text, top_ranked.get(query_id, ()))
            found[query_id] = dict(descending([(hit.id, hit.score) for hit in hits[:top_k]]))
        return found

    def _reads(self) -> int | None:
        return None if self.reranker is None else self._candidates

    def _ordered(self, index: Index, query: str, ids: Sequence[str]) -> Sequence[Hit]:
        """The given passages, best first: those that the first stage does not find last."""
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return ()
        first = None if self._first == "none" else self._first
        ranking = index.search(query, k=len(wanted), first=first, where={"id": {"in": wanted}})
        found, hits = set(ranking.ids), list(ranking)
        floor = min((hit.score for hit in hits), default=0.0)
        others = (passage_id for passage_id in wanted if passage_id not in found)
        hits += [Hit(passage_id, floor - place, index.get(passage_id)) for place, passage_id in enumerate(others, 1)]
        ranking = replace(ranking, hits=tuple(hits))
        return ranking.hits if self.reranker is None else rerank(ranking, [(self.reranker, len(hits))]).hits

    def close(self) -> None:
        """Give back the index and its folder."""
        if self._index is not None and self._folder is not None:
            self._index.close()
            self._folder.cleanup()
        self._index = self._folder = None

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb writes beside results: a name for each combination of models."""
        stages = [model for model in (self.encoder, self.reranker) if model is not None]
        name = "+".join([self._first or ("hybrid" if self.encoder else "bm25"), *(Path(m.name).name for m in stages)])
        revision = "-".join(model.fingerprint[:16] for model in stages) or "none"
        return _meta(name if self.reranker is None else f"{name}@{self._candidates}", revision)


def _text(row: Mapping[str, Any]) -> str:
    text = row["text"]
    if not isinstance(text, str):
        raise BadInput(f"query {str(row['id'])!r} is a {type(text).__name__}; expected one text. Choose another task.")
    return text


def _meta(name: str, revision: str, **facts: Any) -> Any:
    library = _library()
    full = name if "/" in name else f"shortlist/{name}"
    return library.models.ModelMeta.create_empty({"name": full, "revision": revision, "open_weights": True, **facts})


def run_tasks(names: Sequence[str], search: MtebSearch | MtebEncoder, results: Path) -> dict[str, dict[str, float]]:
    """Task -> its measures ("ndcg_at_10", "main_score", …), on its standard split; mteb downloads the data.

    Results go into the folder `results` in mteb's own form, and a task that has them there is not run again. Of tasks with
    several languages the mean is returned.

    Raises BadInput for a task that mteb does not know. MissingExtra: [mteb].
    """
    library = _library()
    try:
        tasks = library.get_tasks(tasks=list(names))
    except KeyError as error:
        raise BadInput(f"mteb has no such task: {error}. Its list: `mteb available-tasks`.") from error
    found = library.evaluate(search, tasks, cache=library.ResultCache(results), show_progress_bar=False)
    return {result.task_name: _means(result) for result in found.task_results}


def _means(result: Any) -> dict[str, float]:
    rows = [row for split in result.scores.values() for row in split]
    return {
        name: float(np.mean([row[name] for row in rows]))
        for name in rows[0]
        if all(isinstance(row.get(name), int | float) for row in rows)
    }


def _library() -> Any:
    try:
        return importlib.import_module("mteb")
    except ModuleNotFoundError as error:
        raise MissingExtra("mteb", "mteb", "running mteb's tasks") from error
