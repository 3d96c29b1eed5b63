"""`doctor`: what this machine has, what is installed, which kernels run."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sqlite3
from typing import Any

from rich.table import Table

from shortlist import __version__, models
from shortlist.cli.show import example, out, print_json
from shortlist.engines import native

PACKAGES = (
    "numpy",
    "tokenizers",
    "safetensors",
    "rich",
    "PyStemmer",
    "huggingface_hub",
    "ir-measures",
    "pytrec-eval-terrier",
    "matplotlib",
    "fastapi",
    "uvicorn",
    "prometheus-client",
)


def add_verbs(verbs: Any) -> None:
    """Register `doctor`."""
    parser = verbs.add_parser(
        "doctor",
        help="what this machine has and which kernels run",
        description="Versions, processor, kernels, threads, packages and models; paste it into a bug report.",
        **example("shortlist doctor --json"),
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(verb=run_doctor)


def run_doctor(args: argparse.Namespace) -> int:
    """Print the report."""
    report = examine()
    if args.json:
        print_json(report)
        return 0
    table = Table(show_header=False)
    for name, value in report.items():
        table.add_row(name, "\n".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value))
    out().print(table)
    return 0


def examine() -> dict[str, Any]:
    """What `doctor` prints, as JSON values."""
    return {
        "shortlist": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "sqlite": sqlite3.sqlite_version,
        "instruction sets": ", ".join(native.available_instruction_sets()),
        "kernels in use": native.chosen_instruction_set(),
        "threads": native.available_cpus(),
        "cores of the host": os.cpu_count(),
        "models in": str(models.home()),
        "models here": ", ".join(model.name for model in models.available() if model.fetched) or "none",
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
