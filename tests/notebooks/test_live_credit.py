"""The live audit in a browser: what it looks up is what was recorded, and its ρ is scipy's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsers import MARKS
from live_pages import LIVE, STATE, page_of, status
from scipy.stats import pearsonr

from studies.credit.audit import signals
from studies.credit.differences import HIGHEST, LONGEST, LOWEST, MODES, Examined, probes, score
from studies.credit.live import BOX, PANEL, live_audit
from studies.credit.network import ResidualMLP
from studies.credit.steps import PRECISIONS

pytest.importorskip("anywidget", reason="needs anywidget")

STATES = 2000
STEM, NAME, ALT = "04-feedback-alignment-audit", "live-audit", "Dots on a line. No loss changes."

pytestmark = MARKS


def examined(label: str, seed: int) -> Examined:
    """Return an untrained network with states of random images."""
    torch.manual_seed(seed)
    model = ResidualMLP(20, 32, 10, 3)
    return Examined(label, model, signals(model, torch.randn(150, 20), torch.randint(10, (150,))))


PROBED = probes([examined("DFA", 0), examined("BP", 1)], [0, 2])
SHOWN = live_audit(PROBED)
FIRST = SHOWN.data["first"]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    return page_of(SHOWN, STEM, NAME, ALT, tmp_path_factory.mktemp("live"))


COMPUTE = f"""states => states.map((state) => {{
    const {{ measured, rho, same }} = {LIVE}.compute(state);
    return [Array.from(measured), Number.isNaN(rho) ? null : rho, same];
}})"""


def recorded(state: dict[str, Any]) -> np.ndarray:
    """Return what Python looks up, `[probes]`."""
    own = next(one for one in PROBED if (one.network, one.layer) == (state["network"], state["layer"]))
    return score(own, state)[0]


def test_what_the_page_looks_up_is_recorded_and_its_score_is_scipys(page):
    random = np.random.default_rng(0)
    states = [
        {"network": ["DFA", "BP"][random.integers(2)], "layer": [0, 2][random.integers(2)]}
        | {"precision": list(PRECISIONS)[random.integers(3)], "mode": list(MODES)[random.integers(2)]}
        | {"step": int(random.integers(LOWEST, HIGHEST + 1)), "length": int(random.integers(LONGEST + 1))}
        for _ in range(STATES)
    ]
    worst, undefined = 0.0, 0
    for state, (measured, rho, same) in zip(states, page.evaluate(COMPUTE, states), strict=True):
        expected = recorded(state)
        np.testing.assert_array_equal(measured, expected)  # to the digit
        assert same == (expected == 0).sum()
        if not expected.any():
            assert rho is None
            undefined += 1
            continue
        own = next(one for one in PROBED if (one.network, one.layer) == (state["network"], state["layer"]))
        worst = max(worst, abs(rho - pearsonr(own.derivative.astype(float), expected).statistic))
    print(f"largest difference of ρ over {STATES - undefined} states: {worst:.1e}; {undefined} without a score")
    assert worst < 1e-10
    assert 0.05 < undefined / STATES < 0.6
    # The control: another step is another measurement.
    others = [state | {"step": state["step"] + (1 if state["step"] < HIGHEST else -1)} for state in states]
    far = [(recorded(one) != recorded(other)).any() for one, other in zip(states, others, strict=True)]
    assert np.mean(far) > 0.5


def test_the_first_view_is_the_static_pictures(page):
    state = page.evaluate(STATE)
    assert state == FIRST
    ((measured, rho, same),) = page.evaluate(COMPUTE, [state])
    words = [text.get_text() for text in SHOWN.static().axes[0].texts]
    assert words == ["ρ undefined", f"no change at {same} of {len(measured)} probes (hollow)"]
    assert rho is None
    assert "has no score" in status(page)


def test_hand_and_keys_move_the_step_and_the_length(page):
    curve = page.locator(".live-figure canvas").nth(1)
    curve.scroll_into_view_if_needed()
    box = curve.bounding_box()
    scale = box["width"] / PANEL[0]
    y = box["y"] + scale * (BOX[1] + BOX[3]) / 2
    page.mouse.move(box["x"] + scale * BOX[2], y)
    page.mouse.down()
    assert page.evaluate(STATE)["step"] == HIGHEST
    page.mouse.move(box["x"], y)
    page.mouse.up()
    assert page.evaluate(STATE)["step"] == LOWEST
    page.keyboard.press("ArrowLeft")  # no shorter one is there
    assert page.evaluate(STATE) == FIRST | {"step": LOWEST}
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(STATE) == FIRST | {"step": LOWEST + 1, "length": FIRST["length"] - 1}


def test_an_address_between_two_steps_shows_the_nearest(page, page_file):
    page.goto("about:blank")
    page.goto(f"{page_file.as_uri()}#figure-{NAME}?step=0.4&length=2.6")
    words = status(page)
    page.evaluate(f"() => {LIVE}.set({{ step: 0, length: 3 }})")
    assert status(page) == words
    page.evaluate(f"() => {LIVE}.set({{ step: 1, length: 3 }})")
    assert status(page) != words  # the control
