"""`device="cuda"` is honoured: on a GPU where there is one, else on a stand-in that refuses tensors of two devices."""

from __future__ import annotations

import dataclasses
from operator import itemgetter

import pandas as pd
import pytest
import torch
from interrupted import Interrupted
from torch import nn
from torch.testing import assert_close

from nbutils.ablation.edits import edits
from nbutils.ablation.optimal import Optimal
from nbutils.ablation.sources import src_ablations
from nbutils.ablation.types import AblationType
from nbutils.ablation.values import gather
from nbutils.ablation.weights import zero_weights
from nbutils.data import digits
from nbutils.data.pairs import PairLoader, Pairs
from nbutils.graphs import scores as edge_scores
from nbutils.graphs.faithfulness import circuit_curve
from nbutils.graphs.patch import patch_edges
from nbutils.hooks import edit
from nbutils.schedules.dopesheet import Dopesheet
from nbutils.schedules.timeline import Timeline
from nbutils.sites import Site
from nbutils.sweeps.chains import ITEMS, Chain
from nbutils.sweeps.greedy import Goal, greedy
from nbutils.sweeps.hooked import items_at_most
from nbutils.sweeps.metrics import accuracy, divergence
from nbutils.sweeps.metrics import cross_entropy as loss
from nbutils.sweeps.rows import Fixed
from nbutils.sweeps.units import measure, sweep
from nbutils.training.ensemble import Ensemble
from nbutils.training.fit import fit
from nbutils.training.objective import Objective, ParameterTerm, cross_entropy
from nbutils.training.regularizers import ParameterDrift
from studies.backdoor import detectors as backdoor_detectors
from studies.backdoor import repairs
from studies.backdoor.batches import DigitBatches
from studies.backdoor.network import MnistNet
from studies.backdoor.swaps import swap_layers
from studies.backdoor.trigger import Trigger, visible_to
from studies.backdoor.trigger_recovery import recover_triggers
from studies.circuits.answers import logit_difference
from studies.circuits.graph import transformer_graph
from studies.circuits.sequences import reversal
from studies.circuits.transformer import Transformer
from studies.credit.alignment import weight_alignment
from studies.credit.audit import audit, signals
from studies.credit.feedback import feedback_matrices, fixed_network, with_feedback
from studies.credit.network import ResidualMLP
from studies.shortcut import controls, pooled, sweeps
from studies.shortcut.features import extract
from studies.shortcut.networks import NarrowTileNet

CPU = torch.device("cpu")
UNITS = {"conv1": "net.0", "conv2": "net.3", "fc1": "net.7"}


def digits_net(device):
    torch.manual_seed(0)
    model, x = MnistNet().eval(), torch.randn(24, 1, 28, 28)
    return model.to(device), x.to(device), (torch.arange(24) % 4).to(device)


def ablated(device, kind, by_source):
    model, x, y = digits_net(device)
    sites = [Site("net.0", 1), Site("net.0", 4)]
    if by_source:
        sample = PairLoader(Pairs(x, x.flip(0), y), 5) if kind.needs == "dataset" else x.flip(0)
        values = src_ablations(model, sites, sample, kind)
    else:
        values = gather(model, ["net.0"], kind, [x.flip(0)])
    with torch.no_grad(), edit(model, edits(sites, values)):
        return model(x)


SWEPT = (AblationType.ZERO, AblationType.RESAMPLE, AblationType.BATCH_ALL_TOK_MEAN, AblationType.TOKENWISE_MEAN_CLEAN)


def swept(device, kind):
    model, x, y = digits_net(device)
    metrics = {"right": accuracy(), "loss": loss(), "moved": divergence()}
    twins = {"nothing": None, "batch": lambda batch: x.flip(0), "dataset": [x.flip(0)]}[kind.needs]
    options = {"inputs": itemgetter(0), "reference": twins}
    groups = UNITS | {"two": Site("net.3", [1, 4])}
    parts = [nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 4)]
    pooled_model = nn.Sequential(*parts).to(device)
    with torch.no_grad():
        pooled_model[3].weight.copy_(torch.arange(4.0)[:, None] / 4)
        pooled_model[3].bias.zero_()
    return [
        sweep(model, groups, [(x, y)], metrics, kind, **options),
        sweep(pooled_model, ["1"], [(x, y)], loss(), kind, **options),
        measure(model, [(x, y)], metrics, [Site("net.0", 1)], kind, **options),
        greedy(model, {"fc1": "net.7"}, [(x, y)], accuracy(), Goal("accuracy", 0.5, limit=2), inputs=itemgetter(0)),
        swap_layers(
            model,
            zero_weights(model, [Site("net.0", 1)]),
            {"conv1": "net.0"},
            [(x, y)],
            accuracy(),
            inputs=itemgetter(0),
        ),
    ]


