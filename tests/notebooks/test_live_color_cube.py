"""The live colour cube in a browser: what it computes is PyTorch's, and its first view is the static picture's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsers import MARKS
from live_pages import LIVE, STATE, opened, page_of

from nbutils import hooks
from studies.color_cube.data import RED_HSV, coarse_hsv_cube, rgb_grid
from studies.color_cube.frontier import UNLIKE, at_equal_damage
from studies.color_cube.live import GRID, Seed, first_view, live_cube
from studies.color_cube.mappers import BoundedFalloff
from studies.color_cube.measures import rgb_similarity
from studies.color_cube.network import ColorMLP
from studies.color_cube.steering import Suppression

pytest.importorskip("anywidget", reason="needs anywidget")

STATES = 1000
STEM, NAME, ALT = "01-color-cube", "live-cube", "A sphere, a cube and errors. Red is gone."

pytestmark = MARKS


def network(seed: int) -> ColorMLP:
    """Return an untrained network whose activations reach where GELU bends."""
    torch.manual_seed(seed)
    model = ColorMLP().double().eval()
    for parameter in model.parameters():
        parameter.data *= 2
    return model


DRAWN = {"median": (24, 9), "best": (29, 22), "failed": (40, 20)}  # both removals do something to red
SEEDS = [
    Seed(
        f"{i} ({word})",
        network(anchored),
        network(plain),
        torch.nn.functional.normalize(torch.arange(5.0).double() - i, dim=0),
    )
    for i, (word, (anchored, plain)) in enumerate(DRAWN.items())
]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    return page_of(live_cube(SEEDS), STEM, NAME, ALT, tmp_path_factory.mktemp("live"))


def by_torch(state: dict[str, Any], rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return latents and reconstructions as the notebook computes them."""
    seed = next(seed for seed in SEEDS if seed.label == state["seed"])
    model = seed.plain if state["plan"] == "post hoc" else seed.anchored
    axis = seed.direction if state["plan"] == "post hoc" else torch.eye(5, dtype=torch.float64)[0]
    edits: dict[str, Any] = {"bottleneck": Suppression(axis, BoundedFalloff(power=0), state["strength"])}
    if state["plan"] in ("none", "ablated"):
        share = 1 - state["strength"] if state["plan"] == "ablated" else 1.0
        edits = {"encoder": lambda z: torch.cat([share * z[..., :1], z[..., 1:]], -1)}
    with torch.no_grad(), hooks.edit(model, edits), hooks.capture(model, "bottleneck") as seen:
        recon = model(torch.as_tensor(rgb))
    return seen["bottleneck"].numpy(), recon.numpy()


COMPUTE = """([states, colours]) => states.map((state, i) => {
    const found = document.querySelector('.live-figure').live.compute(state, Float64Array.from(colours[i]));
    return [Array.from(found.latents), Array.from(found.recon)];
})"""


def test_what_the_page_computes_is_pytorchs(page):
    random = np.random.default_rng(0)
    plans = ["suppressed", "ablated", "post hoc", "none"]
    states = [
        {"seed": SEEDS[random.integers(3)].label, "plan": plans[random.integers(4)], "strength": random.random()}
        for _ in range(STATES)
    ]
    colours = random.random((STATES, 8, 3))
    found = page.evaluate(COMPUTE, [states, colours.reshape(STATES, -1).tolist()])
    worst = 0.0
    for state, rgb, own in zip(states, colours, found, strict=True):
        for theirs, ours in zip(by_torch(state, rgb), own, strict=True):
            worst = max(worst, np.abs(theirs.ravel() - ours).max())
    print(f"largest difference over {STATES} states: {worst:.1e}")
    assert worst < 1e-5
    wrong = by_torch(states[0] | {"plan": "none", "strength": 0.0}, colours[0])[1]  # the control
    moved = next(i for i, state in enumerate(states) if state["plan"] == "ablated" and state["strength"] > 0.5)
    assert np.abs(by_torch(states[moved], colours[moved])[1].ravel() - found[moved][1]).max() < 1e-5
    assert np.abs(wrong.ravel() - found[moved][1]).max() > 1e-3


def test_the_first_view_is_the_static_pictures(page):
    rgb = np.moveaxis(coarse_hsv_cube().rgb, 0, 2).reshape(-1, 3)
    latents, recon = page.evaluate(f"""() => {{
        const {{ latents, recon }} = {LIVE}.compute({LIVE}.state);
        return [[...latents], [...recon]];
    }}""")
    expected = first_view(SEEDS[0].anchored, rgb)
    np.testing.assert_allclose(np.reshape(latents, (-1, 5)), expected[0], atol=1e-5)
    np.testing.assert_allclose(np.reshape(recon, (-1, 3)), expected[1], atol=1e-5)


