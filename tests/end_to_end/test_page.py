"""The page of `shortlist serve` in a real browser: a real server, the real models, a collection in fifteen languages.

The judge of what is shown is the service itself, asked directly. Every test leaves a picture in build/page/.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from itertools import chain
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="the extra browser is not installed")
axe_playwright = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the extra browser is not installed")

from server_tools import PATIENCE_S, make_index, process, running  # noqa: E402
from shortlist.data import read_passages  # noqa: E402
from shortlist.encoder import Encoder  # noqa: E402
from shortlist.index import Index  # noqa: E402
from shortlist.server import guard  # noqa: E402
from shortlist.server.work import Limits  # noqa: E402
from shortlist.types import Passage  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.weights]
expect = sync_api.expect

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "build" / "page"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHINESE = "古人挖了哪条水道，使船能从湖南的江划到广西的江？"
ARABIC = "ما هو أطول نهر في العالم؟"
NOTES = [
    Passage("n1", "A zebra <script>window.hacked = 1</script> & <b>bold</b>.", "<img src=x onerror='window.hacked = 1'>", "en"),
    Passage(
        "n2", "Two zebras 🦓🦓 graze. The zebra 𠮷 is striped. Nothing else.", "Emoji", "en", {"year": 2001, "draft": True}
    ),
    Passage(
        "n3", "NASA أرسلت مسبارا إلى الحمار الوحشي zebra. لا شيء غير ذلك.", "مسبار", "ar", {"year": 2010, "tag": ["a", "1"]}
    ),
    Passage(
        "n4", "The zebra crosses the road. " + "It rains and rains and rains. " * 120, "Rain", "en", {"year": 2020, "tag": "a"}
    ),
    *(Passage(f"y{year}", f"In {year} nothing happened.", "", "en", {"year": year}) for year in range(1900, 1960)),
]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    encoder, folder = Encoder.load("shortlist-embed"), tmp_path_factory.mktemp("page")
    passages = {"polyglot": read_passages(ROOT / "examples" / "polyglot"), "notes": NOTES}
    for name, some in passages.items():
        with Index.create(folder / f"{name}.idx", encoder=encoder) as index:
            index.add(some)
    return [folder / f"{name}.idx" for name in passages]


@pytest.fixture(scope="module")
def url(paths):
    with process(*paths) as (_, one):
        yield one


@pytest.fixture(scope="module")
def chromium():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser is installed; looked for {', '.join(NAMES)}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, request):
    """`opened(url, **query)`: a page, of which nothing must leave its origin, break its policy, or throw."""
    wrong: list[str] = []
    contexts = []

    def open_(base, *, width=1200, height=900, scheme="light", **query):
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE_S)
        page.on("pageerror", lambda error: wrong.append(f"thrown: {error}"))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda sent: None if sent.url.startswith(base) else wrong.append(f"sent to {sent.url}"))
        page.on(
            "console",
            lambda said: None if said.type != "error" or "Failed to load resource" in said.text else wrong.append(said.text),
        )
        page.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.error(`policy: ${e.violatedDirective}`))"
        )
        page.goto(f"{base}/?{urlencode(query)}")
        return page

    yield open_
    PICTURES.mkdir(parents=True, exist_ok=True)
    name = request.node.name.removeprefix("test_").replace("/", "-")
    for place, context in enumerate(contexts):
        for page in context.pages:
            page.screenshot(path=PICTURES / f"{name}{f'-{place}' if place else ''}.png")
        context.close()
    assert wrong == []


def asked(url, query, **body):
    body = {"query": query, "index": "polyglot", "k": 10, "highlights": True, "explain": True, "strategy": "two-stage", **body}
    return httpx.post(f"{url}/v1/search", json=body, timeout=PATIENCE_S).raise_for_status().json()


def settled(page):
    page.locator("main:not([data-busy])").wait_for()
    page.locator("#view > *").first.wait_for()
    return page


def ids(page, within=".hits"):
    return page.locator(f"{within} .hit").evaluate_all("found => found.map((one) => one.dataset.passage)")


def check_access(page):
    """No violation of axe's rules, whatever its weight."""
    found = axe_playwright.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


# --- states


