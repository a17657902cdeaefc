"""Feedback: fixed random matrices that carry the error back in place of the transposed weights.

Feedback alignment (Lillicrap et al. 2016, Nat. Commun. 7:13276) sends the error back through the weights of a fixed
network, layer by layer; direct feedback alignment (Nøkland 2016, NeurIPS, arXiv:1609.01596) sends it to each layer in
one step, a_l = e B_lᵀ with e = softmax(logits) − one-hot.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nbutils.hooks import submodule
from nbutils.seeding import seeded
from studies.credit.network import ResidualMLP

Build = Callable[[], ResidualMLP]
Model = TypeVar("Model", bound=nn.Module)

_building = Lock()  # modules are initialised by a generator that all threads share


def feedback_matrices(seed: int, build: Build = ResidualMLP) -> Tensor:
    """Return the fixed matrices B of a training seed, float32 `[num_blocks, width, classes]`.

    Standard normal / √classes, drawn by torch's generator from `seed` itself, after the construction of a model: the
    source's rule (`reconstruct_training_Bs`), which restores the matrices of a checkpoint without them. The global
    generator keeps its state.
    """
    with _building, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        shape = model.out_head.in_features, model.out_head.out_features
        return torch.stack([torch.randn(shape) for _ in range(model.num_blocks)]) / shape[1] ** 0.5


def fixed_network(seed: int, build: Build = ResidualMLP) -> ResidualMLP:
    """Return the untrained network whose weights carry feedback alignment's error back."""
    with _building, seeded(seed, "feedback"):
        return build().requires_grad_(False)


def with_feedback(model: ResidualMLP, fixed: ResidualMLP) -> ResidualMLP:
    """Return a copy of a model with the same outputs, but gradients that go back through other weights.

    Its linear layers multiply gradients by the weights of `fixed` in place of their own: its gradient at a hidden state
    is feedback alignment's credit.

    Args:
        model: the network; it is not changed.
        fixed: of the same sizes (`fixed_network`), on any device.
    """
    own = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    carriers = {name: tensor.detach().to(own[name].device, copy=True) for name, tensor in fixed.named_parameters()}
    return rebuilt(model, own, carriers)


def rebuilt(template: Model, own: Mapping[str, Tensor], carriers: Mapping[str, Tensor]) -> Model:
    """Return a copy of a model on given parameters, which may have a leading axis of members.

    Args:
        template: a network whose parameters are those of linear layers and layer norms.
        own: its parameters by name; the copy shares their memory.
        carriers: by the names of weights, the matrices that multiply gradients in their place; the weights if absent.
    """
    model = copy.deepcopy(template)
    for path, module in template.named_modules():
        if isinstance(module, nn.Linear):
            layer: nn.Module = _Linear(own[f"{path}.weight"], own[f"{path}.bias"], carriers.get(f"{path}.weight"))
        elif isinstance(module, nn.LayerNorm):
            layer = _LayerNorm(own[f"{path}.weight"], own[f"{path}.bias"], module.eps)
        else:
            continue
        parent, _, child = path.rpartition(".")
        setattr(submodule(model, parent) if parent else model, child, layer)
    return model


class _Linear(nn.Module):
    """x `[..., batch, in]` -> `[..., batch, out]`, on weights `[..., out, in]` whose memory it shares."""

    def __init__(self, weight: Tensor, bias: Tensor, carrier: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.register_buffer("carrier", carrier, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.carrier is not None:
            return _Carried.apply(x, self.weight, self.bias, self.carrier)
        return x @ self.weight.mT + self.bias.unsqueeze(-2)


class _LayerNorm(nn.Module):
    """LayerNorm over the last axis, with weights and biases `[..., width]` for inputs `[..., batch, width]`."""

    def __init__(self, weight: Tensor, bias: Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(weight), nn.Parameter(bias), eps

    def forward(self, x: Tensor) -> Tensor:
        normal = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        return torch.addcmul(self.bias.unsqueeze(-2), normal, self.weight.unsqueeze(-2))


class _Carried(torch.autograd.Function):
    """A linear layer whose gradient goes back through another matrix than its weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, carrier: Tensor) -> Tensor:
        ctx.save_for_backward(x, carrier)
        return x @ weight.mT + bias.unsqueeze(-2)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, carrier = ctx.saved_tensors
        return slope @ carrier, slope.mT @ x, slope.sum(-2), None
