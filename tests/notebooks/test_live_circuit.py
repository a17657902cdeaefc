"""The live circuit in a browser: its logits are PyTorch's whatever is cut, and an edge is cut by hand."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from browsers import MARKS
from live_pages import STATE, page_of

from nbutils.graphs.patch import patch_edges
from studies.circuits.graph import transformer_graph
from studies.circuits.live import CIRCUIT, STAND_INS, Network, first_view, live_circuit, task_of
from studies.circuits.sequences import induction
from studies.circuits.transformer import Transformer

pytest.importorskip("anywidget", reason="needs anywidget")

STATES = 1000
STEM, NAME, ALT = "05-source-ablations", "live-circuit", "A circuit and its faithfulness. Eight edges are kept."

pytestmark = MARKS

PROMPTS, ELSEWHERE = induction(16, seed=1), induction(16, seed=2).clean


def network(seed: int) -> Network:
    """Return an untrained network of the study's size whose attention is far from even, with scores of no meaning."""
    torch.manual_seed(seed)
    model = Transformer(20, 14).double().eval()
    for parameter in model.parameters():
        parameter.data *= 2
    scores = {name: torch.randn(len(GRAPH.edges)) for name in STAND_INS}
    return Network(f"{seed} (median)" if not seed else str(seed), model, scores, torch.randn(6, 1, 1, 32).double())


GRAPH = transformer_graph(Transformer(20, 14).double(), PROMPTS.clean)
NETWORKS = [network(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    live = live_circuit(NETWORKS, GRAPH, PROMPTS, ELSEWHERE)
    return page_of(live, STEM, NAME, ALT, tmp_path_factory.mktemp("live"))


@lru_cache
def task(label: str, name: str):
    """Return a network's task under a stand-in, and its one batch."""
    own = task_of(next(one for one in NETWORKS if one.label == label), name, GRAPH, PROMPTS, ELSEWHERE)
    return own, next(iter(own.pairs))


@torch.no_grad()
def by_torch(state: dict[str, str]) -> np.ndarray:
    """Return the logits `[items, vocabulary]` at the answer with some edges cut."""
    own, batch = task(state["network"], state["standIn"])
    mask = torch.zeros(len(GRAPH.edges), dtype=torch.float64)
    mask[[int(edge) for edge in state["cut"].split(".") if edge]] = 1
    with patch_edges(own.model, GRAPH, mask, own.of(batch)):
        return PROMPTS.at_answers(own.model(batch.clean))[:, 0].numpy()


COMPUTE = """states => states.map((state) =>
    Array.from(document.querySelector('.live-figure').live.compute(state)))"""


def test_what_the_page_computes_is_pytorchs(page):
    random = np.random.default_rng(0)
    states = []
    for _ in range(STATES):
        cut = np.flatnonzero(random.random(len(GRAPH.edges)) < random.random())
        choice = {"network": NETWORKS[random.integers(3)].label, "standIn": list(STAND_INS)[random.integers(9)]}
        states.append({**choice, "cut": ".".join(map(str, cut))})
    found = [np.array(own) for own in page.evaluate(COMPUTE, states)]
    gaps = [np.abs(by_torch(state).ravel() - own).max() for state, own in zip(states, found, strict=True)]
    print(f"largest difference over {STATES} states: {max(gaps):.1e}, of logits up to {np.abs(found).max():.1f}")
    assert max(gaps) < 1e-5
    # The control: one edge restored, or another stand-in. Some change nothing, such as the mean of what is constant.
    restored = [state | {"cut": state["cut"].rpartition(".")[0]} for state in states]
    others = [state | {"standIn": "zero" if state["standIn"] != "zero" else "resample"} for state in states]
    for wrong in (restored, others):
        far = [np.abs(by_torch(state).ravel() - own).max() > 1e-3 for state, own in zip(wrong, found, strict=True)]
        assert np.mean(far) > 0.5


def test_the_first_view_is_the_static_pictures(page):
    found = page.evaluate("""() => {
        const { faithfulness, state, data } = document.querySelector('.live-figure').live;
        return data.standIns.map(({ name }) => faithfulness({ ...state, standIn: name }));
    }""")
    kept = NETWORKS[0].scores["resample"].abs().argsort(descending=True)[:8].tolist()
    cut = [edge for edge in range(len(GRAPH.edges)) if edge not in kept]
    expected = first_view(NETWORKS[0], GRAPH, PROMPTS, ELSEWHERE, cut)
    np.testing.assert_allclose(found, list(expected.values()), rtol=1e-5)


def middle(page, edge: int) -> tuple[float, float]:
    """Return where on the screen the middle of an edge is."""
    canvas = page.locator(".live-figure canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    path = page.evaluate("i => [...document.querySelector('.live-figure').live.data.places.paths[i]]", edge)
    x, y = np.array(path).reshape(-1, 2)[[0, -1]].mean(0) * box["width"] / CIRCUIT[0]
    return box["x"] + x, box["y"] + y


def test_an_edge_is_pinned_and_cut_by_hand_and_by_key(page):
    before = page.evaluate(STATE)
    edge = GRAPH.edges.index(("a1.1", "logits"))
    place = middle(page, edge)
    page.mouse.move(*place)
    assert page.evaluate(STATE) == before  # it only shows
    page.mouse.click(*place)
    pinned = page.evaluate(STATE)
    assert pinned == before | {"pinned": edge}
    page.mouse.click(*place)
    cut = page.evaluate(STATE)
    assert set(cut["cut"].split(".")) ^ set(before["cut"].split(".")) == {str(edge)}
    page.locator(".live-figure canvas").first.focus()
    page.keyboard.press("Space")
    assert page.evaluate(STATE) == pinned
    page.keyboard.press("ArrowUp")
    assert page.evaluate(STATE)["pinned"] == edge - 1


def test_an_edge_is_pinned_and_cut_by_touch(browser, page_file):
    context = browser.new_context(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(page_file.as_uri())
    before, edge = page.evaluate(STATE), GRAPH.edges.index(("a1.1", "logits"))
    for expected in (set(), {str(edge)}):
        page.touchscreen.tap(*middle(page, edge))
        after = page.evaluate(STATE)
        assert after["pinned"] == edge
        assert set(after["cut"].split(".")) ^ set(before["cut"].split(".")) == expected
    context.close()


def test_of_an_impossible_address_what_is_possible_is_kept(page, page_file):
    page.goto("about:blank")
    wrong = "network=none&standIn=%00&cut=a.9999..3.3&pinned=-1&other=1"
    page.goto(f"{page_file.as_uri()}#figure-{NAME}?{wrong}")
    state = page.evaluate("() => document.querySelector('.live-figure').live.state")
    first = {"network": NETWORKS[0].label, "standIn": "resample", "cut": "3"}
    assert {name: state[name] for name in first} == first
    assert page.locator(".live-fault").count() == 0
