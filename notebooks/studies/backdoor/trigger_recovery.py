"""Recover a backdoor's trigger from the network alone, and say which label has one.

Wang et al. 2019, "Neural Cleanse: Identifying and mitigating backdoor attacks in neural networks", IEEE S&P. The idea:
for every label find the smallest patch that sends any image there. A label with a backdoor needs a far smaller one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from nbutils.seeding import generator
from nbutils.training.optimizers import Adam

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

ANOMALY_THRESHOLD = 2.0
"""Anomaly index above which a label counts as backdoored: about the 95 % point of a normal law (Wang et al., §IV)."""

_MEMORY = 0.9  # of the running success rate: it averages over about ten steps
# Factors on λ a step. Slower than the running rate, else the mask has shrunk too far before the rate shows it; and down
# faster than up, as in the paper, so that success is regained soon.
_UP, _DOWN = 1.02, 1.02**-1.5


@dataclass(frozen=True)
class RecoveredTriggers:
    """One mask and pattern a label.

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
    batch: int = 8,
    learning_rate: float = 0.1,
    penalty: float = 1e-3,
    success: float = 0.99,
    seed: int = 0,
) -> RecoveredTriggers:
    """Find the smallest mask and pattern that send images to each label, for all labels in one optimisation.

    Minimises, by Adam over mask m and pattern Δ, the cross-entropy of f((1 − m)·x + m·Δ) with the label, plus λ·‖m‖₁
    (eq. 3 of the paper). λ follows the running success rate: up by 2 % a step above the aim, down by 3 % below.
    Kept is the smallest mask whose running success reached the aim, else the last. The labels share nothing but the
    forward pass: each has its own draws, so leaving labels out does not change the others beyond rounding.

    Two departures from the paper: λ moves every step and not every few epochs, which is what makes a few hundred steps
    enough; and a label is optimised on images of the *other* classes, so that success means what it means elsewhere.

    Args:
        model: gives logits `[N, classes]`; it is not changed, and is run in evaluation mode.
        images: clean images `[N, channels, height, width]`; a few hundred are enough. Patterns stay in their range.
        labels: true classes `[N]`.
        targets: labels to recover triggers for, default every label that occurs.
        steps: Adam steps.
        batch: images a label and step.
        learning_rate: Adam's, on the logits of m and Δ.
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
    others = [torch.nonzero(labels != target)[:, 0] for target in targets]
    if not targets or not all(map(len, others)):
        raise ValueError(f"every target needs images of other classes; got targets {targets}, {len(images)} images")
    # Max-pooling takes most of the time, and is several times faster with channels last.
    model = copy.deepcopy(model).eval().to(memory_format=torch.channels_last)
    generators = [generator(seed, "trigger recovery", target) for target in targets]
    low, high = images.min(), images.max()
    channels, height, width = images.shape[1:]

    def start(*shape: int) -> Tensor:
        drawn = [torch.randn(shape, generator=g, dtype=torch.float64) for g in generators]
        return torch.stack(drawn).to(images).requires_grad_()

    mask_logits, pattern_logits = start(1, height, width), start(channels, height, width)
    optimizer = Adam([mask_logits, pattern_logits], lr=learning_rate, betas=(0.5, 0.9))
    answer = torch.tensor(targets, device=images.device)[:, None].expand(-1, batch)
    weight = torch.full((len(targets),), penalty).to(images)
    running = torch.zeros_like(weight)
    smallest = torch.full_like(weight, torch.inf)  # norm of what is kept; infinite until a label succeeds
    kept_mask, kept_share = torch.zeros_like(mask_logits), torch.zeros_like(pattern_logits)

    for _ in range(steps):
        drawn = [o[torch.randint(len(o), (batch,), generator=g)] for o, g in zip(others, generators, strict=True)]
        mask, share = mask_logits.sigmoid(), pattern_logits.sigmoid()
        norm = mask.sum((1, 2, 3))
        x = torch.lerp(images[torch.stack(drawn)], (low + (high - low) * share)[:, None], mask[:, None])
        logits = model(x.flatten(0, 1)).unflatten(0, answer.shape)  # (T, batch, classes)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), answer.flatten(), reduction="sum") / batch
        optimizer.zero_grad()
        (loss + weight.dot(norm)).backward(inputs=[mask_logits, pattern_logits])
        with torch.no_grad():
            running.lerp_((logits.argmax(2) == answer).to(running).mean(1), 1 - _MEMORY)
            reached = running >= success
            better = reached & (norm < smallest)
            smallest[better], kept_mask[better], kept_share[better] = norm[better], mask[better], share[better]
            weight *= torch.where(reached, _UP, _DOWN)
        optimizer.step()

    with torch.no_grad():
        never = smallest.isinf()
        kept_mask[never], kept_share[never] = mask_logits[never].sigmoid(), pattern_logits[never].sigmoid()
        found = RecoveredTriggers(targets, kept_mask[:, 0], low + (high - low) * kept_share, running)
        hits = [_hits(model, found.apply(images[o], t), t) for o, t in zip(others, targets, strict=True)]
    return replace(found, success=torch.stack(hits))


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

    What `mask_iou` cannot show: a network that answers to two pixels of a trigger gives a mask of two pixels, right
    and far from the whole. A uniform mask scores the region's share of the image.

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


def _hits(model: nn.Module, images: Tensor, target: int) -> Tensor:
    return torch.cat([model(part).argmax(1) == target for part in images.split(500)]).float().mean()
