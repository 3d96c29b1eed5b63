"""`shortlist reproduce`: its tables, MIRACL's and C-MTEB's layouts, and a verdict that can be no."""

from __future__ import annotations

import gzip
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from shortlist.cli import main
from shortlist.data import read_collection, read_manifest, read_miracl
from shortlist.errors import BadInput
from shortlist.measures import evaluate
from shortlist.reproduce import (
    MEASURES,
    MIRACL_LANGUAGES,
    SYSTEMS,
    Condition,
    Outcome,
    Reproduction,
    benchmark,
    read_expected,
    read_published,
    sampled,
    tolerance,
    wanted,
    write_expected,
)
from shortlist.types import Qrels, Run

TABLES = Path(__file__).parents[2] / "bench" / "reproduce"
POLYGLOT = Path(__file__).parents[2] / "examples" / "polyglot"
NO_MODELS = dict.fromkeys(SYSTEMS, "")
CHINESE = read_collection(POLYGLOT, "test")
CHINESE_QUERIES = {query: text for query, text in CHINESE.queries.items() if query.startswith("zh-")}

needs_measures = pytest.mark.skipif(find_spec("ir_measures") is None, reason="the measures need the extra 'eval'")


def chinese_passages():
    return [passage for passage in CHINESE.passages() if passage.lang == "zh"]


