"""The room of notebook 03: a tumour classifier that leans on the hospital's stain. Source document: M6.

Tiles: `tiles`, the table of them; `tile_files`, `tables`, `readers`, of files; `plans`, `fields`, `nuclei`, `tissue`,
`stains`, `drawn_tiles`, of drawings; `splits`, choices among their rows; `batches`, of training. Networks: `networks`,
`features`. Ablation at the pool: `pooled`, what replaces channels; `patterns`, `controls`, which channels; `sweeps`,
accuracies; `margins`, order and threshold apart, by one product; `recovery`, rankings beside random channels as strong;
`dose_response`, `effects`, `groups`, numbers and comparisons. Probes: `probes`, `readings`; `removals`,
directions. `planted`: features of known shortcut. `plots`: pictures; `live`, the one that moves, and its `first_view`.
`source_format`: results as the source stores them. `choices`: parameters given as text.
"""
