"""A small transformer in which whatever writes to the residual stream, and whatever reads it, is a module of its own.

What writes puts out its contribution: `embedding` and `positions` `[items, positions, width]`, each attention's `heads`
`[items, positions, heads, width]` (units on axis 2), each `mlp`. What reads takes the stream in: `q_input`, `k_input`
and `v_input` of each attention, one copy per head `[items, positions, heads, width]`, each `mlp`, and `unembed_input`.
The stream is the sum of what was written, so that an edge from a writer to a reader can be cut without touching
another.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studies.circuits.sequences import IGNORED


class Transformer(nn.Module):
    """Predict a token at every position from tokens `[items, positions]`; logits `[items, positions, vocabulary]`.

    Pre-normalisation as in GPT-2; learned absolute positions. The attention has no biases, so that the heads' outputs
    are all that it writes.

    Args:
        vocabulary: different tokens.
        length: largest number of positions.
        layers: blocks.
        heads: attention heads per block.
        width: of the residual stream.
        head_width: of a head's queries, keys and values; `width // heads` when not given.
        mlp: hidden units of the block's second half; 0 for attention only.
        norm: normalise what is read (LayerNorm).
        causal: a position attends to itself and those before it.
    """

    one_by_one = True  # members of an ensemble run one after the other: two thirds of the time of `vmap`

    def __init__(
        self,
        vocabulary: int,
        length: int,
        *,
        layers: int = 2,
        heads: int = 2,
        width: int = 32,
        head_width: int | None = None,
        mlp: int = 0,
        norm: bool = False,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = Positions(length, width)
        self.blocks = nn.ModuleList(
            Block(width, heads, head_width or width // heads, mlp, norm, causal) for _ in range(layers)
        )
        self.unembed_input = nn.Identity()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.unembed = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits.

        Raises:
            ValueError: more positions than there are embeddings for.
        """
        stream = self.embedding(tokens) + self.positions(tokens)
        for block in self.blocks:
            stream = block(stream)
        return self.unembed(self.norm(self.unembed_input(stream)))


class Positions(nn.Module):
    """Learned vectors of the positions, `[items, positions, width]` for tokens `[items, positions]`."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(length, width) * width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the vectors, the same for every item."""
        items, length = tokens.shape
        if length > len(self.weight):
            raise ValueError(f"this transformer takes up to {len(self.weight)} positions; got {length}")
        return self.weight[:length].expand(items, -1, -1)


class Block(nn.Module):
    """Attention, and where there is one an MLP, each added to the stream."""

    def __init__(self, width: int, heads: int, head_width: int, mlp: int, norm: bool, causal: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads, head_width, norm, causal)
        self.mlp = MLP(width, mlp, norm) if mlp else None

    def forward(self, stream: Tensor) -> Tensor:
        """Return the stream `[items, positions, width]` after the block."""
        stream = stream + self.attention(stream).sum(2)
        return stream if self.mlp is None else stream + self.mlp(stream)


class Attention(nn.Module):
    """Attention whose heads read the stream apart from each other, through `q_input`, `k_input` and `v_input`.

    `pattern` puts out the attention weights `[items, heads, from, to]`, `heads` what each head adds to the stream.
    """

    def __init__(self, width: int, heads: int, head_width: int, norm: bool, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.q_input, self.k_input, self.v_input = nn.Identity(), nn.Identity(), nn.Identity()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.query, self.key, self.value = (
            nn.Parameter(torch.randn(heads, width, head_width) * width**-0.5) for _ in range(3)
        )
        self.out = nn.Parameter(torch.randn(heads, head_width, width) * (heads * head_width) ** -0.5)
        self.pattern = nn.Identity()
        self.heads = nn.Identity()

    def forward(self, stream: Tensor) -> Tensor:
        """Return what each head adds `[items, positions, heads, width]` to the stream `[items, positions, width]`."""
        copies = stream[:, :, None].expand(-1, -1, len(self.out), -1)  # (items, positions, heads, width)
        q, k, v = (
            self.norm(read(copies)).transpose(1, 2) @ weight  # (items, heads, positions, head width)
            for read, weight in (
                (self.q_input, self.query),
                (self.k_input, self.key),
                (self.v_input, self.value),
            )
        )
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (items, heads, from, to)
        if self.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        mixed = self.pattern(scores.softmax(-1)) @ v
        return self.heads((mixed @ self.out).transpose(1, 2))


class MLP(nn.Module):
    """One hidden layer with GELU, on the normalised stream `[items, positions, width]`."""

    def __init__(self, width: int, hidden: int, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.into = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, stream: Tensor) -> Tensor:
        """Return what is added to the stream."""
        return self.out(F.gelu(self.into(self.norm(stream))))


def answer_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy of each member over the positions that have a target.

    Args:
        output: logits `[members, batch, positions, vocabulary]`.
        target: tokens `[members, batch, positions]`, `IGNORED` (−1) where nothing is asked.

    Returns:
        `[members]`, in nats.
    """
    losses = F.cross_entropy(output.flatten(0, -2), target.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view(target.shape).flatten(1).sum(1) / (target != IGNORED).flatten(1).sum(1)
