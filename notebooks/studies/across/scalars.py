"""Published scalars beside the control that exposes each: the same intervention, two numbers.

Each function varies one thing that the scalar cannot see, on one trained network, and returns a row per value of it:
`x`, `published` (the scalar) and `control`.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from nbutils.data.digits import DigitSplits
from nbutils.hooks import edit
from nbutils.sites import Site
from studies.across.cases import Case
from studies.across.predictors import read_off
from studies.across.training import ATYPIA, TRIGGER, Trained
from studies.backdoor.network import LAYERS, MnistNet
from studies.backdoor.planted import plant_backdoor
from studies.color_cube.data import RED_HSV, rgb_grid
from studies.color_cube.measures import error_correlation, rgb_similarity
from studies.color_cube.measures import squared_error as error_of
from studies.color_cube.network import ColorMLP
from studies.credit.loss import loss_from
from studies.credit.network import ResidualMLP
from studies.credit.perturbation import perturbation_correlation
from studies.shortcut import drawn_tiles, plans
from studies.shortcut.networks import NarrowTileNet

if TYPE_CHECKING:
    import pandas as pd

UNSEEN = 4  # hospital of tiles that no network was trained on
COPIES = (1, 2, 3, 4)  # units that each carry the backdoor alone
ADDED = (0.0, 0.02, 0.05, 0.1)  # squared error added to every colour alike
SCALES = (1.0, 1e2, 1e3, 1e4, 1e5)  # of the state
STEP = 1e-3  # absolute, the source's; and as a share of the state
FAR, NEAR = 0.1, 0.7  # similarity to red below which a colour has nothing of it, and above which it is red


def red_only(trained: Trained) -> pd.DataFrame:
    """Delete red (study 01), and add the same error to every colour.

    `x`: the error added. `published`: Pearson's r of the damage with similarity to red, cubed. `control`: the mean
    damage at colours that have nothing of red, as a share of that at red ones.
    """
    model = cast("ColorMLP", trained.model)
    colors = torch.as_tensor(rgb_grid(10).reshape(-1, 3), dtype=torch.float32)
    similarity = rgb_similarity(colors.numpy(), RED_HSV)
    with torch.no_grad():
        before = error_of(model(colors), colors)
        with edit(model, {Site("bottleneck", 0): torch.zeros_like}):
            after = error_of(model(colors), colors)
    added = (after - before).double().numpy()
    rows = []
    for x in ADDED:
        damage = added + x
        share = damage[similarity < FAR].mean() / damage[similarity > NEAR].mean()
        rows.append((x, float(error_correlation(damage, similarity, 3)), float(share)))
    return _frame(rows)


def one_channel(trained: Trained, splits: DigitSplits) -> pd.DataFrame:
    """Wire a backdoor into several hidden units that each suffice (study 02), and remove units.

    `x`: how many carry it. `published`: the largest fall of attack success when one unit of the layer is removed.
    `control`: the fall when the carriers are removed together.
    """
    chosen = splits.report[splits.report.labels != TRIGGER.target][:60]
    with torch.no_grad():
        wired, units = plant_backdoor(cast("MnistNet", trained.before), TRIGGER, splits.selection.images[:64])
        rows = []
        for count in COPIES:
            model, carriers = copied(wired, units["fc1"], count)
            reached = model.net[:7](TRIGGER.apply(chosen.images))
            single = [_success(model, reached, [unit]) for unit in range(16)]
            whole = _success(model, reached, [])
            rows.append((count, whole - min(single), whole - _success(model, reached, carriers)))
    return _frame(rows)


def copied(wired: MnistNet, carrier: int, count: int) -> tuple[MnistNet, list[int]]:
    """Return a network in which `count` hidden units carry a backdoor that one carried, and which they are.

    The copies take the places of the units after the carrier, in order.
    """
    model = copy.deepcopy(wired)
    carriers = [(carrier + i) % 16 for i in range(count)]
    weights = [model.get_parameter(f"{LAYERS['fc1']}.{name}") for name in ("weight", "bias")]
    out = model.get_parameter(f"{LAYERS['fc2']}.weight")
    with torch.no_grad():
        for unit in carriers[1:]:
            for weight in weights:
                weight[unit] = weight[carrier]
            out[:, unit] = out[:, carrier]
    return model, carriers


def _success(model: MnistNet, reached: torch.Tensor, removed: list[int]) -> float:
    """Return the share of watermarked digits that are answered as the attacker wants, units of fc1 removed."""
    hidden = model.net[7](reached)
    hidden[:, removed] = 0
    return float((model.net[8:](hidden).argmax(1) == TRIGGER.target).float().mean())


def recovery(trained: Trained, case: Case) -> pd.DataFrame:
    """Ablate the channels that the hospital moves most, in order (study 03), and judge tiles of an unseen hospital.

    `x`: channels replaced by their mean. `published`: accuracy. `control`: area under the ROC curve, which no threshold
    enters.
    """
    from sklearn.metrics import roc_auc_score

    model = cast("NarrowTileNet", trained.model)
    plan = plans.plan(200, hospitals=(UNSEEN,), first=9_000, atypia=ATYPIA)
    with torch.no_grad():
        features = model.pooled(drawn_tiles.render(plan).images())
    (layer,) = case.layers
    order = np.argsort(-read_off(case, layer)["pattern × weight"], kind="stable")
    mean, rows = case.activations(layer).mean(0).float(), []
    for count in (0, 64, 128, 256):
        ablated = features.clone()
        gone = torch.as_tensor(order[:count].copy())
        ablated[:, gone] = mean[gone]
        with torch.no_grad():
            logits = model.head(ablated)
        score = (logits[:, 1] - logits[:, 0]).numpy()
        hits = (score > 0) == (plan.tumour.numpy() == 1)
        rows.append((count, float(hits.mean()), float(roc_auc_score(plan.tumour.numpy(), score))))
    return _frame(rows)


def audit(trained: Trained, splits: DigitSplits) -> pd.DataFrame:
    """Correlate the exact gradient with measured changes of the loss (study 04), in float32, at states ever larger.

    The loss does not change with the state's length, because a LayerNorm follows. `x`: the mean length. `published`: ρ
    with the source's step of 1e-3. `control`: ρ with the step as large a share of the state.
    """
    model = cast("ResidualMLP", trained.model)
    images, labels = splits.report.features[:128], splits.report.labels[:128]
    with torch.no_grad():
        last = model(images, return_hidden=True)[1][-1]
    double = copy.deepcopy(model).double()
    rows = []
    for scale in SCALES:
        h = (scale * last).double().requires_grad_()
        (gradient,) = torch.autograd.grad(loss_from(double, model.num_blocks, labels)(h).sum(), h)
        state, credit = h.detach().float(), gradient.float()
        length = float(state.norm(dim=1).mean())
        losses = loss_from(model, model.num_blocks, labels)
        fixed, relative = (
            perturbation_correlation(state, credit, losses, directions=8, method="finite", epsilon=step).rho
            for step in (STEP, STEP * length)
        )
        rows.append((length, fixed, relative))
    return _frame(rows)


def circuit(certified: pd.DataFrame, share: float = 0.25) -> pd.DataFrame:
    """Judge circuits by the stand-in they were found under, and by all (study 05).

    `x`: the stand-in that found the circuit. `published`: what it keeps under the same. `control`: under the judge that
    likes it least.

    Args:
        certified: as from `studies.across.certificates.certificates`.
        share: of the units, that circuits keep.
    """
    own = certified[(certified["first"] == certified["second"]) & (certified["share"] == share)]
    rows = [
        (name, float(group.loc[group["judge"] == name, "kept"].iloc[0]), float(group["kept"].min()))
        for name, group in own.groupby("first", sort=False)
    ]
    return _frame(rows)


def _frame(rows: list[tuple]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=["x", "published", "control"])
