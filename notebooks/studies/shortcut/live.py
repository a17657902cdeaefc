"""The live figure: a stain to turn, what the classifier answers with channels ablated, and what ablation wins by K.

Its first view is drawn in `first_view`, and by `stain.js` as it moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nbutils import layout
from nbutils.plotting.live import LiveFigure
from nbutils.plotting.marks import COLOURS, registry
from nbutils.seeding import generator
from studies.shortcut.controls import matched_masks, strength, top
from studies.shortcut.first_view import plot_first_view
from studies.shortcut.margins import margins
from studies.shortcut.networks import TileNetwork
from studies.shortcut.pooled import Pool
from studies.shortcut.recovery import differences, twin_of
from studies.shortcut.stains import Stain, blend, recolour
from studies.shortcut.tiles import Tiles

if TYPE_CHECKING:
    import pandas as pd

SCRIPT = "notebooks/studies/shortcut/stain.js"
STAINS = tuple(i / 10 for i in range(16))  # 0 the tiles' own, 1 the other one, beyond 1 farther still
LARGEST = 64  # pixels per side of the tiles in the page; larger ones are averaged down
MEASURES = "accuracy", "area under ROC", "accuracy at the median"
COLUMNS = "before", "own", "random", "band low", "band high", "mean", "low", "high"
ABOUT = """
Drag the stain: tiles take on another hospital's colours, and a classifier that leans on colour changes its answers (P:
probability of tumour; ✗: wrong). Filled marks: with K channels ablated. Then have another score choose the channels:
does it do more than random ones as strong (grey)?
"""


@dataclass(frozen=True)
class Answers:
    """What a network says of tiles as their stain turns, with channels ablated: N tiles, S stains of `STAINS`.

    Attributes:
        controls: the rankings.
        ks: numbers of channels ablated, from 0.
        whole: `[S, N]`, probability of tumour with none ablated.
        own: `[controls, ks, S, N]`, with the first K of a ranking ablated.
        low, high: likewise, 95 % of random channels as strong.
        right: `[controls, ks, S, 4]`, share of the tiles called rightly: own, and mean, low and high of random ones.
    """

    controls: tuple[str, ...]
    ks: tuple[int, ...]
    whole: np.ndarray
    own: np.ndarray
    low: np.ndarray
    high: np.ndarray
    right: np.ndarray

    def at(self, control: str, k: int, stain: float) -> tuple[float, float, float]:
        """Return the share called rightly: with none ablated, with a control's first K, with random ones as strong."""
        place = self.controls.index(control), self.ks.index(k), STAINS.index(stain)
        own, random = self.right[place][:2]
        return float(self.right[place[0], 0, place[2], 0]), float(own), float(random)


def stained(images: Tensor, before: Stain, after: Stain, share: float) -> Tensor:
    """Return images `[N, 3, H, W]` in a stain between their own (share 0) and another one (1)."""
    return recolour(images, before, blend(before, after, share))


def answer(
    model: TileNetwork,
    features_of: Callable[[Tensor], Tensor],
    tiles: Tiles,
    stains: tuple[Stain, Stain],
    reference: Pool,
    orders: Mapping[str, Tensor],
    ks: Sequence[int],
    *,
    draws: int,
) -> Answers:
    """Return what a network says of tiles at every stain, with channels at their mean over a reference.

    Args:
        model: of two logits.
        features_of: images `[N, 3, H, W]` in [0, 1] -> pooled channels `[N, C]`.
        tiles: N of them.
        stains: their own and another one, each one stain or N.
        reference: of the ablation, and of the strength that random channels are matched on.
        orders: control -> channels `[C]`, first ablated first.
        ks: numbers of channels ablated, from 0.
        draws: random sets of channels for each.
    """
    images, count = tiles.images(), len(tiles)
    features = torch.cat([features_of(stained(images, *stains, share)) for share in STAINS])
    parts = margins(model.fc, Pool(features, tiles.tumour.repeat(len(STAINS))), reference)
    strong = strength(model.fc, reference)
    ill = (tiles.tumour == 1).numpy()
    shape = len(orders), len(ks), len(STAINS)
    own, low, high = (np.empty((*shape, count)) for _ in range(3))
    right = np.empty((*shape, 4))
    for i, order in enumerate(orders.values()):
        for j, k in enumerate(ks):
            mask = top(order, k)
            twins = matched_masks(mask, strong, draws, generator(0, "matched", k))
            margin = parts.without(torch.cat([mask[None], twins])).view(1 + draws, len(STAINS), count)
            tumour = margin.sigmoid().numpy()
            called = ((tumour > 0.5) == ill).mean(-1)  # (1 + draws, S)
            own[i, j] = tumour[0]
            low[i, j], high[i, j] = np.quantile(tumour[1:], (0.025, 0.975), axis=0)
            ends = np.quantile(called[1:], (0.025, 0.975), axis=0)
            right[i, j] = np.stack([called[0], called[1:].mean(0), *ends], -1)
    whole = parts.whole.view(len(STAINS), count).sigmoid().numpy()
    return Answers(tuple(orders), tuple(ks), whole, own, low, high, right)


