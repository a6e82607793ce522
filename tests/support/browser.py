"""A headless Chromium for pages; where there is none, the test is skipped and says why."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def headless_chromium() -> Iterator[Any]:
    """Start the machine's Chromium under Playwright.

    Yields:
        Playwright's `Browser`.
    """
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH (apt install chromium)")
    with api.sync_playwright() as playwright:
        # Root, whom containers often run tests as, cannot use Chromium's sandbox.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


def colors_on(page: Any, screenshot: Path) -> int:
    """Take a screenshot of a page; count its colors, of which a blank page has a few."""
    page.screenshot(path=screenshot)
    with Image.open(screenshot) as image:
        return len(image.convert("RGB").getcolors(1 << 24))
