"""How each engine of bench/index.py is called: one class an engine, all with the same few methods.

    build(folder, corpus)   makes everything in an empty folder; gives {step: seconds} where steps can be told apart
    Engine(folder, corpus)  opens what was built; `write` says that it will be changed
    text(question) vector(question, vector)    numbers of the 100 best, best first; a store that keeps texts has fetched them
    add(number, text, tag, vector) delete(number)    one passage, durable as far as the engine promises it when the call returns
    close()                 as its documentation asks for

`about` states the settings, `bm25` the k1 and b of an engine that ranks by BM25, `packages` what is installed for it. Engines
are imported where they are used, since each runs in a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .corpus import DIMS, Corpus, K

Row = tuple[int, str, int]


def batches(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(rows, size)):
        yield batch


class Clocked:
    """{step: seconds} of what is called through it."""

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}

    def __call__(self, step: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        self.steps[step] = round(self.steps.get(step, 0) + time.perf_counter() - began, 2)
        return result


# --- ours


class GivenVectors:
    """An encoder that knows the vectors already: those of the corpus in order, then the one that was set last."""

    name = address = "given"
    fingerprint = "0" * 64
    dims = DIMS
    matryoshka = ()

    def __init__(self, corpus: Corpus) -> None:
        self._blocks: Any = None
        self._corpus, self._at = corpus, 0
        self.next: np.ndarray | None = None

    def encode_counted(self, texts: Sequence[str], *, kind: str = "", progress: Any = None) -> tuple[Any, Any]:
        if self.next is not None:
            found = np.tile(self.next, (len(texts), 1))
        elif self._at == 0 and len(texts) < 1000:  # the samples that bits are centred on
            found = np.array(self._corpus.vectors[: len(texts)])
        else:
            found = np.array(self._corpus.vectors[self._at : self._at + len(texts)])
            self._at += len(texts)
        return found, np.zeros(len(texts), np.int32)


class Shortlist:
    kinds, packages, bm25 = ("text",), ("shortlist",), (0.9, 0.4)
    about = "BM25 only, analyzer auto/2 (stems), language given, batches as `Index.add` makes them"
    mode: Any = None
    lang = "en"

    @classmethod
    def _encoder(cls, corpus: Corpus) -> Any:
        return GivenVectors(corpus) if cls.mode else None

    @classmethod
    def build(cls, folder: Path, corpus: Corpus) -> dict[str, float]:
        from shortlist.index import Index
        from shortlist.types import Passage

        options = {"vectors": cls.mode} if cls.mode else {}
        rows = (Passage(f"p{number}", text, lang=cls.lang, meta={"tag": tag}) for number, text, tag in corpus.passages())
        with Index.create(folder / "bench.idx", encoder=cls._encoder(corpus), **options) as index:
            index.add(rows)
        return {}

    def __init__(self, folder: Path, corpus: Corpus, write: bool = False) -> None:
        from shortlist.index import Index

        self._given = self._encoder(corpus)
        self._index = Index.open(folder / "bench.idx", encoder=self._given, write=write)

    def text(self, question: str) -> list[int]:
        return [int(hit.id[1:]) for hit in self._index.search(question, K, first="bm25")]

    def vector(self, question: str, vector: np.ndarray) -> list[int]:
        self._given.next = vector
        return [int(hit.id[1:]) for hit in self._index.search(question, K, first="dense")]

    def add(self, number: int, text: str, tag: int, vector: np.ndarray) -> None:
        from shortlist.types import Passage

        if self._given:
            self._given.next = vector
        self._index.add([Passage(f"p{number}", text, lang=self.lang, meta={"tag": tag})])

    def delete(self, number: int) -> None:
        self._index.delete([f"p{number}"])

    def close(self) -> None:
        self._index.close()


class ShortlistDetecting(Shortlist):
    about = "BM25 only, analyzer auto/2 (stems), language of each passage detected"
    lang = ""


class ShortlistInt8(Shortlist):
    kinds = ("text", "vector")
    mode = "int8"
    about = "BM25 as above and int8 vectors, exact scan, rescored in float16"


class ShortlistBits(ShortlistInt8):
    mode = "binary-rescored"
    about = "BM25 as above and 1-bit vectors, exact scan, rescored in int8"


# --- text only


class Tantivy:
    kinds, packages, bm25 = ("text",), ("tantivy",), (1.2, 0.75)
    about = "tokenizer `default` (lower case, no stems), id and text stored, writer of 500 MB with its own threads"

    @staticmethod
    def build(folder: Path, corpus: Corpus) -> dict[str, float]:
        import tantivy

        schema = tantivy.SchemaBuilder()
        schema.add_integer_field("number", stored=True, indexed=True)
        schema.add_text_field("text", stored=True, tokenizer_name="default", index_option="freq")
        schema.add_integer_field("tag", indexed=True)
        writer = tantivy.Index(schema.build(), path=str(folder)).writer(heap_size=500_000_000)
        for number, text, tag in corpus.passages():
            writer.add_document(tantivy.Document(number=number, text=text, tag=tag))
        writer.commit()
        writer.wait_merging_threads()
        return {}

    def __init__(self, folder: Path, corpus: Corpus, write: bool = False) -> None:
        import tantivy

        self._index = tantivy.Index.open(str(folder))
        self._document = tantivy.Document
        self._writer = self._index.writer(heap_size=50_000_000, num_threads=1) if write else None
        self._searcher = self._index.searcher()

    def text(self, question: str) -> list[int]:
        hits = self._searcher.search(self._index.parse_query(question, ["text"]), K, count=False).hits
        found = [self._searcher.doc(address) for _, address in hits]
        return [one["number"][0] for one in found if one["text"][0]]

    def _commit(self) -> None:
        self._writer.commit()
        self._index.reload()
        self._searcher = self._index.searcher()

    def add(self, number: int, text: str, tag: int, vector: np.ndarray) -> None:
        self._writer.add_document(self._document(number=number, text=text, tag=tag))
        self._commit()

    def delete(self, number: int) -> None:
        self._writer.delete_documents("number", number)
        self._commit()

    def close(self) -> None:
        pass


class Bm25s:
    kinds, packages, bm25 = ("text",), ("bm25s", "numba"), (1.5, 0.75)
    about = "numba back end, method lucene, no stop words, no stems; keeps no texts, cannot be changed"
    add = delete = None
    _tokens: dict[str, Any] = {"token_pattern": r"[^\W_]+", "stopwords": None, "show_progress": False}  # noqa: RUF012

    @classmethod
    def build(cls, folder: Path, corpus: Corpus) -> dict[str, float]:
        import bm25s

        engine = bm25s.BM25(method="lucene", backend="numba")
        engine.index(bm25s.tokenize([text for _, text, _ in corpus.passages()], **cls._tokens), show_progress=False)
        engine.save(str(folder))
        return {}

    def __init__(self, folder: Path, corpus: Corpus, write: bool = False) -> None:
        import bm25s

        self._tokenize = bm25s.tokenize
        self._engine = bm25s.BM25.load(str(folder), mmap=True)
        self._engine.activate_numba_scorer()

    def text(self, question: str) -> list[int]:
        asked = self._tokenize([question], return_ids=False, **self._tokens)
        found, scores = self._engine.retrieve(asked, k=K, show_progress=False, n_threads=1)
        return [int(number) for number, score in zip(found[0], scores[0], strict=True) if score > 0]

    def close(self) -> None:
        pass


class Sqlite:
    """A database through apsw, whose SQLite is newer than Python's and loads extensions."""

    def __init__(self, folder: Path, corpus: Corpus | None = None, write: bool = False) -> None:
        import apsw

        self._db = apsw.Connection(str(folder / "bench.sqlite"))
        self._db.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")

    def _inserted(self, sql: str, rows: Iterator[Any], size: int = 10_000) -> None:
        for batch in batches(rows, size):
            with self._db:
                self._db.executemany(sql, batch)

    def close(self) -> None:
        self._db.close()


