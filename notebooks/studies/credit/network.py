"""The residual network whose credit signals notebook 04 audits, and its checkpoints."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nbutils import atomic
from nbutils.data.weights import StateError, check_tensor, load_weights, read_weights


class ResidualMLP(nn.Module):
    """Classify vectors: an embedding, pre-LayerNorm residual blocks, a final LayerNorm, a linear head.

    h_0 is the embedding, h_{l+1} = h_l + block_l(h_l), the logits are out_head(out_ln(h_L)). A block is LayerNorm,
    linear, GELU, linear, all of one width. Attributes and the order of the arguments are the source's
    (`experiments/perturbation_correlation_audit.py`); it does not say what is inside a block.

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
        """Return the logits that follow from h_layer, `[..., width]`: continue at block `layer`.

        Raises:
            IndexError: `layer` is outside 0 to L (L: the head alone).
        """
        if not 0 <= layer <= self.num_blocks:
            raise IndexError(f"layer must lie between 0 and {self.num_blocks}; got {layer}")
        for block in self.blocks[layer:]:
            h = h + block(h)
        return self.out_head(self.out_ln(h))

    def loss_from(self, layer: int, labels: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the function from h_layer `[..., N, width]` to the cross-entropy of each sample `[..., N]`.

        Args:
            layer: l, 0 to L.
            labels: `[N]`, int64.
        """

        def losses(h: Tensor) -> Tensor:
            scores = F.log_softmax(self.logits_from(h, layer), dim=-1)
            return -scores.gather(-1, labels.expand(h.shape[:-1])[..., None])[..., 0]

        return losses


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, and its feedback matrices where the file has them.

    Attributes:
        model: in eval mode, float32, on the processor.
        feedback: B, `[num_blocks, width, classes]`, or None: then they follow from the seed
            (`studies.credit.feedback.feedback_matrices`).
    """

    model: ResidualMLP
    feedback: Tensor | None


def save_checkpoint(path: str | Path, model: ResidualMLP, feedback: Tensor | None = None) -> Path:
    """Write a checkpoint, whole or not at all, in one of the two formats that the source reads.

    Args:
        path: its place.
        model: the network.
        feedback: B, `[num_blocks, width, classes]`: written as `{"state_dict", "Bs"}`. Without it, a bare state dict.
    """
    state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    content = state if feedback is None else {"state_dict": state, "Bs": [b.detach().cpu().clone() for b in feedback]}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return atomic.write(Path(path), buffer.getvalue())


def load_checkpoint(path: str | Path, build: Callable[[], ResidualMLP] = ResidualMLP) -> Checkpoint:
    """Read a checkpoint: a bare state dict, or `{"state_dict", "Bs"}`. Code in the file is never run.

    Args:
        path: a file that `torch.save` made, or `.safetensors` of a bare state dict.
        build: makes the network that is expected.

    Raises:
        FileNotFoundError: there is no such file.
        StateError: the file is damaged, or a parameter or a feedback matrix is missing, unknown or of another shape.
    """
    content, model = read_weights(path), build()
    if "state_dict" not in content:
        load_weights(model, content, path)
        return Checkpoint(model.eval(), None)
    if not isinstance(content["state_dict"], dict):
        raise StateError(f"{path}: 'state_dict' must hold tensors by name; got {type(content['state_dict']).__name__}")
    load_weights(model, content["state_dict"], path)
    matrices = content.get("Bs")
    if matrices is None:
        return Checkpoint(model.eval(), None)
    if not isinstance(matrices, list | tuple) or len(matrices) != model.num_blocks:
        got = f"{len(matrices)}" if isinstance(matrices, list | tuple) else type(matrices).__name__
        raise StateError(f"{path}: 'Bs' must be a list of {model.num_blocks} matrices, one a block; got {got}")
    shape = model.out_head.in_features, model.out_head.out_features
    for place, matrix in enumerate(matrices):
        check_tensor(matrix, f"'Bs'[{place}]", shape, path)
    return Checkpoint(model.eval(), torch.stack([matrix.float() for matrix in matrices]))
