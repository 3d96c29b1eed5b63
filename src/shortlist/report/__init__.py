"""Runs of one collection or of many as a page, as Markdown or as LaTeX: quality beside cost, and what made each number.

`build_report` measures and compares; `write_report` writes what it found in the form that a file's name ends in. All forms
show the same cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shortlist.errors import BadInput
from shortlist.models.files import replace_file
from shortlist.report import page, pictures, tables
from shortlist.report.model import Judged, Report, build_report, find_passages
from shortlist.report.pictures import Picture
from shortlist.report.tables import Table

__all__ = ["ENDINGS", "Judged", "Report", "build_report", "find_passages", "write_report"]

ENDINGS = (".html", ".md", ".tex")


def write_report(report: Report, path: Path) -> list[Path]:
    """Write a report in the form of the path's ending; the files that were written.

    .html  one page that needs no other file
    .md    tables for GitHub, with pictures beside it: REPORT.NAME.svg
    .tex   the tables; needs the packages booktabs and graphicx

    Raises BadInput for another ending and for a folder that does not exist.
    """
    if path.suffix not in ENDINGS:
        raise BadInput(f"{path}: a report is written as {', '.join(ENDINGS)}. Give it a name with one of these endings.")
    if not path.parent.is_dir():
        raise BadInput(f"{path}: the folder {path.parent} does not exist. Create it first.")
    if path.suffix == ".md":
        return _write_markdown(report, path)
    text = page.page(report) if path.suffix == ".html" else "\n".join(map(tables.latex, _tables(report)))
    replace_file(path, text.encode("utf-8"))
    return [path]


def _tables(report: Report) -> Iterator[Table]:
    yield tables.short_table(report)
    for overview in report.overviews:
        yield from tables.overview_tables(report, overview)
    for section in report.sections:
        yield from tables.section_tables(report, section)
        yield tables.card_table(section)


def _write_markdown(report: Report, path: Path) -> list[Path]:
    shown = {picture: path.with_suffix(f".{picture.key}.svg") for picture in _pictures(report)}
    for picture, file in shown.items():
        replace_file(file, picture.standalone().encode("utf-8"))
    parts = [f"# {tables.plain(report.title)}", *([f"> {tables.plain(report.note)}"] if report.note else [])]
    parts += [f"![{tables.plain(picture.title)}]({file.name})" for picture, file in shown.items()]
    for table in (*_tables(report), tables.source_table(report)):
        parts += [f"## {tables.plain(table.caption)}", tables.markdown(table)]
    parts.append(f"Made by shortlist {report.version} on {report.made}.")
    replace_file(path, ("\n\n".join(part.strip() for part in parts) + "\n").encode("utf-8"))
    return [path, *shown.values()]


def _pictures(report: Report) -> list[Picture]:
    drawn = [picture for overview in report.overviews for picture in pictures.overview_pictures(report, overview)]
    drawn.append(pictures.pipeline(report))
    if report.batch is not None:
        drawn.append(pictures.batch_picture(report.batch))
    return drawn