def test_empty(opened, url):
    page = settled(opened(url))
    about = httpx.get(f"{url}/v1/indexes/polyglot").json()
    shown = page.locator(".empty").inner_text()
    for text in (
        "260",
        "shortlist-embed, 384 dimensions",
        "shortlist-rerank-L-6",
        about["analyzer"],
        f"Chinese {about['languages']['zh']}",
    ):
        assert text in shown
    assert page.locator(".empty time").get_attribute("datetime") == about["last_commit"]
    assert len(page.locator(".parts li").all()) == len(about["bytes"])
    expect(page.locator("#q")).to_be_focused()
    check_access(page)


def test_results_as_one_types(opened, url):
    page = settled(opened(url))
    sent = []
    page.on("request", lambda one: sent.append(one.url) if one.url.endswith("/v1/search") else None)
    page.locator("#q").press_sequentially("which river is the longest", delay=20)
    page.locator(".hits").wait_for()
    settled(page)
    page.wait_for_timeout(300)
    settled(page)
    reply = asked(url, "which river is the longest")
    assert ids(page) == [hit["id"] for hit in reply["hits"]]
    assert 1 <= len(sent) < 15
    assert "q=which+river+is+the+longest" in page.url
    first, hit = page.locator(".hit").first, reply["hits"][0]
    assert f"logit {hit['scores']['rerank']:.2f}".replace("-", "−") in first.inner_text()
    for stage, name in (("bm25", "BM25"), ("dense", "embedding"), ("hybrid", "first stage"), ("rerank", "reranker")):
        assert f"{name} #{hit['ranks'][stage]}" in " ".join(first.locator(".journey").inner_text().split())
    assert "final #1" in " ".join(first.locator(".journey").inner_text().split())
    legend = page.locator(".timings li").all_inner_texts()
    assert [text.split()[0] for text in legend] == ["analyse", "BM25", "encode", "scan", "fuse", "rerank", "sentences"]
    expect(page.locator("#status")).to_have_text("10 passages, Two-stage")
    check_access(page)


def test_letters_on_the_way_to_chinese_are_not_searched(opened, url):
    page = settled(opened(url))
    sent = []
    page.on("request", lambda one: sent.append(one.post_data_json["query"]) if one.url.endswith("/v1/search") else None)
    keyboard = page.context.new_cdp_session(page)
    for text in ("c", "ch", "chang", "changjiang"):
        keyboard.send("Input.imeSetComposition", {"text": text, "selectionStart": len(text), "selectionEnd": len(text)})
        page.wait_for_timeout(200)
    assert sent == []
    keyboard.send("Input.insertText", {"text": "长江"})
    page.locator(".hits").wait_for()
    assert sent == ["长江"]
    assert ids(page)[0] == asked(url, "长江")["hits"][0]["id"]


def test_loading(opened, url):
    page = settled(opened(url))
    waiting = []
    page.route("**/v1/search", lambda route: waiting.append(route))
    page.locator("#q").fill("river")
    page.locator(".skeleton").wait_for()
    expect(page.locator("#view")).to_have_attribute("aria-busy", "true")
    page.wait_for_timeout(300)
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / "loading-still.png")
    check_access(page)
    waiting[0].continue_()
    page.locator(".hits").wait_for()
    expect(page.locator("#view")).to_have_attribute("aria-busy", "false")


def test_an_answer_that_was_overtaken_is_never_shown(opened, url):
    page = settled(opened(url))
    held = []
    page.route("**/v1/search", lambda route: held.append(route) if "first" in route.request.post_data else route.continue_())
    late = asked(url, "first")
    page.locator("#q").fill("first")
    page.wait_for_timeout(400)
    page.locator("#q").fill("volcano")
    page.locator(".hits").wait_for()
    before = ids(page)
    with suppress(sync_api.Error):  # the page has given it up
        held[0].fulfill(json=late)
    page.wait_for_timeout(300)
    assert ids(page) == before == [hit["id"] for hit in asked(url, "volcano")["hits"]]
    assert before != [hit["id"] for hit in late["hits"]]


def test_no_result(opened, url):
    page = settled(opened(url, q="river", **{"is.lang": "xx"}))
    expect(page.get_by_role("heading", name="No passage found")).to_be_visible()
    expect(page.locator("#status")).to_have_text("No passage found, Two-stage")
    check_access(page)
    page.screenshot(path=PICTURES / "no_result-still.png")
    page.locator(".message button").click()
    page.locator(".hits").wait_for()
    assert "lang" not in page.url


def test_server_stopped(opened, paths):
    with process(paths[1], "--rerank", "none") as (server, address):
        page = settled(opened(address, q="zebra"))
        page.locator(".hits").wait_for()
        server.kill()
        server.wait(PATIENCE_S)
        page.locator("#q").fill("road")
        expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
        check_access(page)


