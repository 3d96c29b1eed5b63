"""The report: every form holds the numbers of `evaluate`, the page is one sound file, what it shows is what happened."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from shortlist.cli import main
from shortlist.data import read_manifest, read_qrels, read_run, write_run
from shortlist.measures import CARD, card_measures, evaluate
from shortlist.report.model import Cost, Mean
from shortlist.report.pictures import pareto, stage_bars
from shortlist.significance import bootstrap_interval, randomisation_test, stratified_interval, stratified_test
from shortlist.types import Run

for module in ("ir_measures", "pytrec_eval"):
    pytest.importorskip(module, reason="needs shortlist[eval]")

POLYGLOT = Path(__file__).parents[2] / "examples" / "polyglot"
VOID = {"meta", "br", "hr", "img", "input", "link"}
SYSTEMS = ("bm25", "dense", "hybrid", "two-stage")
ARGUMENTS = {"bm25": ["--first", "bm25"], "dense": ["--first", "dense"], "hybrid": [], "two-stage": ["--candidates", "8"]}
NOTE = "times & <script>alert(1)</script> are 100% noisy"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_encoder_folder, tiny_reranker_folder) -> Path:
    """polyglot/SYSTEM.trec for four systems with tiny models, and half/SYSTEM.trec for two of them on half of the queries."""
    folder = tmp_path_factory.mktemp("runs")
    index, queries, qrels = folder / "p.idx", POLYGLOT / "queries.jsonl", POLYGLOT / "qrels" / "test.tsv"
    assert main(["index", str(POLYGLOT), "-o", str(index), "--model", str(tiny_encoder_folder)]) == 0
    half = folder / "half.tsv"
    lines = qrels.read_text(encoding="utf-8").splitlines(keepends=True)
    half.write_text("".join(line for line in lines if not line.startswith(("zh", "ja", "ko"))), encoding="utf-8")
    for name, judged, systems in (("polyglot", qrels, SYSTEMS), ("half", half, ("bm25", "hybrid"))):
        (folder / name).mkdir()
        for system in systems:
            rerank = str(tiny_reranker_folder) if system == "two-stage" else "none"
            made = ["run", str(index), str(queries), "--qrels", str(judged), "-k", "20", "--rerank", rerank]
            assert main([*made, *ARGUMENTS[system], "-o", str(folder / name / f"{system}.trec")]) == 0
    return folder


@pytest.fixture(scope="module")
def written(runs) -> Path:
    """report.html, .md and .tex of the polyglot collection."""
    files = [str(runs / "polyglot" / f"{system}.trec") for system in SYSTEMS]
    outputs = [word for ending in ("html", "md", "tex") for word in ("-o", str(runs / f"report.{ending}"))]
    assert main(["report", *files, "--title", "A & B_1 <i>", "--note", NOTE, *outputs]) == 0
    return runs


class Page(HTMLParser):
    """Tags as they open and close, and the tables: caption -> rows of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.ids: list[str] = []
        self.rows: list[list[str]] | None = None
        self.hidden = self.caption = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows, self.caption = [], ""
        elif self.rows is not None and tag == "tr":
            self.rows.append([])
        elif self.rows is not None and tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "span" and (("class", "hidden") in attrs or ("aria-hidden", "true") in attrs):
            self.hidden = tag

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self.caption] = self.rows or []
            self.rows = None
        elif tag == self.hidden:
            self.hidden = ""

    def handle_data(self, data):
        if self.open and self.open[-1] == "caption":
            self.caption += data
        elif self.rows and self.rows[-1] and not self.hidden and self.open[-1] not in ("tr", "thead", "tbody", "table"):
            self.rows[-1][-1] += data


def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def markdown_tables(text: str) -> dict[str, list[list[str]]]:
    """Heading -> rows of plain cells without marks."""
    found: dict[str, list[list[str]]] = {}
    for part in text.split("\n## ")[1:]:
        rows = [line for line in part.splitlines() if line.startswith("| ")]
        cells = [re.split(r"(?<!\\) \| ", row.strip("| ")) for row in rows]
        if rows:
            found[part.splitlines()[0]] = [[plain(cell) for cell in row] for row in cells]
    return found


