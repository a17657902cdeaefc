"""Checkpoints of the network, in the two formats of the source."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nbutils import atomic
from nbutils.data.weights import StateError, check_tensor, load_weights, read_weights
from studies.credit.network import ResidualMLP


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, and its feedback matrices where the file has them.

    Attributes:
        model: in eval mode, float32, on the processor.
        feedback: B, `[num_blocks, width, classes]`, or None, where they follow from the seed
            (`studies.credit.feedback.feedback_matrices`).
    """

    model: ResidualMLP
    feedback: Tensor | None


def save_checkpoint(path: str | Path, model: ResidualMLP, feedback: Tensor | None = None) -> Path:
    """Write a checkpoint atomically, in one of the source's two formats.

    Args:
        path: of the file.
        model: the network.
        feedback: B, `[num_blocks, width, classes]`: written as `{"state_dict", "Bs"}`. Without it, a bare state dict.
    """
    state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    content = state if feedback is None else {"state_dict": state, "Bs": [b.detach().cpu().clone() for b in feedback]}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return atomic.write(Path(path), buffer.getvalue())


def load_checkpoint(path: str | Path, build: Callable[[], ResidualMLP] = ResidualMLP) -> Checkpoint:
    """Read a checkpoint: `{"state_dict", "Bs"}`, or weights alone as trainers save them. Code in it is never run.

    Args:
        path: a file of safetensors or of `torch.save` (see `nbutils.data.weights.load_weights`).
        build: makes the expected network.

    Raises:
        FileNotFoundError: there is no such file.
        StateError: the file is damaged, or a parameter or a feedback matrix is missing, unknown or of another shape.
    """
    content, model = read_weights(path), build()
    load_weights(model, content, path)
    matrices = content.get("Bs")
    if matrices is None:
        return Checkpoint(model.eval(), None)
    if not isinstance(matrices, list | tuple) or len(matrices) != model.num_blocks:
        got = f"{len(matrices)}" if isinstance(matrices, list | tuple) else type(matrices).__name__
        raise StateError(f"{path}: 'Bs' must be a list of {model.num_blocks} matrices, one per block; got {got}")
    shape = model.out_head.in_features, model.out_head.out_features
    for place, matrix in enumerate(matrices):
        check_tensor(matrix, f"'Bs'[{place}]", shape, path)
    return Checkpoint(model.eval(), torch.stack([matrix.float() for matrix in matrices]))
