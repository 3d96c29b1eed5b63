"""The application: every endpoint a few lines between a body, the library, and a reply."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import perf_counter, time
from typing import Annotated, Any, NoReturn, TypeVar
from uuid import uuid4

import numpy as np
import numpy.typing as npt
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from shortlist import __version__
from shortlist.encoder import Encoder
from shortlist.errors import BadInput, ShortlistError
from shortlist.index import Added
from shortlist.reranker import Reranker
from shortlist.server import dialects as wire
from shortlist.server.answers import answer
from shortlist.server.dialects import Answer
from shortlist.server.guard import OPEN, App, Guard, Key
from shortlist.server.indexes import Question, ServedIndex, Shelf
from shortlist.server.work import Desk, Ticket, TooMuch, tokens_of
from shortlist.types import FloatArray, IntArray, Passage

T = TypeVar("T")

_NO_TELEMETRY: Any = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)
"""FastAPI's own would hold what clients have sent. Where spans are asked for, `tracing` makes them."""
_STATIC = Path(__file__).parent / "static"
_PAIR_TOKENS = 160  # of a query and a passage where the model has no window: the mean over many collections
_ERRORS = (400, 401, 403, 404, 408, 409, 413, 421, 422, 429, 500, 503, 504)


def build_app(
    shelf: Shelf,
    *,
    keys: Collection[Key] = (),
    hosts: Collection[str] | None = None,
) -> App:
    """The service as an ASGI application. It closes the shelf when it shuts down.

    `hosts` are the names that the Host header may have, None for any.
    """
    service = Service(shelf)
    app = FastAPI(
        title="shortlist",
        version=__version__,
        description="Search that works in any language on an ordinary CPU.",
        docs_url=None,  # both pages load scripts from elsewhere
        redoc_url=None,
        lifespan=service.lifespan,
        telemetry=_NO_TELEMETRY,
    )
    app.router.route_class = _StrictRoute
    service.add_routes(app, locked=bool(keys))
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ShortlistError, _on_refusal)
    app.add_exception_handler(Exception, _on_error)
    return Guard(app, keys=keys, hosts=hosts, limits=shelf.limits, metrics=shelf.metrics)


