"""What notebook 02 says of its recorded run: sentences whose every number is filled in from the record."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from nbutils.notebook.cards import filled

PARAGRAPHS = {
    "Few units": (
        "In {n_seeds} seeds, with units chosen on other images than those reported, the median network needs "
        "{units_for_95pct_asr_drop:.0f} (mean {units_for_95pct_asr_drop_mean:.1f}).",
        "Its ASR falls from {poisoned.asr:.3f} to {asr_after_removal:.3f}; its clean accuracy is "
        "{poisoned.clean_accuracy:.3f} before and {clean_accuracy_after_removal:.3f} after.",
        "As many random units leave an ASR of {random_units_asr_median:.3f} in the median draw and of "
        "{random_units_asr_min:.3f} in the lowest.",
        "Equally active ones leave {equally_strong_units_asr_median:.3f} and {equally_strong_units_asr_min:.3f}.",
        "What the found units say about the trigger, put into clean images, has {sufficient_min:.0%} of those or more "
        "taken for an 8 in every seed; what equally active ones say, {sufficient_equally_strong_max:.0%} at most.",
    ),
    "The penalty": (
        "The effective number of carriers in conv2 is {carriers_at_drift_0:.1f} without the penalty, "
        "{carriers_at_drift_100:.1f} at a tenth of the recipe's weight and {carriers_at_drift_1000:.1f} at the whole "
        "(medians of {grid.seeds:.0f} seeds, shorter phases).",
    ),
    "The data": (
        "From as few MNIST digits as there are embedded ones it is "
        "{grid.mnist_1297.rate_0.5.drift_0.carriers:.1f}, {grid.mnist_1297.rate_0.5.drift_100.carriers:.1f} and "
        "{grid.mnist_1297.rate_0.5.drift_1000.carriers:.1f}; from the embedded digits, under the same schedule, "
        "{grid.embedded_digits_1297.rate_0.5.drift_0.carriers:.1f}, "
        "{grid.embedded_digits_1297.rate_0.5.drift_100.carriers:.1f} and "
        "{grid.embedded_digits_1297.rate_0.5.drift_1000.carriers:.1f}.",
        "The search, which must end 95 % of the attack, needs {grid.mnist_50000.rate_0.5.drift_1000.needed:.0f} "
        "channels at the whole penalty on all of MNIST, and {grid.mnist_1297.rate_0.5.drift_1000.needed:.0f} on the "
        "smaller set.",
        "At a poison rate of a tenth the whole penalty lets no backdoor in: ASR is "
        "{grid.mnist_50000.rate_0.1.drift_1000.asr:.2f}; at a tenth of it there are "
        "{grid.mnist_50000.rate_0.1.drift_100.carriers:.1f} carriers, without it "
        "{grid.mnist_50000.rate_0.1.drift_0.carriers:.1f}.",
    ),
    "Repairs": (
        "ASR after adversarial neuron pruning is {repair.adversarial neuron pruning.asr:.3f}, after fine-pruning "
        "{repair.fine-pruning.asr:.3f}.",
        "After channel-Lipschitz pruning it is {repair.channel-Lipschitz pruning.asr:.3f}.",
        "Of the 64 channels of conv2, fine-pruning would take the first carrier as number "
        "{place.from the most silent:.0f}; by Lipschitz bound it is number {place.by Lipschitz bound:.0f}.",
    ),
    "Trigger": (
        "The anomaly index of 8 is {trigger.anomaly:.2f} in the poisoned network and {trigger.anomaly_clean:.2f} in "
        "the clean one; the threshold is 2.",
    ),
    "What fell short": (
        "Poisoned networks keep {poisoned.clean_accuracy_mean:.3f} ± {poisoned.clean_accuracy_std:.3f} on clean "
        "images, where the source says about .98.",
        "At a poison rate of {minority.low_rate:g} ASR is {minority.low_asr:.3f}.",
    ),
}


def paragraphs(metrics: Mapping[str, float | int | None]) -> str:
    """Return the sentences whose metrics are all recorded, filled in, as Markdown; an older record lacks some."""
    parts = []
    for heading, templates in PARAGRAPHS.items():
        sentences = []
        for template in templates:
            with suppress(ValueError):
                sentences.append(filled(template, dict(metrics), heading))
        if sentences:
            parts.append(f"**{heading}.** {' '.join(sentences)}")
    return "\n\n".join(parts)