def repaired(device):
    model, x, y = digits_net(device)
    masks = repairs.neuron_masks(model, ["net.0"], x, y, steps=2)
    tuned = repairs.fine_prune(model, "net.3", x, y, tune_steps=2).model
    pruned = repairs.prune_by_masks(model, masks, 0.9).model
    with torch.no_grad():
        return [masks["net.0"], repairs.dormancy(model, "net.3", x), tuned(x), pruned(x)]


def detected(device):
    model, x, y = digits_net(device)
    with torch.no_grad():
        hidden = model.net[:8](x)
    found = recover_triggers(model, x, y, steps=3)
    return [
        found.apply(x, 1),
        torch.as_tensor(found.norms),
        torch.as_tensor(backdoor_detectors.strip(model, x, x)),
        torch.as_tensor(backdoor_detectors.spectral_signatures(hidden, y)),
        torch.as_tensor(backdoor_detectors.activation_clusters(hidden, y).scores),
        visible_to(model).float(),
    ]


def circuit(device):
    torch.manual_seed(0)
    model, prompts = Transformer(5, 4, layers=2, heads=2, width=12).double().eval(), reversal(4, 5, count=7)
    tensors = {f.name: getattr(prompts, f.name) for f in dataclasses.fields(prompts)}
    moved = {name: value.to(device) for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    loader = PairLoader(dataclasses.replace(prompts, **moved), 3)
    model = model.to(device)
    graph = transformer_graph(model, moved["clean"])
    return edge_scores.EdgeTask(model, graph, loader, AblationType.RESAMPLE, logit_difference)


def scored(device):
    task = circuit(device)
    first = next(iter(task.pairs))
    with torch.no_grad(), patch_edges(task.model, task.graph, [task.graph.edges[3]], task.of(first)):
        patched = task.model(first.clean)
    attribution = edge_scores.attribution_scores(task)
    scores = [
        attribution,
        edge_scores.exact_scores(task),
        edge_scores.integrated_gradients(task, steps=2),
        edge_scores.magnitude_scores(task),
        edge_scores.greedy_scores(task, thresholds=[0.01, 0.1]),
    ]
    assert {one.device for one in scores} == {CPU}  # so that they can be compared with each other
    return [
        patched,
        *scores,
        edge_scores.evaluate(task, edge_scores.circuit_masks(attribution.to(device), [2, 5])),
        circuit_curve(task, attribution, [0.2, 0.5]),
    ]


def audited(device):
    torch.manual_seed(0)
    model, x, y = ResidualMLP(12, 8, 4, 2).double(), torch.randn(20, 12).double(), torch.arange(20) % 4
    model, feedback = model.to(device), feedback_matrices(0, lambda: ResidualMLP(12, 8, 4, 2))
    states = signals(model, x.to(device), y.to(device))
    credits = states.direct(feedback)
    table = audit(model, states, credits, directions=4, draws=5, method="gradient")
    carried = with_feedback(model, fixed_network(0, lambda: ResidualMLP(12, 8, 4, 2)).double())
    sent = signals(carried, x.to(device), y.to(device)).gradients
    # What single precision says is left out: its rounding is the device's own.
    single = ["float32_rho", "float32_ceiling", "relative_rho", "relative_ceiling", "unmoved", "rounding"]
    table = table.drop(columns=single)
    return [sent, table.assign(alignment=weight_alignment(model, feedback))]


def pooled_sweep(device):
    torch.manual_seed(0)
    model, x = NarrowTileNet().eval().to(device), torch.randint(255, (6, 3, 24, 24), dtype=torch.uint8)
    features = extract(model, x)
    items = pooled.Pool(features, torch.arange(6) % 2)
    orders = controls.rankings(features.std(0), None, model.fc)
    chosen = controls.Controls(orders, ks=(0, 4), draws=3)
    return [features, sweeps.sweep(model.fc, {"a": items}, items, chosen)]


def trained(device, folder):
    batches = DigitBatches(digits.load("embedded").train[:50], Trigger.checkerboard(8), "poison", 0.5, 8)
    timeline = Timeline(Dopesheet.from_text("STEP,lr,drift\n0,0.001,1\n4,,\n"))
    path = folder / f"{device.type}.safetensors"
    for _ in range(2):  # the second time from the checkpoint
        ensemble = Ensemble(MnistNet, [0, 1], dtype=torch.float64, device=device)
        start = {name: tensor.clone() for name, tensor in ensemble.state().items()}
        objective = Objective([ParameterTerm("drift", ParameterDrift(start))], cross_entropy, "loss")
        done = fit(ensemble, batches, objective, timeline, checkpoint=path, every=2)
        assert done.ensemble.flat.device == device
    return [*done.ensemble.state().values(), done.history]


def same(found, expected):
    """Compare what a device gave with what the processor gives, to rounding."""
    if isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-6, check_categorical=False)
    else:
        assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("by_source", [False, True])
