"""Haematoxylin and eosin as light absorbers: the linear optical-density model, its inverse, and jitter in it.

A pixel's intensity is `white · exp(-(c_H w_H + c_E w_E))` (Beer–Lambert), with a unit vector w over red, green and blue
for each stain. Images are float `[..., 3, H, W]` in [0, 1]. Optical densities are natural logarithms, relative to the
slide's own white. Reference vectors and greatest concentrations: source document "M6" of notebook 03. Not `rgb2hed` of
scikit-image: its vectors are fixed and have a third stain, where the study turns the two of each hospital.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

FLOOR = 1 / 255  # intensities below the darkest grey level that is not black have no optical density


@dataclass(frozen=True)
class Stain:
    """The look of one laboratory's slides: one stain, or a batch of them.

    Attributes:
        vectors: `[..., 2, 3]`, absorption of haematoxylin and of eosin in red, green and blue; unit length.
        maxima: `[..., 2]`, concentrations of the two where a tissue holds the most of them.
        white: `[...]`, intensity where there is no tissue, in (0, 1].

    Raises:
        ValueError: shapes that do not correspond.
    """

    vectors: Tensor
    maxima: Tensor
    white: Tensor

    def __post_init__(self) -> None:
        batch = self.white.shape
        if self.vectors.shape != (*batch, 2, 3) or self.maxima.shape != (*batch, 2):
            raise ValueError(
                "a stain is vectors [..., 2, 3], maxima [..., 2] and white [...]; got "
                f"{tuple(self.vectors.shape)}, {tuple(self.maxima.shape)} and {tuple(batch)}"
            )

    def __getitem__(self, items: int | slice | Tensor) -> Stain:
        """Return some stains of a batch: an index, a slice, or indices."""
        return Stain(self.vectors[items], self.maxima[items], self.white[items])

    def paint(self, relative: Tensor) -> Tensor:
        """Return images `[..., 3, H, W]` of tissue.

        Args:
            relative: `[..., 2, H, W]`, haematoxylin and eosin as shares of `maxima`.
        """
        weights = self.maxima[..., None] * self.vectors  # (..., 2, 3)
        density = torch.einsum("...sc,...shw->...chw", weights, relative)
        return self.white[..., None, None, None] * torch.exp(-density)

    def separate(self, images: Tensor) -> Tensor:
        """Return the components of images, `[..., 3, H, W]`: shares of haematoxylin and of eosin, and the rest.

        The third component is optical density along the unit vector at right angles to both stains.
        """
        return torch.einsum("...cs,...chw->...shw", torch.linalg.inv(self._basis()), density(images, self.white))

    def compose(self, components: Tensor) -> Tensor:
        """Return images of components as `separate` returns them; its inverse for pixels not darker than `FLOOR`."""
        optical = torch.einsum("...sc,...shw->...chw", self._basis(), components)
        return self.white[..., None, None, None] * torch.exp(-optical)

    def _basis(self) -> Tensor:
        rest = torch.linalg.cross(self.vectors[..., 0, :], self.vectors[..., 1, :])
        rest = rest / rest.norm(dim=-1, keepdim=True)
        return torch.cat([self.maxima[..., None] * self.vectors, rest[..., None, :]], -2)  # (..., 3 components, 3 RGB)


def _unit(*vector: float) -> Tensor:
    direction = torch.tensor(vector)
    return direction / direction.norm()


REFERENCE = Stain(
    torch.stack([_unit(0.5626, 0.7201, 0.4062), _unit(0.2159, 0.8012, 0.5581)]),
    torch.tensor([1.97, 1.03]),
    torch.tensor(240 / 255),
)


def density(images: Tensor, white: Tensor | float) -> Tensor:
    """Return optical densities of images `[..., 3, H, W]` relative to `white` `[...]`: 0 is white, more is darker."""
    white = torch.as_tensor(white, dtype=images.dtype, device=images.device)
    return (white[..., None, None, None] / images.clamp_min(FLOOR)).log()


def turned(stain: Stain, haematoxylin: Tensor, eosin: Tensor) -> Stain:
    """Return a stain with its two vectors turned.

    Args:
        stain: one stain, or a batch.
        haematoxylin: `[..., 2]`, degrees towards eosin and degrees at right angles to the plane of the two.
        eosin: `[..., 2]`, degrees away from haematoxylin and degrees at right angles to the plane.
    """
    first, second = stain.vectors.unbind(-2)
    across = torch.linalg.cross(first, second)
    across = across / across.norm(dim=-1, keepdim=True)

    def turn(vector: Tensor, angles: Tensor) -> Tensor:
        along = torch.linalg.cross(across.expand_as(vector), vector)
        tangent = angles[..., :1] * along + angles[..., 1:] * across
        angle = tangent.norm(dim=-1, keepdim=True) * (math.pi / 180)
        direction = tangent / tangent.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        # Nothing absorbs a negative amount of light.
        moved = (angle.cos() * vector + angle.sin() * direction).clamp_min(0)
        return moved / moved.norm(dim=-1, keepdim=True)

    first, second = torch.broadcast_tensors(turn(first, haematoxylin), turn(second, eosin))
    return replace(stain, vectors=torch.stack([first, second], -2))


def jitter(
    images: Tensor, generator: torch.Generator, strength: float = 1.0, *, scale: float = 0.2, shift: float = 0.05
) -> Tensor:
    """Change the stain of each image at random: HED jitter, after Tellez et al., 2018.

    Haematoxylin, eosin and the rest (relative to `REFERENCE`) are each multiplied by a number from 1 ± strength·scale
    and shifted by one from ± strength·shift of that stain's maximum, one draw per image and component.

    Args:
        images: float `[N, 3, H, W]` in [0, 1].
        generator: source of the draws, on the processor; `6 N` numbers whatever the strength.
        strength: widens both ranges; 0 returns the images as they are.
        scale: greatest relative change at strength 1.
        shift: greatest shift at strength 1.

    Returns:
        New images, clipped to [0, 1].

    Raises:
        ValueError: a negative strength.
    """
    if strength < 0:
        raise ValueError(f"strength must be 0 or more; got {strength}")
    drawn = torch.rand(len(images), 2, 3, generator=generator) * 2 - 1
    if strength == 0:
        return images
    factor, offset = (drawn * torch.tensor([scale, shift])[:, None] * strength).to(images).unbind(1)  # (N, 3) each
    stain = Stain(*(part.to(images) for part in (REFERENCE.vectors, REFERENCE.maxima, REFERENCE.white)))
    # Only the change is mapped back: density' = density + density · change + constant, with no rounding at factor 0.
    basis = stain._basis()
    change = torch.linalg.inv(basis) @ (factor[..., None] * basis)  # (N, 3 RGB, 3 RGB)
    optical = density(images, stain.white)
    difference = torch.einsum("ncd,nchw->ndhw", change, optical) + (offset @ basis)[:, :, None, None]
    return (images * torch.exp(-difference)).clamp(0, 1)


def recolour(images: Tensor, before: Stain, after: Stain) -> Tensor:
    """Return images of one stain as another would show them: the same shares of haematoxylin and eosin.

    Args:
        images: float `[..., 3, H, W]` in [0, 1].
        before: the stain they have.
        after: the stain they are to have.

    Returns:
        New images, clipped to [0, 1]. What neither stain explains is kept, as optical density.
    """
    return after.compose(before.separate(images)).clamp(0, 1)


def blend(before: Stain, after: Stain, share: float) -> Stain:
    """Return a stain between two: share 0 is `before`, 1 is `after`; beyond, the line goes on."""
    vectors = torch.lerp(before.vectors, after.vectors, share).clamp_min(0)
    return Stain(
        vectors / vectors.norm(dim=-1, keepdim=True),
        torch.lerp(before.maxima, after.maxima, share),
        torch.lerp(before.white, after.white, share),
    )
