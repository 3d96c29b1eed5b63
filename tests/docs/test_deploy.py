"""What stands in deploy/: the dashboard knows only metrics that there are, unit and container file pass their linters."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shortlist import cli

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def test_every_metric_of_the_dashboard_exists_and_each_of_ours_is_shown():
    pytest.importorskip("prometheus_client", reason="the extra serve is not installed")
    from shortlist.server.metrics import Metrics

    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
    text = Metrics().exposition([]).decode()
    known = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    queries = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    queries += " ".join(variable["query"] for variable in dashboard["templating"]["list"])
    shown = set()
    for name in re.findall(r"\b(?:shortlist|process)_\w+", queries):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        assert known.get(name) in ("counter", "gauge") or known.get(base) == "histogram", name
        shown |= {name, base}
    assert {name for name in known if name.startswith("shortlist_") and not name.endswith("_created")} <= shown


def command_of(text: str) -> list[str]:
    """The words of a `shortlist serve …` line."""
    return shlex.split(text[text.index("serve") :])


def test_the_commands_of_unit_and_container_parse():
    unit = (DEPLOY / "shortlist.service").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    container = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    (entry,), (words,) = (
        re.findall(r"^ENTRYPOINT (.*)$", container, re.MULTILINE),
        re.findall(r"^CMD (.*)$", container, re.MULTILINE),
    )
    for command in (command_of(line), [*json.loads(entry)[1:], *json.loads(words)]):
        args = cli.build_parser().parse_args(command)
        assert args.indexes == ["my.idx"]
        assert args.port == 8080
        assert args.keys is not None


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path):
    unit = (DEPLOY / "shortlist.service").read_text(encoding="utf-8").replace("/opt/shortlist/bin/shortlist", sys.executable)
    (tmp_path / "shortlist.service").write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "shortlist.service")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_hadolint_accepts_the_container_file():
    tool = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([tool, str(DEPLOY / "Containerfile")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
