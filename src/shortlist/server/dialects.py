"""What goes over the wire: the bodies of each dialect, and how each of them says that something is wrong.

OpenAI's embeddings, Jina's and infinity's rerank (`/v1/rerank`), Cohere's (`/v2/rerank`), those of Hugging Face's
text-embeddings-inference (TEI: `/embed`, `/rerank`), and our own. Fields that a client of the dialect may send and that have
no meaning here are let through; a field that would change the result and is not supported is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, field_validator

from shortlist.errors import (
    BadInput,
    IndexFormatError,
    IndexLocked,
    ModelError,
    ModelMismatch,
    ModelNotFound,
    ShortlistError,
)
from shortlist.server.indexes import UnknownName
from shortlist.server.work import Overloaded, TimedOut, TooMuch, Withdrawn

_DEEPEST = 32  # of metadata and filters

INDEX_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def _storable(value: dict[str, Any]) -> dict[str, Any]:
    """The value itself, if it is not nested too deeply and its text is well-formed."""
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        for one in level:
            text = "".join(one) if isinstance(one, dict) else one
            if isinstance(text, str) and not _well_formed(text):
                raise ValueError("holds a lone surrogate, which is not valid Unicode")
        nested = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [child for children in nested for child in children]
        if not level:
            return value
    raise ValueError(f"nested deeper than {_DEEPEST} levels")


def _well_formed(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


JsonObject = Annotated[dict[str, Any], AfterValidator(_storable)]
Texts = Annotated[list[StrictStr], Field(min_length=1)]
Query = Annotated[StrictStr, Field(pattern=r"\S")]


class _Foreign(BaseModel):
    """A body of somebody else's dialect: what it may hold beside our fields is ignored."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class _Own(BaseModel):
    """A body of ours: an unknown field is a mistake."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


# --- what comes in


class EmbeddingsBody(_Foreign):
    """OpenAI's. `input_type` is an addition: it chooses the prompt that the model was trained with."""

    input: StrictStr | Texts
    model: StrictStr | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None
    user: StrictStr | None = None
    input_type: Literal["query", "passage"] | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _no_token_ids(cls, value: Any) -> Any:
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(first, int | list):
            raise ValueError(  # noqa: TRY004 (pydantic reports no TypeError)
                "these are token ids, which belong to another model's tokenizer. Send text (LangChain: "
                "OpenAIEmbeddings(check_embedding_ctx_length=False))."
            )
        return value


class EmbedBody(_Foreign):
    """TEI's. `truncate` false refuses a text that is too long; `prompt_name` is query or passage."""

    inputs: StrictStr | Texts
    normalize: StrictBool = True
    truncate: StrictBool | None = None
    truncation_direction: Literal["right", "Right", "left", "Left"] = "right"
    prompt_name: StrictStr | None = None
    dimensions: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None


class _Document(_Foreign):
    text: StrictStr


class RerankBody(_Foreign):
    """Jina's and infinity's."""

    query: Query
    documents: Annotated[list[StrictStr | _Document], Field(min_length=1)]
    model: StrictStr | None = None
    top_n: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None
    return_documents: StrictBool = False
    raw_scores: StrictBool = False


class CohereBody(_Foreign):
    """Cohere's, version 2."""

    query: Query
    documents: Annotated[list[StrictStr | _Document], Field(min_length=1)]
    model: StrictStr | None = None
    top_n: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None
    max_tokens_per_doc: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None


class TeiRerankBody(_Foreign):
    """TEI's."""

    query: Query
    texts: Texts
    raw_scores: StrictBool = False
    return_text: StrictBool = False
    truncate: StrictBool | None = None
    truncation_direction: Literal["right", "Right", "left", "Left"] = "right"


class SearchBody(_Own):
    """Ours. `where` filters by metadata, `first` is the first stage of two-stage, `max_ms` the time of its second."""

    query: Query
    index: Annotated[StrictStr, Field(pattern=INDEX_NAME)] | None = None
    strategy: Literal["two-stage", "rerank", "hybrid", "dense", "bm25"] | None = None
    first: Literal["hybrid", "dense", "bm25"] | None = None
    k: Annotated[StrictInt, Field(ge=1, le=1000)] = 10
    candidates: Annotated[StrictInt, Field(ge=1, le=100_000)] | None = None
    where: JsonObject | None = None
    max_ms: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False, strict=True)] | None = None
    highlights: StrictBool = False
    explain: StrictBool = False


