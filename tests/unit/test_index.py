from __future__ import annotations

import os
import subprocess
import sys
import threading
import zlib
from dataclasses import replace

import numpy as np
import pytest

from index_tools import HashEncoder, passages
from shortlist.errors import BadInput, IndexFormatError, IndexLocked, ModelMismatch
from shortlist.fuse import fuse_stages
from shortlist.index import Added, Index
from shortlist.stores.truth import _seal_manifest
from shortlist.stores.vectors import MODES
from shortlist.text import SAMPLES
from shortlist.types import Passage

ENCODER = HashEncoder()
STAGES = {"analyze_ms", "bm25_ms", "encode_ms", "dense_ms", "fuse_ms", "total_ms"}


@pytest.fixture
def index(tmp_path):
    with Index.create(tmp_path / "a.idx", encoder=ENCODER) as index:
        index.add(
            [
                Passage("river", "The Rhine is a river in Europe.", lang="en"),
                Passage(
                    "city", "Berlin is the capital of Germany.", title="Berlin", lang="en", meta={"year": 1237, "x": [1, None]}
                ),
                Passage("uni", "北京大学是一所大学。", lang="zh"),
                Passage("unknown", "12 345 6789"),
            ]
        )
        yield index


def test_hybrid_says_where_each_hit_came_from(index):
    ranking = index.search("Berlin capital", k=2)
    assert ranking.ids[0] == "city"
    hit = ranking[0]
    assert hit.passage == index.get("city")
    assert set(hit.scores) == set(hit.ranks) == {"bm25", "dense", "hybrid"}
    assert hit.ranks == {"bm25": 1, "dense": 1, "hybrid": 1}
    assert hit.score == hit.scores["hybrid"]
    assert set(ranking.timings) == STAGES
    assert ranking.timings["total_ms"] >= max(v for k, v in ranking.timings.items() if k != "total_ms")


@pytest.mark.parametrize(("first", "stages"), [("bm25", {"analyze_ms", "bm25_ms"}), ("dense", {"encode_ms", "dense_ms"})])
def test_a_single_stage_runs_alone(index, first, stages):
    ranking = index.search("Berlin capital", k=1, first=first)
    assert ranking.ids == ["city"]
    assert set(ranking.timings) == stages | {"total_ms"}
    assert set(ranking[0].scores) == {first}


def test_chinese_is_found_by_a_part_of_a_run(index):
    assert index.search("大学", first="bm25").ids == ["uni"]


def test_weights_and_sum(index):
    alone = index.search("Rhine river", k=4, first="bm25").ids
    for fusion in ("auto", "sum", "rrf"):
        assert index.search("Rhine river", k=4, fusion=fusion, weights={"dense": 0.0}).ids[: len(alone)] == alone
    assert index.search("Berlin capital", k=1, fusion="rrf")[0].score == pytest.approx(2 / 61)
    assert index.search("Rhine river", k=1, fusion="sum", weights={"bm25": 2.0}).ids == ["river"]
    for wrong in ({"weights": {"rerank": 1.0}}, {"weights": {"bm25": -1.0}}, {"fusion": "max"}, {"first": "sparse"}):
        with pytest.raises(BadInput):
            index.search("Rhine", **wrong)


def test_auto_adds_similarities_in_the_unit_of_the_encoder(index):
    """Against the formula: half a z-score of BM25 and the similarity over 0.08 times the encoder's spread."""
    lists = {first: index.search("Berlin museum", k=1000, first=first) for first in ("bm25", "dense")}
    words = {hit.id: hit.score for hit in lists["bm25"]}
    words |= dict.fromkeys([hit.id for hit in lists["dense"] if hit.id not in words][: max(0, 10 - len(words))], 0.0)
    values = np.array(list(words.values()))
    scores = {name: 0.5 * (score - values.mean()) / values.std() for name, score in words.items()}
    lowest = min(scores.values())
    expected = {hit.id: scores.get(hit.id, lowest) + hit.score / (0.08 * index.spread) for hit in lists["dense"]}
    ranking = index.search("Berlin museum", k=len(expected))
    assert ranking.ids == sorted(expected, key=lambda name: (-expected[name], name))
    shift = ranking[0].score - expected[ranking[0].id]
    assert [hit.score for hit in ranking] == pytest.approx([expected[hit.id] + shift for hit in ranking])
    spread = np.std([hit.score for hit in lists["dense"]])
    assert ranking.weights == {"bm25": 0.5, "dense": pytest.approx(spread / (0.08 * index.spread))}
    assert index.search("Berlin museum", k=2).ids == ranking.ids[:2]


