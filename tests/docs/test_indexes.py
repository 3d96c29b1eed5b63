"""docs/indexes.md: its commands run one after the other in an empty folder, and its Python."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import tiny_models
from shortlist import cli

TEXT = (Path(__file__).parents[2] / "docs" / "indexes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def test_every_block_is_of_a_kind_that_is_tested():
    assert {kind for kind, _ in BLOCKS} == {"sh", "python"}


def test_it_runs(tmp_path):
    """With a tiny encoder in the place of ours, and no reranker, which needs the table of ours."""
    model = shlex.quote(str(tiny_models.write_encoder(tmp_path / "tiny")))
    (tmp_path / "empty").mkdir()
    scripts = Path(sys.executable).parent
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "shortlist"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m shortlist "$@"\n')
    command.chmod(0o755)
    path = os.pathsep.join([str(command.parent), str(scripts), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"}
    printed = []
    for kind, block in BLOCKS:
        content = block.replace("shortlist index docs/ -o my.idx", f"shortlist index docs/ -o my.idx --model {model}")
        content = content.replace("shortlist search", "shortlist search --rerank none")
        words = [sys.executable, "-c", content] if kind == "python" else ["sh", "-e", "-c", content]
        done = subprocess.run(words, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{content}\n{done.stdout}\n{done.stderr}"
        printed.append(done.stdout)
    assert "2 passages added" in printed[0]
    assert printed[1] == "my.idx: 2 passages, all sound\n"
    assert "backups/monday.idx: 2 passages" in printed[2]
    assert "1 replaced, 1 deleted, 1 in all" in printed[5]
    assert sorted(one.suffix for one in (tmp_path / "empty" / "backups").iterdir()) == [".idx"] * 3


@pytest.mark.parametrize("verb", ["check", "backup", "compact"])
def test_the_verbs_are_known(verb):
    assert f"index {verb}" in cli.HOME
