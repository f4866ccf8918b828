"""A real browser for tests: Chromium, driven by Playwright. Without one they are skipped, unless they are required."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
MAC_OS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
# No display, no user to protect from the pages it opens, and nothing that calls home.
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
MISSING = "no Chromium found; install one: apt-get install chromium, or brew install --cask chromium"
SECONDS = 20.0
AXE = Path(__file__).with_name("axe.min.js")  # axe-core 4.14.1, unchanged; see axe.LICENSE

NewPage = Callable[..., Page]


def find_chromium() -> str | None:
    """The path of a Chromium or Chrome, None when there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    return found or next((path for path in MAC_OS if Path(path).exists()), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser of this process. Playwright's API must not be used within an asyncio loop."""
    path = find_chromium()
    if path is None:
        if os.environ.get("BROWSER_TESTS") == "required":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=list(OPTIONS))
        yield running
        running.close()


@pytest.fixture
def new_page(browser: Browser) -> Iterator[NewPage]:
    """Makes pages, each of a person of its own. What goes wrong in their scripts or policies fails the test.

    Arguments are those of Playwright's `new_context`; `width` stands for a viewport.
    """
    contexts = []
    wrong: list[str] = []

    def make(width: int = 1280, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 860}, **options)
        contexts.append(context)
        context.set_default_timeout(SECONDS * 1000)
        page = context.new_page()
        page.on("pageerror", lambda why: wrong.append(str(why)))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
        return page

    yield make
    for context in contexts:
        context.close()
    assert wrong == []


def violations(page: Page, *rules: str) -> list[str]:
    """What axe-core finds wrong with the page as it stands, a line for each; `rules` alone, all without them."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    asked: dict[str, Any] = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    found = page.evaluate("(asked) => axe.run(asked)", asked)["violations"]
    return [f"{one['id']}: {one['help']}: {node['target']}" for one in found for node in one["nodes"]]


def is_too_wide(page: Page) -> bool:
    """Whether the page scrolls sideways."""
    # A click returns once the next document has begun, when there may not be anything in it yet.
    page.locator("main").wait_for()
    return bool(page.evaluate("document.scrollingElement.scrollWidth > window.innerWidth"))
