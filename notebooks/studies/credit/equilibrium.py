"""Push and pull on hidden states: is direct feedback with a penalty at its equilibrium, and what sets the length there?

Block l adds Δ = block_l(h_l) to the stream and learns by the credit e B_lᵀ + (2λ/d) h_{l+1} of each sample
(`studies.credit.regimes`). Its last layer is linear, so where its weights stand still the mean of ⟨credit, Δ⟩ is 0:

    −E⟨e B_lᵀ, Δ⟩ = (2λ/d) E⟨h_{l+1}, Δ⟩

With both means per unit of √E‖Δ‖², the left is the *push*, and the mean on the right the *length* of the state along
what the block adds. So `length` = d · push / (2λ · `ratio`), with `ratio` = 1 at equilibrium: ‖h‖ ∝ 1/λ where the
push does not depend on λ, and nowhere else. In slopes on log λ, exactly: length = −1 + push − ratio.
"""

from __future__ import annotations

from torch import Tensor

from studies.credit.audit import signals
from studies.credit.network import ResidualMLP


def balance(added: Tensor, after: Tensor, credits: Tensor, strength: float) -> dict[str, float]:
    """Return push, length and the ratio of push to pull of one block.

    Args:
        added: Δ, `[N, d]`.
        after: the state h_{l+1} behind the block, `[N, d]`.
        credits: e B_lᵀ, without the penalty's part, `[N, d]`.
        strength: λ, above 0.

    Returns:
        `push`: −E⟨credit, Δ⟩ / √E‖Δ‖². `length`: E⟨h_{l+1}, Δ⟩ / √E‖Δ‖². `ratio`: push · d / (2λ · length): 1 at
        equilibrium, above where states still grow, below where they shrink.

    Raises:
        ValueError: a λ that is not above 0.
    """
    if not strength > 0:
        raise ValueError(f"an equilibrium needs a penalty above 0; got {strength}")
    size = added.square().sum(1).mean().sqrt()
    push, length = (float((x * added).sum(1).mean() / size) for x in (-credits, after))
    return {"push": push, "length": length, "ratio": push * added.shape[1] / (2 * strength * length)}


def block_balance(
    model: ResidualMLP, feedback: Tensor, inputs: Tensor, labels: Tensor, strength: float
) -> dict[str, float]:
    """Return `balance` of a network's last block, whose output is the state before the head.

    Args:
        model: trained by direct feedback with the penalty.
        feedback: B, `[L, d, classes]`.
        inputs: training images `[N, inputs]`: the balance is one of the training loss.
        labels: `[N]`.
        strength: λ.
    """
    found = signals(model, inputs, labels)
    credits = found.errors @ feedback[-1].to(found.errors).mT
    return balance(found.hidden[-1] - found.hidden[-2], found.hidden[-1], credits, strength)