class Fts5(Sqlite):
    kinds, packages, bm25 = ("text",), ("apsw",), None
    about = "SQLite FTS5, unicode61, words joined by OR; commits of 10,000 rows, WAL, synchronous=FULL. Its idf is not Lucene's"

    @classmethod
    def build(cls, folder: Path, corpus: Corpus) -> dict[str, float]:
        self = cls(folder)
        self._db.execute("CREATE VIRTUAL TABLE t USING fts5(text, tag UNINDEXED, tokenize='unicode61 remove_diacritics 0')")
        self._inserted("INSERT INTO t (rowid, text, tag) VALUES (?, ?, ?)", corpus.passages())
        self.close()
        return {}

    def text(self, question: str) -> list[int]:
        words = " OR ".join(f'"{word}"' for word in question.split())
        sql = "SELECT rowid, text FROM t WHERE t MATCH ? ORDER BY rank LIMIT ?"
        return [number for number, _ in self._db.execute(sql, (words, K))]

    def add(self, number: int, text: str, tag: int, vector: np.ndarray) -> None:
        self._db.execute("INSERT INTO t (rowid, text, tag) VALUES (?, ?, ?)", (number, text, tag))

    def delete(self, number: int) -> None:
        self._db.execute("DELETE FROM t WHERE rowid = ?", (number,))