def plain(cell: str) -> str:
    return re.sub(r"\\(.)", r"\1", cell.replace("**", "").replace("▲", "").replace("▼", "")).strip()


def latex_tables(text: str) -> Iterator[list[list[str]]]:
    for part in re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL):
        rows = [line.removesuffix(r" \\") for line in part.splitlines()]
        yield [[latex_plain(cell) for cell in re.split(r" (?<!\\)& ", row)] for row in rows]


def latex_plain(cell: str) -> str:
    cell = re.sub(r"\\textbf\{([^}]*)\}", r"\1", cell)
    cell = re.sub(r"\$\^\{\\(up|down)arrow\}\$", "", cell)
    return cell.replace(r"\ldots{}", "…").replace("--", "–").replace("\\", "").strip()


def test_the_page_is_sound(written):
    found = page(written)
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    links = [value for tag, name, value in found.attributes if name == "href"]
    assert {link for link in links if link.removeprefix("#") not in found.ids} == set()
    heads = [value for tag, name, value in found.attributes if (tag, name) == ("th", "scope")]
    assert {"col", "row", "colgroup"} == set(heads)
    labelled = [value for tag, name, value in found.attributes if name == "aria-labelledby"]
    assert labelled
    assert all(set(ids.split()) <= set(found.ids) for ids in labelled)


def test_nothing_is_fetched(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    found = Page(text)
    assert not {tag for tag, _, _ in found.attributes} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "source",
        "image",
    }
    assert not re.search(r"<(script|link|img|iframe|object|embed|audio|video|base)\b", text)
    assert all(value.startswith("#") for _, name, value in found.attributes if name in ("href", "src", "xlink:href", "srcset"))
    assert not re.search(r"url\((?!#)|@import|@font-face", text)
    assert set(re.findall(r"https?://[^\"' <)]*", text)) <= {"http://www.w3.org/2000/svg"}


def test_texts_are_escaped(written):
    html, md, tex = ((written / f"report.{ending}").read_text(encoding="utf-8") for ending in ("html", "md", "tex"))
    assert "<h1>A &amp; B_1 &lt;i&gt;</h1>" in html
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert r"# A &amp; B\_1 &lt;i&gt;" in md
    assert "<script" not in md
    assert not re.search(r"(?<!\\)[%#_]", re.sub(r"(?m)\\label\{.*|\{%$", "", tex))


def test_every_form_holds_the_numbers_of_evaluate(written):
    qrels = read_qrels(POLYGLOT / "qrels" / "test.tsv")
    html = page(written).tables
    short, card = html["nDCG@10 of every system"][1:], html["All measures on polyglot"][2:]
    for system, (name, value), (_, *values) in zip(SYSTEMS, short, card, strict=True):
        run = read_run(written / "polyglot" / f"{system}.trec")
        assert name == system
        assert value == f"{evaluate(run, qrels, ['nDCG@10']).mean['nDCG@10']:.3f}"
        expected = card_measures(run, qrels)
        assert [float(v) for v in values] == [expected[label][f"{label}@{k}"] for label, (_, ks) in CARD.items() for k in ks]


def test_markdown_and_latex_hold_the_cells_of_the_page(written):
    html = page(written).tables
    markdown = markdown_tables((written / "report.md").read_text(encoding="utf-8"))
    latex = list(latex_tables((written / "report.tex").read_text(encoding="utf-8")))
    assert set(markdown) == set(html)
    for caption, rows in html.items():
        body = [row for row in rows if row[0] in SYSTEMS or re.match(r"\d+\. ", row[0])]
        assert markdown[caption][2:] == body
        assert body in latex or caption == "What made every run"
    assert len(latex) == len(html) - 1