def test_the_spread_is_that_of_the_encoder(index):
    """Alone a text is likest to itself; a loop over all pairs gives the same number, as kept in float16."""
    texts = list(SAMPLES)
    vectors = [ENCODER.encode_counted([text])[0][0] for text in texts]
    itself = np.mean([v @ v for v in vectors])
    others = np.mean([a @ b for i, a in enumerate(vectors) for j, b in enumerate(vectors) if i != j])
    assert index.spread == pytest.approx(itself - others, abs=1e-3)
    assert index.manifest["spread"] == index.spread


def test_an_index_of_an_older_version_computes_its_spread(tmp_path):
    with Index.create(tmp_path / "old.idx", encoder=ENCODER) as index:
        index.add(passages(30))
        stated, answer = index.spread, index.search("Berlin river").ids
        db = index._store._truth._db
        db.execute("DELETE FROM manifest WHERE key = 'spread'")
        _seal_manifest(db)
    with Index.open(tmp_path / "old.idx", encoder=ENCODER) as index:
        assert "spread" not in index.manifest
        before = ENCODER.encoded
        index.search("Berlin river", fusion="rrf")
        assert ENCODER.encoded - before == 1  # the query alone: ranks need no unit
        assert index.spread == pytest.approx(stated, abs=1e-6)
        assert index.search("Berlin river").ids == answer


@pytest.mark.parametrize("fusion", ["auto", "sum", "rrf"])
def test_a_hybrid_search_is_two_whole_lists_fused(tmp_path, fusion):
    """Every number that a hit carries, in an index where many passages are equal and the lists are cut within ties.

    The vectors' list is brute force over all passages; that of the words is judged by the contract of the store.
    """
    texts = passages(140)
    ids = [f"{zlib.crc32(str(number).encode()):08x}" for number in range(len(texts) * 10)]
    everything = [replace(texts[number % len(texts)], id=name) for number, name in enumerate(ids)]
    with Index.create(tmp_path / "a.idx", encoder=ENCODER) as index:
        index.add(everything)
        layout, spread = index._store.layout, index.spread
        halves = layout.vectors(layout.stored(ENCODER.encode_counted([p.content for p in everything])[0]))
        for query in ("the river museum in winter", "北京大学 der fluss", "nothing"):
            products = (halves * ENCODER.encode_counted([query])[0][0]).sum(axis=1).tolist()
            dense = sorted(zip(ids, products, strict=True), key=lambda hit: (-hit[1], hit[0]))[:1000]
            found = index.search(query, 25, fusion=fusion)
            lists = {stage: [(h.id, h.score) for h in index.search(query, 1000, first=stage)] for stage in ("bm25", "dense")}
            assert lists["dense"] == dense
            every = [(hit.id, hit.score) for hit in index.search(query, len(ids), first="bm25")]
            assert lists["bm25"] == sorted(every, key=lambda hit: (-hit[1], hit[0]))[:1000]
            fused, weights = fuse_stages(lists, fusion, {}, spread)
            assert [(hit.id, hit.score) for hit in found] == fused[:25]
            assert found.weights == weights
            for place, hit in enumerate(found, 1):
                stages = {**lists, "hybrid": fused}
                known = {stage: dict(some) for stage, some in stages.items() if hit.id in dict(some)}
                assert hit.scores == {stage: some[hit.id] for stage, some in known.items()}
                assert hit.ranks == {stage: list(some).index(hit.id) + 1 for stage, some in known.items()}
                assert (hit.ranks["hybrid"], hit.passage) == (place, everything[ids.index(hit.id)])


