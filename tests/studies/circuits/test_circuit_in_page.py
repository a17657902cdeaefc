"""What the live circuit's page is given suffices: networks, stand-ins and prompts answer as PyTorch does."""

from __future__ import annotations

from base64 import b64decode

import numpy as np
import pytest
import torch

from nbutils.graphs.patch import patch_edges
from studies.circuits.graph import transformer_graph
from studies.circuits.live import CIRCUIT, STAND_INS, Network, first_view, live_circuit, plain, signed, task_of
from studies.circuits.sequences import induction, reversal
from studies.circuits.transformer import Transformer

PROMPTS, ELSEWHERE = induction(6, seed=1), induction(6, seed=2).clean


def network(label: str, **choices) -> Network:
    torch.manual_seed(len(label))
    model = Transformer(20, 14, **choices).double().eval()
    scores = {name: torch.randn(42) for name in STAND_INS}
    constants = torch.randn(6, 1, 1, 32).double().float().double()  # of single precision, as the weights are
    return Network(label, model, scores, constants)


OWN = network("0 (median)")
GRAPH = transformer_graph(OWN.model, PROMPTS.clean)


def unpacked(parts):
    """Return data as the page reads them."""
    if isinstance(parts, list):
        return [unpacked(one) for one in parts]
    if not isinstance(parts, dict):
        return parts
    if "base64" in parts:
        return np.frombuffer(b64decode(parts["base64"]), parts["dtype"]).reshape(parts["shape"])
    return {name: unpacked(one) for name, one in parts.items()}


def run(data, tokens, given=None, cut=()):
    """Return what each source writes `[items, positions, width]`, and the logits where the answer is asked."""
    own = {name: one.astype(float) for name, one in data["networks"][0].items() if isinstance(one, np.ndarray)}
    written = {"token": own["embedding"][tokens]}
    written["position"] = np.broadcast_to(own["positions"][: tokens.shape[1]], written["token"].shape)

    def read(destination):
        there = [(i, source) for i, (source, end) in enumerate(data["edges"]) if end == destination]
        return sum(given[source] if i in cut else written[source] for i, source in there)

    for layer, block in enumerate(data["networks"][0]["blocks"]):
        found = {}
        for head in range(len(block["query"])):
            q, k, v = (
                read(f"a{layer}.{head}.{name[0]}") @ block[name][head].astype(float)
                for name in ("query", "key", "value")
            )
            scores = np.tril(np.exp(q @ k.swapaxes(1, 2) * q.shape[-1] ** -0.5))
            found[f"a{layer}.{head}"] = scores / scores.sum(-1, keepdims=True) @ v @ block["out"][head].astype(float)
        written |= found
    return written, read("logits")[:, data["asked"]] @ own["unembed"].T


def replacement(data, way):
    """Return what stands in for each source, as the page forms it."""
    if not way["inputs"]:
        shape = *data["prompts"]["clean"].shape, 32
        constants = data["networks"][0]["constants"].get(way["name"], np.zeros((6, 32))).astype(float)
        return {name: np.broadcast_to(one, shape) for name, one in zip(data["sources"], constants, strict=True)}
    runs = [run(data, data["prompts"][which])[0] for which in way["inputs"]]
    if way["over"] == "nothing":
        return runs[0]
    axes = (0, 1) if way["over"] == "items and positions" else 0
    means = {name: np.concatenate([one[name] for one in runs]).mean(axes, keepdims=True) for name in runs[0]}
    return {name: np.broadcast_to(mean, runs[0][name].shape) for name, mean in means.items()}


@torch.no_grad()
@pytest.mark.parametrize("name", STAND_INS)
def test_what_the_page_has_gives_pytorchs_logits(name):
    data = unpacked(live_circuit([OWN], GRAPH, PROMPTS, ELSEWHERE).data)
    own = task_of(OWN, name, GRAPH, PROMPTS, ELSEWHERE)
    (batch,) = own.pairs
    given = replacement(data, next(way for way in data["standIns"] if way["name"] == name))
    random = np.random.default_rng(0)
    for share in (0, 0.2, 0.5, 1):
        cut = np.flatnonzero(random.random(42) < share)
        mask = torch.zeros(42, dtype=torch.float64).index_fill(0, torch.as_tensor(cut), 1)
        with patch_edges(own.model, GRAPH, mask, own.of(batch)):
            expected = PROMPTS.at_answers(own.model(batch.clean))[:, 0].numpy()
        found = run(data, data["prompts"]["clean"], given, set(cut))[1]
        np.testing.assert_allclose(found, expected, atol=1e-9)
    assert np.abs(run(data, data["prompts"]["clean"])[1] - expected).max() > 1e-3  # the control: nothing cut


def test_nothing_cut_is_faithful_and_everything_cut_is_not():
    for cut, value in (((), 1), (range(42), 0)):
        found = first_view(OWN, GRAPH, PROMPTS, ELSEWHERE, cut)
        np.testing.assert_allclose(list(found.values()), value, atol=1e-9)


def test_edges_go_from_the_right_of_a_source_to_the_left_of_a_node():
    data = unpacked(live_circuit([OWN], GRAPH, PROMPTS, ELSEWHERE, pinned=("token", "logits")).data)
    at = {node["name"]: np.array(node["at"]) for node in data["places"]["nodes"]}
    half, tall = data["places"]["half"]
    for (source, destination), path in zip(data["edges"], data["places"]["paths"], strict=True):
        np.testing.assert_allclose(path[0], at[source] + [half, 0], atol=1e-3)
        end = path[-1] - at[destination if destination in at else destination.rpartition(".")[0]]
        assert end[0] == pytest.approx(-half, abs=1e-3)
        assert abs(end[1]) < tall
        assert ((path >= 0) & (path <= CIRCUIT)).all()
    assert data["edges"][data["first"]["pinned"]] == ["token", "logits"]


def test_what_the_page_could_not_run_is_refused():
    for choices in ({"norm": True}, {"mlp": 8}, {"causal": False}):
        with pytest.raises(ValueError, match="causal transformers without norms"):
            live_circuit([network("other", **choices)], GRAPH, PROMPTS, ELSEWHERE)
    for networks in ([], [OWN, OWN]):
        with pytest.raises(ValueError, match="labels of their own"):
            live_circuit(networks, GRAPH, PROMPTS, ELSEWHERE)
    with pytest.raises(ValueError, match="one token"):
        live_circuit([OWN], GRAPH, reversal(), reversal().clean)
    with pytest.raises(ValueError, match="other tokens"):
        live_circuit([OWN], GRAPH, PROMPTS, ELSEWHERE[:3])
    for choices in ({"first": "none"}, {"kept": 43}, {"pinned": ("token", "token")}):
        with pytest.raises((ValueError, KeyError)):
            live_circuit([OWN], GRAPH, PROMPTS, ELSEWHERE, **choices)


def test_numbers_are_written_alike():
    assert [signed(value) for value in (-4.52, 0.0002, 0.04)] == ["−4.5", "0", "+0.04"]
    assert [plain(value) for value in (1.0, -0.001, -0.4, float("nan"))] == ["1.00", "0.00", "−0.40", "–"]
