"""Runs of one collection or of many as a page, as Markdown or as LaTeX: quality beside cost, and what made each number.

`build_report` measures and compares; `write_report` writes what it found in the form that a file's name ends in. All forms
show the same cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    files = dict[str, Picture]()

    def figure(picture: Picture) -> str:
        name = path.with_suffix(f".{picture.key}.svg").name
        files[name] = picture
        return f"![{tables.plain(picture.title)}]({name})"

    parts = [f"# {tables.plain(report.title)}", *([f"> {tables.plain(report.note)}"] if report.note else [])]
    parts += _headed([tables.short_table(report)])
    for overview in report.overviews:
        parts += map(figure, pictures.overview_pictures(report, overview))
        parts += _headed(tables.overview_tables(report, overview))
    parts += map(figure, pictures.system_pictures(report))
    for section in report.sections:
        parts += _headed([*tables.section_tables(report, section), tables.card_table(section)])
    parts += _headed([tables.source_table(report)])
    parts.append(f"Made by shortlist {report.version} on {report.made}.")
    for name, picture in files.items():
        replace_file(path.with_name(name), picture.standalone().encode("utf-8"))
    replace_file(path, ("\n\n".join(part.strip() for part in parts) + "\n").encode("utf-8"))
    return [path, *map(path.with_name, files)]


def _headed(shown: Iterable[Table]) -> Iterator[str]:
    for table in shown:
        yield from (f"## {tables.plain(table.caption)}", tables.markdown(table))
