"""The README cannot lie: its Python runs, its commands are ones that the program knows."""

import json
import re
import shlex
from pathlib import Path

import pytest

from shortlist import cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FUSION = (ROOT / "docs" / "fusion.md").read_text(encoding="utf-8")
VECTORS = (ROOT / "docs" / "vectors.md").read_text(encoding="utf-8")


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands():
    lines = "\n".join(block for page in PAGES for block in blocks("sh", page.read_text(encoding="utf-8"))).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("shortlist ")]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_commands_parse(words):
    args = cli.parse(words[1:])
    assert callable(args.verb)


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_local_links_lead_somewhere():
    for document in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if not link.startswith("http"):
                assert (document.parent / link).exists(), f"{document.name} links to {link}"


@pytest.mark.weights
def test_the_python_runs_and_finds_the_answer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "柏林有多少人口？"
    assert "zh-1" in out.splitlines()[1]
    assert "rerank_ms" in out


@pytest.mark.weights
def test_the_page_on_vectors_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks("python", VECTORS)), "vectors.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "['de', 'en']"
    assert lines[1:] == [
        "float32 (1000, 384)",
        "int8 (1000, 384)",
        "uint8 (1000, 384)",
        "binary (1000, 48)",
        "ubinary (1000, 48)",
    ]


@pytest.mark.weights
def test_the_page_on_fusion_runs(tmp_path, monkeypatch, capsys):
    import shortlist as sl

    with sl.Index.create(tmp_path / "my.idx", encoder=sl.Encoder.load("shortlist-embed")) as index:
        index.add(sl.read_passages(ROOT / "README.md"))
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks("python", FUSION)), "fusion.md", "exec"), {})
    weights = json.loads(capsys.readouterr().out.replace("'", '"'))
    assert weights["bm25"] == 0.5
    assert 0.2 < weights["dense"] < 5