def compared(curves: pd.DataFrame, controls: Sequence[str]) -> pd.DataFrame:
    """Return what ablation does to every set, and what it does beyond random channels as strong.

    Args:
        curves: `control`, `set`, `measure`, `k`, `seed`, `mean`, `low`, `high`; of every control and its twin.
        controls: the rankings.

    Returns:
        `set`, `control`, `measure`, `k` and `COLUMNS`, means over seeds: `before` any ablation; `own`, with the
        control's channels ablated; `random`, with channels as strong; the widest 95 % range of their draws, less
        `random`; `own` less `random` with its interval over seeds (see `differences`).

    Raises:
        KeyError: no curve of a control or its twin.
    """
    import pandas as pd

    keys, parts = ["control", "measure", "k"], []
    curves = curves[curves.measure.isin(MEASURES)]
    for name, some in curves.groupby("set", sort=False, observed=True):
        level = some.groupby(keys, observed=True)["mean"].mean()
        band = some.assign(low=some.low - some["mean"], high=some.high - some["mean"]).groupby(keys, observed=True)
        found = differences(some, controls).assign(set=name)
        twin = pd.MultiIndex.from_frame(found[keys].assign(control=found.control.map(twin_of)))
        own = pd.MultiIndex.from_frame(found[keys])
        found["before"] = level[pd.MultiIndex.from_frame(found[keys].assign(k=0))].to_numpy()
        found["own"], found["random"] = level[own].to_numpy(), level[twin].to_numpy()
        found["band low"], found["band high"] = band.low.min()[twin].to_numpy(), band.high.max()[twin].to_numpy()
        parts.append(found)
    return pd.concat(parts, ignore_index=True)[["set", *keys, *COLUMNS]]


def live_shortcut(
    table: pd.DataFrame,
    answers: Answers,
    tiles: Tiles,
    stains: tuple[Stain, Stain],
    *,
    stain: str,
    network: str,
    first: tuple[str, str, int],
    shown: int = 6,
) -> LiveFigure:
    """Return what ablation wins, to look up, and tiles whose stain turns.

    Args:
        table: as from `compared`; sets recorded elsewhere may lack any but `mean`, `low` and `high`, and rows.
        answers: of the tiles.
        tiles: those the answers are of.
        stains: their own and the other one.
        stain: what the other stain is, such as "the unseen hospital's".
        network: whose answers they are, such as "the network of seed 0".
        first: control, set and K shown first.
        shown: tiles in the page, half of them normal.

    Raises:
        ValueError: no tiles, not those of the answers, or none of such control, set and K.
    """
    controls, ks, sets = answers.controls, answers.ks, list(dict.fromkeys(table["set"]))
    control, where, k = first
    if len(tiles) != answers.whole.shape[1] or not len(tiles):
        raise ValueError(f"expected the {answers.whole.shape[1]} tiles that the answers are of, got {len(tiles)}")
    if control not in controls or where not in sets or k not in ks:
        raise ValueError(f"expected one of {controls}, one of {sets} and one of {ks}, got {first}")
    numbers = looked_up(table, sets, controls, ks)
    few = torch.cat([(tiles.tumour == label).nonzero()[: shown // 2, 0] for label in (0, 1)])  # normal ones first
    own, other = (_each(one, len(tiles))[few] for one in stains)
    pixels = (small(tiles[few].images()) * 255).round() / 255
    data = {
        "controls": [{"name": name} | _look(name) for name in controls],
        "ks": list(ks),
        "sets": sets,
        "measures": list(MEASURES),
        "table": numbers,
        "stains": list(STAINS),
        "stain": stain,
        "network": network,
        "count": len(tiles),
        "right": answers.right,
        "answers": {
            "whole": answers.whole[:, few.numpy()].astype(np.float32),
            **{name: getattr(answers, name)[..., few.numpy()].astype(np.float32) for name in ("own", "low", "high")},
        },
        "tiles": {
            "pixels": (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1),
            "tumour": tiles.tumour[few].tolist(),
            "own": {"vectors": own.vectors, "maxima": own.maxima, "white": own.white},
            "other": {"vectors": other.vectors, "maxima": other.maxima, "white": other.white},
        },
        "first": {"control": control, "set": where, "k": k, "measure": MEASURES[0], "stain": 1.0},
    }
    images = stained(pixels, own, other, 1.0).permute(0, 2, 3, 1).numpy()
    return LiveFigure(SCRIPT, data, lambda: plot_first_view(data, images), ABOUT)


def looked_up(table: pd.DataFrame, sets: Sequence[str], controls: Sequence[str], ks: Sequence[int]) -> np.ndarray:
    """Return a table as `[sets, measures, controls, ks, COLUMNS]`; NaN where it has no row."""
    import pandas as pd

    wanted = pd.MultiIndex.from_product([sets, MEASURES, controls, ks])
    found = table.set_index(["set", "measure", "control", "k"]).reindex(columns=COLUMNS).reindex(wanted)
    values = found.to_numpy(dtype=np.float64).reshape(len(sets), len(MEASURES), len(controls), len(ks), len(COLUMNS))
    return np.where(np.abs(values) < 1e-12, 0, values)  # at K = 0, rounding


def small(images: Tensor) -> Tensor:
    """Return images `[N, 3, H, W]` of at most `LARGEST` pixels per side, averaged down."""
    if images.shape[-1] <= LARGEST:
        return images
    return torch.nn.functional.interpolate(images, LARGEST, mode="area")


def _each(stain: Stain, count: int) -> Stain:
    """Return one stain as often as there are tiles."""
    if stain.white.ndim:
        return stain
    return Stain(stain.vectors.expand(count, 2, 3), stain.maxima.expand(count, 2), stain.white.expand(count))


def _look(control: str) -> dict[str, Any]:
    """Return a control's colour, as its place among the accents (ink: -1), its marker and line."""
    colour, marker, line = registry(layout.marks())[control]
    return {"colour": -1 if colour == "ink" else COLOURS.index(colour), "marker": marker, "line": line}