def test_busy(opened, tmp_path, tiny_encoder_folder):
    path = make_index(tmp_path / "wiki.idx", tiny_encoder_folder)
    with running([path], held=True, limits=Limits(queue_tokens=300)) as (one, engine):
        page = settled(opened(one.url))
        page.evaluate("() => void fetch('v1/embeddings', {method: 'POST', headers: {'Content-Type': 'application/json'},"
                      " body: JSON.stringify({input: Array(2).fill('museum '.repeat(100))})})")  # fmt: skip
        assert engine.begun.wait(PATIENCE_S)
        page.locator("#q").fill("river museum " * 30)
        expect(page.get_by_role("alert")).to_contain_text("The server is busy")
        check_access(page)
        page.screenshot(path=PICTURES / "busy-still.png")
        engine.gate.set()
        page.locator(".hits").wait_for()  # it tries again by itself


def test_key(opened, paths, tmp_path):
    (tmp_path / "keys").write_text("read page aaaaaaaaaaaaaaaa")
    with running([paths[1]], keys=guard.read_keys(tmp_path / "keys")) as one:
        page = settled(opened(one.url, q="zebra"))
        expect(page.get_by_role("heading", name="This server asks for a key")).to_be_visible()
        check_access(page)
        page.screenshot(path=PICTURES / "key-still.png")
        page.get_by_label("Key", exact=True).fill("bbbbbbbbbbbbbbbb")
        page.get_by_role("button", name="Use this key").click()
        expect(page.get_by_role("alert")).to_have_text("That key is not known here.")
        page.get_by_label("Key", exact=True).fill("aaaaaaaaaaaaaaaa")
        page.keyboard.press("Enter")
        page.locator(".hits").wait_for()
        page.reload()
        page.locator(".hits").wait_for()
        assert "aaaaaaaaaaaaaaaa" not in page.url
        other = settled(opened(one.url, q="zebra"))  # the key is another tab's
        expect(other.get_by_role("heading", name="This server asks for a key")).to_be_visible()


# --- scripts


def test_right_to_left(opened, url):
    page = settled(opened(url, q=ARABIC, scheme="dark"))
    assert page.locator("#q").evaluate("one => getComputedStyle(one).direction") == "rtl"
    first = page.locator(".hit").first
    assert first.locator(".text").get_attribute("lang") == "ar"
    assert first.locator(".text").evaluate("one => getComputedStyle(one).direction") == "rtl"
    assert first.locator(".rank").evaluate("one => getComputedStyle(one).direction") == "ltr"
    check_access(page)


def test_an_arabic_passage_that_begins_with_latin_letters_runs_right_to_left(opened, url):
    page = settled(opened(url, q="مسبار zebra", index="notes", **{"is.lang": "ar"}))
    assert page.locator("[data-passage=n3] .text").evaluate("one => getComputedStyle(one).direction") == "rtl"


def test_chinese(opened, url):
    page = settled(opened(url, q=CHINESE))
    reply = asked(url, CHINESE)
    text = page.locator(".hit .text").first
    assert text.get_attribute("lang") == "zh"
    assert "CJK SC" in text.evaluate("one => getComputedStyle(one).fontFamily")
    for place, hit in enumerate(reply["hits"]):
        marked = page.locator(".hit").nth(place).locator(".text mark").all_inner_texts()
        assert "".join(marked) == "".join(hit["text"][a:b] for a, b in hit["highlights"]["text"])
    assert any(hit["highlights"]["text"] for hit in reply["hits"])
    check_access(page)


@pytest.mark.parametrize(
    ("query", "word", "small"),
    [
        ("Which mountain is farthest from the centre of the Earth?", "Earth", {"the", "is", "of"}),
        ("¿Qué montaña queda más lejos del núcleo terrestre?", "", {"más", "del", "que"}),
        ("Welcher Fluss in Deutschland ist der längste?", "Deutschland", {"der", "die", "in"}),
    ],
)
def test_small_words_are_not_marked(opened, url, query, word, small):
    page = settled(opened(url, q=query))
    marked = {text.lower() for text in page.locator(".hit mark").all_inner_texts()}
    assert not word or any(word.lower() in text for text in marked)
    assert small.isdisjoint(marked)
    assert any(f" {one} " in page.locator(".hits").inner_text() for one in small)