def test_the_pictures_are_svg_that_name_every_system(written):
    for name in ("pareto-all", "stages-all", "pipeline", "batch"):
        root = ElementTree.parse(written / f"report.{name}.svg").getroot()
        texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
        assert root.attrib["aria-labelledby"]
        assert "-" not in name or set(SYSTEMS) <= set(texts)
        assert f"(report.{name}.svg)" in (written / "report.md").read_text(encoding="utf-8")


def test_the_worst_queries_are_those(written):
    qrels = read_qrels(POLYGLOT / "qrels" / "test.tsv")
    values = {
        system: evaluate(read_run(written / "polyglot" / f"{system}.trec"), qrels, ["nDCG@10"]).per_query["nDCG@10"]
        for system in ("bm25", "two-stage")
    }
    order = sorted(qrels, key=lambda q: (values["two-stage"][q] - values["bm25"][q], q))
    lost = [q for q in order if values["two-stage"][q] < values["bm25"][q]][:3]
    nothing = [q for q in qrels if values["two-stage"][q] == 0 and q not in lost][:3]
    assert lost
    assert nothing
    text = (written / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<dt>query ([^<]*)</dt>", text) == [*lost, *nothing]
    rows = map(json.loads, (POLYGLOT / "queries.jsonl").read_text(encoding="utf-8").splitlines())
    queries = {row["_id"]: row["text"] for row in rows}
    assert f"<h4><bdi>{queries[lost[0]]}</bdi></h4>" in text


def test_several_collections(runs, tmp_path, capsys):
    files = [str(runs / name) for name in ("polyglot/bm25.trec", "polyglot/hybrid.trec", "polyglot/dense.trec")]
    files += [str(runs / name) for name in ("half/bm25.trec", "half/hybrid.trec")]
    assert main(["report", *files, "--system", "hybrid", "-o", str(tmp_path / "report.html")]) == 0
    found = page(tmp_path).tables
    head, *rows = found["nDCG@10 of every system"]
    assert head == ["system", "meanall 2", "polyglot15 languages", "half15 languages"]
    means = {row[0]: (row[2:], row[1]) for row in rows}
    for values, mean in (means["bm25"], means["hybrid"]):
        assert float(mean) == pytest.approx(np.mean([float(v) for v in values]), abs=0.0011)
    assert means["dense"][0][1] == means["dense"][1] == "–"
    two, one = (found[f"Quality and cost over {over}"] for over in ("all 2 collections", "polyglot"))
    assert [row[0] for row in two[2:]] == ["bm25", "hybrid"]
    assert [row[0] for row in one[2:]] == ["bm25", "hybrid", "dense"]


def test_runs_from_elsewhere_are_told_what_judges_them(tmp_path, capsys):
    (tmp_path / "one").mkdir()
    write_run(Run({"q1": {"a": 2.0, "b": 1.0}}, name="x"), tmp_path / "one" / "other.trec")
    (tmp_path / "qrels.txt").write_text("q1 0 b 1\nq2 0 c 1\n", encoding="utf-8")
    run, out = str(tmp_path / "one" / "other.trec"), str(tmp_path / "report.html")
    assert main(["report", run, "-o", out]) == 1
    assert "Name them with --qrels one=FILE" in capsys.readouterr().err
    for qrels in (str(tmp_path / "qrels.txt"), f"one={tmp_path / 'qrels.txt'}"):
        assert main(["report", run, "--qrels", qrels, "-o", out]) == 0
    found = page(tmp_path).tables
    assert found["nDCG@10 of every system"][1] == ["other", f"{0.5 / np.log2(3):.3f}"]
    assert "other answers a query" not in (tmp_path / "report.html").read_text(encoding="utf-8")  # nobody knows how
    assert main(["report", run, run, "--qrels", qrels, "-o", out]) == 1
    assert "are both the system 'other'" in capsys.readouterr().err
    for words, message in (
        (["--baseline", "no"], "none of the systems"),
        (["-o", str(tmp_path / "r.pdf")], ".html, .md, .tex"),
    ):
        assert main(["report", run, "--qrels", qrels, "-o", out, *words]) == 1
        assert message in capsys.readouterr().err


def test_resume_leaves_what_was_made_in_the_same_way(runs, tmp_path, capsys):
    words = ["run", str(runs / "p.idx"), str(POLYGLOT / "queries.jsonl"), "--first", "bm25", "--rerank", "none", "--resume"]
    out = tmp_path / "r.trec"
    assert main([*words, "-o", str(out)]) == 0
    before = out.stat().st_mtime_ns
    assert main([*words, "-o", str(out)]) == 0
    assert "left as it is" in capsys.readouterr().err
    assert out.stat().st_mtime_ns == before
    assert main([*words, "-o", str(out), "-k", "5"]) == 0
    assert out.stat().st_mtime_ns > before


def test_bench_puts_its_times_into_the_manifest_of_the_same_search_only(runs, tmp_path, capsys):
    words = [str(runs / "p.idx"), str(POLYGLOT / "queries.jsonl"), "--first", "bm25", "--rerank", "none"]
    out = tmp_path / "r.trec"
    assert main(["run", *words, "-o", str(out)]) == 0
    made = read_manifest(out)
    assert made["measured"]["searches"] == 123
    assert sum(made["index"]["languages"].values()) == made["corpus"]["passages"] == 260
    assert set(made["measured"]["stages"]) == {"analyze_ms", "bm25_ms", "total_ms"}
    assert main(["bench", *words, "--queries", "7", "--rounds", "2", "--seconds", "0", "--run", str(out)]) == 0
    timed = read_manifest(out)
    assert timed["measured"]["how"] == "by bench, 2 × 7 searches, 5 passages a query"
    assert timed["measured"]["searches"] == 14
    assert {key: timed[key] for key in made if key != "measured"} == {key: made[key] for key in made if key != "measured"}
    capsys.readouterr()
    assert main(["bench", *words[:2], "--first", "dense", "--rerank", "none", "--seconds", "0", "--run", str(out)]) == 1
    assert "differs from these arguments in first, encoder" in capsys.readouterr().err


def test_means_over_collections():
    random = np.random.default_rng(5)
    small, large = random.normal(0.1, 0.3, 20), random.normal(-0.05, 0.3, 2000)
    low, high = stratified_interval([small, large], 4000, np.random.default_rng(0))
    middle = (small.mean() + large.mean()) / 2
    error = np.sqrt(small.var() / 20 + large.var() / 2000) / 2
    assert (low, high) == pytest.approx((middle - 1.96 * error, middle + 1.96 * error), abs=0.15 * error)
    one = np.random.default_rng
    assert stratified_interval([small], 500, one(1)) == bootstrap_interval(small, 500, one(1))
    assert stratified_test([small], 500, one(1)) == randomisation_test(small, 500, one(1))
    assert stratified_test([np.full(12, 0.1), np.full(30, 0.1)], 5000, one(1)) == pytest.approx(1 / 5001)
    assert stratified_test([np.full(12, 0.1), np.full(30, -0.1)], 5000, one(1)) > 0.9


def test_the_line_joins_what_no_other_system_beats():
    random = np.random.default_rng(3)
    times = [0.0, *random.uniform(0.5, 500, 19).round(1).tolist()]
    values = random.uniform(0.3, 0.9, 20).round(2).tolist()
    means = [
        Mean(f"s{n}", value, (value, value), None, None, None, Cost({"total": (ms, ms)}, 1, 1, 1, ""), "dense", False)
        for n, (ms, value) in enumerate(zip(times, values, strict=True))
    ]
    best, front = -1.0, []
    for _, value, name in sorted(zip(times, [-v for v in values], [m.system for m in means], strict=True)):
        if -value > best:
            best, front = -value, [*front, name]
    picture = pareto("p", "t", "nDCG@10", "s0", means)
    assert picture is not None
    assert sorted(re.findall(r'class="label strong">([^<]*)<', picture.body)) == sorted(front)
    assert len(re.findall(r'class="label(?: strong)?">', picture.body)) == 20
    assert stage_bars("b", "t", means) is not None
    assert pareto("p", "t", "nDCG@10", "s0", []) is None