@pytest.mark.parametrize("kind", [*AblationType, AblationType.MEAN, Optimal(steps=3)], ids=str)
def test_every_ablation(device, kind, by_source):
    found = ablated(device, kind, by_source)
    assert found.device == device
    same(found, ablated(CPU, kind, by_source))


@pytest.mark.parametrize("kind", SWEPT, ids=str)
def test_sweeps(device, kind):
    same(swept(device, kind), swept(CPU, kind))


@pytest.mark.parametrize("work", [repaired, detected, scored, audited, pooled_sweep], ids=lambda work: work.__name__)
def test_results_are_those_of_the_processor(device, work):
    same(work(device), work(CPU))


def test_training_and_its_checkpoints(device, tmp_path):
    same(trained(device, tmp_path), trained(CPU, tmp_path))


def test_a_checkpoint_of_one_device_goes_on_on_another(device, tmp_path):
    batches = DigitBatches(digits.load("embedded").train[:50], Trigger.checkerboard(8), "poison", 0.5, 8)
    timeline = Timeline(Dopesheet.from_text("STEP,lr\n0,0.001\n4,\n"))

    def run(on, timeline, path=None):
        objective = Objective((), cross_entropy, "loss")
        done = fit(Ensemble(MnistNet, [0, 1], device=on), batches, objective, timeline, checkpoint=path, every=2)
        assert done.ensemble.flat.device == on
        return [*done.ensemble.state().values(), done.history]

    whole = run(CPU, timeline)
    for first, second in ((device, CPU), (CPU, device)):
        path = tmp_path / f"{first.type}.safetensors"
        with pytest.raises(KeyboardInterrupt):
            run(first, Interrupted(timeline, at=3), path)
        same(run(second, timeline, path), whole)


def test_another_device_takes_as_many_items_at_a_time_as_memory_holds(device):
    """What is cut for the processor's cache is slow where each operation has to be sent; the bound holds there, too."""
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 3)),
        torch.randn(1, 6),
    )
    most = {}
    for on in (CPU, device):
        chain = Chain.of(model.to(on), x.to(on), Fixed())
        for memory in (0, 100_000, 50_000_000):
            items = most[on.type, memory] = chain.most(memory)
            assert items * chain._item_bytes + chain._room <= memory
            assert items <= memory // chain.least
    assert most["cpu", 50_000_000] == ITEMS
    assert most[device.type, 50_000_000] > 1000
    assert items_at_most(model) > items_at_most(nn.Linear(2, 2)) > 0


def test_tensors_of_two_devices_are_refused(device):
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(3, device=device) + torch.ones(3)
    with pytest.raises(RuntimeError, match="device"):
        torch.nn.Linear(3, 3).to(device)(torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="device"):
        torch.stack([torch.ones((), device=device), torch.ones(())])
    with pytest.raises(TypeError, match=r"cpu\(\)"):
        torch.ones(3, device=device).numpy()
