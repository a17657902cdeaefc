"""What attention heads do on the induction task, and the circuit that the textbook makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nbutils.hooks import capture
from studies.circuits.sequences import Prompts
from studies.circuits.transformer import Transformer

if TYPE_CHECKING:
    import pandas as pd

BEFORE = "to the place before"
ANSWER = "to the answer"
ADDS = "adds, logits"

_READ_BY_PREVIOUS = (("position", "q"), ("position", "k"), ("token", "v"))


@torch.no_grad()
def attention_patterns(model: Transformer, tokens: Tensor) -> dict[str, Tensor]:
    """Return what each head attends to: `a{layer}.{head}` -> weights `[items, from, to]`, rows that sum to 1.

    Args:
        model: in the mode it is to run in.
        tokens: `[items, positions]`.
    """
    places = [f"blocks.{layer}.attention.pattern" for layer in range(len(model.blocks))]
    with capture(model, *places) as seen:
        model(tokens)
    return {
        f"a{layer}.{head}": seen[place][:, head]
        for layer, place in enumerate(places)
        for head in range(seen[place].shape[1])
    }


@torch.no_grad()
def describe_heads(model: Transformer, prompts: Prompts) -> pd.DataFrame:
    """Return where each head attends, and what it adds to the logit difference.

    Args:
        model: in the mode it is to run in.
        prompts: of the induction task: one answer each, clean and corrupt differ where it first stands.

    Returns:
        A row per head: `head`, its name `a{layer}.{head}`; the mean attention `to the place before` from every
        position, and `to the answer`, its first place, from the last one; `adds, logits`, what a head of the last layer
        adds to the logit difference directly, NaN for others.
    """
    import pandas as pd

    (asked,) = prompts.positions
    answers = (prompts.clean != prompts.corrupt).int().argmax(1)
    last = len(model.blocks) - 1
    place = f"blocks.{last}.attention.heads"
    with capture(model, place) as seen:
        model(prompts.clean)
    reads = (prompts.right[:, 0].double() - prompts.wrong[:, 0].double()) @ model.unembed.weight
    adds = torch.einsum("nhw,nw->h", seen[place][:, asked], reads) / len(prompts)
    rows = []
    for name, pattern in attention_patterns(model, prompts.clean).items():
        layer, head = map(int, name.removeprefix("a").split("."))
        rows.append(
            {
                "head": name,
                BEFORE: pattern.diagonal(-1, 1, 2).mean().item(),
                ANSWER: pattern[torch.arange(len(prompts), device=pattern.device), asked, answers].mean().item(),
                ADDS: adds[head].item() if layer == last else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def sort_heads(model: Transformer, prompts: Prompts) -> None:
    """Give the heads of the first and the last layer an order, in place; the network stays the same function.

    Args:
        model: its first layer is ordered by attention to the place before, its last by what heads add to the logit
            difference, the largest first.
        prompts: as for `describe_heads`.
    """
    described = describe_heads(model, prompts)
    for layer, by in ((0, BEFORE), (len(model.blocks) - 1, ADDS)):
        own = described[described["head"].str.startswith(f"a{layer}.")].reset_index(drop=True)
        _permute(model, layer, own[by].sort_values(ascending=False).index.tolist())


def textbook_circuit(heads: pd.DataFrame, attends: float) -> list[tuple[str, str]]:
    """Return the edges, source and destination, of the textbook's circuit for induction in one network.

    Previous-token heads P of the first layer write which token came before; induction heads I of the last layer look
    for the place whose predecessor is the present token, and copy what stands there: position → P.q, position → P.k,
    token → P.v, P → I.k, token → I.q, token → I.v, I → logits. Olsson et al. 2022, arXiv 2209.11895.

    Args:
        heads: as from `describe_heads`, of one network.
        attends: share of a head's attention, on the place before or on the answer, that makes it a P or an I.
    """
    names, shares = heads["head"].tolist(), heads.set_index("head")
    last = names[-1].partition(".")[0]
    previous = [name for name in names if name.startswith("a0.") and shares.at[name, BEFORE] > attends]
    inducing = [name for name in names if name.startswith(f"{last}.") and shares.at[name, ANSWER] > attends]
    return [
        *((source, f"{head}.{letter}") for head in previous for source, letter in _READ_BY_PREVIOUS),
        *((head, f"{other}.k") for head in previous for other in inducing),
        *(("token", f"{head}.{letter}") for head in inducing for letter in "qv"),
        *((head, "logits") for head in inducing),
    ]


def _permute(model: Transformer, layer: int, order: Sequence[int]) -> None:
    """Put the heads of a layer in an order."""
    attention = model.get_submodule(f"blocks.{layer}.attention")
    with torch.no_grad():
        for name in ("query", "key", "value", "out"):
            weight = attention.get_parameter(name)
            weight.copy_(weight[list(order)])
