"""The house of ARCHITECTURE.md: imports go down, or to the left within a row, and the lower rows stay lean."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shortlist

PACKAGE = Path(shortlist.__file__).parent
ROWS = [
    ("errors", "types", "_native"),
    ("text", "analyze", "filters", "quantize", "ranked", "fuse", "calibrate", "significance", "measures", "comparison"),
    ("models", "tokens", "engines", "stores", "data"),
    ("encoder", "reranker"),
    ("index",),
    ("pipeline", "provenance", "mteb_adapter"),
    ("latency", "report", "reproduce", "tune", "train"),
    ("server", "mcp", "cli", "__main__"),
]
ROW = {name: number for number, names in enumerate(ROWS, 1) for name in names}
PLACE = {name: place for place, name in enumerate(name for names in ROWS for name in names)}
HEAVY = {
    "torch",
    "transformers",
    "sentence_transformers",
    "matplotlib",
    "huggingface_hub",
    "ir_measures",
    "onnxruntime",
    "Stemmer",
    "sentencepiece",
    "onnx",
    "gguf",
    "datasets",
    "scipy",
    "mteb",
    "ir_datasets",
    "pyarrow",
    "inscriptis",
    "lxml",
    "pypdfium2",
    "fastapi",
    "starlette",
    "pydantic",
    "uvicorn",
    "prometheus_client",
    "opentelemetry",
}
# Modules that are a torch network or its training from end to end; the command line opens them by name.
TORCH = {"train/joint.py", "train/rerank.py"}
# Likewise the service; the verb `serve` opens it.
WEB = {"fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client", "opentelemetry"}


def modules() -> list[Path]:
    return [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py" and "_models" not in p.parts]


def part(path: Path) -> str:
    """The name in ROWS that a file belongs to: `models` for models/card.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """(dotted module, stands at the top of the file) of every import that runs."""
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    top = {id(node) for node in ast.iter_child_nodes(tree)}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"shortlist.{a.name}" for a in node.names] if node.module == "shortlist" else [node.module]
            yield from ((name, id(node) in top) for name in names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_or_left(path):
    assert part(path) in ROW, f"{path.name} stands in no row: add it to ROWS and ARCHITECTURE.md"
    for name, _ in imported(ast.parse(path.read_text())):
        words = name.split(".")
        if words[0] != "shortlist" or len(words) == 1 or words[1] == "__version__":
            continue
        same_package = words[1] == part(path)
        assert same_package or PLACE[words[1]] < PLACE[part(path)], f"{part(path)} (row {ROW[part(path)]}) imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_optional_packages_are_imported_where_they_are_used(path):
    allowed_low = {"numpy", "shortlist", "__future__"} | set(sys.stdlib_module_names)
    for name, top in imported(ast.parse(path.read_text())):
        root = name.split(".")[0]
        if root in ("torch", "transformers") and str(path.relative_to(PACKAGE)) in TORCH:
            continue
        if root in WEB and part(path) == "server":
            continue
        assert not (top and root in HEAVY), f"{path.name} imports {name} at its top"
        if top and ROW[part(path)] <= 2:
            assert root in allowed_low, f"{path.name} is in a low row and imports {name} at its top"


def test_import_shortlist_loads_no_other_package():
    code = "import json, sys; before = set(sys.modules); import shortlist; print(json.dumps(sorted(set(sys.modules) - before)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert "shortlist" in loaded
    assert loaded - {"shortlist"} <= set(sys.stdlib_module_names)


def test_public_names_are_there():
    assert all(getattr(shortlist, name) is not None for name in shortlist.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = shortlist.nonsense
