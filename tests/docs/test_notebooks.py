"""The notebooks run from their first cell to their last, and what is stored in them is what a reader may see."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from shortlist import cli

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stored_and_tell_of_no_machine(path):
    stored = [output for cell in cells(path, "code") for output in cell["outputs"]]
    assert len(stored) > 10
    assert not [output for output in stored if output["output_type"] == "error"]
    assert not re.search(r"/home/|/root/|/tmp/|/work/", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_commands_that_it_names_parse(path):
    text = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    commands = [shlex.split(line) for line in re.findall(r"`(shortlist [^`]+)`", text)]
    assert commands
    for words in commands:
        assert callable(cli.parse(words[1:]).verb)


@pytest.mark.weights
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path):
    nbclient = pytest.importorskip("nbclient", reason="needs the extra notebook")
    nbformat = pytest.importorskip("nbformat", reason="needs the extra notebook")
    notebook = nbformat.read(path, as_version=4)
    stored = [len(cell["outputs"]) for cell in notebook.cells if cell["cell_type"] == "code"]
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    assert [len(cell["outputs"]) for cell in notebook.cells if cell["cell_type"] == "code"] == stored
