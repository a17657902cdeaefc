"""Gradients at activations: a model that is differentiated, and left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from nbutils.hooks import unchanged


@contextmanager
def differentiating(model: nn.Module) -> Iterator[None]:
    """Run a model in eval mode with gradients at activations, and none at its parameters; leave it as it was.

    Args:
        model: any module. What its parameters gather in `grad` stays as it is.
    """
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(unchanged(model))
        stack.enter_context(torch.enable_grad())
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            cudnn = torch.backends.cudnn  # its recurrent layers have no backward pass in eval mode
            kept = {name: getattr(cudnn, name) for name in ("benchmark", "deterministic", "allow_tf32")}
            stack.enter_context(cudnn.flags(enabled=False, **kept))
        try:
            model.eval()
            for parameter in asked:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in asked:
                parameter.requires_grad_(True)