def test_marks_and_the_deciding_sentence_beyond_the_basic_plane(opened, url):
    page = settled(opened(url, q="zebra striped", index="notes"))
    hit = next(hit for hit in asked(url, "zebra striped", index="notes")["hits"] if hit["id"] == "n2")
    shown = page.locator("[data-passage=n2] .text")
    assert shown.locator("mark").all_text_contents() == [hit["text"][a:b] for a, b in hit["highlights"]["text"]]
    start, stop = hit["explain"]["sentence"]
    assert shown.locator(".deciding").text_content() == "Deciding sentence: " + hit["text"][start:stop]
    page.locator("#explain").uncheck()
    expect(page.locator(".deciding")).to_have_count(0)
    settled(page)
    assert "explain=off" in page.url
    assert "sentences" not in page.locator(".timings").inner_text()


# --- side by side


def test_side_by_side(opened, url):
    query = "Which mountain is farthest from the centre of the Earth?"
    page = settled(opened(url, q=query, strategy="side-by-side", width=1400, height=1000))
    columns = page.locator(".columns > section")
    assert columns.locator("> h3").all_inner_texts() == ["Embedding only", "Reranker only", "Two-stage"]
    found = [[hit["id"] for hit in asked(url, query, strategy=one)["hits"]] for one in ("dense", "rerank", "two-stage")]
    assert [ids(page, f".columns > section:nth-of-type({place})") for place in (1, 2, 3)] == found
    every = list(chain(*found))
    expect(page.locator(".lines path")).to_have_count(len(every) - len(set(every)))
    badges: dict[str, set[str]] = {}
    for one in page.locator(".hit:has(.badge)").all():
        badges.setdefault(one.locator(".badge").inner_text(), set()).add(one.get_attribute("data-passage"))
    assert all(len(passages) == 1 for passages in badges.values())
    several = {one for one in every if sum(one in column for column in found) > 1}
    assert {passage for passages in badges.values() for passage in passages} == several
    top = page.locator(".columns > section:nth-of-type(3) .hit").first
    place = found[0].index(found[2][0]) + 1 if found[2][0] in found[0] else "–"
    assert f"embedding only {f'#{place}' if place != '–' else place}" in " ".join(
        top.locator(".elsewhere").inner_text().split()
    )
    check_access(page)


def test_narrow(opened, url):
    page = settled(opened(url, q="longest river", strategy="side-by-side", width=360, height=800))
    boxes = [one.bounding_box() for one in page.locator(".columns > section").all()]
    assert [box["x"] for box in boxes] == [boxes[0]["x"]] * 3
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    assert page.locator("html").evaluate("one => one.scrollWidth <= one.clientWidth")
    expect(page.locator(".lines path")).to_have_count(0)
    check_access(page)


# --- filters, address, keys


def test_filters(opened, url):
    page = settled(opened(url, q="zebra", index="notes"))
    page.get_by_role("combobox", name="tag").select_option(label="1 (1)")
    settled(page)
    expect(page.locator(".hit")).to_have_count(1)
    assert ids(page) == ["n3"]
    assert "is.tag=%221%22" in page.url
    page.get_by_role("button", name="Clear filters").click()
    page.get_by_label("year, at least").fill("2005")
    page.get_by_label("year, at least").press("Enter")
    expect(page.locator(".hit")).to_have_count(2)
    assert set(ids(page)) == {"n3", "n4"}
    page.get_by_label("year, at most").fill("2015")
    page.get_by_label("year, at most").press("Enter")
    expect(page.locator(".hit")).to_have_count(1)
    shared = settled(opened(url, **dict(parse_qsl(page.url.partition("?")[2]))))
    assert ids(shared) == ["n3"]
    expect(shared.get_by_label("year, at least")).to_have_value("2005")
    check_access(shared)


def test_back_and_forth(opened, url):
    page = settled(opened(url))
    page.locator("#q").fill("river")
    page.locator(".hits").wait_for()
    page.get_by_role("radio", name="BM25").check()
    settled(page)
    page.locator("#q").fill("volcano")
    page.wait_for_timeout(200)
    settled(page)
    page.go_back()
    expect(page.locator("#q")).to_have_value("river")
    expect(page.locator("input[value=bm25]")).to_be_checked()
    settled(page)
    page.wait_for_timeout(100)
    assert ids(settled(page)) == [hit["id"] for hit in asked(url, "river", strategy="bm25")["hits"]]
    page.go_back()
    expect(page.locator("input[value=two-stage]")).to_be_checked()
    page.go_back()
    page.locator(".empty").wait_for()
    page.go_forward()
    expect(page.locator("#q")).to_have_value("river")