class Service:
    """The endpoints."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf, self._limits, self._metrics = shelf, shelf.limits, shelf.metrics
        self._desk = Desk(shelf.limits, shelf.metrics)
        self._files = StaticFiles(directory=_STATIC)

    def add_routes(self, app: FastAPI, *, locked: bool) -> None:
        """Register every endpoint with its reply; `locked`: the description says that a key is needed."""
        for method, path, endpoint, reply in (
            ("POST", "/v1/embeddings", self.embeddings, wire.EmbeddingsReply),
            ("POST", "/v1/rerank", self.rerank, wire.RerankReply),
            ("POST", "/v2/rerank", self.cohere_rerank, wire.CohereReply),
            ("POST", "/rerank", self.tei_rerank, list[wire.TeiRank]),
            ("POST", "/embed", self.tei_embed, list[list[float]]),
            ("POST", "/v1/search", self.search, wire.SearchReply),
            ("GET", "/v1/indexes", self.indexes, wire.IndexesReply),
            ("GET", "/v1/indexes/{name}", self.index, wire.IndexReply),
            ("GET", "/v1/indexes/{name}/passages", self.get_passages, wire.PassagesReply),
            ("POST", "/v1/indexes/{name}/passages", self.store_passages, wire.StoredReply),
            ("DELETE", "/v1/indexes/{name}/passages", self.delete_passages, wire.DeletedReply),
            ("GET", "/v1/models", self.models, wire.ListReply),
            ("GET", "/healthz", self.healthz, dict[str, str]),
            ("GET", "/readyz", self.readyz, dict[str, str]),
        ):
            errors: dict[int | str, dict[str, Any]] = {status: {"model": wire.error_model(path)} for status in _ERRORS}
            app.add_api_route(
                path,
                endpoint,
                methods=[method],
                response_model=reply,
                responses=errors,
                dependencies=[Depends(HTTPBearer(auto_error=False))] if locked and path not in OPEN else [],
            )
        app.add_api_route("/metrics", self.metrics, methods=["GET"], include_in_schema=False)
        app.add_api_route("/", self.page, methods=["GET"], include_in_schema=False)
        app.mount("/static", self._files, name="static")

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """From the first request to the last: idle writers are sent home, and at the end all is closed."""
        keeper = asyncio.create_task(self._keep_house())
        try:
            yield
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
            await asyncio.to_thread(self._desk.close)
            self._shelf.close()

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._limits.writer_idle_s / 2))
            with suppress(ShortlistError, OSError):  # whoever writes next meets the same error and hears of it
                await asyncio.to_thread(self._shelf.hand_back)

    # --- models

    async def embeddings(self, request: Request, body: wire.EmbeddingsBody) -> Response:
        """OpenAI's embeddings."""
        texts = [body.input] if isinstance(body.input, str) else body.input
        encoder = self._shelf.encoder(body.model)
        ticket, show = Ticket(), _base64 if body.encoding_format == "base64" else _numbers
        rows, headers = await self._encode(request, encoder, texts, body.input_type or "", body.dimensions, ticket, show)
        data = ",".join(f'{{"object":"embedding","index":{i},"embedding":{row}}}' for i, row in enumerate(rows))
        rest = json.dumps({"model": encoder.name, "usage": _usage(ticket)})
        return _rendered(f'{{"object":"list","data":[{data}],{rest[1:]}', headers)

    async def tei_embed(self, request: Request, body: wire.EmbedBody) -> Response:
        """TEI's embeddings."""
        encoder = self._shelf.encoder(None)
        texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        _refuse_left(body.truncation_direction)
        if not body.normalize and encoder.card.normalize:
            raise BadInput(f"normalize=false: the vectors of {encoder.name} have length 1. Leave it out.")
        kind = {"document": "passage", None: ""}.get(body.prompt_name, body.prompt_name)
        if kind and kind not in encoder.card.prompts:
            raise BadInput(f"prompt_name: {encoder.name} has the prompts {', '.join(encoder.card.prompts) or 'none'}.")
        rows, headers = await self._encode(request, encoder, texts, kind or "", body.dimensions, Ticket(), _numbers)
        if body.truncate is False and "X-Truncated-Texts" in headers:
            raise TooMuch(f"`inputs` must have at most {encoder.max_tokens} tokens. Shorten the text, or leave truncate out.")
        return _rendered(f"[{','.join(rows)}]", headers)

    async def rerank(self, request: Request, body: wire.RerankBody) -> Response:
        """Jina's and infinity's rerank."""
        reranker, texts, ticket = self._shelf.needed_reranker(body.model), _texts(body.documents), Ticket()
        scores, headers = await self._score(request, reranker, body.query, texts, body.raw_scores, ticket)
        results: list[dict[str, Any]] = [{"index": i, "relevance_score": float(scores[i])} for i in _best(scores, body.top_n)]
        if body.return_documents:
            results = [{**result, "document": {"text": texts[result["index"]]}} for result in results]
        reply = {"object": "rerank", "id": uuid4().hex, "model": reranker.name, "created": int(time())}
        return Answer({**reply, "usage": _usage(ticket), "results": results}, headers=headers)

    async def cohere_rerank(self, request: Request, body: wire.CohereBody) -> Response:
        """Cohere's rerank."""
        reranker = self._shelf.needed_reranker(body.model)
        if body.max_tokens_per_doc is not None and body.max_tokens_per_doc < reranker.max_tokens:
            raise BadInput(
                f"max_tokens_per_doc: expected at least {reranker.max_tokens}, what {reranker.name} reads of a pair."
            )
        scores, headers = await self._score(request, reranker, body.query, _texts(body.documents), False, Ticket())
        reply = {
            "id": str(uuid4()),
            "results": [{"index": i, "relevance_score": float(scores[i])} for i in _best(scores, body.top_n)],
            "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 0}},
        }
        return Answer(reply, headers=headers)

    async def tei_rerank(self, request: Request, body: wire.TeiRerankBody) -> Response:
        """TEI's rerank."""
        reranker = self._shelf.needed_reranker(None)
        _refuse_left(body.truncation_direction)
        scores, headers = await self._score(request, reranker, body.query, body.texts, body.raw_scores, Ticket())
        if body.truncate is False and "X-Truncated-Texts" in headers:
            raise TooMuch(f"`texts`: a pair has more than {reranker.max_tokens} tokens. Shorten it, or leave truncate out.")
        ranks: list[dict[str, Any]] = [{"index": i, "score": float(scores[i])} for i in _best(scores, None)]
        if body.return_text:
            ranks = [{**rank, "text": body.texts[rank["index"]]} for rank in ranks]
        return Answer(ranks, headers=headers)

    async def models(self) -> Response:
        """OpenAI's list of models, with what each of ours is."""
        served: list[tuple[Encoder | Reranker, int]] = [(one, one.dims) for one in self._shelf.encoders.values()]
        served += [(self._shelf.reranker, 0)] if self._shelf.reranker else []
        about = [
            {"kind": one.card.kind, "dims": dims, "max_tokens": one.max_tokens, "languages": list(one.card.languages)}
            for one, dims in served
        ]
        head = [{"id": one.name, "object": "model", "created": 0, "owned_by": "shortlist"} for one, _ in served]
        return Answer({"object": "list", "data": [{**a, **b} for a, b in zip(head, about, strict=True)]})

    # --- indexes

    async def search(self, request: Request, body: wire.SearchBody) -> Response:
        """Ours: first stage and second stage over one index."""
        served = self._shelf.index(body.index)
        if body.candidates is not None and body.candidates > self._limits.candidates:
            raise TooMuch(f"candidates={body.candidates}: this server reads at most {self._limits.candidates}.")
        self._check_texts([body.query])
        question = Question(body.query, body.k, body.strategy or "", body.first, body.candidates, body.where, body.max_ms)
        ticket = Ticket()

        def work() -> dict[str, Any]:
            found = answer(served, question, highlights=body.highlights, explain=body.explain)
            ticket.timings = found["timings"]
            return found

        reply = await self._work(request, work, _search_tokens(served, question, body.explain), ticket)
        self._metrics.stages({**reply["timings"], "wait": 1000 * ticket.waited_s})
        if served.reranker is not None:
            self._metrics.truncated(served.reranker.name, sum(hit["tokens_cut"] > 0 for hit in reply["hits"]))
        return Answer(reply)

    async def indexes(self, request: Request) -> Response:
        """What is served, with fields and sizes."""
        shelf = self._shelf
        about = await self._work(request, lambda: [one.describe() for one in shelf.indexes.values()], 1, Ticket())
        return Answer({"object": "list", "data": about})

    async def index(self, request: Request, name: str) -> Response:
        """One of them."""
        return Answer(await self._work(request, self._shelf.index(name).describe, 1, Ticket()))

    async def get_passages(
        self,
        request: Request,
        name: str,
        id: Annotated[list[str], Query(min_length=1, max_length=1000)],  # noqa: A002
    ) -> Response:
        """Passages by id: ?id=a&id=b."""
        served = self._shelf.index(name)
        found, missing = await self._work(request, lambda: served.get(id), 1, Ticket())
        return Answer({"object": "list", "data": [passage.as_json() for passage in found], "missing": missing})

    async def store_passages(self, request: Request, name: str, body: wire.PassagesBody) -> Response:
        """Store passages; they are durable and searchable when the reply comes."""
        served = self._shelf.index(name)
        if len(body.passages) > self._limits.passages:
            raise TooMuch(
                f"{len(body.passages)} passages: this server takes at most {self._limits.passages} at a time. Split them."
            )
        passages = [Passage(one.id, one.text, one.title, one.lang, one.meta) for one in body.passages]
        contents = [passage.content for passage in passages]
        self._check_texts(contents)
        encoder = served.index.manifest["encoder"] and served.index.encoder
        tokens = tokens_of(contents, encoder.max_tokens if encoder else 1)

        def work() -> tuple[Added, int]:
            return served.add(passages, replace=body.mode == "upsert"), len(served.index)

        added, total = await self._work(request, work, tokens, Ticket(), writes=True)
        if added.truncated:
            self._metrics.truncated(encoder.name, added.truncated)
        stored = added.count + added.replaced + added.unchanged
        return Answer({"stored": stored, "truncated": added.truncated, "passages": total})

    async def delete_passages(self, request: Request, name: str, body: wire.DeleteBody) -> Response:
        """Delete passages by id (all or none) or by a filter."""
        served = self._shelf.index(name)
        if (body.ids is None) == (body.where is None):
            raise BadInput("give either ids or where, and not both.")

        def work() -> tuple[int, int]:
            return served.delete(body.ids, body.where), len(served.index)

        deleted, total = await self._work(request, work, 1, Ticket(), writes=True)
        return Answer({"deleted": deleted, "passages": total})

    # --- the server itself

    async def healthz(self) -> Response:
        """The process is alive."""
        return Answer({"status": "ok"})

    async def readyz(self) -> Response:
        """Every index can be read."""
        await asyncio.to_thread(lambda: [len(one.index) for one in self._shelf.indexes.values()])
        return Answer({"status": "ok"})

    async def metrics(self) -> Response:
        """For Prometheus."""
        indexes = [(name, one.index) for name, one in self._shelf.indexes.items()]
        text = await asyncio.to_thread(self._metrics.exposition, indexes)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def page(self, request: Request) -> Response:
        """The page."""
        return await self._files.get_response("index.html", request.scope)

    # --- what they share

    async def _work(self, request: Request, work: Callable[[], T], tokens: int, ticket: Ticket, *, writes: bool = False) -> T:
        """`work()` on a thread, given up when the client leaves; what it cost goes to the log."""

        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        try:
            return await self._desk.run(work, tokens=tokens, gone=gone, ticket=ticket, writes=writes)
        finally:
            timings = {"waited_ms": 1000 * ticket.waited_s, **ticket.timings}
            request.state.log = {"tokens": ticket.tokens, **{name: round(ms, 2) for name, ms in timings.items()}}

    async def _encode(
        self,
        request: Request,
        encoder: Encoder,
        texts: Sequence[str],
        kind: str,
        dims: int | None,
        ticket: Ticket,
        show: Callable[[FloatArray], str],
    ) -> tuple[list[str], dict[str, str]]:
        """The vectors as JSON, one after the other, and a header that says how many texts were cut."""
        if dims is not None and dims != encoder.dims:
            raise BadInput(
                f"dimensions={dims}: the vectors of {encoder.name} have {encoder.dims} numbers and cannot be shortened."
            )
        self._check_texts(texts)

        def work() -> tuple[list[str], int]:
            began = perf_counter()
            vectors, cut = encoder.encode_counted(texts, kind=kind)
            ticket.timings["encode_ms"] = 1000 * (perf_counter() - began)
            return [show(row) for row in vectors], int((cut > 0).sum())  # a row at a time: other threads get their turn

        rows, cut = await self._work(request, work, tokens_of(texts, encoder.max_tokens), ticket)
        return rows, self._cut_header(encoder.name, cut)

    async def _score(
        self, request: Request, reranker: Reranker, query: str, texts: Sequence[str], raw: bool, ticket: Ticket
    ) -> tuple[npt.NDArray[Any], dict[str, str]]:
        """Probabilities, or logits if they are asked for, and a header that says how many texts were cut."""
        self._check_texts([query])
        self._check_texts(texts)
        beside = len(query.encode("utf-8", "replace"))

        def work() -> tuple[FloatArray, IntArray]:
            began = perf_counter()
            scored = reranker.score_counted(query, texts)
            ticket.timings["rerank_ms"] = 1000 * (perf_counter() - began)
            return scored

        logits, cut = await self._work(request, work, tokens_of(texts, reranker.max_tokens, beside), ticket)
        headers = self._cut_header(reranker.name, int((cut > 0).sum()))
        return (logits if raw else reranker.probability(logits)), headers

    def _cut_header(self, model: str, cut: int) -> dict[str, str]:
        if cut:
            self._metrics.truncated(model, cut)
        return {"X-Truncated-Texts": str(cut)} if cut else {}

    def _check_texts(self, texts: Sequence[str]) -> None:
        limits = self._limits
        if len(texts) > limits.texts:
            raise TooMuch(f"{len(texts)} texts: this server takes at most {limits.texts} at a time. Split the request.")
        longest = max(map(len, texts), default=0)
        if longest > limits.text_chars:
            raise TooMuch(
                f"a text has {longest} characters: this server takes at most {limits.text_chars}. Split it into passages."
            )


