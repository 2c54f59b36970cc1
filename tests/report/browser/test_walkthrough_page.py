"""The page of the walkthrough in a real browser: its sections, and the buttons that break the step."""

import pytest
from tests.report.browser.browser import start_browser

from shardproof.byhand.settings import Settings
from shardproof.report.page.render import render_walkthrough_page


@pytest.mark.parametrize("scripts", [True, False])
def test_a_button_breaks_the_step_with_and_without_javascript(tmp_path, scripts):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = tmp_path / "walkthrough.html"
    path.write_text(render_walkthrough_page(Settings()))
    errors = []
    with playwright.sync_playwright() as started:
        browser = start_browser(started)
        page = browser.new_page(java_script_enabled=scripts)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(path.as_uri())
        assert page.locator("h1").inner_text() == "The same step"
        assert page.locator(".matrix svg:visible").count() > 10
        schedule = page.locator("table.schedule tr")
        assert [" ".join(row.split()) for row in schedule.all_inner_texts()] == [
            "stage 0 F0 F1 B0 B1",
            "stage 1 F0 F1 B0 B1",
        ]
        assert page.locator("td.forward").count() == page.locator("td.backward").count() == 4
        first = page.locator("#break0")
        assert not first.locator("table").is_visible()
        first.locator("summary").focus()
        page.keyboard.press("Enter")
        assert first.locator("tr.bad").first.is_visible()
        page.locator("#break1 summary").click()
        assert page.locator("#break1 table").is_visible()
        assert not first.locator("table").is_visible()  # one at a time
        browser.close()
    assert errors == []
