"""The heads of an attention as places in a model: slices of what its output projection takes in."""

from __future__ import annotations

from torch import nn

from nbutils.graphs import families
from nbutils.graphs.linear import linear
from nbutils.sites import Site, submodule


def heads(model: nn.Module, module: str, count: int | None = None) -> list[Site]:
    """Return one site per head of an attention, in their order.

    A head is a group of columns of the output projection's input: what it has read, before it is written. To replace it
    by zeros takes the head out, and leaves the projection's bias.

    Args:
        model: any module; one of a family that `residual_graph` knows need not be told `count`.
        module: path of the output projection, a linear layer such as `"transformer.h.0.attn.c_proj"`; of a family also
            that of the attention or of the block.
        count: how many heads there are; the projection's input must divide by it.

    Raises:
        KeyError: no such module; the message lists the nearest names.
        ValueError: no `count` for a model of no known family, one that does not divide the input or that the family's
            configuration contradicts, a module that is no linear layer, or one that is never called (see the message).

    >>> import nbutils as nb, torch
    >>> class Attention(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.qkv, self.out = torch.nn.Linear(8, 24), torch.nn.Linear(8, 8)
    ...     def forward(self, x):  # [items, positions, 8], two heads of 4
    ...         q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).movedim(-3, 0).transpose(-2, -3)
    ...         mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    ...         return self.out(mixed.transpose(-2, -3).flatten(-2))
    >>> model = Attention()
    >>> nb.heads(model, "out", 2)[1]
    Site('out', range(4, 8), axis=-1, part='input')
    >>> with nb.edit(model, nb.edits(nb.heads(model, "out", 2))):  # no head: the bias is left
    ...     bool((model(torch.randn(1, 3, 8)) == model.out.bias).all())
    True
    """
    _called(model, module)
    found = families.find(model)
    for block in found.blocks if found is not None else ():
        out = f"{block}.{found.family.out}"  # type: ignore[union-attr]  # there are blocks
        if module == out or (out.startswith(f"{module}.") and f"{module}.".startswith(f"{block}.")):
            sites = found.heads(block)  # type: ignore[union-attr]
            if count not in (None, len(sites)):
                raise ValueError(f"{out!r} has {len(sites)} heads, as the configuration says; got count={count}")
            return sites
    if count is None:
        told = (
            f"{found.family.name}'s are {found.blocks[0]}.{found.family.out}, …"
            if found
            else "it is of no known family"
        )
        raise ValueError(f"{module!r} is not known to be an attention's output projection ({told}): give count=")
    width = len(linear(model, module)[0])
    if count < 1 or width % count:
        raise ValueError(f"{module!r} takes in {width} units, which do not make {count} heads of one width")
    return families.head_sites(model, module, width // count)


def _called(model: nn.Module, name: str) -> None:
    """Refuse torch's own attention, whose output projection is never called as a module."""
    path = name.split(".") if name else []
    for depth in range(len(path), max(len(path) - 2, -1), -1):
        if isinstance(submodule(model, ".".join(path[:depth])), nn.MultiheadAttention):
            raise ValueError(
                f"{'.'.join(path[:depth]) or 'the model'!r} is torch's MultiheadAttention: it takes its out_proj's "
                "weight, and that never runs as a module, so a head has no place there; write the attention with a "
                "linear layer that is called"
            )
