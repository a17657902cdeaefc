"""What tests in a browser have in common: the machine's own Chromium, and what is noted while a page is open."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from nbutils import layout

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE_VARIABLE = "NBUTILS_AXE"  # path of axe.min.js; `.ci/run` has npm fetch it
AXE = os.environ.get(AXE_VARIABLE, "")
SCREENSHOTS = layout.root() / "build" / "browser"
LIMIT = 1800  # seconds for one test: the first ones start a server, a browser and kernels, perhaps on a busy machine
MARKS = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(LIMIT),
    pytest.mark.skipif(not CHROMIUM, reason="found no chromium or google-chrome"),
]
NEEDS_AXE = pytest.mark.skipif(not os.path.isfile(AXE), reason=f"${AXE_VARIABLE} names no axe.min.js")
FAULTS = "(await axe.run({})).violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html.slice(0, 200))])"


@contextmanager
def launched() -> Iterator[Any]:
    """Yield a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def without_network(browser: Any, **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """Yield a page, and a list of what it asks for and of the errors of its scripts."""
    context = browser.new_context(**{"offline": True, "viewport": {"width": 1280, "height": 1000}} | options)
    page = context.new_page()
    page.set_default_timeout(120_000)  # nothing runs here; what is not there by then never will be
    troubles: list[str] = []

    def noted(made: Any) -> None:
        if not made.url.startswith(("file:", "data:", "blob:")):
            troubles.append(f"asked for {made.url}")

    page.on("request", noted)
    page.on("requestfailed", lambda made: troubles.append(f"failed: {made.url[:200]}"))
    page.on("pageerror", lambda error: troubles.append(f"script: {error}"))
    page.on("console", lambda said: troubles.append(f"console: {said.text}") if said.type == "error" else None)
    yield page, troubles
    context.close()


def faults(page: Any, of: str = "document") -> list[Any]:
    """Return what axe-core has against a part of a page that was opened after `page.add_init_script(path=AXE)`."""
    found: list[Any] = page.evaluate(f"async () => {FAULTS.format(of)}")
    return found


def heap(page: Any) -> float:
    """Return the megabytes of objects that scripts hold, after a collection."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    megabytes: float = session.send("Runtime.getHeapUsage")["usedSize"] / 1e6
    session.detach()
    return megabytes
