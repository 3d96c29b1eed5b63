"""HTML and PDF as passages."""

import sys

import pytest

from shortlist.data import Skipped, read_passages
from shortlist.errors import BadInput, MissingExtra

PAGE = """<!DOCTYPE html><html><head><title>The  Ferry</title><style>p { color: red }</style>
<script>var hidden = "secret";</script></head><body><nav><a href="/">Home</a></nav>
<h1>Times</h1><p>The fer<b>ry</b> leaves at nine &amp; ten.</p><ul><li>Köln</li><li>北京</li></ul><!-- comment -->
</body></html>"""


def pdf(pages: list[list[str]], title: str = "") -> bytes:
    """A PDF as its specification (ISO 32000) has it, written by hand: a page for each list of lines, in Helvetica."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(count))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for n, lines in enumerate(pages):
        drawn = "BT /F1 12 Tf 72 720 Td 14 TL " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R "
            f"/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream".encode())
    objects.append(f"<< /Title ({title}) >>".encode())
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = f"<< /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>".encode()
    return out + b"xref\n0 %d\n0000000000 65535 f \n%strailer\n%s\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        table,
        trailer,
        len(out),
    )


@pytest.fixture
def html_library():
    pytest.importorskip("inscriptis", reason="needs the extra `docs`")


@pytest.fixture
def pdf_library():
    pytest.importorskip("pypdfium2", reason="needs the extra `docs`")


@pytest.mark.parametrize(
    "raw",
    [
        PAGE.encode(),
        PAGE.replace("<head>", '<head><meta charset="gb18030">').encode("gb18030"),
        ('<?xml version="1.0" encoding="utf-8"?>' + PAGE).encode(),
    ],
    ids=["undeclared utf-8", "declared", "xhtml"],
)
def test_html(tmp_path, html_library, raw):
    (tmp_path / "ferry.html").write_bytes(raw)
    (passage,) = read_passages(tmp_path, "en")
    assert (passage.id, passage.title, passage.lang) == ("ferry.html#0", "The Ferry", "en")
    assert "The ferry leaves at nine & ten." in passage.text
    assert "Köln" in passage.text
    assert "北京" in passage.text
    assert not any(word in passage.text for word in ("secret", "color", "Home", "comment", "The Ferry"))


def test_html_without_anything(tmp_path, html_library):
    for name, raw in {"empty.html": b"", "space.html": b" \n", "bare.html": b"<p></p>", "comment.html": b"<!-- -->"}.items():
        (tmp_path / name).write_bytes(raw)
        skipped = Skipped()
        assert list(read_passages(tmp_path / name, skipped=skipped)) == []


def test_pdf(tmp_path, pdf_library):
    (tmp_path / "a b.pdf").write_bytes(
        pdf([["The ferry leaves at nine.", "It is never late."], ["Second page."]], "Ferry times")
    )
    first, second = read_passages(tmp_path / "a b.pdf")
    assert (first.id, first.title, first.meta) == ("a%20b.pdf#0", "Ferry times", {"page": 1})
    assert first.text.split() == ["The", "ferry", "leaves", "at", "nine.", "It", "is", "never", "late."]
    assert (second.id, second.text, second.meta) == ("a%20b.pdf#1", "Second page.", {"page": 2})


@pytest.mark.parametrize(
    ("raw", "message"),
    [(b"no pdf", "not a PDF that can be read"), (b"", "not a PDF"), (pdf([[]]), "holds no text, perhaps only pictures")],
)
def test_pdf_that_cannot_be_read(tmp_path, pdf_library, raw, message):
    (tmp_path / "bad.pdf").write_bytes(raw)
    (tmp_path / "good.txt").write_text("text")
    with pytest.raises(BadInput, match=f"bad.pdf: {message}"):
        list(read_passages(tmp_path))
    skipped = Skipped()
    assert [p.id for p in read_passages(tmp_path, skipped=skipped)] == ["good.txt#0"]
    assert skipped.count == 1


@pytest.mark.parametrize("name", ["page.html.gz", "paper.pdf.zst"])
def test_packed_documents_are_not_taken_for_text(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadInput, match="Unpack the file first"):
        list(read_passages(tmp_path / name))


@pytest.mark.parametrize(("name", "package"), [("page.html", "inscriptis"), ("paper.pdf", "pypdfium2")])
def test_without_the_extra_they_are_refused_not_left_out(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / name).write_text("x")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(MissingExtra, match=rf"{package}.*shortlist\[docs\]"):
            list(read_passages(path, skipped=Skipped()))