def test_a_stored_fusion_is_what_searches_use(tmp_path):
    path = tmp_path / "kept.idx"
    with Index.create(path, encoder=ENCODER) as index:
        index.add(passages(60))
        assert index.fusion() == ("auto", {})
        only_words = index.search("river bridge", k=5, weights={"dense": 0.0}).ids
        index.keep_fusion("sum", {"bm25": 1.0, "dense": 0.0}, questions=12)
        for wrong in (("max", {}), ("sum", {"rerank": 1.0}), ("sum", {"bm25": -1.0})):
            with pytest.raises(BadInput):
                index.keep_fusion(*wrong)
        index.compact()
    with Index.open(path, encoder=ENCODER) as index:
        assert index.manifest["search"] == {"fusion": "sum", "weights": {"bm25": 1.0, "dense": 0.0}, "questions": 12}
        ranking = index.search("river bridge", k=5)
        assert (ranking.ids, ranking.weights) == (only_words, {"bm25": 1.0, "dense": 0.0})
        assert index.search("river bridge", fusion="sum", weights={}).weights == {"bm25": 0.5, "dense": 1.0}
        assert index.search("river bridge", fusion="rrf").weights == {"bm25": 1.0, "dense": 1.0}
        with pytest.raises(BadInput, match="writ"):
            index.keep_fusion("auto", {})


def test_the_only_passage_with_a_rare_word_stands_out(tmp_path):
    with Index.create(tmp_path / "rare.idx", encoder=ENCODER) as index:
        index.add([*passages(50), Passage("code", "Spare part XQ-9917 is made of steel.")])
        assert index.search("which part is xq-9917 made of?", k=1).ids == ["code"]
        assert index.search("xq9917", k=1).ids == ["code"]


def test_a_query_without_a_known_term_says_so(index):
    ranking = index.search("xylophone", first="bm25")
    assert len(ranking) == 0
    assert ranking.notes == ("no term of the query occurs in the index",)
    assert index.search("???", first="bm25").notes == ("the query holds no term to look up",)


def test_an_empty_index_says_so(tmp_path):
    with Index.create(tmp_path / "b.idx") as index:
        assert index.add([]) == Added(0, 0)
        ranking = index.search("anything")
        assert (len(ranking), ranking.notes) == (0, ("the index is empty",))


def test_k_larger_than_the_index(index):
    assert len(index.search("Berlin", k=1000)) == 4


def test_delete_get_len_passages_languages(index):
    assert (len(index), index.languages) == (4, ("", "en", "zh"))
    assert index.delete(iter(["uni", "uni"])) == 1
    assert index.delete([]) == 0
    assert [p.id for p in index.passages()] == ["river", "city", "unknown"]
    assert (len(index), index.languages) == (3, ("", "en"))
    assert index.get("city").meta == {"year": 1237, "x": [1, None]}
    for wrong in ("uni", "nobody"):
        with pytest.raises(BadInput, match=wrong):
            index.get(wrong)
    with pytest.raises(BadInput, match="collection of ids"):
        index.delete("city")


def test_add_streams_counts_and_reports(tmp_path):
    calls = []
    encoder = HashEncoder(max_chars=40)
    with Index.create(tmp_path / "c.idx", encoder=encoder) as index:
        before = encoder.encoded  # texts that tell how the encoder's similarities spread
        made = passages(4500)
        added = index.add((p for p in made), progress=lambda done, total: calls.append((done, total)))
        assert added == Added(4500, sum(len(p.content) > 40 for p in made))
        assert list(dict.fromkeys(calls)) == [(2000, None), (4000, None), (4500, None)]
        index.add([Passage("last", "x")], progress=lambda done, total: calls.append((done, total)))
        assert calls[-1] == (1, 1)
        assert encoder.encoded - before == 4501
        assert len(list((index.path / "terms").iterdir())) <= 4