# --- vectors only


class SqliteVec(Sqlite):
    kinds, packages, bm25 = ("vector",), ("sqlite-vec", "apsw"), None
    about = "vec0 table of float32, exact; commits of 10,000 rows, WAL, synchronous=FULL; texts in a table beside it"

    def __init__(self, folder: Path, corpus: Corpus | None = None, write: bool = False) -> None:
        import sqlite_vec

        super().__init__(folder)
        self._db.enable_load_extension(True)
        self._db.load_extension(sqlite_vec.loadable_path())

    @classmethod
    def build(cls, folder: Path, corpus: Corpus) -> dict[str, float]:
        self = cls(folder)
        self._db.execute(f"CREATE VIRTUAL TABLE v USING vec0(embedding float[{DIMS}] distance_metric=cosine)")
        self._db.execute("CREATE TABLE passages (number INTEGER PRIMARY KEY, text TEXT, tag INTEGER)")
        self._inserted("INSERT INTO passages VALUES (?, ?, ?)", corpus.passages())
        rows = ((start + i, row.tobytes()) for start, block in corpus.vector_blocks() for i, row in enumerate(block))
        self._inserted("INSERT INTO v (rowid, embedding) VALUES (?, ?)", rows)
        self.close()
        return {}

    def vector(self, question: str, vector: np.ndarray) -> list[int]:
        sql = (
            "SELECT n.rowid, p.text FROM (SELECT rowid, distance FROM v WHERE embedding MATCH ? AND k = ?) AS n "
            "JOIN passages AS p ON p.number = n.rowid ORDER BY n.distance"
        )
        return [number for number, _ in self._db.execute(sql, (vector.tobytes(), K))]

    def add(self, number: int, text: str, tag: int, vector: np.ndarray) -> None:
        with self._db:
            self._db.execute("INSERT INTO passages VALUES (?, ?, ?)", (number, text, tag))
            self._db.execute("INSERT INTO v (rowid, embedding) VALUES (?, ?)", (number, vector.tobytes()))

    def delete(self, number: int) -> None:
        with self._db:
            self._db.execute("DELETE FROM passages WHERE number = ?", (number,))
            self._db.execute("DELETE FROM v WHERE rowid = ?", (number,))