class PassageBody(_Own):
    """A passage on its way in."""

    id: Annotated[StrictStr, Field(min_length=1, max_length=512)]
    text: StrictStr
    title: StrictStr = ""
    lang: Annotated[StrictStr, Field(max_length=35)] = ""
    meta: JsonObject = {}


class PassagesBody(_Own):
    """Passages to store; mode "add" refuses an id that is known."""

    passages: Annotated[list[PassageBody], Field(min_length=1)]
    mode: Literal["upsert", "add"] = "upsert"


class DeleteBody(_Own):
    """Which passages to delete: by id, or by a filter."""

    ids: Annotated[list[Annotated[StrictStr, Field(min_length=1, max_length=512)]], Field(min_length=1)] | None = None
    where: Annotated[JsonObject, Field(min_length=1)] | None = None


# --- what goes out, for the description at /openapi.json


class EmbeddingItem(BaseModel):
    """A vector: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsReply(BaseModel):
    """OpenAI's."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: Usage


class RerankResult(BaseModel):
    """A document by its place in the request."""

    index: int
    relevance_score: float
    document: dict[str, str] | None = None


class RerankReply(BaseModel):
    """Jina's and infinity's."""

    object: Literal["rerank"]
    id: str
    model: str
    created: int
    usage: Usage
    results: list[RerankResult]


class CohereReply(BaseModel):
    """Cohere's."""

    id: str
    results: list[RerankResult]
    meta: dict[str, Any]


class TeiRank(BaseModel):
    """TEI's."""

    index: int
    score: float
    text: str | None = None


class HitReply(BaseModel):
    """A passage with what each stage said of it; ranges are [start, stop) in code points, `probability` the reranker's."""

    id: str
    title: str
    text: str
    lang: str
    meta: dict[str, Any]
    score: float
    probability: float | None = None
    scores: dict[str, float]
    ranks: dict[str, int]
    tokens_cut: int
    highlights: dict[str, list[tuple[int, int]]] | None = None
    explain: dict[str, Any] | None = None


class SearchReply(BaseModel):
    """Ours; timings in milliseconds."""

    object: Literal["search"]
    index: str
    query: str
    strategy: str
    hits: list[HitReply]
    timings: dict[str, float]
    scored: dict[str, int]
    weights: dict[str, float]
    notes: list[str]
    truncated: bool


class FieldValue(BaseModel):
    """A value, and how many passages have it."""

    value: str | bool | int | float
    passages: int


class FieldReply(BaseModel):
    """What there is to filter by in one field; `range` is that of its numbers, `complete` whether `values` are all."""

    types: list[Literal["string", "number", "boolean"]]
    values: list[FieldValue]
    complete: bool
    range: tuple[float, float] | None


class EncoderReply(BaseModel):
    """The encoder that wrote an index, and how the vectors are kept."""

    name: str
    dims: int
    vectors: str


class IndexReply(BaseModel):
    """An index; `languages` has passages by language, "" for an unknown one, `bytes` the size on disk of each part."""

    object: Literal["index"]
    name: str
    passages: int
    languages: dict[str, int]
    analyzer: str
    encoder: EncoderReply | None
    reranker: str | None
    strategies: list[str]
    fields: dict[str, FieldReply]
    bytes: dict[str, int]
    last_commit: str


class IndexesReply(BaseModel):
    """All indexes."""

    object: Literal["list"]
    data: list[IndexReply]


class PassagesReply(BaseModel):
    """Passages that were found, and the ids that were not."""

    object: Literal["list"]
    data: list[PassageBody]
    missing: list[str]


class StoredReply(BaseModel):
    """How many of the given passages the index holds now, new or not; `truncated` ones were cut for the encoder."""

    stored: int
    truncated: int
    passages: int


class DeletedReply(BaseModel):
    """What was deleted."""

    deleted: int
    passages: int


