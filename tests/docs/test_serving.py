"""docs/serving.md cannot lie: its commands parse, its requests and clients get answers, its limits are the ones in force."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from shortlist import cli

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8080"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()])
def test_the_commands_parse(line):
    args = cli.build_parser().parse_args(shlex.split(line, comments=True)[1:])
    assert callable(args.verb)


def test_local_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / link).exists(), link


def test_the_keys_are_read(tmp_path):
    guard = pytest.importorskip("shortlist.server.guard", reason="the extra serve is not installed", exc_type=ImportError)
    (block,) = blocks("text")
    (tmp_path / "keys").write_text(block)
    assert [(key.name, key.write) for key in guard.read_keys(tmp_path / "keys")] == [("web", False), ("loader", True)]


def test_the_limits_are_those_in_force():
    work = pytest.importorskip("shortlist.server.work", reason="the extra serve is not installed", exc_type=ImportError)
    limits, table = work.Limits(), TEXT[TEXT.index("| limit |") : TEXT.index("When a client leaves")]
    for value in (
        f"{limits.body_bytes >> 20} MiB; {limits.held_bytes >> 20} MiB",
        f"{limits.texts:,} (passages {limits.passages:,}) of at most {limits.text_chars:,} characters",
        f"candidates | {limits.candidates:,}",
        f"{limits.queue_tokens:,}",
        f"{limits.request_s:g} s",
        f"{limits.header_s:g} s, {limits.body_s:g} s",
        f"connections | {limits.connections:,}",
    ):
        assert value in table, value
    assert f"within {limits.shutdown_s:g} s" in TEXT
    assert limits.writer_idle_s == 10


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The index `my` with tiny models under the names of ours."""
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    import tiny_models
    from server_tools import make_index, running

    folder = tmp_path_factory.mktemp("serving")
    encoder = tiny_models.write_encoder(folder / "shortlist-embed")
    reranker = tiny_models.write_reranker(folder / "shortlist-rerank-L-6")
    with running([make_index(folder / "my.idx", encoder)], rerank=str(reranker)) as one:
        yield one


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_requests_are_answered(server):
    for command in (shlex.split(one) for block in blocks("bash") for one in re.split(r"\n(?=curl)", block)):
        words = [word.replace(ADDRESS, server.url) for word in command]
        done = subprocess.run([*words, "--fail"], capture_output=True, text=True, timeout=60, check=True)
        assert "object" in json.loads(done.stdout) or {"stored", "deleted"} & set(json.loads(done.stdout))


@pytest.mark.clients
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("package", ["openai", "cohere", "llama_index"])
def test_the_clients_get_answers(server, package):
    """Tiny random models find nothing: what must hold is all but what the answer says."""
    pytest.importorskip(package)
    (code,) = [block for block in blocks("python") if package in block.split("\n\n")[0]]
    code = code.replace(ADDRESS, server.url).replace("== 384", "== 64")
    code = re.sub(r"assert (reply\.results\[0\]\.index) == 1", r"assert \1 in (0, 1)", code)
    code = re.sub(r"assert (rerank\.postprocess_nodes.*)\.node\.text.*", r"assert \1.score", code)
    exec(compile(code, "serving.md", "exec"), {})


def test_the_application_can_be_built(tmp_path, monkeypatch, tiny_reranker_folder):
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from server_tools import make_index

    make_index(tmp_path / "my.idx", None, 3)
    monkeypatch.chdir(tmp_path)
    (code,) = [block for block in blocks("python") if "build_app" in block]
    names: dict[str, object] = {}
    exec(compile(code.replace('"L-6"', repr(str(tiny_reranker_folder))), "serving.md", "exec"), names)
    assert callable(names["app"])
