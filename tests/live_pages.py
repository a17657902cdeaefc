"""Live figures on a page, for tests in a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nbutils import claims, layout
from nbutils.notebook.hygiene import hygiene
from nbutils.notebook.render import render_all
from nbutils.plotting import figures
from nbutils.plotting.live import WIDGET_VIEW, LiveFigure

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOTS = layout.root() / "build" / "browser"


def page_of(live: LiveFigure, stem: str, name: str, alt: str, folder: Path) -> Path:
    """Show a live figure as a cell does, and return the page of the notebook that holds it."""
    outputs: list[Any] = []

    def kept(bundle, metadata, alt, caption):
        assert bundle.pop(WIDGET_VIEW)["model_id"]
        outputs.append(new_output("display_data", data=bundle, metadata=metadata))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(layout.OUT_VARIABLE, str(folder))
        patch.setattr(claims, "_results", None)
        patch.setattr(figures, "_display", kept)
        claims.begin(stem, profile="quick", source="embedded")
        figures.show(live, name, alt, caption="The network itself.")
    cell = new_code_cell("show()", outputs=outputs, execution_count=1)
    path = folder / f"{stem}.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell(f"# {stem[:2]} · Live\n\nText."), cell]), path)
    for check in ("alt text", "figures", "absolute paths"):
        assert hygiene(path, assets=folder / stem, only=check) == []
    return next(file for file in render_all([path], folder / "html") if file.stem == stem)


@contextmanager
def opened(browser, file: Path, scheme: str) -> Iterator[Any]:
    """Yield the page without a network, in light or dark; an error of a script fails the test."""
    context = browser.new_context(offline=True, color_scheme=scheme, viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(120_000)
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.goto(file.as_uri())
    page.locator(".live-figure").wait_for()
    yield page
    context.close()
    assert troubles == []


def heap(page) -> float:
    """Return the megabytes of objects that scripts hold, after a collection."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    return session.send("Runtime.getHeapUsage")["usedSize"] / 1e6