def test_a_second_writer_is_told_who_holds_the_index(index):
    with pytest.raises(IndexLocked, match=rf"process {os.getpid()} on "):
        Index.open(index.path, write=True)
    script = (
        "import sys; from shortlist.index import Index; from shortlist.errors import IndexLocked\n"
        "try: Index.open(sys.argv[1], write=True)\n"
        "except IndexLocked as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(index.path)], capture_output=True, text=True, check=True)
    assert f"process {os.getpid()} on " in done.stdout
    index.close()
    Index.open(index.path, write=True).close()


def test_readers_cannot_write_and_writers_come_again(index):
    with Index.open(index.path) as reader, pytest.raises(BadInput, match="write=True"):
        reader.add([Passage("x", "y")])
    assert len(index) == 4


def test_a_closed_index_says_so(index):
    index.close()
    with pytest.raises(BadInput, match="closed"):
        index.search("river")
    with pytest.raises(BadInput, match="not open for writing"):
        index.add([Passage("x", "y")])


def test_threads_add_to_one_index(index):
    def work(name):
        for number in range(10):
            index.add([Passage(f"{name}{number}", f"text {name}{number}", lang="en")])

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(index) == 34
    assert index.search("b7", k=1, first="bm25").ids == ["b7"]


def test_another_process_reads_while_one_writes(index):
    script = (
        "import sys; from shortlist.index import Index\n"
        "index = Index.open(sys.argv[1])\n"
        "for line in sys.stdin: print(len(index), index.search(line.strip(), first='bm25').ids, flush=True)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, "-c", script, str(index.path)], **pipes) as reader:
        for number in range(5):
            index.add([Passage(f"n{number}", f"unique{number}", lang="en")])
            reader.stdin.write(f"unique{number}\n")
            assert reader.stdout.readline() == f"{5 + number} ['n{number}']\n"
        reader.stdin.close()


def test_threads_search_one_index(index):
    failures = []

    def work():
        try:
            for _ in range(30):
                assert index.search("Berlin capital", k=1).ids == ["city"]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(10):
        index.add([Passage(f"t{number}", f"filler {number}", lang="en")])
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_encoder_must_be_the_one_that_wrote(index, tmp_path):
    with pytest.raises(ModelMismatch) as caught:
        Index.open(index.path, encoder=HashEncoder(dims=16, name="other"))
    message = str(caught.value)
    assert str(index.path) in message
    assert "hash-trigrams" in message
    assert "other" in message
    assert "without encoder=" in message
    Index.create(tmp_path / "plain.idx").close()
    with pytest.raises(ModelMismatch, match="without an encoder"):
        Index.open(tmp_path / "plain.idx", encoder=ENCODER)


def test_dense_without_vectors_is_refused(tmp_path):
    with Index.create(tmp_path / "plain.idx") as index:
        index.add([Passage("a", "berlin")])
        for first in ("dense", "hybrid"):
            with pytest.raises(BadInput, match='first="bm25"'):
                index.search("berlin", first=first)
        assert index.search("berlin").ids == ["a"]
        assert not (index.path / "vectors.i8").exists()


def test_manifest(index):
    manifest = index.manifest
    assert manifest["format"] == 3
    assert manifest["analyzer"] == "auto/2"
    assert manifest["encoder"] == {
        "name": ENCODER.name,
        "address": ENCODER.address,
        "fingerprint": ENCODER.fingerprint,
        "dims": ENCODER.dims,
    }
    assert (manifest["k1"], manifest["b"], manifest["vectors"]) == (0.9, 0.4, "int8")


@pytest.mark.parametrize("mode", MODES)
def test_an_index_in_each_mode_finds_what_it_holds(mode, tmp_path):
    encoder, many = HashEncoder(dims=64), passages(400)
    with Index.create(tmp_path / "a.idx", encoder=encoder, vectors=mode) as index:
        index.add(many[:150])
        index.add(many[150:])
        index.delete([many[7].id])
        before = [index.search(p.content, first="dense").ids for p in many[::20]]
    first = [many[int(ids[0][1:])].content == p.content for p, ids in zip(many[::20], before, strict=True)]
    assert sum(first) >= (12 if mode == "binary" else 20)
    for file in (tmp_path / "a.idx").glob("vectors.*"):
        content = file.read_bytes()
        file.unlink()
        with Index.open(tmp_path / "a.idx", encoder=encoder, write=True) as index:
            assert [index.search(p.content, first="dense").ids for p in many[::20]] == before
        assert file.read_bytes() == content
    assert index.manifest["format"] == 3


def test_binary_alone_is_small_in_the_truth_too(tmp_path):
    sizes = {}
    for mode in MODES:
        with Index.create(tmp_path / mode, encoder=HashEncoder(dims=1024), vectors=mode) as index:
            index.add(passages(300))
        sizes[mode] = sum(file.stat().st_size for file in (tmp_path / mode).iterdir() if file.is_file())
    assert sizes["float32"] > sizes["int8"] > sizes["binary-rescored"] > 6 * sizes["binary"] - 6 * 300 * 400


def test_bits_do_not_depend_on_what_came_before(tmp_path):
    for name, order in (("a", 1), ("b", -1)):
        with Index.create(tmp_path / name, encoder=ENCODER, vectors="binary") as index:
            for one in passages(40)[::order]:
                index.add([one])
    one, other = ((tmp_path / name / "vectors.b1").read_bytes() for name in "ab")
    row = len(one) // 40
    assert [one[at : at + row] for at in range(0, len(one), row)] == [
        other[at : at + row] for at in range(len(other) - row, -1, -row)
    ]


def test_vectors_are_cut_where_the_card_allows_it(tmp_path):
    encoder = HashEncoder(dims=64)
    with pytest.raises(BadInput, match=r"allows \[64\].*matryoshka"):
        Index.create(tmp_path / "a.idx", encoder=encoder, dims=16)
    encoder.matryoshka = (16,)
    many = passages(100)
    for mode in MODES:
        with Index.create(tmp_path / mode, encoder=encoder, vectors=mode, dims=16) as index:
            index.add(many)
            assert (index.manifest["dims"], index.manifest["format"]) == (16, 3)
        with Index.open(tmp_path / mode, encoder=encoder) as index:
            hits = index.search(many[3].content, first="dense", k=100).hits
        cut = encoder.encode_counted([p.content for p in many])[0][:, :16]
        cut /= np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-9)
        exact = cut @ cut[3]
        tolerance = {"float32": 1e-6, "int8": 1e-3, "binary-rescored": 0.02, "binary": np.inf}[mode]  # 16 bits say little
        assert all(abs(hit.score - exact[int(hit.id[1:])]) < tolerance for hit in hits)


def test_create_refuses_what_is_there_and_values_out_of_range(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("full", "file"):
        with pytest.raises(BadInput, match="exists already"):
            Index.create(tmp_path / name)
    (tmp_path / "empty").mkdir()
    Index.create(tmp_path / "empty").close()
    Index.create(tmp_path / "new" / "deep").close()
    for wrong in (
        {"k1": -1},
        {"b": 1.1},
        {"k1": float("nan")},
        {"analyzer": "none/9"},
        {"vectors": "bits"},
        {"rescore_multiplier": 0},
        {"dims": 8},
    ):
        with pytest.raises(BadInput):
            Index.create(tmp_path / "wrong", **wrong)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "full", "new"]


def test_open_refuses_what_is_no_index(tmp_path):
    with pytest.raises(BadInput, match="no such index"):
        Index.open(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    for name in ("folder", "file"):
        with pytest.raises(IndexFormatError, match="not an index"):
            Index.open(tmp_path / name)


def test_an_encoder_of_nan_is_refused(tmp_path):
    class Broken(HashEncoder):
        def encode_counted(self, texts, *, kind="", progress=None):
            vectors, cut = super().encode_counted(texts, kind=kind)
            return vectors * np.float32(np.nan), cut

    with Index.create(tmp_path / "n.idx", encoder=Broken()) as index:
        with pytest.raises(BadInput, match="NaN"):
            index.add(passages(3))
        assert len(index) == 0


def test_title_weight_is_checked_and_kept(tmp_path):
    for wrong in (0, 101, 1.5, "2"):
        with pytest.raises(BadInput, match="title_weight"):
            Index.create(tmp_path / "x", title_weight=wrong)
    with Index.create(tmp_path / "x", title_weight=3) as index:
        index.add([Passage("a", "red", "blue"), Passage("b", "blue", "red")])
        assert [hit.id for hit in index.search("blue").hits] == ["a", "b"]


# --- upsert, filters


def test_upsert_adds_replaces_and_leaves_alone_what_is_the_same(tmp_path):
    encoder = HashEncoder()
    made = passages(50)
    with Index.create(tmp_path / "u.idx", encoder=encoder) as index:
        before = encoder.encoded
        assert index.upsert(made) == Added(50, 0)
        generation = index._store.snapshot().published.point.generation
        assert index.upsert(iter(made)) == Added(0, 0, 0, 50)
        assert (encoder.encoded - before, index._store.snapshot().published.point.generation) == (50, generation)
        changed = [
            replace(made[0], text="another river"),
            replace(made[1], title="New"),
            replace(made[2], lang="pl"),
            replace(made[3], meta={"n": True}),
            Passage("fresh", "a fresh passage", lang="en"),
        ]
        calls = []
        done = index.upsert([*changed, *made[4:]], progress=lambda done, total: calls.append((done, total)))
        assert done == Added(1, 0, 4, 46)
        assert calls[-1] == (51, 51)
        assert encoder.encoded - before == 55
        assert {p.id: p for p in index.passages()} == {p.id: p for p in [*changed, *made[4:]]}
        assert index.search("another river", k=1).ids == ["p0"]
        with pytest.raises(BadInput, match="iterable"):
            index.upsert(made[0])


@pytest.mark.parametrize(("kept", "flag"), [(1, True), (1, 1.0), (0, False)])
def test_metadata_that_python_calls_equal_are_not(tmp_path, kept, flag):
    with Index.create(tmp_path / "u.idx") as index:
        index.add([Passage("a", "x", meta={"v": kept, "w": 1})])
        assert index.upsert([Passage("a", "x", meta={"w": 1, "v": kept})]) == Added(0, 0, 0, 1)
        assert index.upsert([Passage("a", "x", meta={"v": flag, "w": 1})]) == Added(0, 0, 1, 0)
        assert type(index.get("a").meta["v"]) is type(flag)


def test_of_equal_ids_in_one_upsert_the_last_one_stays(tmp_path):
    """The counts are those of one passage after the other, wherever a batch ends."""
    stream = [Passage(f"p{i % 1500}", f"text {i // 1500} of {i % 1500}", lang="en") for i in range(4500)]
    with Index.create(tmp_path / "u.idx") as index:
        assert index.upsert([Passage("a", "1"), Passage("a", "2"), Passage("a", "2"), Passage("b", "1")]) == Added(2, 0, 1, 1)
        assert index.get("a").text == "2"
        assert index.upsert(stream) == Added(1500, 0, 3000, 0)
        assert index.get("p7").text == "text 2 of 7"
        assert len(index) == 1502


def test_filters_in_every_stage(index):
    for first in ("bm25", "dense", "hybrid"):
        everything = index.search("Berlin capital river 大学", k=10, first=first)
        for where, fits in [
            ("lang=en", {"river", "city"}),
            ({"year": {"lt": 1300}}, {"city"}),
            ("not lang=en", {"uni", "unknown"}),
        ]:
            found = index.search("Berlin capital river 大学", k=10, first=first, where=where)
            assert found.ids == [name for name in everything.ids if name in fits] or first == "hybrid"
            assert set(found.ids) == set(everything.ids) & fits
            for hit in found:
                for stage in {"bm25", "dense"} & set(hit.scores):
                    assert hit.scores[stage] == {h.id: h for h in everything}[hit.id].scores[stage]
    ranking = index.search("Berlin", first="bm25", where="lang=zh")
    assert ranking.notes == ("no term of the query occurs in the passages that fit the filter",)
    assert [p.id for p in index.passages("x=1")] == ["city"]
    with pytest.raises(BadInput, match="fields are id, lang, title, x, year"):
        index.search("Berlin", where="yaer=1237")
    with pytest.raises(BadInput, match="ids are strings"):
        index.search("Berlin", where={"id": 3})
    with pytest.raises(BadInput, match="surrogate"):
        index.search("Berlin", where={"id": "\ud800"})


def test_delete_by_filter(index):
    with pytest.raises(BadInput, match="one of the two"):
        index.delete()
    with pytest.raises(BadInput, match="one of the two"):
        index.delete(["uni"], where="lang=zh")
    assert index.delete(where="lang=zh or id=city") == 2
    assert index.delete(where={"lang": "zh"}) == 0
    assert [p.id for p in index.passages()] == ["river", "unknown"]
    assert index.deleted == 2
    assert index.compact() == 2
    assert index.deleted == 0
    assert index.search("Rhine", k=1).ids == ["river"]


def test_another_process_keeps_its_snapshot_while_this_one_changes_everything(index):
    script = (
        "import sys; from shortlist.index import Index\n"
        "index = Index.open(sys.argv[1]); old = index._store.snapshot()\n"
        "for line in sys.stdin: print([p.id for p in old.passages()], [p.id for p in index.passages()], flush=True)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    before = ["river", "city", "uni", "unknown"]
    with subprocess.Popen([sys.executable, "-c", script, str(index.path)], **pipes) as reader:
        for change in (
            lambda: None,
            lambda: index.upsert([Passage("city", "Bonn")]),
            lambda: index.delete(where="lang=zh"),
            index.compact,
        ):
            change()
            reader.stdin.write("x\n")
            now = [p.id for p in index.passages()]
            assert reader.stdout.readline() == f"{before} {now}\n"
        reader.stdin.close()


def test_a_commit_touches_what_it_adds_and_not_what_is_there(tmp_path, monkeypatch):
    """Bytes written and summed for one passage do not grow with the index."""
    counted = []
    real = zlib.crc32
    monkeypatch.setattr("zlib.crc32", lambda data, *rest: (counted.append(memoryview(data).nbytes), real(data, *rest))[1])
    costs = []
    for size in (300, 6000):
        with Index.create(tmp_path / f"{size}.idx", encoder=HashEncoder(dims=16)) as index:
            index.add(passages(size))
            index.add([Passage("first", "reads what is there once", lang="en")])
            index.search("river", first="dense")
            index.search("river", first="bm25")
            counted.clear()
            index.add([Passage("new", "one more river", lang="en", meta={"n": 1})])
            index.search("river", first="bm25")
            costs.append(sum(counted))
    assert costs[1] < 2 * costs[0]


def test_an_index_says_what_there_is_to_filter_by(tmp_path):
    with Index.create(tmp_path / "new.idx") as index:
        index.add(Passage(f"p{n}", "river", lang="en" if n % 3 else "de", meta={"n": n, "odd": bool(n % 2)}) for n in range(60))
        index.delete([f"p{n}" for n in range(0, 60, 2)])
        assert index.language_counts() == {"de": 10, "en": 20}
        fields = index.fields()
        assert set(fields) == {"lang", "n", "odd"}
        assert dict(fields["lang"].values) == {"en": 20, "de": 10}
        assert fields["odd"].values == ((True, 30),)
        assert (fields["n"].values, fields["n"].complete, fields["n"].bounds) == ((), False, (0, 59))
        assert len(index.fields(most=60)["n"].values) == 30
        assert index.count() == 30
        assert index.count("lang=de and n>=30") == sum(n % 2 == 1 and n % 3 == 0 for n in range(30, 60))
