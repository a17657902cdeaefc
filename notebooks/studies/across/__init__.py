"""What compares the studies with each other; the one room that imports from the others.

Of notebook 05: `networks`, small networks of studies 01 to 04, trained for a moment, with pairs of inputs that differ
in one thing; `effects`, what ablating their sources changes, under every ablation type.

Of notebook 06: `training`, the networks of all five studies by their own batches and objectives; `cases`, each in one
vocabulary; `study`, all measurements of one; `standins`, `certificates`, `predictors`, `doses`, `repair` and `scalars`,
one question each; `planted`, networks whose answers are known; `live` and `units.js`, the figure to move.
"""
