"""A headless Chromium for the tests that need one; they are skipped without it."""

import shutil

import pytest

PATHS = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, PATHS), None)
    if path is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
