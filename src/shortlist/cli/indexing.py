"""`index` and `articles`: build an index from files or bring it up to date, and fetch texts to fill one with."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from shortlist.cli.show import complain, complain_of_skipped, example, out, progress, working
from shortlist.data import Skipped, read_passages, write_passages
from shortlist.encoder import Encoder
from shortlist.errors import BadInput
from shortlist.index import Index
from shortlist.stores.vectors import MODES
from shortlist.types import Passage


def add_verbs(verbs: Any) -> None:
    """Register `index` and `articles`."""
    parser = verbs.add_parser(
        "index",
        help="build an index from files",
        description="Index passages from JSON lines, TSV, SQuAD, text, Markdown, HTML, PDF, folders of documents, the folders "
        "of BEIR, MIRACL and Mr. TyDi, and ir_datasets:NAME. To look after an index there are: shortlist index info, delete, "
        "compact, check, backup.",
        **example("shortlist index docs/ -o my.idx --lang de\n  shortlist index docs/ -o my.idx --update --prune"),
    )
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="file or folder to read")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="IDX", help="the index; passages are added if it exists"
    )
    parser.add_argument(
        "--update", action="store_true", help="replace passages whose ids the index holds; unchanged ones cost nothing"
    )
    parser.add_argument("--prune", action="store_true", help="--update, then delete all passages that the inputs do not hold")
    parser.add_argument("--lang", default="", help="language of all passages (zh, hi, …); detected per passage by default")
    parser.add_argument("--model", help="encoder, or none for BM25 alone (default: shortlist-embed, or what the index has)")
    parser.add_argument(
        "--vectors", choices=tuple(MODES), help="how a new index keeps vectors, from large to small (default: int8)"
    )
    parser.add_argument("--dims", type=int, help="cut the vectors of a new index to this length, if the model's card allows it")
    parser.add_argument(
        "--title-weight",
        type=int,
        metavar="N",
        help="how often BM25 counts the title of a passage, for a new index: 1 to 100 (default: 2)",
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all that this process may use)")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out lines and documents that cannot be read, and count them"
    )
    parser.set_defaults(verb=build)
    articles = verbs.add_parser(
        "articles",
        help="fetch Wikipedia articles as sentence passages",
        description="Plain text of Wikipedia articles, a passage a sentence, as JSON lines that `shortlist index` reads.",
        **example("shortlist articles Berlin Hamburg --lang de --contact ada@example.org -o wiki.de.jsonl"),
    )
    articles.add_argument("titles", nargs="+", metavar="TITLE")
    articles.add_argument("--lang", required=True, help="of the Wikipedia: en, de, zh, …")
    articles.add_argument("--contact", required=True, help="your e-mail address or web page, which Wikimedia's rules ask for")
    articles.add_argument("--api", default="", metavar="URL", help="api.php of another wiki (default: Wikipedia's)")
    articles.add_argument("-o", "--output", required=True, type=Path, metavar="JSONL")
    articles.set_defaults(verb=fetch)


def build(args: argparse.Namespace) -> int:
    """Create the index or open it, and add every passage of the inputs, or bring it up to date with them."""
    expected = _counted(args)
    pruned = 0
    with _opened(args) as index:
        store = index.upsert if args.update or args.prune else index.add
        with progress(f"indexing {args.output.name}", "passages") as report:
            wanted: set[str] = set()
            passages = _noted(_passages(args), wanted) if args.prune else _passages(args)
            added = store(passages, progress=lambda done, _: report(done, expected))
        if args.prune:
            pruned = index.delete([passage.id for passage in index.passages() if passage.id not in wanted])
        total = len(index)
    if added.truncated:
        complain(
            f"{added.truncated} passages are longer than the encoder reads: their vectors cover the beginning, BM25 all of it"
        )
    counts = {"added": added.count, "replaced": added.replaced, "unchanged": added.unchanged, "deleted": pruned}
    said = ", ".join(f"{count:,} {what}" for what, count in counts.items() if what != "added" and count)
    out().print(f"{args.output}: {added.count:,} passages added, {said + ', ' if said else ''}{total:,} in all")
    return 0


def _counted(args: argparse.Namespace) -> int:
    """How many passages there are. Reading all of it first refuses a malformed line before any work is done."""
    skipped = Skipped() if args.skip_bad else None
    count = sum(1 for _ in _passages(args, skipped))
    complain_of_skipped(skipped)
    if count == 0:
        raise BadInput(f"{', '.join(map(str, args.inputs))}: no passage in there. Expected at least one.")
    return count


def _opened(args: argparse.Namespace) -> Index:
    """The index to write to. One that exists is opened with its own encoder, unless another is named."""
    model = args.model or ("" if args.output.exists() else "shortlist-embed")
    encoder = Encoder.load(model, threads=args.threads) if model not in ("", "none") else None
    if args.output.exists():
        return _existing(args, encoder)
    wanted = {"vectors": args.vectors, "dims": args.dims, "title_weight": args.title_weight}
    return Index.create(args.output, encoder=encoder, **{name: value for name, value in wanted.items() if value is not None})


def _existing(args: argparse.Namespace, encoder: Encoder | None) -> Index:
    """The index that is there, whose vectors and weight of titles stay as they are."""
    index = Index.open(args.output, encoder=encoder, write=True)
    has, weight = index.manifest["vectors"], index.manifest.get("title_weight", 1)
    if args.dims is None and args.vectors in (None, has) and args.title_weight in (None, weight):
        return index
    index.close()
    if args.title_weight not in (None, weight):
        raise BadInput(
            f"{args.output} exists and was made with --title-weight {weight}, not {args.title_weight}: the terms of its "
            "passages cannot change. Leave --title-weight away, or give another path."
        )
    raise BadInput(
        f"{args.output} exists and keeps vectors as {has}: --vectors and --dims are for new indexes. Leave them away, or give "
        "another path."
    )


def _passages(args: argparse.Namespace, skipped: Skipped | None = None) -> Iterator[Passage]:
    if args.skip_bad and skipped is None:
        skipped = Skipped()
    for path in args.inputs:
        yield from read_passages(path, lang=args.lang, skipped=skipped)


def _noted(passages: Iterable[Passage], ids: set[str]) -> Iterator[Passage]:
    """The same passages, their ids put into `ids`."""
    for passage in passages:
        ids.add(passage.id)
        yield passage


def fetch(args: argparse.Namespace) -> int:
    """Write the sentences of the articles."""
    from shortlist.data.wikipedia import fetch_articles

    with working(f"fetching {len(args.titles)} articles"):
        found = fetch_articles(args.titles, args.lang, contact=args.contact, api=args.api)
    for title, final in found.redirected.items():
        complain(f"{title} is the article {final}")
    for title, why in found.missing.items():
        complain(f"{title}: {why}")
    passages = [passage for article in found.articles for passage in article.passages()]
    if not passages:
        raise BadInput("none of the titles has an article with text. Check their spelling and the language.")
    write_passages(passages, args.output)
    out().print(f"{args.output}: {len(passages):,} sentences of {len(found.articles):,} articles")
    return 0
