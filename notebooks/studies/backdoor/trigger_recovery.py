"""Recover a backdoor's trigger from the network alone, and say which label has one.

Wang et al. 2019, "Neural Cleanse: Identifying and mitigating backdoor attacks in neural networks", IEEE S&P. The idea:
for every label find the smallest patch that sends any image there. A label with a backdoor needs a far smaller one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from nbutils.ablation.layers import copied
from nbutils.seeding import generator
from nbutils.training.optimizers import Adam

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

ANOMALY_THRESHOLD = 2.0
"""Anomaly index above which a label counts as backdoored: about the 95 % point of a normal law (Wang et al., §IV)."""

_BATCH = 8  # images per label and step
_RATE = 0.1  # Adam's, on the logits of mask and pattern
_MEMORY = 0.9  # of the running success rate: it averages over about ten steps
# Factors on λ per step. Slower than the running rate, else the mask has shrunk too far before the rate shows it; and
# down faster than up, as in the paper, so that success is regained soon.
_UP, _DOWN = 1.02, 1.02**-1.5


@dataclass(frozen=True)
class RecoveredTriggers:
    """One mask and pattern per label.

    Attributes:
        targets: labels `[T]`, in the order of the rest.
        masks: `[T, height, width]` in [0, 1]: 1 replaces a pixel by the pattern, 0 leaves it.
        patterns: `[T, channels, height, width]`, in the images' units; arbitrary where the mask is 0.
        success: `[T]`: the share of the images of other classes that the trigger sends to its label.
    """

    targets: tuple[int, ...]
    masks: Tensor
    patterns: Tensor
    success: Tensor

    @property
    def norms(self) -> Tensor:
        """L1 norms of the masks `[T]`, in pixels."""
        return self.masks.sum((1, 2))

    @property
    def anomaly(self) -> dict[int, float]:
        """Anomaly index of each label (see `anomaly_index`)."""
        return dict(zip(self.targets, anomaly_index(self.norms).tolist(), strict=True))

    @property
    def flagged(self) -> tuple[int, ...]:
        """Labels whose anomaly index exceeds `ANOMALY_THRESHOLD`.

        With ten labels the index is noisy, and where norms are alike it makes outliers of small differences: networks
        without a backdoor are flagged too. Read it beside the norms, and beside those of a clean network.
        """
        return tuple(target for target, index in self.anomaly.items() if index > ANOMALY_THRESHOLD)

    def apply(self, images: Tensor, target: int) -> Tensor:
        """Return images `[N, channels, height, width]` with the recovered trigger of a label on them."""
        if target not in self.targets:
            raise KeyError(f"no trigger was recovered for label {target}; there are {self.targets}")
        at = self.targets.index(target)
        return torch.lerp(images, self.patterns[at], self.masks[at])


def recover_triggers(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    targets: Sequence[int] | None = None,
    steps: int = 400,
    penalty: float = 1e-3,
    success: float = 0.99,
    seed: int = 0,
) -> RecoveredTriggers:
    """Find the smallest mask and pattern that send images to each label, for all labels in one optimisation.

    Minimises, by Adam over mask m and pattern Δ, the cross-entropy of f((1 − m)·x + m·Δ) with the label, plus λ·‖m‖₁
    (eq. 3 of the paper). λ follows the running success rate: up by 2 % per step above the aim, down by 3 % below.
    Kept is the smallest mask whose running success reached the aim, else the last. The labels share nothing but the
    forward pass: each has its own draws, so leaving labels out does not change the others beyond rounding.

    Two departures from the paper: λ moves every step and not every few epochs, which is what makes a few hundred steps
    enough; and a label is optimised on images of the *other* classes, so that success means what it means elsewhere.

    Args:
        model: gives logits `[N, classes]`; not changed, run in evaluation mode.
        images: clean images `[N, channels, height, width]`; a few hundred are enough. Patterns stay in their range.
        labels: true classes `[N]`.
        targets: labels to recover triggers for, by default every label that occurs.
        steps: of Adam, on eight images per label.
        penalty: λ at the start.
        success: the aim, in (0, 1).
        seed: of the start and the draws.

    Raises:
        ValueError: shapes do not fit, or there is a target without images of other classes.
    """
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ValueError(
            "images [N, channels, height, width] and labels [N] expected; "
            f"got {list(images.shape)}, {list(labels.shape)}"
        )
    targets = tuple(labels.unique().tolist() if targets is None else targets)
    others = {target: torch.nonzero(labels != target)[:, 0] for target in targets}
    if not targets or not all(map(len, others.values())):
        raise ValueError(f"every target needs images of other classes; got targets {targets}, {len(images)} images")
    # Max-pooling takes most of the time, and is several times faster with channels last.
    model = copied(model).eval().to(memory_format=torch.channels_last)
    search = _Search(images, others, penalty, seed)
    for _ in range(steps):
        search.step(model, success)
    found = search.found()
    hits = [_share_of_hits(model, found.apply(images[own], target), target) for target, own in others.items()]
    return replace(found, success=torch.stack(hits))


class _Search:
    """Masks and patterns of all labels on their way down, and the smallest masks so far that reached the aim."""

    def __init__(self, images: Tensor, others: Mapping[int, Tensor], penalty: float, seed: int) -> None:
        self.images, self.others = images, others  # others: label -> indices of the images of other classes
        self.generators = [generator(seed, "trigger recovery", target) for target in others]
        self.low, self.high = images.min(), images.max()
        channels, height, width = images.shape[1:]
        self.mask_logits, self.pattern_logits = self._start(1, height, width), self._start(channels, height, width)
        self.optimizer = Adam([self.mask_logits, self.pattern_logits], lr=_RATE, betas=(0.5, 0.9))
        self.answer = torch.tensor(list(others), device=images.device)[:, None].expand(-1, _BATCH)
        self.weight = torch.full((len(others),), penalty).to(images)  # λ
        self.running = torch.zeros_like(self.weight)
        self.smallest = torch.full_like(self.weight, torch.inf)  # norm of what is kept; infinite until a label succeeds
        self.kept_mask, self.kept_share = torch.zeros_like(self.mask_logits), torch.zeros_like(self.pattern_logits)

    def _start(self, *shape: int) -> Tensor:
        drawn = [torch.randn(shape, generator=g, dtype=torch.float64) for g in self.generators]
        return torch.stack(drawn).to(self.images).requires_grad_()

    def step(self, model: nn.Module, success: float) -> None:
        """Descend once; before it, keep masks that are smaller than those kept and reach the aim."""
        pools = zip(self.others.values(), self.generators, strict=True)
        drawn = [pool[torch.randint(len(pool), (_BATCH,), generator=g)] for pool, g in pools]
        mask, share = self.mask_logits.sigmoid(), self.pattern_logits.sigmoid()
        norm = mask.sum((1, 2, 3))
        x = torch.lerp(self.images[torch.stack(drawn)], self._paint(share)[:, None], mask[:, None])
        logits = model(x.flatten(0, 1)).unflatten(0, self.answer.shape)  # (T, batch, classes)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), self.answer.flatten(), reduction="sum") / _BATCH
        self.optimizer.zero_grad()
        (loss + self.weight.dot(norm)).backward(inputs=[self.mask_logits, self.pattern_logits])
        with torch.no_grad():
            self.running.lerp_((logits.argmax(2) == self.answer).to(self.running).mean(1), 1 - _MEMORY)
            reached = self.running >= success
            better = reached & (norm < self.smallest)
            self.smallest[better] = norm[better]
            self.kept_mask[better], self.kept_share[better] = mask[better], share[better]
            self.weight *= torch.where(reached, _UP, _DOWN)
        self.optimizer.step()

    @torch.no_grad()
    def found(self) -> RecoveredTriggers:
        """Return what was kept, or the last mask where a label never reached the aim; `success` is the running rate."""
        never = self.smallest.isinf()
        self.kept_mask[never] = self.mask_logits[never].sigmoid()
        self.kept_share[never] = self.pattern_logits[never].sigmoid()
        return RecoveredTriggers(tuple(self.others), self.kept_mask[:, 0], self._paint(self.kept_share), self.running)

    def _paint(self, share: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * share


def anomaly_index(norms: ArrayLike) -> NDArray[np.float64]:
    """Return how many robust standard deviations each norm lies *below* the median: (median − norm)/(1.4826·MAD).

    MAD is the median absolute deviation; 1.4826 makes it the standard deviation of a normal law. The paper takes the
    absolute value and then looks below the median only; the sign says the same in one number. Where more than half
    of the norms are equal the MAD is 0: what lies below them has the index infinity, they have 0.

    Args:
        norms: `[labels]`, three or more.

    Raises:
        ValueError: fewer than three norms, or one that is not finite.
    """
    norms = np.asarray(norms, dtype=float)
    if norms.ndim != 1 or len(norms) < 3 or not np.isfinite(norms).all():
        raise ValueError(f"an outlier needs three or more finite norms [labels]; got {norms!r}")
    below = np.median(norms) - norms
    scale = 1.4826 * np.median(np.abs(below))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below == 0, 0.0, below / scale)


def mask_iou(mask: Tensor, truth: Tensor, threshold: float = 0.5) -> float:
    """Return the intersection over union of a recovered mask and the true one.

    Compare with the part of the trigger that the network can see (`studies.backdoor.trigger.visible_to`): the rest
    cannot be recovered from it.

    Args:
        mask: `[height, width]` in [0, 1]; pixels above the threshold count.
        truth: `[height, width]`, booleans, at least one true.

    Raises:
        ValueError: shapes differ, or `truth` is empty.
    """
    if mask.shape != truth.shape or not truth.any():
        raise ValueError(
            f"a true mask {list(mask.shape)} with at least one pixel expected; "
            f"got {list(truth.shape)} with {int(truth.sum())}"
        )
    mask = mask > threshold
    return float((mask & truth).sum() / (mask | truth).sum())


def mask_inside(mask: Tensor, region: Tensor) -> float:
    """Return the share of a mask's L1 norm that lies in a region, in [0, 1].

    It shows what `mask_iou` cannot: from a network that answers to two pixels of a trigger a mask of two pixels is
    recovered, right and far from the whole. A uniform mask scores the region's share of the image.

    Args:
        mask: `[height, width]`, 0 or more, not all 0.
        region: `[height, width]`, booleans, e.g. the square in which the trigger stands.

    Raises:
        ValueError: shapes differ, or the mask is empty.
    """
    if mask.shape != region.shape or not mask.sum() > 0:
        raise ValueError(
            f"a mask that is not all 0 and a region of its shape expected; "
            f"got {list(mask.shape)} with norm {float(mask.sum()):.3g}, {list(region.shape)}"
        )
    return float(mask[region].sum() / mask.sum())


@torch.no_grad()
def _share_of_hits(model: nn.Module, images: Tensor, target: int) -> Tensor:
    return torch.cat([model(part).argmax(1) == target for part in images.split(500)]).float().mean()
