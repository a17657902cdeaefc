"""Notebook 05: which edges of a transformer matter, by what replaces them.

The models and the task: `transformer` and its residual graph in `graph`; `sequences`, the prompts with their answers;
`planted`, a transformer built by hand whose edges are known. The study: `answers`, how well prompts are answered;
`heads`, what attention heads do, and the textbook's circuit; `rankings`, whether scores rank alike; `faithfulness`, how
much of a measure a circuit keeps; `methods`, the choices that this number depends on. The pictures are in `plots`, the
one to move in `live` and `circuit.js`, and what figures say to those who do not see them in `figures.toml`.

Edges and their scores are `nbutils.graphs`.
"""
