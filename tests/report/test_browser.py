"""The page in a real browser: quiet, self-contained, fits a phone, light and dark, hover, files."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.families import families
from epochal.report import write_report
from epochal.report.corpus import write_corpus_report
from made_runs import make_run

CHROMIUM = Path("/usr/bin/chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """A page about five runs of each family, with texts that mean harm."""
    folder = tmp_path_factory.mktemp("browser")
    for number in range(5):
        lift = number / 10
        make_run(folder / f"ar-{number}", "ar", [4.5, 3.6, 3.4 + lift, 3.5 + lift], seed=number)
        run = make_run(folder / f"mdm-{number}", "mdm", [5.5, 4.4, 3.8, 3.3 + lift], seed=number)
    harm = "<script>document.title = 'harm'</script><img src=x onerror=\"document.title='harm'\">"
    run.folder.write_samples([{"prompt": harm, "text": f"{harm} and {'long' * 60}", "seed": 0}])
    return write_report([folder], folder / "report.html").path


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    with playwright.sync_playwright() as tool:
        opened = tool.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, page_file):
    """A function that opens the page and checks, when the test ends, that all was quiet."""
    opened, complaints, requests = [], [], []

    def go(width=1000, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_file.as_uri())
        opened.append(context)
        return page

    yield go
    assert not complaints
    assert set(requests) == {page_file.as_uri()}
    for context in opened:
        context.close()


def test_the_page_about_a_corpus(browser, tmp_path):
    """It is quiet, fits a phone, and shows what is under the pointer."""
    (tmp_path / "text.txt").write_text("\n\n".join(f"{n} is a number " * 20 for n in range(30)))
    options = PrepareOptions(documents="blank-line", tokenizer="bytes")
    prepare(tmp_path / "text.txt", tmp_path / "corpus", options)
    file = write_corpus_report(tmp_path / "corpus", tmp_path / "corpus.html").path
    page, complaints = browser.new_page(viewport={"width": 390, "height": 900}), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.hover("figure[data-name=parts] .tip >> nth=2")
    assert "passages" in page.inner_text("#tip")
    assert not complaints
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1000])
def test_it_fits_and_has_both_colour_schemes(visit, width, scheme):
    page = visit(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colours = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        ".map(c => c.match(/[0-9]+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3)"
    )
    paper, ink = colours
    assert abs(paper - ink) > 150
    assert (paper > ink) == (scheme == "light")
    # Nothing in a drawing is cut off.
    overflow = page.evaluate(
        "[...document.querySelectorAll('svg.drawing text')].map(t => {"
        " const own = t.getBoundingClientRect(),"
        " all = t.closest('svg').getBoundingClientRect();"
        " return Math.max(all.left - own.left, own.right - all.right, own.bottom - all.bottom); })"
    )
    assert overflow
    assert max(overflow) <= 1
    assert "harm" not in page.title()


def test_letters_stay_large_on_a_phone(visit):
    page = visit(390)
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('svg.drawing text')]"
        ".filter(t => t.getClientRects().length).map(t => t.getBoundingClientRect().height))"
    )
    assert smallest > 9


def test_the_pointer_shows_the_run(visit):
    page = visit()
    tip = page.locator("#tip")
    assert tip.is_hidden()
    curve = page.locator("figure[data-name=epochs] svg .tip[data-run='mdm-3'] .edge").first
    curve.scroll_into_view_if_needed()
    point = curve.evaluate(
        "p => { const q = p.getPointAtLength(p.getTotalLength() * 0.97);"
        " const s = q.matrixTransform(p.getScreenCTM()); return [s.x, s.y]; }"
    )
    page.mouse.move(*point)
    assert tip.is_visible()
    assert "mdm-3: masked diffusion" in tip.text_content()
    assert page.locator("#runs tr.hot").count() == 1
    assert page.locator("svg.dim").count() >= 1
    box = tip.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1000
    page.mouse.move(2, 2)
    assert tip.is_hidden()
    assert page.locator("svg.dim").count() == 0


def test_the_pointer_on_the_table_marks_the_curve(visit):
    page = visit()
    page.locator("#runs tr[data-run='ar-1']").hover()
    assert page.locator("figure[data-name=flops] svg .tip.hot").count() >= 1


@pytest.mark.parametrize("width", [390, 1000])
def test_every_figure_is_saved_as_svg_and_csv(visit, width):
    page = visit(width, "dark")
    for figure in page.locator("figure").all():
        name = figure.get_attribute("data-name")
        with page.expect_download() as waiting:
            figure.locator("button[data-save]").click()
        assert waiting.value.suggested_filename == f"{name}.svg"
        text = Path(waiting.value.path()).read_text(encoding="utf-8")
        assert text.startswith("<svg")
        assert "var(--" not in text
        assert any(family.dark_color in text for family in families())  # the dark page's colours
        with page.expect_download() as waiting:
            figure.locator("a[download]").click()
        assert waiting.value.suggested_filename == f"{name}.csv"
        head, *rows = Path(waiting.value.path()).read_text(encoding="utf-8").splitlines()
        assert head.startswith("run,family,")
        assert len(rows) >= 40


def test_a_recipe_can_be_copied_by_hand(visit):
    page = visit()
    recipes = page.locator("#recipes > details")  # those of many runs are folded once more
    recipes.locator("> summary").click()
    first = recipes.locator("> details").first
    first.locator("summary").click()
    first.locator("button").click()
    assert "family =" in page.evaluate("getSelection().toString()")


def test_print_has_no_buttons_and_all_rows(visit):
    page = visit()
    page.emulate_media(media="print")
    assert page.locator(".save:visible").count() == 0
    assert page.locator("nav").is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1000
    assert len(page.pdf()) > 20_000


def test_the_arrow_keys_show_what_is_in_a_figure(visit):
    page = visit()
    tip = page.locator("#tip")
    drawing = page.locator("figure[data-name=flops] svg")
    drawing.focus()
    page.keyboard.press("ArrowRight")
    first = tip.text_content()
    assert tip.is_visible()
    assert first.startswith("ar-0: autoregressive")
    assert page.locator("#runs tr.hot").count() == 1
    page.keyboard.press("ArrowRight")
    assert tip.text_content().startswith("ar-1")
    page.keyboard.press("ArrowLeft")
    assert tip.text_content() == first
    assert page.locator(".here").count() == 1
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.keyboard.press("ArrowLeft")
    assert tip.is_visible()
    # What has the focus is seen, and leaving it leaves nothing behind.
    assert drawing.evaluate("d => getComputedStyle(d).outlineStyle") == "solid"
    page.keyboard.press("Tab")
    assert tip.is_hidden()
    assert page.locator(".here, svg.dim").count() == 0


def test_every_figure_has_a_text_in_its_place(visit):
    page = visit()
    drawings = page.locator("svg.drawing").all()
    assert drawings
    for drawing in drawings:
        assert drawing.get_attribute("role") == "img"
        assert len(drawing.get_attribute("aria-label")) > 30


CONTRAST = """() => {
  const parse = text => { const n = text.match(/[\\d.]+/g).map(Number);
    return [n[0], n[1], n[2], n.length > 3 ? n[3] : 1]; };
  const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3]));
  const paper = parse(getComputedStyle(document.body).backgroundColor);
  const ground = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement)
      layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), paper);
  };
  const light = colour => colour.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), poor = [];
  for (let node; node = walker.nextNode();) {
    const e = node.parentElement, style = getComputedStyle(e);
    if (!node.data.trim() || !e.getClientRects().length || style.visibility == "hidden") continue;
    const below = ground(e);
    const ink = over(parse(e.closest("svg") ? style.fill : style.color), below);
    const [a, b] = [light(ink), light(below)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), bold = parseInt(style.fontWeight) >= 700;
    const least = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    if ((a + 0.05) / (b + 0.05) < least)
      poor.push([((a + 0.05) / (b + 0.05)).toFixed(2), e.tagName, node.data.trim().slice(0, 40)]);
  }
  return poor;
}"""
"""WCAG 2.2, 1.4.3: text whose contrast to what is behind it is below 4.5, or 3 if it is large."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_enough_contrast(visit, scheme):
    page = visit(1000, scheme)
    for details in page.locator("details").all():
        details.evaluate("d => d.open = true")
    assert page.evaluate(CONTRAST) == []
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<p style=color:#888>grey</p>')")
    page.evaluate("document.body.lastChild.style.background = '#999'")
    assert [text for _, _, text in page.evaluate(CONTRAST)] == ["grey"]


def test_what_can_be_used_has_a_name_and_the_page_a_language_and_headings_in_order(visit):
    page = visit()
    nameless = page.evaluate(
        "[...document.querySelectorAll('a[href], button, input, select, summary, [tabindex]')]"
        ".filter(e => !(e.getAttribute('aria-label') || e.textContent.trim()"
        " || (e.labels && e.labels.length))).map(e => e.outerHTML.slice(0, 80))"
    )
    assert nameless == []
    assert page.locator("img:not([alt])").count() == 0
    assert page.get_attribute("html", "lang")
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