class Usearch:
    kinds, packages, bm25 = ("vector",), ("usearch",), None
    about = "HNSW of int8, connectivity 16, expansion_add 128, expansion_search 256, served as a view; a change saves the file"

    @staticmethod
    def _index() -> Any:
        from usearch.index import Index

        return Index(ndim=DIMS, metric="ip", dtype="i8", connectivity=16, expansion_add=128, expansion_search=256)

    @classmethod
    def build(cls, folder: Path, corpus: Corpus) -> dict[str, float]:
        index = cls._index()
        for start, block in corpus.vector_blocks():
            index.add(np.arange(start, start + len(block)), block)
        index.save(str(folder / "graph.usearch"))
        return {}

    def __init__(self, folder: Path, corpus: Corpus, write: bool = False) -> None:
        self._path = folder / "graph.usearch"
        self._graph = self._index()
        (self._graph.load if write else self._graph.view)(str(self._path))

    def vector(self, question: str, vector: np.ndarray) -> list[int]:
        return self._graph.search(vector, K, threads=1).keys.tolist()

    def _save(self) -> None:
        draft = self._path.with_suffix(".new")
        self._graph.save(str(draft))
        draft.replace(self._path)

    def add(self, number: int, text: str, tag: int, vector: np.ndarray) -> None:
        self._graph.add(number, vector)
        self._save()

    def delete(self, number: int) -> None:
        self._graph.remove(number)
        self._save()

    def close(self) -> None:
        pass


class Faiss:
    kinds, packages, bm25 = ("vector",), ("faiss-cpu",), None
    about = "IVF of 4 x sqrt(n) lists, 8-bit scalar quantiser, nprobe 64; a change saves the file"

    @staticmethod
    def build(folder: Path, corpus: Corpus) -> dict[str, float]:
        import faiss

        clock = Clocked()
        lists = int(4 * corpus.count**0.5)
        index = faiss.index_factory(DIMS, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
        sample = np.sort(np.random.default_rng(1).choice(corpus.count, min(corpus.count, 40 * lists), replace=False))
        clock("train", lambda: index.train(np.ascontiguousarray(corpus.vectors[sample])))
        for start, block in corpus.vector_blocks():
            clock("add", lambda: index.add_with_ids(block, np.arange(start, start + len(block))))  # noqa: B023
        clock("save", lambda: faiss.write_index(index, str(folder / "index.faiss")))
        return clock.steps

    def __init__(self, folder: Path, corpus: Corpus, write: bool = False) -> None:
        import faiss

        self._faiss, self._path = faiss, folder / "index.faiss"
        self._index = faiss.read_index(str(self._path), 0 if write else faiss.IO_FLAG_MMAP)
        self._index.nprobe = 64
        faiss.omp_set_num_threads(1)

    def vector(self, question: str, vector: np.ndarray) -> list[int]:
        return self._index.search(vector[None, :], K)[1][0].tolist()

    def _save(self) -> None:
        draft = self._path.with_suffix(".new")
        self._faiss.write_index(self._index, str(draft))
        draft.replace(self._path)

    def add(self, number: int, text: str, tag: int, vector: np.ndarray) -> None:
        self._index.add_with_ids(vector[None, :], np.array([number]))
        self._save()

    def delete(self, number: int) -> None:
        self._index.remove_ids(np.array([number]))
        self._save()

    def close(self) -> None:
        pass


# --- both


class LanceDb:
    kinds, packages, bm25 = ("text", "vector"), ("lancedb",), (1.2, 0.75)
    about = (
        "FTS without stems and stop words, IVF_PQ (its default) with nprobes 50 and refine_factor 10, scalar index on the id"
    )

    @staticmethod
    def build(folder: Path, corpus: Corpus) -> dict[str, float]:
        import lancedb
        import pyarrow as pa

        clock = Clocked()
        schema = pa.schema(
            [("number", pa.int64()), ("text", pa.utf8()), ("tag", pa.int32()), ("vector", pa.list_(pa.float32(), DIMS))]
        )

        def blocks() -> Iterator[pa.RecordBatch]:
            rows = corpus.passages()
            for _, block in corpus.vector_blocks(10_000):
                numbers, texts, tags = zip(*islice(rows, len(block)), strict=True)
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), DIMS)
                yield pa.record_batch([pa.array(numbers), pa.array(texts), pa.array(tags, pa.int32()), vectors], schema=schema)

        table = lancedb.connect(str(folder))
        table = clock("rows", lambda: table.create_table("t", blocks(), schema=schema))
        table.create_scalar_index("number")
        plain = {"stem": False, "remove_stop_words": False, "ascii_folding": False, "with_position": False}
        clock("full text", lambda: table.create_fts_index("text", **plain))
        clock("vectors", lambda: table.create_index("dot", index_type="IVF_PQ"))
        return clock.steps

    def __init__(self, folder: Path, corpus: Corpus, write: bool = False) -> None:
        import lancedb

        self._table = lancedb.connect(str(folder)).open_table("t")

    def text(self, question: str) -> list[int]:
        found = self._table.search(question, query_type="fts", fts_columns="text").select(["number", "text"]).limit(K)
        return found.to_arrow()["number"].to_pylist()

    def vector(self, question: str, vector: np.ndarray) -> list[int]:
        found = self._table.search(vector, vector_column_name="vector", query_type="vector").distance_type("dot")
        return found.nprobes(50).refine_factor(10).select(["number", "text"]).limit(K).to_arrow()["number"].to_pylist()

    def add(self, number: int, text: str, tag: int, vector: np.ndarray) -> None:
        self._table.add([{"number": number, "text": text, "tag": tag, "vector": vector}])

    def delete(self, number: int) -> None:
        self._table.delete(f"number = {number}")

    def close(self) -> None:
        pass


