"""Features and a head built by hand, with known channels of the shortcut."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nbutils.seeding import generator


@dataclass(frozen=True, repr=False)
class PlantedFeatures:
    """Pooled features whose shortcut is known: a stain block, a morphology block, and noise, under a known head.

    Attributes:
        features: `[N, C]`.
        tumour, hospital, slide: `[N]`.
        head: reads both blocks and no noise.
        stain: channels of the stain block; with the decoys they alone know the hospital.
        morphology: channels of the morphology block; they alone know the label where hospitals are balanced.
        decoys: channels that tell the hospital better than the stain block, and that the head does not read.
        cancelling: channels of noise alone, that of two stain channels each.
    """

    features: Tensor
    tumour: Tensor
    hospital: Tensor
    slide: Tensor
    head: nn.Linear
    stain: tuple[int, ...]
    morphology: tuple[int, ...]
    decoys: tuple[int, ...] = ()
    cancelling: tuple[int, ...] = ()

    @property
    def shortcut(self) -> tuple[int, ...]:
        """The stain channels that the head reads."""
        read = self.head.weight.abs().sum(0) > 0
        return tuple(channel for channel in self.stain if read[channel])

    def rotated(self, seed: int = 0) -> PlantedFeatures:
        """Return the same items and the same logits in a random orthonormal basis.

        No channel belongs to a block there, so a method that looks for channels has nothing to find: `stain` and
        `morphology` are still the numbers of the first basis.
        """
        width = self.features.shape[1]
        normal = torch.randn(width, width, generator=generator(seed, "rotation"), dtype=torch.float64)
        basis = torch.linalg.qr(normal).Q.to(self.features)
        head = copy.deepcopy(self.head)
        with torch.no_grad():
            head.weight.copy_(self.head.weight @ basis)
        return replace(self, features=self.features @ basis, head=head)


def plant_features(
    items: int = 3000,
    *,
    rho: float = 0.9,
    hospitals: tuple[int, ...] = (0, 1, 2),
    channels: int = 512,
    block: int = 32,
    hard: bool = False,
    seed: int = 0,
) -> PlantedFeatures:
    """Make features by the formula behind a shortcut study.

    A stain channel is 2 at its own hospital and 0 at others, a morphology channel is ±0.5 by label, all with noise of
    standard deviation 1. The head adds the morphology block, and the stain channels of hospital 0 as if they were
    evidence for tumour, with half the block's weight. Hospital 3, without a slide in any fit, has the stain of hospital
    0 and half as much again.

    The hard kind adds what leads scores astray. Decoys: half a block of channels, 3 at their own hospital and not read
    by the head. Noise that channels share: to each two stain channels twice the value of one that has no content of its
    own is added, so that a probe sets them against each other.

    Args:
        items: N; ten slides per hospital.
        rho: correlation of tumour with coming from hospital 0; only where there are others beside it.
        hospitals: one or more of 0 to 3, those of one set.
        channels: C.
        block: channels of each block.
        hard: with decoys and cancelling channels.
        seed: of everything but the place of the blocks, always the same.

    Raises:
        ValueError: blocks that do not fit; a hospital other than 0 to 3; a correlation outside [-1, 1].
    """
    if not 3 <= (2 + hard) * block <= channels:
        raise ValueError(f"{2 + hard} blocks of {block} channels do not fit into {channels}")
    if not hospitals or not {*hospitals} <= {0, 1, 2, 3} or not -1 <= rho <= 1:
        raise ValueError(f"hospitals are some of 0 to 3 and rho is from -1 to 1; got {hospitals} and {rho}")
    rng = generator(seed, "planted features")
    order = torch.randperm(channels, generator=generator(0, "planted blocks"))
    stain, morphology = order[:block].sort().values, order[block : 2 * block].sort().values
    tumour = torch.arange(items) % 2
    others = torch.tensor([number for number in hospitals if number] or [0])
    hospital = others[torch.randint(len(others), (items,), generator=rng)]
    if 0 in hospitals and len(hospitals) > 1:
        agrees = torch.rand(items, generator=rng) < (1 + rho) / 2
        hospital = torch.where(agrees == tumour.bool(), torch.tensor(0), hospital)
    features = torch.randn(items, channels, generator=rng)
    owner = torch.arange(block) % 3  # the hospital that a stain channel stands for
    own = hospital[:, None] == owner
    unseen = (hospital[:, None] == 3) & (owner == 0)
    features[:, stain] += 2.0 * own + 3.0 * unseen
    features[:, morphology] += tumour[:, None] - 0.5
    decoys, cancelling = order[2 * block : (2 + hard) * block].split([block // 2 * hard, (block + 1) // 2 * hard])
    if hard:
        features[:, decoys] += 3.0 * (hospital[:, None] == torch.arange(len(decoys)) % 3)
        pair = stain[owner.argsort(stable=True)]
        features[:, pair] += 2.0 * features[:, cancelling].repeat_interleave(2, 1)[:, :block]
    head = nn.Linear(channels, 2)
    with torch.no_grad():
        head.weight.zero_()
        evidence = torch.zeros(channels)
        evidence[morphology] = 1.0 / block
        evidence[stain[owner == 0]] = 0.5 / int((owner == 0).sum())
        head.weight[1], head.weight[0] = evidence, -evidence
        head.bias[1], head.bias[0] = -0.5, 0.5  # half of what the stain of hospital 0 adds
    slide = hospital * 10 + torch.randint(10, (items,), generator=rng)
    places = (tuple(some.tolist()) for some in (stain, morphology, decoys, cancelling))
    return PlantedFeatures(features, tumour, hospital, slide, head, *places)