def test_keys_of_the_keyboard(opened, url):
    page = settled(opened(url, q="longest river"))
    titles = page.locator(".hit .title")
    page.get_by_role("button", name="Theme: auto").focus()
    page.keyboard.press("/")
    expect(page.locator("#q")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(titles.nth(0)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(titles.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(titles.nth(1)).to_have_attribute("aria-expanded", "true")
    expect(page.locator(".hit").nth(1).locator("table")).to_be_visible()
    page.screenshot(path=PICTURES / "opened-passage.png")
    check_access(page)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#q")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#q")).to_have_value("")
    page.locator(".empty").wait_for()
    page.locator("#q").fill("longest river")
    page.get_by_role("radio", name="Side by side").check()
    settled(page)
    column = page.locator(".columns > section")
    column.nth(1).locator(".title").first.focus()
    page.keyboard.press("ArrowRight")
    assert column.nth(2).locator(".title:focus").count() == 1


def test_a_passage_is_text_whatever_it_holds(opened, url):
    page = settled(opened(url, q="zebra bold", index="notes"))
    one = page.locator("[data-passage=n1]")
    assert one.locator("h3").inner_text() == NOTES[0].title
    one.locator(".title").click()
    assert NOTES[0].text in one.locator(".text").text_content().replace("Deciding sentence: ", "")
    assert page.locator("#view script, #view img, .text b").count() == 0
    assert page.evaluate("() => window.hacked") is None
    hostile = settled(opened(url, q="<img src=x onerror=window.hacked=1>", index="notes", **{"is.<b>": "<i>"}))
    assert hostile.evaluate("() => window.hacked") is None


def test_what_was_not_read_is_shown(opened, url):
    page = settled(opened(url, q="zebra road", index="notes"))
    cut = next(hit["tokens_cut"] for hit in asked(url, "zebra road", index="notes")["hits"] if hit["id"] == "n4")
    assert cut > 0
    expect(page.locator("[data-passage=n4] .cut")).to_have_text(f"✂ {cut:,} tokens not read")
    expect(page.locator(".notes")).to_contain_text("cut to the reranker's length")


# --- the rest


def test_theme_is_remembered(opened, url):
    page = settled(opened(url))

    def ground():
        return page.locator("body").evaluate("one => getComputedStyle(one).backgroundColor")

    light = ground()
    page.get_by_role("button", name="Theme: auto").click()
    page.get_by_role("button", name="Theme: light").click()
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    dark = ground()
    assert dark != light
    page.reload()
    assert ground() == dark
    check_access(settled(page))
    page.get_by_role("button", name="Theme: dark").click()
    assert ground() == light


def test_about(opened, url):
    page = settled(opened(url, q="river", scheme="dark"))
    page.get_by_role("button", name="About this index").click()
    dialog = page.get_by_role("dialog", name="The index polyglot")
    expect(dialog).to_contain_text("Last commit")
    page.wait_for_timeout(200)
    check_access(page)
    page.screenshot(path=PICTURES / "about-still.png")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="About this index")).to_be_focused()
    expect(page.locator("#q")).to_have_value("river")


def test_an_index_without_models(opened, tmp_path):
    with running([make_index(tmp_path / "words.idx", None)]) as one:
        page = settled(opened(one.url, q="river"))
        page.locator(".hits").wait_for()
        assert page.locator("#strategies label").all_inner_texts() == ["BM25"]
        expect(page.locator("#explain")).to_be_hidden()
        check_access(page)


def test_less_motion(opened, url):
    page = settled(opened(url))
    page.emulate_media(reduced_motion="reduce")
    page.route("**/v1/search", lambda route: None)
    page.locator("#q").fill("river")
    page.locator(".skeleton").wait_for()
    assert page.locator("body").evaluate("() => document.getAnimations().length") == 0


def test_files_are_kept_until_they_change(url):
    for path, kind in (
        ("/", "text/html"),
        ("/static/page.css", "text/css"),
        ("/static/page.js", "javascript"),
        ("/static/icon.svg", "svg"),
    ):
        first = httpx.get(url + path)
        assert first.status_code == 200
        assert kind in first.headers["content-type"]
        assert first.headers["cache-control"] == "no-cache"
        assert httpx.get(url + path, headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    assert httpx.get(url + "/v1/indexes").headers["cache-control"] == "no-store"