def packed(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.fixture
def miracl(tmp_path):
    """MIRACL's two repositories side by side, in small: passages in two shards, topics of two splits."""
    root = tmp_path / "data"
    passages = [json.dumps({"docid": p.id, "title": p.title, "text": p.text}, ensure_ascii=False) for p in chinese_passages()]
    for number, shard in enumerate((passages[:9], passages[9:])):
        packed(root / f"miracl-corpus-v1.0-zh/docs-{number}.jsonl.gz", "\n".join(shard) + "\n")
    queries = root / "miracl-v1.0-zh"
    packed(queries / "topics/topics.miracl-v1.0-zh-dev.tsv", "".join(f"{q}\t{text}\n" for q, text in CHINESE_QUERIES.items()))
    packed(queries / "topics/topics.miracl-v1.0-zh-train.tsv", "t1\tanother split\n")
    judged = "".join(f"{q} Q0 {p} {grade}\n" for q in CHINESE_QUERIES for p, grade in CHINESE.qrels[q].items())
    packed(queries / "qrels/qrels.miracl-v1.0-zh-dev.tsv", judged)
    return root


def reproduce(*words, expected: Path, corpus: Path, capsys) -> tuple[int, list[dict]]:
    """Exit status and the printed objects."""
    status = main(["reproduce", *words, "--corpus", str(corpus), "--expected", str(expected), "--json"])
    return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# --- the tables of the repository -------------------------------------------------------------------------------------


def test_the_tables_are_as_they_are_written(tmp_path):
    write_expected(tmp_path / "again.tsv", read_expected(TABLES / "expected.tsv"))
    assert (tmp_path / "again.tsv").read_bytes() == (TABLES / "expected.tsv").read_bytes()


def test_every_condition_stands_once_and_every_collection_has_all_systems():
    conditions = read_expected(TABLES / "expected.tsv")
    assert len(set(conditions)) == len(conditions)
    for name in {c.collection for c in conditions}:
        assert {c.system for c in conditions if c.collection == name} == set(SYSTEMS)


def test_published_figures_are_of_known_systems_and_name_their_source():
    published = read_published(TABLES / "published.tsv")
    assert {p.collection for p in published} >= {f"miracl-{lang}" for lang in MIRACL_LANGUAGES} | {"EcomRetrieval"}
    assert all(p.source and p.values and p.beside in (*SYSTEMS, "") for p in published)
    assert all(0 < value < 1 for p in published for value in p.values.values())


@pytest.mark.parametrize("row", ["x\tdev\t\tmany\tbm25\t\t\t\t", "x\tdev\t\t0\tmagic\t\t\t\t", "x\tdev\t\t0\tbm25\t\tbig\t\t"])
def test_rows_that_cannot_be_read_are_named(tmp_path, row):
    header = (TABLES / "expected.tsv").read_text(encoding="utf-8").splitlines()[0]
    (tmp_path / "e.tsv").write_text(f"{header}\n{row}\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"e\.tsv:2"):
        read_expected(tmp_path / "e.tsv")


# --- what is run ------------------------------------------------------------------------------------------------------


def test_benchmarks_have_parts():
    assert benchmark("miracl", ["zh", "yo"]) == ["miracl-yo", "miracl-zh"]
    assert len(benchmark("miracl", [])) == 18
    assert len(benchmark("cmteb", [])) == 8
    assert benchmark("scifact", []) == ["scifact"]
    with pytest.raises(BadInput, match="no 'xx'"):
        benchmark("miracl", ["xx"])


def test_expected_conditions_are_taken_as_they_are_and_unknown_ones_in_full():
    known = Condition("a", "test", "en", 7, "bm25", "", {"nDCG@10": 0.5}, 0.1)
    assert wanted([known], ["a"], ["bm25"], NO_MODELS) == [known]
    (found,) = wanted([known], ["miracl-sw"], ["bm25"], NO_MODELS)
    assert (found.split, found.language, found.questions, dict(found.expected)) == ("dev", "sw", 0, {})
    (cut,) = wanted([known], [], ["bm25"], NO_MODELS, questions=3)
    assert (cut.questions, dict(cut.expected)) == (3, {})
    with pytest.raises(BadInput, match="nothing is expected"):
        wanted([known], ["b"], ["bm25"], NO_MODELS)


def test_samples_are_spaced_evenly():
    ids = [f"{n:03}" for n in range(100)]
    assert sampled(ids, 4) == ["000", "025", "050", "075"]
    assert sampled(ids[::-1], 0) == ids == sampled(ids, 1000)


def test_a_tolerance_is_two_answers_that_fall_by_one_place():
    qrels = Qrels({str(n): {"a": 1} for n in range(100)})
    run = Run({q: {"a": 2.0, "b": 1.0} for q in qrels})
    fallen = Run({q: {"a": 2.0, "b": 1.0} if int(q) > 1 else {"a": 1.0, "b": 2.0} for q in qrels})
    pytest.importorskip("ir_measures")
    lost = evaluate(run, qrels, ["nDCG@10"]).mean["nDCG@10"] - evaluate(fallen, qrels, ["nDCG@10"]).mean["nDCG@10"]
    assert tolerance("dense", 100) == pytest.approx(lost, abs=5e-5)
    assert tolerance("bm25", 100) == 0.0005


def test_a_value_outside_its_tolerance_is_no_reproduction():
    condition = Condition("a", "test", "en", 0, "bm25", "", {"nDCG@10": 0.5}, 0.01)
    verdicts = [Outcome(condition, {"nDCG@10": value}, 10).within for value in (0.5, 0.4901, 0.4898, 0.52)]
    assert verdicts == [True, True, False, False]
    assert Outcome(Condition("a", "test", "en", 0, "bm25", ""), {"nDCG@10": 0.5}, 10).within is None


# --- published layouts ------------------------------------------------------------------------------------------------


def test_miracl_is_read_as_it_is_published(miracl):
    found = read_miracl(miracl, "zh")
    assert found.queries == CHINESE_QUERIES
    assert [(p.id, p.content) for p in found.passages()] == [(p.id, p.content) for p in chinese_passages()]
    assert found.qrels == {q: CHINESE.qrels[q] for q in CHINESE_QUERIES}
    with pytest.raises(BadInput, match=r"topics\.miracl-v1\.0-yo-dev\.tsv"):
        read_miracl(miracl, "yo")


@needs_measures
def test_one_command_runs_a_language_of_miracl(miracl, tmp_path, capsys):
    tables, kept = (
        tmp_path / "tables",
        ["--systems", "bm25", "--runs", str(tmp_path / "runs"), "--indexes", str(tmp_path / "i")],
    )
    tables.mkdir()
    command = ["miracl", "--lang", "zh", *kept]
    status, (found,) = reproduce(*command, expected=tables, corpus=miracl, capsys=capsys)
    assert (status, found["within"], found["questions"], found["language"]) == (0, None, len(CHINESE_QUERIES), "zh")
    assert 0.3 < found["found"]["nDCG@10"] < 1
    manifest = read_manifest(tmp_path / "runs" / "miracl-zh-dev.bm25.trec")
    assert manifest["corpus"]["passages"] == 17
    assert manifest["index"]["analyzer"].startswith("auto/")

    assert reproduce(*command, "--record", expected=tables, corpus=miracl, capsys=capsys)[0] == 0
    status, (again,) = reproduce(*command, expected=tables, corpus=miracl, capsys=capsys)
    assert (status, again["within"], again["expected"]) == (0, True, found["found"])

    (condition,) = read_expected(tables / "expected.tsv")
    wrong = {name: value - 0.1 for name, value in condition.expected.items()}
    write_expected(tables / "expected.tsv", [Condition(**{**vars(condition), "expected": wrong})])
    status, (outside,) = reproduce(*command, expected=tables, corpus=miracl, capsys=capsys)
    assert (status, outside["within"]) == (1, False)


@needs_measures
def test_a_kept_run_is_taken_only_if_it_would_be_made_the_same_way(miracl, tmp_path, capsys):
    run = tmp_path / "runs" / "miracl-zh-dev.bm25.trec"
    kept = ["--runs", str(run.parent), "--indexes", str(tmp_path)]
    command = ["miracl", "--lang", "zh", "--systems", "bm25", *kept]
    reproduce(*command, expected=tmp_path, corpus=miracl, capsys=capsys)
    emptied = "".join(line for line in run.read_text(encoding="utf-8").splitlines(keepends=True) if " 1 " not in line)
    run.write_text(emptied, encoding="utf-8")
    _, (taken,) = reproduce(*command, expected=tmp_path, corpus=miracl, capsys=capsys)
    manifest = run.with_name(f"{run.name}.manifest.json")
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"k": 100', '"k": 99'), encoding="utf-8")
    _, (made_again,) = reproduce(*command, expected=tmp_path, corpus=miracl, capsys=capsys)
    assert taken["found"]["nDCG@10"] < made_again["found"]["nDCG@10"]


@needs_measures
@pytest.mark.parametrize("layout", ["C-MTEB", "mteb"])
def test_one_command_runs_a_task_of_c_mteb(layout, tmp_path, capsys):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra parquet")
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra parquet")
    root = tmp_path / "data"
    task = root / "EcomRetrieval"
    query, passage, id_ = ("qid", "pid", "id") if layout == "C-MTEB" else ("query-id", "corpus-id", "_id")
    corpus = [{id_: p.id, "text": p.content} for p in chinese_passages()]
    judged = [{query: q, passage: p, "score": float(g)} for q in CHINESE_QUERIES for p, g in CHINESE.qrels[q].items()]
    files = {
        "corpus-00000-of-00002-ab": corpus[:9],
        "corpus-00001-of-00002-cd": corpus[9:],
        "queries-00000-of-00001-ef": [{id_: q, "text": text} for q, text in CHINESE_QUERIES.items()],
    }
    tables = {task / f"data/{name}.parquet": rows for name, rows in files.items()}
    tables[root / "EcomRetrieval-qrels/data/dev-00000-of-00001-aa.parquet"] = judged
    if layout == "mteb":
        tables = {task / name.split("-")[0] / f"dev-{name[7:]}.parquet": rows for name, rows in files.items()}
        tables[task / "qrels/dev-00000-of-00001.parquet"] = judged
        tables[task / "qrels/test-00000-of-00001.parquet"] = [{query: "other", passage: "other", "score": 1}]
    for path, rows in tables.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)

    data = read_collection(task, "dev")
    assert data.queries == CHINESE_QUERIES
    assert data.qrels == {q: CHINESE.qrels[q] for q in CHINESE_QUERIES}
    assert [p.id for p in data.passages()] == [p.id for p in chinese_passages()]
    with pytest.raises(BadInput, match="splits there: dev"):
        read_collection(task, "train")

    command = ["cmteb", "--task", "EcomRetrieval", "--systems", "bm25"]
    status, (found,) = reproduce(*command, expected=tmp_path, corpus=root, capsys=capsys)
    assert (status, found["collection"], found["language"], found["questions"]) == (0, "EcomRetrieval", "zh", 7)
    assert 0.3 < found["found"]["nDCG@10"] < 1


@needs_measures
def test_an_interrupted_index_goes_on(miracl, tmp_path, tiny_encoder_folder, tiny_reranker_folder, monkeypatch):
    """The second batch fails; the next call adds what is missing, and all four systems run."""
    from shortlist import index as index_module

    monkeypatch.setattr(index_module, "_BATCH_PASSAGES", 5)
    models = {"bm25": "", "dense": "t", "hybrid": "t", "two-stage": "t + r"}
    work = Reproduction(
        [miracl], tmp_path, tmp_path, encoder=str(tiny_encoder_folder), reranker=str(tiny_reranker_folder), threads=1
    )
    conditions = wanted([], ["miracl-zh"], list(SYSTEMS), models)

    def stop(what, done, total):
        if "indexing" in what and done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(work.outcomes(conditions, stop))
    assert list(tmp_path.glob("*.part"))
    outcomes = list(work.outcomes(conditions, lambda what, done, total: None))
    assert [outcome.condition.system for outcome in outcomes] == list(SYSTEMS)
    assert all(set(outcome.found) == set(MEASURES) for outcome in outcomes)
    assert read_manifest(tmp_path / "miracl-zh-dev.two-stage.t.r.trec")["rerankers"][0]["reads"] == 32


# --- a fast part of the real thing ------------------------------------------------------------------------------------


@pytest.mark.data
@needs_measures
def test_bm25_gives_what_is_expected(data_folder, tmp_path):
    names = ("miracl-yo", "scifact", "tydi-ko", "mlqa-hi", "mlqa-zh", "xquad-r")
    refuse_outside(data_folder, tmp_path, names, ["bm25"])


@pytest.mark.data
@needs_measures
def test_yoruba_in_miracls_own_layout_gives_the_same(data_folder, tmp_path, capsys):
    root = tmp_path / "data"
    passages = read_collection(data_folder / "miracl-yo", "dev").passages()
    rows = [json.dumps({"docid": p.id, "title": p.title, "text": p.text}, ensure_ascii=False) for p in passages]
    for number, start in enumerate(range(0, len(rows), 20_000)):
        packed(root / f"miracl-corpus-v1.0-yo/docs-{number}.jsonl.gz", "\n".join(rows[start : start + 20_000]) + "\n")
    for what in ("topics", "qrels"):
        name = f"{what}.miracl-v1.0-yo-dev.tsv"
        content = gzip.decompress((data_folder / "miracl-topics" / f"{name}.gz").read_bytes()).decode()
        packed(root / "miracl-v1.0-yo" / what / name, content)
    command = ["miracl", "--lang", "yo", "--systems", "bm25"]
    status, (found,) = reproduce(*command, expected=TABLES, corpus=root, capsys=capsys)
    assert (status, found["within"], found["questions"]) == (0, True, 119)


@pytest.mark.weights
@needs_measures
def test_all_stages_give_what_is_expected_of_polyglot(tmp_path):
    refuse_outside(POLYGLOT.parent, tmp_path, ("polyglot",), list(SYSTEMS))


@pytest.mark.weights
@pytest.mark.data
@needs_measures
def test_all_stages_give_what_is_expected_of_small_collections(data_folder, tmp_path):
    refuse_outside(data_folder, tmp_path, ("adi", "tydi-bn"), list(SYSTEMS))


def refuse_outside(folder: Path, work: Path, names, systems) -> None:
    encoder = "shortlist-embed"
    models = {"bm25": "", "dense": encoder, "hybrid": encoder, "two-stage": f"{encoder} + shortlist-rerank-L-6"}
    conditions = wanted(read_expected(TABLES / "expected.tsv"), names, systems, models)
    assert len(conditions) == len(names) * len(systems)
    outcomes = list(Reproduction([folder], work, work).outcomes(conditions, lambda what, done, total: None))
    assert {o.condition.command: (dict(o.found), dict(o.condition.expected)) for o in outcomes if not o.within} == {}
