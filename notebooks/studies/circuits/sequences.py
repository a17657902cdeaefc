"""Tasks on sequences of tokens, reversal and induction: prompts, each with a corrupt twin, and the tokens that answer.

A twin is the same prompt with one thing changed. All draws are functions of the seed, for all prompts at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nbutils.seeding import generator

IGNORED = -1  # the target of a position where nothing is asked


@dataclass(frozen=True)
class Prompts:
    """Prompts, the same prompts with one thing changed, and what is right and wrong to answer to the clean ones.

    Attributes:
        clean: tokens `[N, length]`, int64.
        corrupt: tokens `[N, length]`; prompt i is prompt i of `clean`, corrupted.
        positions: the K positions whose next output is the answer, the same for all prompts.
        right: `[N, K, vocabulary]`, True at the tokens that answer the clean prompt.
        wrong: `[N, K, vocabulary]`, True at the tokens to tell them from: those that answer the corrupt prompt.

    Raises:
        ValueError: shapes that do not correspond, a position outside the prompts, a prompt without a right answer.
    """

    clean: Tensor
    corrupt: Tensor
    positions: tuple[int, ...]
    right: Tensor
    wrong: Tensor

    def __post_init__(self) -> None:
        count, length = (*self.clean.shape, 0, 0)[:2]
        if (
            self.clean.ndim != 2
            or self.corrupt.shape != self.clean.shape
            or self.right.shape != self.wrong.shape
            or self.right.shape[:2] != (count, len(self.positions))
            or self.right.ndim != 3
        ):
            raise ValueError(
                "clean and corrupt must be tokens [N, length], right and wrong answers [N, positions, vocabulary]; got "
                f"{tuple(self.clean.shape)}, {tuple(self.corrupt.shape)}, {tuple(self.right.shape)} and "
                f"{tuple(self.wrong.shape)} with {len(self.positions)} positions"
            )
        if not all(0 <= position < length for position in self.positions):
            raise ValueError(f"positions must lie in 0 to {length - 1}; got {self.positions}")
        if not self.right.any(-1).all():
            raise ValueError("every prompt needs a right answer at every position")

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, items: slice | Tensor) -> Prompts:
        """Return some of the prompts: a slice, indices, or a mask `[N]`."""
        return Prompts(self.clean[items], self.corrupt[items], self.positions, self.right[items], self.wrong[items])

    def at_answers(self, logits: Tensor) -> Tensor:
        """Return the logits `[..., K, vocabulary]` at the answers' positions, of logits `[..., length, vocabulary]`."""
        return logits[..., list(self.positions), :]


def reversal(length: int = 5, vocabulary: int = 3, count: int | None = None, seed: int = 0) -> Prompts:
    """Return prompts whose answer at every position i is the token at length − 1 − i.

    In the corrupt prompt *every* token is another one, so its answer differs at every position.

    Args:
        length: tokens per prompt.
        vocabulary: different tokens, 2 or more.
        count: prompts to draw; None for all `vocabulary**length` of them, in order.
        seed: of the corruption, and of the prompts where they are drawn.
    """
    _check_task(
        vocabulary >= 2 and length >= 1,
        f"a vocabulary of 2 or more and a length of 1 or more; got {vocabulary}, {length}",
    )
    if count is None:
        clean = torch.cartesian_prod(*[torch.arange(vocabulary)] * length).reshape(-1, length)
    else:
        clean = torch.randint(vocabulary, (count, length), generator=generator(seed, "reversal"))
    shift = torch.randint(1, vocabulary, clean.shape, generator=generator(seed, "reversal, corrupt"))
    corrupt = (clean + shift) % vocabulary
    return Prompts(
        clean, corrupt, tuple(range(length)), _one_hot(clean.flip(1), vocabulary), _one_hot(corrupt.flip(1), vocabulary)
    )


def induction(count: int, distinct: int = 10, repeated: int = 4, vocabulary: int = 20, seed: int = 0) -> Prompts:
    """Return prompts that begin to repeat themselves, and whose answer is how the repetition goes on.

    `distinct` different tokens, then `repeated` of them again, in a row from a random place of the first part: A B C D
    E … C D, answer E. In the corrupt prompt one token differs, the answer in the first part, and so does the answer:
    A B C D F … C D, answer F, a token that is nowhere in the clean prompt. (The task of Olsson et al. 2022, arXiv
    2209.11895.)

    Args:
        count: prompts.
        distinct: tokens of the first part.
        repeated: tokens of the second part, 1 to `distinct − 1`.
        vocabulary: more than `distinct`.
        seed: of all draws.
    """
    tokens, other = _repeating(count, distinct, repeated, vocabulary, seed, "induction")
    clean, answer, place = tokens[:, :-1], tokens[:, -1], tokens[:, -1:] == tokens[:, :distinct]
    corrupt = clean.clone()
    corrupt[:, :distinct] = torch.where(place, other[:, None], clean[:, :distinct])
    last = distinct + repeated - 1
    return Prompts(clean, corrupt, (last,), _one_hot(answer[:, None], vocabulary), _one_hot(other[:, None], vocabulary))


@dataclass(frozen=True)
class InductionBatches:
    """Training batches of the induction task, drawn afresh: every token of the second part has its target.

    Attributes:
        distinct, repeated, vocabulary: as for `induction`.
        batch_size: prompts per step.
        block: steps drawn at a time; part of the streams' names, so that another one changes the draws.
    """

    distinct: int = 10
    repeated: int = 4
    vocabulary: int = 20
    batch_size: int = 64
    block: int = 64

    def draw(self, seed: int, block: int) -> dict[str, Tensor]:
        """Draw one block of steps for one member: `tokens` `[block, batch, distinct + repeated + 1]`."""
        count = self.block * self.batch_size
        stream = ("induction batches", block)
        tokens, _ = _repeating(count, self.distinct, self.repeated, self.vocabulary, seed, *stream)
        return {"tokens": tokens.view(self.block, self.batch_size, -1)}

    def batch(self, drawn: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Turn one step's draws of all members into tensors.

        Returns:
            `input` `[members, batch, length]`, and `target` of the same shape: the next token in the second part,
            `IGNORED` before it. Both are integers, whatever the dtype.
        """
        tokens = drawn["tokens"]
        target = tokens[..., 1:].clone()
        target[..., : self.distinct] = IGNORED
        return {"input": tokens[..., :-1], "target": target}


def _repeating(
    count: int, distinct: int, repeated: int, vocabulary: int, seed: int, *stream: str | int
) -> tuple[Tensor, Tensor]:
    """Return prompts with their answer at the end `[count, distinct + repeated + 1]`, and a token they do not have."""
    _check_task(
        1 <= repeated < distinct < vocabulary,
        f"1 ≤ repeated < distinct < vocabulary; got repeated={repeated}, distinct={distinct}, vocabulary={vocabulary}",
    )
    order = torch.rand(count, vocabulary, generator=generator(seed, *stream, "tokens")).argsort(1)
    start = torch.randint(distinct - repeated, (count, 1), generator=generator(seed, *stream, "start"))
    again = order.gather(1, start + torch.arange(repeated + 1))
    return torch.cat([order[:, :distinct], again], dim=1), order[:, distinct]


def _one_hot(tokens: Tensor, vocabulary: int) -> Tensor:
    return tokens[..., None] == torch.arange(vocabulary)


def _check_task(fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"expected {expected}")
