"""The field's own clients, pointed at a running server, and schemathesis over its description."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # some clients leave their connections open
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from server_tools import PATIENCE_S, as_array, make_index, running  # noqa: E402
from shortlist.encoder import Encoder  # noqa: E402
from shortlist.reranker import Reranker  # noqa: E402
from shortlist.server.guard import read_keys  # noqa: E402

KEY = "wwwwwwwwwwwwwwww"
QUERY, DOCUMENTS = "river city", ["the river in the city", "北京大学图书馆", "museum of the ocean", "river"]


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_encoder_folder, tiny_reranker_folder):
    folder = tmp_path_factory.mktemp("serve")
    (folder / "keys").write_text(f"write all {KEY}\n")
    path = make_index(folder / "wiki.idx", tiny_encoder_folder, 20)
    with running([path], rerank=str(tiny_reranker_folder), keys=read_keys(folder / "keys")) as one:
        yield one


@pytest.fixture(scope="module")
def encoder(tiny_encoder_folder):
    return Encoder.load(tiny_encoder_folder, threads=1)


@pytest.fixture(scope="module")
def order(tiny_reranker_folder):
    """Places of the documents, best first, and their probabilities."""
    reranker = Reranker.load(tiny_reranker_folder, threads=1)
    logits = reranker.score(QUERY, DOCUMENTS)
    return [(int(i), float(reranker.probability(logits[i]))) for i in np.argsort(-logits, kind="stable")]


def test_openai(server, encoder):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
    for form in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}, {"dimensions": 64}):
        reply = client.embeddings.create(model=encoder.name, input=DOCUMENTS, **form)
        vectors = [one.embedding for one in reply.data]
        if form.get("encoding_format") == "base64":
            import base64

            vectors = [np.frombuffer(base64.b64decode(one), "<f4") for one in vectors]
        np.testing.assert_array_equal(as_array(vectors), encoder.encode(DOCUMENTS, kind=""))
        assert reply.usage.total_tokens > 0
    asked = client.embeddings.create(model=encoder.name, input="river", extra_body={"input_type": "query"})
    np.testing.assert_array_equal(as_array(asked.data[0].embedding), encoder.encode(["river"], kind="query")[0])
    assert encoder.name in [model.id for model in client.models.list()]


def test_openais_errors(server, encoder):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
    with pytest.raises(openai.NotFoundError) as error:
        client.embeddings.create(model="text-embedding-3-small", input="x")
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="token ids"):
        client.embeddings.create(model=encoder.name, input=[1, 2])
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="nonsense").embeddings.create(model=encoder.name, input="x")


def test_cohere(server, order):
    cohere = pytest.importorskip("cohere")
    client = cohere.ClientV2(api_key=KEY, base_url=server.url)
    reply = client.rerank(model="tiny-reranker", query=QUERY, documents=DOCUMENTS, top_n=3)
    assert [(one.index, one.relevance_score) for one in reply.results] == order[:3]
    with pytest.raises(cohere.NotFoundError) as error:
        client.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS)
    assert "tiny-reranker" in error.value.body["message"]
    with pytest.raises(cohere.UnauthorizedError):
        cohere.ClientV2(api_key="nonsense", base_url=server.url).rerank(model="x", query="x", documents=["x"])


def nodes():
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

    return [NodeWithScore(node=TextNode(text=text)) for text in DOCUMENTS], QueryBundle(QUERY)


def test_llama_index_by_cohere(server, order):
    pytest.importorskip("llama_index.postprocessor.cohere_rerank")
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    texts, query = nodes()
    found = CohereRerank(model="tiny-reranker", api_key=KEY, base_url=server.url, top_n=2).postprocess_nodes(texts, query)
    assert [(one.node.text, one.score) for one in found] == [(DOCUMENTS[i], score) for i, score in order[:2]]


def test_llama_index_by_jina(server, order):
    pytest.importorskip("llama_index.postprocessor.jinaai_rerank")
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    texts, query = nodes()
    jina = JinaRerank(model="tiny-reranker", api_key=KEY, base_url=f"{server.url}/v1", top_n=2)
    found = jina.postprocess_nodes(texts, query)
    assert [(one.node.text, one.score) for one in found] == [(DOCUMENTS[i], score) for i, score in order[:2]]


def test_hugging_faces_client_of_tei(server, encoder, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    # Set by a client that was imported before; the service is on this machine.
    monkeypatch.setattr(pytest.importorskip("huggingface_hub.constants"), "HF_HUB_OFFLINE", False)
    client = hub.InferenceClient(f"{server.url}/embed", token=KEY)
    np.testing.assert_array_equal(client.feature_extraction("river"), encoder.encode(["river"], kind=""))


def test_schemathesis(server):
    """What the description allows is answered as it says, and what it forbids is refused: 20 cases an endpoint."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance  # rules between fields are in no schema

    headers = {"Authorization": f"Bearer {KEY}"}
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=headers)
    seen = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        seen.add(operation.path)

        @given(case=operation.as_strategy())
        @settings(
            max_examples=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate],
        )
        def check(case):
            case.call_and_validate(headers=headers, timeout=PATIENCE_S, excluded_checks=[positive_data_acceptance])

        check()
    assert len(seen) == 12