class QdrantEdge:
    kinds, packages, bm25 = ("text", "vector"), ("qdrant-edge-py",), (1.2, 0.75)
    about = "text index with BM25 scoring, HNSW (m 16, ef_construct 100) by `optimize`, int8 in memory, vectors on disk, ef 256"
    graph = True

    @classmethod
    def build(cls, folder: Path, corpus: Corpus) -> dict[str, float]:
        import qdrant_edge as edge

        clock = Clocked()
        vectors = edge.EdgeVectorParams(
            DIMS,
            edge.Distance.Dot,
            memory=edge.Memory.Cold,
            quantization_config=edge.ScalarQuantizationConfig(edge.ScalarType.Int8, memory=edge.Memory.Pinned),
        )
        config = edge.EdgeConfig(
            vectors=vectors,
            hnsw_config=edge.HnswIndexConfig(16 if cls.graph else 0, 100, 10_000),
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=10_000 if cls.graph else 2_000_000_000),
        )
        shard = edge.EdgeShard.create(str(folder), config)
        words = edge.TextIndexParams(edge.TokenizerType.Word, lowercase=True, scoring=True, memory=edge.Memory.Cold)
        shard.update(edge.UpdateOperation.create_field_index("text", words))
        shard.update(edge.UpdateOperation.create_field_index("tag", edge.PayloadSchemaType.Integer))
        rows = corpus.passages()
        for _, block in corpus.vector_blocks(5_000):
            points = [
                edge.Point(number, row.tolist(), {"text": text, "tag": tag})
                for (number, text, tag), row in zip(islice(rows, len(block)), block, strict=True)
            ]
            clock("rows", lambda: shard.update(edge.UpdateOperation.upsert_points(points)))  # noqa: B023
        clock("optimize", shard.optimize)
        shard.flush()
        shard.close()
        return clock.steps

    def __init__(self, folder: Path, corpus: Corpus, write: bool = False) -> None:
        import qdrant_edge as edge

        self._edge = edge
        self._shard = edge.EdgeShard.load(str(folder))

    def _found(self, query: Any, **options: Any) -> list[int]:
        asked = self._edge.QueryRequest(limit=K, query=query, with_payload=["text"], **options)
        return [point.id for point in self._shard.query(asked)]

    def text(self, question: str) -> list[int]:
        return self._found(self._edge.TextQuery("text", question))

    def vector(self, question: str, vector: np.ndarray) -> list[int]:
        rescored = self._edge.QuantizationSearchParams(rescore=True, oversampling=2.0)
        params = self._edge.SearchParams(hnsw_ef=256, quantization=rescored)
        return self._found(self._edge.Query.Nearest(vector.tolist()), params=params)

    def add(self, number: int, text: str, tag: int, vector: np.ndarray) -> None:
        point = self._edge.Point(number, vector.tolist(), {"text": text, "tag": tag})
        self._shard.update(self._edge.UpdateOperation.upsert_points([point]))
        self._shard.flush()

    def delete(self, number: int) -> None:
        self._shard.update(self._edge.UpdateOperation.delete_points([number]))
        self._shard.flush()

    def close(self) -> None:
        self._shard.close()


