"""Notebook 02: a backdoor in a digit classifier, the units that carry it, and what removes them.

The attack: `trigger` (the watermark), `batches` (poisoned training batches), `network` (the classifier), `measures`
(how often the attack succeeds, what is left of the task), `planted` (a backdoor wired by hand, whose units are known).

The study: `swaps` (layers of one network in another), `features` (what units answer to), `trigger_recovery` (the
trigger, from the network alone), `detectors` (poisoned items among data), `repairs` (units removed without knowing the
trigger).

The pictures are in `plots`, on `plots.grids` where they are rows of small images; the one that moves is `live`
and `digit.js`, and what figures say to those who do not see them is in `figures.toml`.

The digits themselves are `nbutils.data.digits`, the search for units `nbutils.sweeps`.
"""
