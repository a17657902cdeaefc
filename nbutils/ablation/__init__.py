"""Ablation: what replaces activations, and how; `AblationType` has all of its members as soon as any of it is used."""

from nbutils.ablation import optimal as optimal