def _search_tokens(served: ServedIndex, question: Question, explain: bool) -> int:
    """About how many tokens a search reads."""
    pairs = served.pairs(question) + (question.k if explain and served.reranker else 0)
    query = tokens_of([question.query], 512)
    if not pairs or served.reranker is None:
        return query
    return query + pairs * min(served.reranker.max_tokens, query + (served.reranker.card.window or _PAIR_TOKENS))


def _texts(documents: Sequence[Any]) -> list[str]:
    return [one if isinstance(one, str) else one.text for one in documents]


def _best(scores: npt.NDArray[Any], top: int | None) -> list[int]:
    """Places of the best scores, best first, ties by place."""
    return [int(i) for i in np.argsort(-scores, kind="stable")[:top]]


def _numbers(vector: FloatArray) -> str:
    return json.dumps(vector.tolist(), allow_nan=False)


def _base64(vector: FloatArray) -> str:
    """JSON of the vector as little-endian float32 in base64."""
    return f'"{base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")}"'


def _rendered(text: str, headers: dict[str, str]) -> Response:
    """JSON that is text already."""
    return Response(text, headers=headers, media_type="application/json")


def _usage(ticket: Ticket) -> dict[str, int]:
    return {"prompt_tokens": ticket.tokens, "total_tokens": ticket.tokens}