class ListReply(BaseModel):
    """A list of objects."""

    object: Literal["list"]
    data: list[dict[str, Any]]


# --- answers and errors


class OpenAIError(BaseModel):
    """OpenAI's, and ours; Jina's clients read `detail`."""

    error: dict[str, str | None]
    detail: str | None = None


class CohereError(BaseModel):
    """Cohere's."""

    message: str


class TeiError(BaseModel):
    """TEI's."""

    error: str
    error_type: str


class Answer(Response):
    """A value as JSON in UTF-8; a number that JSON cannot hold is an error of ours."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes."""
        try:
            return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
        except UnicodeEncodeError:  # metadata that was stored before it was checked
            return json.dumps(content, allow_nan=False).encode("ascii")


def dialect_of(path: str) -> str:
    """Who is spoken to: openai, jina, cohere, tei or own."""
    return {
        "/v1/embeddings": "openai",
        "/v1/rerank": "jina",
        "/v2/rerank": "cohere",
        "/rerank": "tei",
        "/embed": "tei",
    }.get(path.rstrip("/"), "own")


def error_model(path: str) -> type[BaseModel]:
    """The shape of errors at this path."""
    models: dict[str, type[BaseModel]] = {"cohere": CohereError, "tei": TeiError}
    return models.get(dialect_of(path), OpenAIError)


_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_TEI_TYPES = {401: "Unauthorized", 403: "Unauthorized", 429: "Overloaded"}


def problem(path: str, status: int, message: str, param: str | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """An error in the shape of the dialect that the path belongs to."""
    dialect = dialect_of(path)
    kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    code = "model_not_found" if status == 404 and dialect in ("openai", "jina") else None
    content: dict[str, Any] = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    if dialect == "jina":
        content["detail"] = message
    elif dialect == "cohere":
        content = {"message": message}
    elif dialect == "tei":
        default = "Validation" if status < 500 else "Unhealthy" if status == 503 else "Backend"
        content = {"error": message, "error_type": _TEI_TYPES.get(status, default)}
    return Answer(content, status, headers)


_STATUS: tuple[tuple[type[ShortlistError], int], ...] = (
    (UnknownName, 404),
    (TooMuch, 413),
    (Overloaded, 429),
    (TimedOut, 504),
    (Withdrawn, 499),
    (IndexLocked, 409),
    (IndexFormatError, 503),
    (ModelNotFound, 503),
    (ModelMismatch, 503),
    (ModelError, 500),
    (BadInput, 422),
)


def refusal(path: str, error: ShortlistError) -> Answer:
    """An error of the library as an answer; the path of a folder stays here."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    if status == 422 and dialect_of(path) in ("openai", "cohere"):
        status = 400
    headers = {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(error.retry_s)
    elif status in (409, 503):
        headers["Retry-After"] = "5"
    return problem(path, status, _without_paths(str(error)), headers=headers)


def _without_paths(message: str) -> str:
    """The message with absolute paths reduced to their last part."""
    return re.sub(r"(?<![\w:/])/(?:[^\s/:,'\"]+/)*([^\s/:,'\"]+)", r"\1", message)


def invalid(path: str, errors: list[Mapping[str, Any]]) -> Answer:
    """A body or parameter that does not fit, with the place and what was expected; the value itself is not repeated."""
    first = errors[0]
    malformed = first.get("type") == "json_invalid"
    place = ".".join(map(str, first.get("loc", ())[1:]))  # the first says whether it is of the body or the address
    place = re.sub(r"[^\x20-\x7e]", "?", place)[:100]
    more = f" ({len(errors) - 1} more problems)" if len(errors) > 1 else ""
    what = f"the body is not valid JSON: {first.get('ctx', {}).get('error', '')}" if malformed else str(first.get("msg", ""))
    if first.get("type") == "model_attributes_type":
        what = "expected a JSON object with the header Content-Type: application/json"
    message = what if malformed or not place else f"{place}: {what}"
    status = 400 if malformed or dialect_of(path) in ("openai", "cohere") else 422
    return problem(path, status, message[:500] + more, param=place or None)
