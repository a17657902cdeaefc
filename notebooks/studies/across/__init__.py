"""What compares the studies with each other; the one room that imports from the others.

`networks`: small networks of studies 01 to 04, trained for a moment, with pairs of inputs that differ in one thing.
`effects`: what ablating their sources changes, under every ablation type.
"""
