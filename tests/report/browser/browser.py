"""The browser of these tests: Chromium of the system or of Playwright, without network."""

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def start_browser(playwright):
    """Start it; skip the test, with the reason, where there is none."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    try:
        return playwright.chromium.launch(executable_path=path, args=arguments)
    except Exception as error:
        if path is not None:
            raise
        pytest.skip(f"no browser here: install chromium, or run `playwright install chromium` ({str(error)[:60]!r})")
