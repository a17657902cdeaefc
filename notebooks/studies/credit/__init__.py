"""Notebook 04: do the credits of feedback alignment predict the loss? Source document: perturbation_correlation_audit.

`loss`: what is minimised, and the loss that follows from a hidden state. `images`, `batches`: what is learnt.
`network`: the residual network; `checkpoints`: its files. `feedback`: random matrices in place of the transposed
weights. `regimes`: how each regime trains, from backpropagation to frozen blocks.

The audit of one network is `audit`. It puts together `perturbation` (the correlation ρ of predicted with true changes
of the loss), `alignment` (cosines, steps along a credit), `chance` (ρ of fresh feedback) and `rounding` (what it leaves
of ρ). `steps`: ρ against the length of the step. `equilibrium`: whether penalised states stand still, and where.
`ablation`: what ablating units does to the loss, beside what credits predict. `planted`: credits whose ρ is known.
`report`: the source's table and what follows from it. `plots` and `live`: what the notebook shows; `differences`: what
the live figure looks up.
"""