def _refuse_left(direction: str) -> None:
    if direction.lower() == "left":
        raise BadInput("truncation_direction=left is not supported: a text is cut at its end. Leave it out.")


# --- bodies and errors


class _StrictRequest(Request):
    """JSON as the standard has it: no NaN, no number that is too large for one, no nesting without end."""

    async def json(self) -> Any:
        """The body. Raises JSONDecodeError."""
        body = await self.body()
        try:
            return json.loads(body, parse_constant=_no_constant)
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise json.JSONDecodeError(f"not a value that can be read ({type(error).__name__})", "", 0) from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


class _StrictRoute(APIRoute):
    """A route whose bodies are read by `_StrictRequest`."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """The handler of FastAPI with the other request."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


async def _on_invalid(request: Request, error: Any) -> Response:
    return wire.invalid(request.url.path, error.errors())


async def _on_http(request: Request, error: Any) -> Response:
    return wire.problem(request.url.path, error.status_code, str(error.detail), headers=error.headers)


async def _on_refusal(request: Request, error: Any) -> Response:
    return wire.refusal(request.url.path, error)


async def _on_error(request: Request, error: Exception) -> Response:
    known = request.scope["state"]["request_id"]
    return wire.problem(request.url.path, 500, f"something went wrong in the server; its log says what, under {known}.")
