"""The command line as a user meets it, with tiny random models built on the spot."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import tiny_models
from shortlist.cli import HOME, build_parser, main
from shortlist.data import read_manifest, write_run
from shortlist.encoder import Encoder
from shortlist.index import Index
from shortlist.provenance import corpus_hash
from shortlist.reranker import Reranker
from shortlist.types import Passage, Run

PASSAGES = [
    {"id": "p1", "title": "柏林", "text": "柏林是德国首都，有三百五十二万人口。", "lang": "zh"},
    {"id": "p2", "title": "Berlin", "text": "Berlin had a population of 3,520,031 registered inhabitants.", "lang": "en"},
    {"id": "p3", "title": "Museums", "text": "Berlin is well known for its museums.", "lang": "en"},
    {"id": "p4", "title": "巴黎", "text": "巴黎是法国首都，塞纳河穿城而过。", "lang": "zh"},
    {"id": "p5", "title": "Tokyo", "text": "東京は日本の首都である。", "lang": "ja"},
]
QUERIES = [{"id": "q1", "text": "柏林有多少人口？"}, {"id": "q2", "text": "How many people live in Berlin?"}]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(p, ensure_ascii=False) + "\n" for p in PASSAGES), encoding="utf-8")
    return path


@pytest.fixture
def idx(tmp_path, corpus, tiny_encoder_folder, capsys):
    path = tmp_path / "my.idx"
    assert main(["index", str(corpus), "-o", str(path), "--model", str(tiny_encoder_folder)]) == 0
    assert "5 passages added, 5 in all" in capsys.readouterr().out
    return path


def json_lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_search_json_has_hits_scores_and_timings(idx, tiny_reranker_folder, capsys):
    assert main(["search", str(idx), "柏林有多少人口？", "-k", "2", "--rerank", str(tiny_reranker_folder), "--json"]) == 0
    (answer,) = json_lines(capsys.readouterr().out)
    assert answer["query"] == "柏林有多少人口？"
    assert len(answer["hits"]) == 2
    assert all({"bm25", "dense", "rerank"} & set(hit["ranks"]) for hit in answer["hits"])
    assert {"encode_ms", "bm25_ms", "dense_ms", "rerank_ms", "total_ms"} <= set(answer["timings"])


def test_bm25_finds_chinese_and_folded_words(idx, capsys):
    for query, best in (("柏林人口", "p1"), ("ＢＥＲＬＩＮ museum", "p3"), ("東京", "p5")):
        assert main(["search", str(idx), query, "-k", "1", "--first", "bm25", "--rerank", "none", "--json"]) == 0
        assert json_lines(capsys.readouterr().out)[0]["hits"][0]["id"] == best


def test_search_table_is_plain_text_when_piped(idx, capsys):
    assert main(["search", str(idx), "Berlin", "--first", "bm25", "--rerank", "none"]) == 0
    out = capsys.readouterr().out
    assert "registered inhabitants" in out
    assert "\x1b[" not in out
    assert "total" in out


def test_compare_prints_three_tables_and_the_timing_summary(idx, tiny_reranker_folder, capsys):
    assert (
        main(["compare", str(idx), "Berlin population", "-k", "2", "--candidates", "3", "--rerank", str(tiny_reranker_folder)])
        == 0
    )
    out = capsys.readouterr().out
    for label in (
        "Embedding-only retrieval",
        "Reranker-only retrieval",
        "Two-stage retrieval",
        "Timing summary",
        "Offline, done once",
    ):
        assert label in out


def test_run_and_eval_agree_with_the_rankings(idx, tmp_path, capsys):
    pytest.importorskip("ir_measures", reason="the measures need the extra 'eval'")
    queries, qrels, run = tmp_path / "queries.jsonl", tmp_path / "qrels.tsv", tmp_path / "out.trec"
    queries.write_text("".join(json.dumps(q, ensure_ascii=False) + "\n" for q in QUERIES), encoding="utf-8")
    qrels.write_text("query-id\tcorpus-id\tscore\nq1\tp1\t1\nq2\tp2\t1\n", encoding="utf-8")
    assert main(["run", str(idx), str(queries), "--first", "bm25", "--rerank", "none", "-k", "5", "-o", str(run)]) == 0
    first = next(line.split() for line in run.read_text(encoding="utf-8").splitlines() if line.startswith("q1"))
    assert first[2:4] == ["p1", "1"]
    capsys.readouterr()
    assert main(["eval", str(qrels), str(run), "RR@10", "--json"]) == 0
    (line,) = json_lines(capsys.readouterr().out)
    ranks = {
        q: [r.split()[2] for r in run.read_text(encoding="utf-8").splitlines() if r.startswith(q)].index(p) + 1
        for q, p in (("q1", "p1"), ("q2", "p2"))
    }
    assert line["RR@10"] == pytest.approx(sum(1 / r for r in ranks.values()) / 2)
    assert main(["eval", str(qrels), str(run), "--dict"]) == 0
    assert "{'NDCG@1': " in capsys.readouterr().out


@pytest.fixture
def judged(tmp_path):
    """Queries and judgements for the passages above."""
    queries, qrels = tmp_path / "queries.jsonl", tmp_path / "qrels.tsv"
    queries.write_text("".join(json.dumps(q, ensure_ascii=False) + "\n" for q in QUERIES), encoding="utf-8")
    qrels.write_text("query-id\tcorpus-id\tscore\nq1\tp1\t1\nq2\tp2\t1\nq2\tp4\t0\n", encoding="utf-8")
    return str(queries), str(qrels)


def made_run(idx, queries, path, *options):
    assert main(["run", str(idx), queries, "-k", "5", "-o", str(path), *options]) == 0
    return str(path)


def test_a_run_says_how_it_was_made(idx, tmp_path, judged, tiny_encoder_folder, tiny_reranker_folder, capsys):
    path = made_run(idx, judged[0], tmp_path / "r.trec", "--rerank", str(tiny_reranker_folder), "--candidates", "3")
    manifest = read_manifest(path)
    encoder, reranker = Encoder.load(tiny_encoder_folder), Reranker.load(tiny_reranker_folder)
    assert manifest["encoder"]["fingerprint"] == encoder.fingerprint
    assert (manifest["encoder"]["pooling"], manifest["encoder"]["prompts"]) == (
        encoder.card.pooling,
        dict(encoder.card.prompts),
    )
    (second,) = manifest["rerankers"]
    assert (second["fingerprint"], second["reads"], second["weight"]) == (reranker.fingerprint, 3, reranker.card.fusion_weight)
    assert manifest["fusion"] == {"name": "auto", "weights": {"bm25": 0.5, "dense": 1.0}}
    assert {"index", "analyzer", "k1", "b", "format", "languages"} <= set(manifest["index"])
    assert manifest["corpus"] == {
        "passages": 5,
        "hash": corpus_hash(Passage(p["id"], p["text"], p["title"]) for p in reversed(PASSAGES)),
    }
    assert str(tiny_encoder_folder) not in json.dumps(manifest["encoder"])
    bm25 = read_manifest(made_run(idx, judged[0], tmp_path / "b.trec", "--first", "bm25", "--rerank", "none"))
    assert (bm25["encoder"], bm25["fusion"], bm25["rerankers"], bm25["first"]) == (None, None, [], "bm25")
    assert bm25["queries"] == manifest["queries"]
    assert bm25["corpus"] == manifest["corpus"]


def test_eval_compares_runs(idx, tmp_path, judged, capsys):
    pytest.importorskip("ir_measures", reason="the measures need the extra 'eval'")
    queries, qrels = judged
    runs = [
        made_run(idx, queries, tmp_path / f"{n}.trec", "--first", n, "--rerank", "none") for n in ("bm25", "dense", "hybrid")
    ]
    capsys.readouterr()
    assert main(["eval", qrels, *runs, "RR@10", "--baseline", runs[0], "--json", "--queries", queries, "--by", "language"]) == 0
    lines = json_lines(capsys.readouterr().out)
    means = {line["run"]: line["RR@10"] for line in lines[:3]}
    assert [(line["a"], line["b"]) for line in lines[3:5]] == [(runs[1], runs[0]), (runs[2], runs[0])]
    assert lines[3]["difference"] == pytest.approx(means[runs[1]] - means[runs[0]])
    assert [(line["run"], line["group"], line["queries"]) for line in lines[5:7]] == [(runs[0], "en", 1), (runs[0], "zh", 1)]
    assert lines[0]["manifest"]["first"] == "bm25"
    assert main(["eval", qrels, *runs, "--queries", queries, "--by", "length", "--wins", str(idx)]) == 0
    shown = capsys.readouterr().out
    for part in (
        "Judged@10",
        "randomisation p",
        "p after Holm",
        "5–8 characters",
        "5–8 words",
        "wins against",
        "loses against",
    ):
        assert part in shown


def test_wins_come_with_the_texts(idx, corpus, tmp_path, judged, capsys):
    pytest.importorskip("ir_measures", reason="the measures need the extra 'eval'")
    queries, qrels = judged
    for name, order in (("good", "p1 p2 p4"), ("bad", "p4 p2 p1")):
        write_run(Run({q: {p: -float(n) for n, p in enumerate(order.split())} for q in ("q1", "q2")}), tmp_path / name)
    arguments = ["eval", qrels, str(tmp_path / "bad"), str(tmp_path / "good"), "--queries", queries, "--wins"]
    for source in (idx, corpus):
        assert main([*arguments, str(source)]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "柏林有多少人口？" in shown
        assert "relevant 1, 3: p1 柏林" in shown
        assert "not judged 3, 1: p4 巴黎" in shown
    assert main([*arguments[:4], "RR@10", *arguments[4:], str(corpus), "--json"]) == 0
    (line,) = [line for line in json_lines(capsys.readouterr().out) if line.get("query_id") == "q1"]
    assert (line["query"], line["value_a"], line["value_b"]) == (QUERIES[0]["text"], 1.0, pytest.approx(1 / 3))
    assert line["passages"][0] == {
        "id": "p1",
        "judgement": 1,
        "place_a": 1,
        "place_b": 3,
        "text": "柏林\n" + PASSAGES[0]["text"],
    }
    assert main([*arguments[:4], "--wins", str(corpus)]) == 1
    assert "--queries" in capsys.readouterr().err


def test_eval_says_what_is_wrong_with_a_comparison(idx, corpus, tmp_path, judged, capsys):
    pytest.importorskip("ir_measures", reason="the measures need the extra 'eval'")
    queries, qrels = judged
    whole = made_run(idx, queries, tmp_path / "whole.trec", "--first", "bm25", "--rerank", "none")
    half = tmp_path / "half.jsonl"
    half.write_text("".join(corpus.read_text(encoding="utf-8").splitlines(keepends=True)[:3]), encoding="utf-8")
    assert main(["index", str(half), "-o", str(tmp_path / "half.idx"), "--model", "none"]) == 0
    part = made_run(tmp_path / "half.idx", queries, tmp_path / "part.trec", "--rerank", "none")
    lone = tmp_path / "lone.tsv"
    lone.write_text("q1\t柏林有多少人口？\n", encoding="utf-8")
    short = made_run(idx, str(lone), tmp_path / "short.trec", "--first", "bm25", "--rerank", "none")
    capsys.readouterr()
    assert main(["eval", qrels, whole, part, short]) == 0
    told = capsys.readouterr()
    assert "the runs searched different corpora" in told.err
    assert "the runs searched different queries" in told.err
    assert "short.trec: 1 of 2 judged queries are not in the run and count 0: q2" in told.err
    assert "5 passages" in told.out
    assert "3 passages" in told.out
    assert main(["eval", qrels, whole, whole.replace("whole", "absent")]) == 1


def test_judged_only(idx, tmp_path, judged, capsys):
    pytest.importorskip("ir_measures", reason="the measures need the extra 'eval'")
    write_run(Run({"q1": {"p3": 2.0, "p1": 1.0}, "q2": {"p2": 1.0}}), tmp_path / "r")
    for options, expected in (([], 0.75), (["--judged-only"], 1.0)):
        assert main(["eval", judged[1], str(tmp_path / "r"), "RR@10", "--json", *options]) == 0
        assert json_lines(capsys.readouterr().out)[0]["RR@10"] == expected


def test_bad_lines_are_left_out_and_counted_when_asked(tmp_path, capsys):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "a", "text": "one"}\nbroken\n{"id": "b", "text": "two"}\n')
    assert main(["index", str(bad), "-o", str(tmp_path / "x.idx"), "--model", "none"]) == 1
    assert "bad.jsonl:2: not JSON" in capsys.readouterr().err
    assert main(["index", str(bad), "-o", str(tmp_path / "x.idx"), "--model", "none", "--skip-bad"]) == 0
    told = capsys.readouterr()
    assert "2 passages added" in told.out
    assert "bad lines left out: 1" in told.err
    assert "bad.jsonl:2: not JSON" in told.err


def test_run_keeps_the_first_stage_below_the_candidates(idx, tmp_path, tiny_reranker_folder):
    queries = tmp_path / "queries.jsonl"
    queries.write_text(json.dumps(QUERIES[1]) + "\n", encoding="utf-8")
    runs = {}
    for rerank in ("none", str(tiny_reranker_folder)):
        out = tmp_path / "out.trec"
        assert (
            main(
                [
                    "run",
                    str(idx),
                    str(queries),
                    "--first",
                    "dense",
                    "--rerank",
                    rerank,
                    "--candidates",
                    "2",
                    "-k",
                    "5",
                    "-o",
                    str(out),
                ]
            )
            == 0
        )
        runs[rerank] = [line.split()[2] for line in out.read_text(encoding="utf-8").splitlines()]
    plain, reranked = runs.values()
    assert set(plain[:2]) == set(reranked[:2])
    assert plain[2:] == reranked[2:]
    assert len(plain) == 5


def test_a_cascade_and_a_time_limit_are_shown(idx, tmp_path, tiny_reranker_folder, capsys):
    small = tiny_models.write_reranker(tmp_path / "small", seed=5, layers=1)
    cascade = f"{small}:4,{tiny_reranker_folder}:2"
    assert main(["search", str(idx), "Berlin", "-k", "4", "--cascade", cascade, "--json"]) == 0
    (answer,) = json_lines(capsys.readouterr().out)
    assert answer["scored"] == {"rerank:small": 4, "rerank": 2}
    assert {"rerank:small_ms", "rerank_ms"} <= set(answer["timings"])
    assert main(["search", str(idx), "Berlin", "-k", "4", "--cascade", cascade]) == 0
    assert "rerank:small" in capsys.readouterr().out
    assert main(["compare", str(idx), "Berlin", "-k", "2", "--cascade", cascade, "--max-ms", "0"]) == 0
    shown = capsys.readouterr()
    assert "Two-stage retrieval (hybrid, small:4,tiny-reranker:2, K=2)" in shown.out
    assert "rerank: 0 of 2 candidates scored within 0 ms" in shown.err
    assert main(["search", str(idx), "Berlin", "--rerank", str(small), "--max-ms", "0", "--json"]) == 0
    unread = json_lines(capsys.readouterr().out)[0]
    assert main(["search", str(idx), "Berlin", "--rerank", "none", "--json"]) == 0
    assert json_lines(capsys.readouterr().out)[0]["hits"] == unread["hits"]
    queries = tmp_path / "queries.jsonl"
    queries.write_text(json.dumps(QUERIES[1]) + "\n", encoding="utf-8")
    out = tmp_path / "out.trec"
    assert main(["run", str(idx), str(queries), "--cascade", cascade, "--max-ms", "1e6", "-o", str(out)]) == 0
    assert out.read_text(encoding="utf-8").split()[5] == "default-small:4,tiny-reranker:2"


def test_rerank_leaves_what_it_did_not_read_behind_and_without_a_score(tmp_path, tiny_reranker_folder, capsys):
    lines = [*PASSAGES, PASSAGES[0]]
    corpus = tmp_path / "twice.jsonl"
    corpus.write_text("".join(json.dumps(p, ensure_ascii=False) + "\n" for p in lines), encoding="utf-8")
    small = tiny_models.write_reranker(tmp_path / "small", seed=5, layers=1)
    command = ["rerank", "Berlin?", str(corpus), "--json"]
    assert main([*command, "--cascade", f"{small}:4,{tiny_reranker_folder}:2"]) == 0
    found = json_lines(capsys.readouterr().out)
    assert [line["score"] is None for line in found] == [line["probability"] is None for line in found]
    assert [line["score"] is None for line in found] == [False] * 2 + [True] * 4
    assert found[0]["score"] >= found[1]["score"]
    assert [line["id"] for line in found[4:]] == ["p5", "p1"]
    assert main([*command, "--rerank", str(small), "--max-ms", "0"]) == 0
    shown = capsys.readouterr()
    assert [line["id"] for line in json_lines(shown.out)] == [p["id"] for p in lines]
    assert "0 of 6 candidates scored within 0 ms" in shown.err
    assert main([*command[:-1], "--rerank", str(small), "--max-ms", "0"]) == 0
    assert "–" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--cascade", "L-2"], ["--cascade", "L-2:x"], ["--cascade", "L-2:9,"], ["--cascade", ""]])
def test_a_malformed_cascade_is_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["search", "IDX", "x", *words])
    assert stop.value.code == 2
    assert "Expected SIZE:N" in capsys.readouterr().err


def test_a_cascade_beside_a_reranker_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["search", "IDX", "x", "--rerank", "L-2", "--cascade", "L-2:9"])
    assert stop.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_encode_writes_npy_and_json(corpus, tmp_path, tiny_encoder_folder, capsys):
    out = tmp_path / "v.npy"
    assert main(["encode", str(corpus), "-o", str(out), "--model", str(tiny_encoder_folder)]) == 0
    vectors = np.load(out)
    assert vectors.shape[0] == len(PASSAGES)
    assert vectors.dtype == np.float32
    assert main(["encode", str(corpus), "--model", str(tiny_encoder_folder)]) == 0
    lines = json_lines(capsys.readouterr().out)
    assert np.allclose([line["vector"] for line in lines], vectors, atol=1e-5)


def test_encode_in_fewer_bits(corpus, tmp_path, tiny_encoder_folder, capsys):
    command = ["encode", str(corpus), "--model", str(tiny_encoder_folder), "-o"]
    assert main([*command, str(tmp_path / "v.npy")]) == 0
    vectors = np.load(tmp_path / "v.npy")
    assert main([*command, str(tmp_path / "b.npy"), "--precision", "ubinary"]) == 0
    assert (np.load(tmp_path / "b.npy") == np.packbits(vectors > 0, axis=1)).all()
    wide = np.stack([vectors.min(axis=0) - 1, vectors.max(axis=0) + 1])
    np.save(tmp_path / "wide.npy", wide)
    assert main([*command, str(tmp_path / "i.npy"), "--precision", "int8", "--calibration", str(tmp_path / "wide.npy")]) == 0
    whole = np.load(tmp_path / "i.npy")
    assert whole.dtype == np.int8
    assert np.allclose((whole + 128.5) * (wide[1] - wide[0]) / 255 + wide[0], vectors, atol=0.02)


def test_index_in_another_mode(corpus, tmp_path, tiny_encoder_folder, capsys):
    path = tmp_path / "b.idx"
    assert main(["index", str(corpus), "-o", str(path), "--model", str(tiny_encoder_folder), "--vectors", "binary"]) == 0
    assert sorted(file.name for file in path.glob("vectors.*")) == ["vectors.b1"]
    assert main(["search", str(path), "Berlin", "--first", "dense", "--rerank", "none", "--json"]) == 0
    assert json_lines(capsys.readouterr().out.splitlines()[-1])[0]["hits"]


def test_rerank_reads_lines_from_stdin_and_shows_the_batch(monkeypatch, tmp_path, tiny_reranker_folder, capsys):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("first passage\nanother one\n"))
    assert main(["rerank", "which?", "-", "--rerank", str(tiny_reranker_folder), "--show-batch"]) == 0
    out = capsys.readouterr().out
    for word in ("input_ids", "attention_mask", "token_type_ids", "another one"):
        assert word in out


def test_rerank_json_is_best_first_with_probabilities(corpus, tiny_reranker_folder, capsys):
    assert main(["rerank", "Berlin?", str(corpus), "--rerank", str(tiny_reranker_folder), "--json"]) == 0
    lines = json_lines(capsys.readouterr().out)
    assert {line["id"] for line in lines} == {p["id"] for p in PASSAGES}
    assert [line["score"] for line in lines] == sorted((line["score"] for line in lines), reverse=True)
    assert all(line["probability"] == pytest.approx(1 / (1 + np.exp(-line["score"]))) for line in lines)


def test_update_prune_delete_compact_and_info(idx, corpus, tmp_path, tiny_encoder_folder, capsys, monkeypatch):
    changed = [{**PASSAGES[0], "text": "柏林是德国首都。"}, *PASSAGES[1:4], {"id": "p6", "text": "Zürich", "year": 2024}]
    corpus.write_text("".join(json.dumps(p, ensure_ascii=False) + "\n" for p in changed), encoding="utf-8")
    command = ["index", str(corpus), "-o", str(idx)]
    assert main([*command, "--update"]) == 0
    assert "1 passages added, 1 replaced, 3 unchanged, 6 in all" in capsys.readouterr().out
    assert main([*command, "--prune"]) == 0
    assert "0 passages added, 5 unchanged, 1 deleted, 5 in all" in capsys.readouterr().out
    assert main(["index", "delete", str(idx), "--filter", "year>=2020 or id=p2"]) == 0
    assert "2 passages deleted, 3 left" in capsys.readouterr().out
    assert main(["index", "delete", str(idx), "p3"]) == 0
    assert main(["index", "compact", str(idx)]) == 0
    assert "5 deleted passages removed" in capsys.readouterr().out
    assert main(["index", "info", str(idx), "--json"]) == 0
    (info,) = json_lines(capsys.readouterr().out)
    assert (info["passages"], info["deleted"], info["languages"]) == (2, 0, ["zh"])
    assert all(size > 0 for size in info["bytes"].values())
    assert main(["index", "info", str(idx)]) == 0
    assert "MB on disk" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    corpus.rename(tmp_path / "compact")
    with pytest.raises(SystemExit):  # the verb, not the file
        main(["index", "compact", "-o", "new.idx", "--model", "none"])
    capsys.readouterr()
    assert main(["index", "./compact", "-o", "new.idx", "--model", "none"]) == 1
    assert "cannot tell how to read" in capsys.readouterr().err


def test_filters_of_search_compare_and_run(idx, tmp_path, tiny_reranker_folder, capsys):
    words = ["--filter", "lang in [zh, ja] and not id=p1", "--rerank", str(tiny_reranker_folder)]
    for first in ("bm25", "dense", "hybrid", "none"):
        assert main(["search", str(idx), "Berlin 首都", "--first", first, "--json", *words]) == 0
        assert {hit["id"] for hit in json_lines(capsys.readouterr().out)[0]["hits"]} == {"p4", "p5"}
    assert main(["compare", str(idx), "Berlin 首都", "--json", *words]) == 0
    for strategy in json_lines(capsys.readouterr().out):
        assert {hit["id"] for hit in strategy["hits"]} == {"p4", "p5"}
    queries, out = tmp_path / "queries.jsonl", tmp_path / "out.trec"
    queries.write_text(json.dumps(QUERIES[0]) + "\n", encoding="utf-8")
    assert main(["run", str(idx), str(queries), "-o", str(out), "--first", "dense", *words]) == 0
    assert {line.split()[2] for line in out.read_text(encoding="utf-8").splitlines()} == {"p4", "p5"}


def test_the_weight_of_titles_is_that_of_the_first_build(tmp_path):
    lines = [{"id": "a", "title": "red", "text": "house"}, {"id": "b", "title": "", "text": "red house"}]
    source, path = tmp_path / "a.jsonl", tmp_path / "a.idx"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    build = ["index", str(source), "-o", str(path), "--model", "none", "--lang", "en"]
    assert main([*build, "--title-weight", "3"]) == 0
    assert main([*build, "--update"]) == 0
    assert main([*build, "--update", "--title-weight", "3"]) == 0
    with Index.open(path) as index, Index.create(tmp_path / "b.idx", title_weight=3) as same:
        same.add(index.passages())
        assert index.manifest["title_weight"] == 3
        found, expected = ([(hit.id, hit.score) for hit in one.search("red")] for one in (index, same))
        assert found == expected
        assert found[0][0] == "a"


REFUSED = {
    "k above candidates": (["search", "IDX", "x", "-k", "9", "--candidates", "3", "--rerank", "RERANKER"], "candidates=3"),
    "a cascade and candidates": (
        ["run", "IDX", "CORPUS", "-o", "new.idx", "--candidates", "9", "--cascade", "tiny-reranker:5"],
        "candidates=9 beside a cascade",
    ),
    "a negative time": (["search", "IDX", "x", "--rerank", "RERANKER", "--max-ms", "-1"], "max_ms=-1"),
    "empty query": (["search", "IDX", "   ", "--rerank", "none"], "empty"),
    "no such index": (["search", "nowhere.idx", "x", "--rerank", "none"], "nowhere.idx"),
    "no such input": (["index", "nowhere.jsonl", "-o", "new.idx", "--model", "none"], "nowhere.jsonl"),
    "no such model": (["search", "IDX", "x", "--rerank", "no-such-model"], "no-such-model"),
    "a folder that is no model": (["encode", "CORPUS", "--model", "FOLDER"], "config.json"),
    "an index of another model": (["index", "CORPUS", "-o", "IDX", "--model", "OTHER"], "was written by encoder"),
    "a reranker as encoder": (["index", "CORPUS", "-o", "IDX", "--model", "RERANKER"], "not an encoder"),
    "the same passages again": (["index", "CORPUS", "-o", "IDX"], "--update"),
    "a malformed filter": (["search", "IDX", "x", "--rerank", "none", "--filter", "lang="], "position 6"),
    "a filter on no field": (["search", "IDX", "x", "--rerank", "none", "--filter", "a=1"], "The fields are id, lang, title"),
    "nothing to delete": (["index", "delete", "IDX"], "one of the two"),
    "to delete what is not there": (["index", "delete", "IDX", "p1", "p9"], "p9"),
    "another mode for an index that exists": (["index", "CORPUS", "-o", "IDX", "--vectors", "binary"], "keeps vectors as int8"),
    "another weight of titles for an index that exists": (
        ["index", "CORPUS", "-o", "IDX", "--title-weight", "5"],
        "made with --title-weight 2, not 5",
    ),
    "a weight of titles out of range": (
        ["index", "CORPUS", "-o", "new.idx", "--model", "none", "--title-weight", "0"],
        "title_weight=0",
    ),
    "a length that the card does not allow": (
        ["index", "CORPUS", "-o", "new.idx", "--model", "ENCODER", "--dims", "8"],
        "matryoshka",
    ),
    "a folder without text": (["index", "FOLDER", "-o", "new.idx"], "no corpus.jsonl"),
    "no passage at all": (["index", "EMPTY", "-o", "new.idx"], "no passage in there"),
    "a malformed line": (["index", "BROKEN", "-o", "new.idx"], "broken.jsonl:2"),
}


def other_pooling(folder, copy):
    """The same network, but another model: its vectors are those of the first token."""
    shutil.copytree(folder, copy)
    (copy / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 64, "pooling_mode_cls_token": true}')
    return copy


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why_and_lose_nothing(
    case, idx, corpus, tmp_path, tiny_encoder_folder, tiny_reranker_folder, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "tiny-reranker").symlink_to(tiny_reranker_folder)
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "broken.jsonl").write_text('{"id": "a", "text": "fine"}\n{"id": "b"\n', encoding="utf-8")
    names = {
        "IDX": idx,
        "CORPUS": corpus,
        "FOLDER": tmp_path / "folder",
        "OTHER": other_pooling(tiny_encoder_folder, tmp_path / "other"),
        "EMPTY": tmp_path / "empty.jsonl",
        "BROKEN": tmp_path / "broken.jsonl",
        "ENCODER": tiny_encoder_folder,
        "RERANKER": tiny_reranker_folder,
    }
    words, expected = REFUSED[case]
    capsys.readouterr()
    assert main([str(names.get(word, word)) for word in words]) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert err.startswith("shortlist: ")
    assert expected in err
    assert "Traceback" not in err
    assert not (tmp_path / "new.idx").exists()
    assert main(["search", str(idx), "Berlin", "--first", "bm25", "--rerank", "none", "--json"]) == 0
    assert json_lines(capsys.readouterr().out)[0]["hits"]


def test_wrong_usage_exits_2():
    with pytest.raises(SystemExit) as stop:
        main(["search"])
    assert stop.value.code == 2


def test_every_verb_has_help_with_an_example(capsys):
    verbs = next(a for a in build_parser()._actions if a.dest == "verb" or (hasattr(a, "choices") and a.choices)).choices
    assert set(verbs) == set(HOME)
    for name, parser in verbs.items():
        assert f"shortlist {name}" in parser.format_help().split("example:")[1]


def test_doctor_and_models_answer(capsys):
    assert main(["doctor", "--json"]) == 0
    report = json_lines(capsys.readouterr().out)[0]
    assert report["kernels in use"] in report["instruction sets"]
    assert main(["models"]) == 0
    assert "shortlist-embed" in capsys.readouterr().out


def test_verify_computes_the_canonical_results(tiny_encoder_folder, tmp_path, capsys):
    folder = shutil.copytree(tiny_encoder_folder, tmp_path / "model")
    vector = Encoder.load(folder).encode(["Berlin"], kind="")[0]
    sums = {"config.json": hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()}
    for shift, status in ((0.0, 0), (0.5, 1)):
        card = {"sha256": sums, "canonical": {"Berlin": [float(x) + shift for x in vector[:5]]}}
        (folder / "card.json").write_text(json.dumps(card))
        assert main(["models", "verify", str(folder)]) == status
    assert "'Berlin' gives" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error(idx):
    process = subprocess.run(
        f"{sys.executable} -m shortlist search {idx} Berlin --first bm25 --rerank none --json | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert process.stdout == "{"
    assert "Traceback" not in process.stderr
