"""The hub through the real huggingface_hub, against a local HTTP server that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

from shortlist import models
from shortlist.errors import ChecksumError, ModelError, ModelNotFound
from shortlist.models import fingerprint

constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra `hub`")

COMMIT, OLD = "a" * 40, "b" * 40


class Hub(ThreadingHTTPServer):
    """One repository, `tiny/encoder`; `files` are what it says it has, `served` what it sends."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.served = files, dict(files)
        self.requests: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def siblings(self) -> list[dict]:
        return [{"rfilename": n, "size": len(c), "blobId": blob(c)} | lfs(n, c) for n, c in self.files.items()]


def blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".onnx", ".bin"))


def lfs(name: str, content: bytes) -> dict:
    digest = hashlib.sha256(content).hexdigest()
    return {"lfs": {"sha256": digest, "size": len(content), "pointerSize": 134}} if is_large(name) else {}


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests[path] += 1
        if path.startswith("api/models/tiny/encoder/tree/"):
            self.tree()
        elif path.startswith("api/models/tiny/encoder"):
            self.about(path)
        elif path.startswith("tiny/encoder/resolve/"):
            self.file(*path.split("/", 4)[3:])
        else:
            self.refuse("RepoNotFound", 404)

    def tree(self) -> None:
        entries = []
        for name, content in self.server.files.items():
            entry = {"type": "file", "path": name, "oid": blob(content), "size": len(content)}
            if is_large(name):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        self.send(json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def about(self, path: str) -> None:
        revision = path.partition("/revision/")[2] or "main"
        if revision not in ("main", COMMIT, OLD):
            self.refuse("RevisionNotFound", 404)
            return
        commit = OLD if revision == OLD else COMMIT
        about = {
            "id": "tiny/encoder",
            "modelId": "tiny/encoder",
            "sha": commit,
            "siblings": self.server.siblings(),
            "private": False,
        }
        about |= {
            "private": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "cardData": {"license": "mit", "language": ["zh", "en"]},
        }
        self.send(json.dumps(about).encode(), {"Content-Type": "application/json"})

    def file(self, revision: str, name: str) -> None:
        if name not in self.server.served:
            self.refuse("EntryNotFound", 404)
            return
        published = self.server.files[name]
        tag = lfs(name, published)["lfs"]["sha256"] if is_large(name) else blob(published)
        self.send(self.server.served[name], {"ETag": f'"{tag}"', "X-Repo-Commit": revision})

    def send(self, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for key, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def refuse(self, code: str, status: int) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub(tiny_encoder_folder, monkeypatch, tmp_path):
    files = {
        p.relative_to(tiny_encoder_folder).as_posix(): p.read_bytes() for p in tiny_encoder_folder.rglob("*") if p.is_file()
    }
    files |= {"pytorch_model.bin": b"t" * 1000, "onnx/model.onnx": b"o" * 1000, "README.md": b"# tiny\n"}
    server = Hub(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("SHORTLIST_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_fetch(hub, tiny_encoder_folder):
    folder = models.fetch("tiny/encoder")
    assert folder == models.resolve("tiny/encoder") == models.home() / "tiny--encoder"
    assert fingerprint(folder) == fingerprint(tiny_encoder_folder)
    card = models.read_card(folder)
    assert (card.name, card.licence, card.languages) == ("tiny/encoder", "mit", ("zh", "en"))
    assert COMMIT in card.source
    assert models.verify("tiny/encoder") == []
    assert "tiny/encoder" in [a.name for a in models.available()]
    assert not (folder / ".cache").exists()


def test_only_what_is_needed_is_downloaded(hub):
    folder = models.fetch("tiny/encoder")
    assert not (folder / "pytorch_model.bin").exists()
    assert not (folder / "onnx").exists()
    assert not any("pytorch_model.bin" in r or "onnx" in r for r in hub.requests)


def test_nothing_is_asked_afterwards(hub, monkeypatch):
    models.fetch("tiny/encoder")
    hub.requests.clear()
    models.resolve("tiny/encoder", download=True)
    models.fetch("tiny/encoder")
    assert not hub.requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert models.resolve("tiny/encoder").is_dir()


def test_nothing_is_asked_without_download(hub):
    with pytest.raises(ModelNotFound, match="shortlist models fetch tiny/encoder"):
        models.resolve("tiny/encoder")
    assert not hub.requests


def test_revision(hub):
    folder = models.fetch("tiny/encoder", revision=OLD)
    assert OLD in models.read_card(folder).source
    assert any(f"resolve/{OLD}/" in r for r in hub.requests)
    assert folder != models.resolve("tiny/encoder", download=True)
    assert models.resolve("tiny/encoder", revision=OLD) == folder
    with pytest.raises(ModelNotFound, match="no such revision"):
        models.fetch("tiny/encoder", revision="nowhere")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_is_not_the_published_one(hub, name):
    hub.served[name] = bytes([hub.files[name][0] ^ 1]) + hub.files[name][1:]
    with pytest.raises(ChecksumError, match=name.replace(".", r"\.")):
        models.fetch("tiny/encoder")
    assert list(models.home().iterdir()) == []


def test_no_such_repository(hub):
    with pytest.raises(ModelNotFound, match="nobody/nothing: the hub has no such model"):
        models.fetch("nobody/nothing")


def test_a_repository_without_a_model(hub):
    del hub.files["model.safetensors"]
    with pytest.raises(ModelNotFound, match=r"model\.safetensors missing"):
        models.fetch("tiny/encoder")
    assert list(models.home().iterdir()) == []


def test_offline(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match="HF_HUB_OFFLINE"):
        models.fetch("tiny/encoder")
    assert not hub.requests


def test_a_hub_that_does_not_answer(monkeypatch, tmp_path):
    monkeypatch.setenv("SHORTLIST_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ModelError, match="could not be read"):
        models.fetch("tiny/encoder")