class QdrantEdgeFlat(QdrantEdge):
    graph = False
    about = "text index with BM25 scoring, no graph, int8 in memory, vectors on disk, rescored with oversampling 2"


class MilvusLite:
    kinds, packages, bm25 = ("text", "vector"), ("milvus-lite", "pymilvus"), (1.2, 0.75)
    about = "BM25 function on the standard analyzer, AUTOINDEX on the vectors; inserts of 1,000 rows"

    @staticmethod
    def build(folder: Path, corpus: Corpus) -> dict[str, float]:
        from pymilvus import DataType, Function, FunctionType, MilvusClient

        client = MilvusClient(str(folder / "bench.db"))
        schema = client.create_schema(auto_id=False)
        schema.add_field("number", DataType.INT64, is_primary=True)
        schema.add_field("text", DataType.VARCHAR, max_length=65535, enable_analyzer=True)
        schema.add_field("tag", DataType.INT64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIMS)
        schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(Function("bm25", FunctionType.BM25, ["text"], ["sparse"]))
        indexes = client.prepare_index_params()
        indexes.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
        bm25 = {"bm25_k1": 1.2, "bm25_b": 0.75}
        indexes.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25", params=bm25)
        client.create_collection("t", schema=schema, index_params=indexes)
        rows = corpus.passages()
        for _, block in corpus.vector_blocks(1_000):
            client.insert(
                "t",
                [
                    {"number": number, "text": text, "tag": tag, "vector": row.tolist()}
                    for (number, text, tag), row in zip(islice(rows, len(block)), block, strict=True)
                ],
            )
        client.flush("t")
        client.close()
        return {}

    def __init__(self, folder: Path, corpus: Corpus, write: bool = False) -> None:
        from pymilvus import MilvusClient

        self._client = MilvusClient(str(folder / "bench.db"))
        self._client.load_collection("t")

    def _found(self, field: str, asked: Any, metric: str) -> list[int]:
        options = {"limit": K, "output_fields": ["text"], "search_params": {"metric_type": metric}}
        return [hit["number"] for hit in self._client.search("t", [asked], anns_field=field, **options)[0]]

    def text(self, question: str) -> list[int]:
        return self._found("sparse", question, "BM25")

    def vector(self, question: str, vector: np.ndarray) -> list[int]:
        return self._found("vector", vector.tolist(), "IP")

    def add(self, number: int, text: str, tag: int, vector: np.ndarray) -> None:
        self._client.insert("t", [{"number": number, "text": text, "tag": tag, "vector": vector.tolist()}])

    def delete(self, number: int) -> None:
        self._client.delete("t", ids=[number])

    def close(self) -> None:
        self._client.close()


ENGINES: dict[str, Any] = {
    "shortlist": Shortlist,
    "shortlist, detecting": ShortlistDetecting,
    "shortlist int8": ShortlistInt8,
    "shortlist bits": ShortlistBits,
    "tantivy": Tantivy,
    "bm25s": Bm25s,
    "SQLite FTS5": Fts5,
    "LanceDB": LanceDb,
    "Qdrant Edge": QdrantEdge,
    "Qdrant Edge, flat": QdrantEdgeFlat,
    "Milvus Lite": MilvusLite,
    "sqlite-vec": SqliteVec,
    "usearch": Usearch,
    "faiss": Faiss,
}
