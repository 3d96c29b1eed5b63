"""Documents, .txt .md .html .pdf, as titled passages."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shortlist.data.lines import PACKED, Bad, kind, lines, refuse, without_spaces
from shortlist.errors import BadInput, MissingExtra
from shortlist.text import split_passages
from shortlist.types import Json, Passage

MARKDOWN, HTML, PDF = (".md", ".markdown"), (".html", ".htm", ".xhtml"), (".pdf",)
DOCUMENT_SUFFIXES = (".txt", *MARKDOWN, *HTML, *PDF)
# What a page holds besides its text: programs, looks, and links to other pages.
NOT_TEXT = ("script", "style", "noscript", "template", "nav")

Part = tuple[str, Mapping[str, Json]]


def read_document(path: Path, name: str, lang: str, max_chars: int, bad: Bad = refuse) -> Iterator[Passage]:
    """A document in passages of at most `max_chars` characters; ids are `name#n` from 0.

    The title is the first Markdown heading, the HTML title or the PDF's, else the file's stem. Passages of a PDF know their
    page (meta "page", from 1) and end with it. A file that cannot be read goes to `bad`. Raises MissingExtra: [docs] for HTML
    and PDF.
    """
    try:
        title, parts = _content(path)
    except BadInput as error:
        bad(error)
        return
    cut = ((text, meta) for part, meta in parts for text in split_passages(part, max_chars=max_chars, lang=lang))
    for n, (text, meta) in enumerate(cut):
        yield Passage(f"{without_spaces(name)}#{n}", text, title or path.stem, lang, meta)


def _content(path: Path) -> tuple[str, list[Part]]:
    """Title, "" if there is none, and the text in parts that no passage crosses."""
    form = kind(path)
    if form in (*HTML, *PDF) and path.suffix in PACKED:
        raise BadInput(f"{path}: packed HTML and PDF are not read. Unpack the file first.")
    if form in HTML:
        return _html(path)
    if form in PDF:
        return _pdf(path)
    text = "\n".join(line for _, line in lines(path))
    return (_first_heading(text) if form in MARKDOWN else ""), [(text, {})]


def _first_heading(markdown: str) -> str:
    found = re.search(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", markdown, re.MULTILINE)
    return found[1] if found else ""


def _html(path: Path) -> tuple[str, list[Part]]:
    inscriptis, html = _library("inscriptis", path), _library("lxml.html", path)
    raw = path.read_bytes()
    try:
        raw.decode("utf-8")
        parser = html.HTMLParser(encoding="utf-8")
    except UnicodeDecodeError:
        parser = html.HTMLParser()  # what the page itself declares
    if not raw.strip():
        return "", []
    try:
        tree = html.document_fromstring(raw, parser=parser)
    except (ValueError, importlib.import_module("lxml.etree").ParserError) as error:
        raise BadInput(f"{path}: not HTML ({error}). Move it out of the folder, or convert it to .txt.") from error
    title = " ".join((tree.findtext(".//title") or "").split())
    for element in list(tree.iter(*NOT_TEXT)):
        element.drop_tree()
    return title, [(inscriptis.Inscriptis(tree).get_text(), {})]


def _pdf(path: Path) -> tuple[str, list[Part]]:
    pdfium = _library("pypdfium2", path)
    try:
        with pdfium.PdfDocument(path) as document:
            pages = [page.get_textpage().get_text_bounded() for page in document]
            title = document.get_metadata_dict().get("Title", "").strip()
    except pdfium.PdfiumError as error:
        raise BadInput(f"{path}: not a PDF that can be read ({error}). Remove its password, or convert it to .txt.") from error
    if not any(page.strip() for page in pages):
        raise BadInput(f"{path}: holds no text, perhaps only pictures of pages. Run text recognition on it first.")
    return title, [(page, {"page": number}) for number, page in enumerate(pages, 1)]


def _library(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtra(name.partition(".")[0], "docs", f"reading {path}") from error
