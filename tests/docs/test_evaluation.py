"""docs/evaluation.md: its files are made, its commands run, its numbers come out."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from shortlist import cli

DOCUMENT = Path(__file__).parents[2] / "docs" / "evaluation.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")


def blocks(*kinds: str) -> list[tuple[str, str]]:
    """(kind, content) of the code blocks of these kinds, in order: `sh` runs anywhere, `sh models` needs fetched models."""
    found = re.findall(r"^```([^\n]+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    return [(kind, content) for kind, content in found if kind in kinds]


def run(folder: Path, *kinds: str) -> str:
    """Run the blocks one after the other in one folder; what they print."""
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    printed = ""
    for kind, content in blocks(*kinds):
        command = [sys.executable, "-c", content] if kind == "python" else ["sh", "-e", "-c", content]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{content}\n{done.stdout}\n{done.stderr}"
        printed += done.stdout
    return printed


def commands() -> list[list[str]]:
    lines = "\n".join(content for _, content in blocks("sh", "sh models", "sh offline")).splitlines()
    return [shlex.split(line) for line in lines if line.startswith("shortlist ")]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_commands_parse(words):
    assert callable(cli.build_parser().parse_args(words[1:]).verb)


def test_every_block_is_of_a_kind_that_is_tested():
    assert set(re.findall(r"^```(.+)$", TEXT, re.MULTILINE)) == {"sh", "sh models", "sh offline", "python", "python mteb"}


def test_what_needs_no_model_runs(tmp_path):
    pytest.importorskip("ir_measures", reason="the measures need the extra 'eval'")
    printed = run(tmp_path, "sh", "python")
    assert "{'NDCG@1': 1.0" in printed
    assert "wins against" in printed
    manifest = json.loads((tmp_path / "bm25.trec.manifest.json").read_text(encoding="utf-8"))
    assert manifest["corpus"]["passages"] == 6
    assert manifest["command"].startswith("shortlist run words.idx queries.tsv")


@pytest.mark.weights
def test_all_of_it_runs_with_models(tmp_path):
    printed = run(tmp_path, "sh", "sh models", "python")
    assert "two-stage.trec − bm25.trec" in printed


def test_local_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert link.startswith("http") or (DOCUMENT.parent / link).exists()
