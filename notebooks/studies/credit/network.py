"""The residual network whose credits are audited."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class ResidualMLP(nn.Module):
    """A classifier of vectors: an embedding, pre-LayerNorm residual blocks, a final LayerNorm, a linear head.

    h_0 is the embedding, h_{l+1} = h_l + block_l(h_l), the logits are out_head(out_ln(h_L)). A block is LayerNorm,
    linear, GELU, linear, all of one width. Attributes and the order of the arguments are the source's
    (`experiments/perturbation_correlation_audit.py`); the inside of a block is not in it.

    Args:
        inputs: features of a flattened image.
        width: d, of the residual stream.
        classes: of the labels.
        num_blocks: L.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, inputs: int = 3072, width: int = 256, classes: int = 10, num_blocks: int = 4) -> None:
        super().__init__()
        sizes = {"inputs": inputs, "width": width, "classes": classes, "num_blocks": num_blocks}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be 1 or more; got {size}")
        self.num_blocks = num_blocks
        self.embed = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(num_blocks)
        )
        self.out_ln = nn.LayerNorm(width)
        self.out_head = nn.Linear(width, classes)

    def forward(self, x: Tensor, return_hidden: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Return logits `[..., classes]` of `x` `[..., inputs]`, and on request h_0 … h_L, each `[..., width]`."""
        hidden = [self.embed(x)]
        for block in self.blocks:
            hidden.append(hidden[-1] + block(hidden[-1]))
        logits = self.logits_from(hidden[-1], self.num_blocks)
        return (logits, hidden) if return_hidden else logits

    def logits_from(self, h: Tensor, layer: int) -> Tensor:
        """Return the logits that follow from h_layer, `[..., width]`, from block `layer` on.

        Raises:
            IndexError: `layer` is outside 0 to L (L: the head alone).
        """
        if not 0 <= layer <= self.num_blocks:
            raise IndexError(f"layer must lie between 0 and {self.num_blocks}; got {layer}")
        for block in self.blocks[layer:]:
            h = h + block(h)
        return self.out_head(self.out_ln(h))


def cast(model: ResidualMLP, dtype: torch.dtype) -> ResidualMLP:
    """Return a copy of a model in another dtype, in eval mode."""
    return copy.deepcopy(model).to(dtype).eval()
