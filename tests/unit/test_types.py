"""Rankings as people see them."""

from __future__ import annotations

import re

from shortlist.types import Hit, Passage, Ranking


def test_a_ranking_in_a_notebook_is_a_table_with_everything_escaped():
    hits = (
        Hit("a", 2.0, Passage("a", "<script>alert(1)</script> & more", "T<i>tle"), {"bm25": 1.0}, {"bm25": 3, "rerank": 1}),
        Hit("b", 1.0, None, {}, {"dense": 2}),
    )
    html = Ranking("<b>q</b>", hits, {"bm25_ms": 1.25, "total_ms": 2.0}, ("cut <here>",))._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html
    assert "&lt;b&gt;q&lt;/b&gt;" in html
    assert "cut &lt;here&gt;" in html
    assert re.findall(r"<th[^>]*>(.*?)</th>", html) == ["#", "score", "bm25 place", "dense place", "rerank place", "passage"]
    assert re.findall(r"<td>(.*?)</td>", html) == ["1", "2.000", "3", "–", "1", "2", "1.000", "–", "2", "–"]
    assert "bm25 1.2 ms · total 2.0 ms" in html


def test_an_empty_ranking_has_a_head_only():
    assert Ranking("q", ())._repr_html_().count("<tr>") == 1