@pytest.mark.parametrize("plan", ["suppressed", "post hoc"])
def test_the_damage_in_words_is_pytorchs(page, plan):
    grid = rgb_grid(GRID).reshape(-1, 3)
    judged = np.concatenate([[[1, 0, 0]], grid[rgb_similarity(grid, RED_HSV) < UNLIKE]])
    largest = 0.0
    for seed in SEEDS:
        state = page.evaluate(STATE) | {"seed": seed.label, "plan": plan, "strength": 0.6}
        errors = [np.square(by_torch(state | part, judged)[1] - judged).mean(-1) for part in ({}, {"strength": 0})]
        added = errors[0] - errors[1]
        found = page.evaluate(f"state => {LIVE}.damage(state)", state)
        np.testing.assert_allclose([found["red"], found["elsewhere"]], [added[0], added[1:].mean()], atol=1e-7)
        largest = max(largest, np.abs(added).max())
    assert largest > 1e-2  # the control


def test_removals_are_compared_where_they_do_as_much_to_red(page):
    grid = rgb_grid(GRID).reshape(-1, 3)
    judged = np.concatenate([[[1, 0, 0]], grid[rgb_similarity(grid, RED_HSV) < UNLIKE]])
    compared = []
    for seed in SEEDS:
        for plan, other in (("suppressed", "post hoc"), ("ablated", "post hoc"), ("post hoc", "suppressed")):
            state = page.evaluate(STATE) | {"seed": seed.label, "plan": plan}
            steps = [state | {"plan": other, "strength": strength} for strength in np.linspace(0, 1, 21)]
            errors = np.array([np.square(by_torch(step, judged)[1] - judged).mean(-1) for step in steps])
            added = errors - errors[0]
            for level in (0.5 * added[:, 0].max() + 1e-9, 2 * added[:, 0].max() + 1e-9):
                found = page.evaluate(f"([state, red]) => {LIVE}.asMuch(state, red) ?? NaN", [state, level])
                (expected,) = at_equal_damage(added[None, :, 0], added[None, :, 1:].mean(-1), level)
                np.testing.assert_allclose(found, expected, atol=1e-7)
                compared.append(expected)
    assert 0 < np.isfinite(compared).sum() <= len(compared) / 2


def test_of_an_impossible_address_what_is_possible_is_kept(page, page_file):
    page.goto("about:blank")
    wrong = "strength=9&plan=delete&seed=%00&yaw=NaN&pitch=1e9&brushed=a.9999..3&dimensions=0+0+0&other=1"
    page.goto(f"{page_file.as_uri()}#figure-{NAME}?{wrong}")
    state = page.evaluate(STATE)
    first = {"seed": SEEDS[0].label, "plan": "suppressed", "strength": 1, "dimensions": "0 1 2", "brushed": "3"}
    assert {name: state[name] for name in first} == first
    assert page.locator(".live-fault").count() == 0


def test_a_fast_hand_brushes_all_that_it_passes(page):
    box = page.locator(".live-figure canvas").nth(1).bounding_box()
    page.mouse.move(box["x"] + 30, box["y"] + 25)
    page.mouse.down()
    page.mouse.move(box["x"] + 230, box["y"] + 25)
    page.mouse.up()
    brushed = [int(i) for i in page.evaluate(STATE)["brushed"].split(".")]
    assert len(brushed) > 9
    assert np.all(np.diff(brushed) == 1)


def test_a_second_finger_moves_nothing(browser, page_file):
    with opened(browser, page_file, has_touch=True) as page:
        canvas, session = page.locator(".live-figure canvas").nth(1), page.context.new_cdp_session(page)
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()

        def send(kind: str, *places: tuple[int, int]) -> None:
            points = [{"x": box["x"] + x, "y": box["y"] + y, "id": i} for i, (x, y) in enumerate(places)]
            session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

        send("Start", (30, 25))
        first = page.evaluate(STATE)["brushed"]
        send("Start", (30, 25), (200, 240))
        send("Move", (31, 25), (100, 240))
        send("End")
        assert page.evaluate(STATE)["brushed"] == first != ""


def test_an_address_asked_for_is_not_overwritten(page):
    page.locator(".live-figure input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    page.evaluate("() => { location.hash = '#elsewhere'; }")
    page.wait_for_timeout(500)
    assert page.evaluate("() => location.hash") == "#elsewhere"
