"""The page of a proof in a real browser: without JavaScript, filters, links, keyboard, dark mode, heat maps, size."""

import gzip
import json
from dataclasses import replace

import pytest
from tests.report.browser.browser import start_browser
from tests.report.page.shown import LOSS, RIGHT, WRONG, shown

from shardproof.proving.records import Key, Phase
from shardproof.report.page.render import render_proof_page

EVIL = "<script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    with playwright.sync_playwright() as started:
        browser = start_browser(started)
        yield browser
        browser.close()


@pytest.fixture
def show(browser, tmp_path):
    """Open the page of a proof; what goes wrong in it, or is asked of the network, is an error."""
    contexts, errors = [], []

    def opened(proof, *, certificate="", **settings):
        path = tmp_path / "proof.html"
        path.write_text(render_proof_page(proof, subject="a step", certificate=certificate))
        context = browser.new_context(viewport={"width": 1200, "height": 900}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: errors.append(request.url) if is_foreign(request.url) else None)
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []


def is_foreign(url):
    return not url.startswith(("file:", "blob:", "data:"))


def visible_rows(page):
    return page.locator(".tensor:visible").count()


def test_the_verdict_and_the_tensors_are_there_without_javascript(show):
    page = show(shown(), java_script_enabled=False)
    assert page.locator("h1").inner_text() == "Not proved"
    assert "an all-reduce is missing" in page.locator(".cause").inner_text()
    assert page.locator("#t1").is_visible()
    assert not page.locator(".filters").is_visible()
    page.locator("details.section >> nth=0").locator("summary >> nth=0").click()
    assert page.locator("#t0").is_visible()


def test_a_proved_page_has_no_cause_and_is_green(show):
    page = show(shown(LOSS, RIGHT))
    assert page.locator("h1").inner_text() == "Proved"
    assert page.locator(".cause").count() == 0
    assert page.locator("header.verdict.good").count() == 1
    assert show(shown()).locator("header.verdict.bad").count() == 1


def test_filters_by_text_phase_and_finding(show):
    page = show(shown())
    page.keyboard.press("/")
    page.keyboard.type("down.bias")
    assert page.locator(".shown").inner_text() == "1 of 7 are shown"
    assert visible_rows(page) == 1
    page.keyboard.press("Escape")
    assert page.locator(".shown").inner_text() == ""
    page.select_option("#filter-phase", "updated parameter")
    assert visible_rows(page) == 1
    page.select_option("#filter-phase", "")
    page.uncheck("input[value=PROVED]")
    assert {row.get_attribute("data-verdict") for row in page.locator(".tensor:visible").all()} == {"WRONG"}


def test_a_link_opens_the_tensor_that_it_leads_to(show):
    page = show(shown())
    page.locator("details.section").evaluate_all("all => all.forEach(one => { one.open = false; })")
    assert not page.locator("#t1").is_visible()
    page.locator(".chip.first").click()
    assert page.locator("#t1").is_visible()
    assert page.evaluate("document.activeElement.closest('details').id") == "t1"


def test_a_tensor_opens_and_its_cells_are_read_by_keyboard(show):
    page = show(shown())
    summary = page.locator("#t2 > summary")
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("#t2 .inside").is_visible()
    canvas = page.locator("#t1 canvas >> nth=1")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "rank 1 1.500; off by 1.500" in page.locator("#t1 .reading").inner_text()
    assert page.locator("#t1 canvas").count() == 3
    assert "1 of 2 cells differ" in canvas.get_attribute("aria-label")


def test_a_name_is_copied_with_one_click(show):
    page = show(shown(), permissions=["clipboard-read", "clipboard-write"])
    page.locator("#t1 > summary").hover()
    page.locator(".tensor:has(#t1) .copy").click()
    page.wait_for_selector(".tensor:has(#t1) .copy.done")
    assert page.evaluate("navigator.clipboard.readText()") == "up.weight"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_have_enough_contrast(show, scheme):
    page = show(shown(), color_scheme=scheme)
    ratios = page.evaluate(
        """() => {
          const style = getComputedStyle(document.documentElement);
          const canvas = document.createElement('canvas').getContext('2d');
          const light = (name) => {
            canvas.fillStyle = style.getPropertyValue(name).trim();
            const part = [1, 3, 5].map((at) => parseInt(canvas.fillStyle.slice(at, at + 2), 16) / 255)
              .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
          };
          const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
          const found = {};
          for (const ink of ['--ink', '--quiet', '--good', '--bad', '--open', '--plain', '--accent'])
            for (const ground of ['--sheet', '--ground']) found[ink + ' on ' + ground] = contrast(ink, ground);
          found['--bad on --bad-soft'] = contrast('--bad', '--bad-soft');
          found['--good on --good-soft'] = contrast('--good', '--good-soft');
          return found;
        }"""
    )
    assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 19, 23)"
    assert dark is (scheme == "dark")


def test_a_module_called_script_shows_as_text_and_does_not_run(show):
    evil = replace(WRONG, key=Key(0, Phase.GRADIENT, EVIL), source_line=EVIL)
    page = show(shown(evil))
    assert page.title() != "taken"
    assert page.locator("code.name", has_text=EVIL).count() == 1


def test_the_certificate_is_downloaded_as_json(show):
    page = show(shown(), certificate='{"ok": false}')
    with page.expect_download() as download:
        page.click("#certificate")
    assert download.value.suggested_filename == "proof.json"
    assert json.loads(download.value.path().read_text()) == {"ok": False}


def test_without_javascript_the_certificate_is_downloaded_compressed(show):
    page = show(shown(), certificate='{"ok": false}', java_script_enabled=False)
    with page.expect_download() as download:
        page.click("#certificate")
    assert json.loads(gzip.decompress(download.value.path().read_bytes())) == {"ok": False}


def test_ten_thousand_tensors_open_and_are_filtered(show):
    many = [replace(RIGHT, key=Key(0, Phase.GRADIENT, f"layers.{number}.w")) for number in range(10_000)]
    page = show(shown(*many, evidence=None))
    page.fill("#filter-text", "layers.777.")
    assert page.locator(".shown").inner_text() == "1 of 10000 are shown"
