"""Live figures of the stored pages, moved by hand in headless Chromium: script per redraw, and frames per second.

Beside the limits of a frame stand redraws by a kernel: matplotlib's picture of the first view for 01, the faithfulness
of circuits of all sizes with PyTorch for 05. Drawing in software on a busy machine takes what frames need: those count
for little there, script per redraw for more.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1]))  # of what tests share

from browsers import CHROMIUM, launched, without_network
from live_pages import FIGURE, SETTLED

from nbutils import layout
from nbutils.notebook.render import render_all
from nbutils.plotting.manifests import manifest_of

FRAME, STROKE = 1000 / 60, 50.0  # milliseconds: of a frame; from a stroke to what the network makes of it
MOVES = 300
TIMED = """() => {
    const ask = window.requestAnimationFrame.bind(window);
    window.spent = [];
    window.requestAnimationFrame = (act) => ask((now) => {
        const start = performance.now();
        act(now);
        window.spent.push(performance.now() - start);
    });
    window.frames = 0;
    const count = () => { window.frames += 1; ask(count); };
    ask(count);
}"""
COUNTED = "() => [performance.now(), window.frames, window.spent]"


def measure() -> list[dict[str, object]]:
    """Measure what is dragged on each page; the redraws of a kernel are the fastest of three."""
    if not CHROMIUM:
        raise RuntimeError("found no chromium or google-chrome")
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder, launched() as browser:
        for path in layout.notebooks():
            if not any("live" in entry for entry in manifest_of(layout.assets(path.stem)).values()):
                continue
            page_file = next(file for file in render_all([path], Path(folder)) if file.stem == path.stem)
            number = path.stem[:2]
            redraws = {}
            for what, spent, frames in _dragged(browser, page_file):
                limit = STROKE if number == "02" else FRAME
                redraws[what] = np.median(spent)
                for name, share in (("median", 50), ("95 %", 95)):
                    took = float(np.percentile(spent, share))
                    rows.append(_row(f"{number}, {what}: script per redraw, {name}", took, limit, "the limit"))
                rate = {"name": f"{number}, {what}: frames a second", "ours": frames, "reference": 60.0, "unit": "Hz"}
                rows.append(rate | {"ratio": frames / 60, "note": "drawn in software"})
            if number in KERNELS:
                took, what = KERNELS[number]()
                rows.append(
                    _row(f"{number}: redraw by a kernel, {what}", float(max(redraws.values())), took, "medians")
                )
    return rows


def _dragged(browser: Any, file: Path) -> list[tuple[str, list[float], float]]:
    """Return what is dragged, the milliseconds of script of each redraw, and frames per second."""
    found = []
    with without_network(browser) as (page, troubles):
        page.add_init_script(f"({TIMED})()")
        page.goto(file.as_uri())
        page.locator(FIGURE).wait_for()
        page.evaluate(SETTLED)
        handles = page.locator(FIGURE).locator("input[type=range], canvas.live-drag").all()
        for handle in handles:
            handle.scroll_into_view_if_needed()
            page.evaluate(SETTLED)
            box = handle.bounding_box()
            name = handle.evaluate("e => e.ariaLabel || e.labels[0].querySelector('span').innerText")
            turns = np.linspace(0, 6 * np.pi, MOVES)
            across = box["x"] + box["width"] * (0.5 + 0.45 * np.cos(turns))
            down = box["y"] + box["height"] * (0.5 + 0.4 * np.sin(0.7 * turns))
            page.mouse.move(across[0], down[0])
            page.mouse.down()
            page.evaluate(SETTLED)
            start, shown, _ = page.evaluate(COUNTED)
            page.evaluate("() => { window.spent = []; }")
            for x, y in zip(across, down, strict=True):
                page.mouse.move(x, y)
            end, later, spent = page.evaluate(COUNTED)
            page.mouse.up()
            if len(spent) < MOVES / 10:
                raise RuntimeError(f"{file.name}: {name} moved {len(spent)} times")
            found.append((name.split(".")[0], spent, 1000 * (later - shown) / (end - start)))
    if troubles:
        raise RuntimeError(f"{file.name}: {troubles[0]}")
    return found


def _drawing() -> tuple[float, str]:
    from studies.color_cube.live import Seed, live_cube
    from studies.color_cube.network import ColorMLP

    model = ColorMLP().double().eval()
    live = live_cube([Seed("0", model, model, torch.eye(5, dtype=torch.float64)[0])])
    return _fastest(lambda: live.static().savefig(io.BytesIO())), "matplotlib's picture"


def _faithfulness() -> tuple[float, str]:
    from nbutils.graphs.task import evaluate
    from studies.circuits.controls import strongest_edges
    from studies.circuits.graph import transformer_graph
    from studies.circuits.live import Network, task_of
    from studies.circuits.sequences import induction
    from studies.circuits.transformer import Transformer

    model, prompts = Transformer(20, 14).double().eval(), induction(64, seed=1)
    graph = transformer_graph(model, prompts.clean)
    scores = torch.randn(len(graph.edges))
    network = Network("0", model, {}, torch.zeros(6, 1, 1, 32).double())
    task = task_of(network, "resample", graph, prompts, prompts.clean)
    kept = [graph.mask(strongest_edges(graph, scores, count)) for count in range(1, len(graph.edges) + 1)]
    masks = 1 - torch.stack([mask.float() for mask in kept])
    return _fastest(lambda: evaluate(task, masks)), f"faithfulness of {len(masks)} circuits with PyTorch"


KERNELS: dict[str, Callable[[], tuple[float, str]]] = {"01": _drawing, "05": _faithfulness}


def _fastest(work: Callable[[], object]) -> float:
    """Return the milliseconds of the fastest of three calls."""
    took = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        took.append(1000 * (time.perf_counter() - start))
    return min(took)


def _row(name: str, ours: float, reference: float, note: str) -> dict[str, object]:
    ratio = reference / ours if ours else float("inf")
    return {"name": name, "ours": ours, "reference": reference, "ratio": ratio, "unit": "ms", "note": note}
