"""Shared vocabulary of the ablation notebooks: training, hooks, interventions, metrics and plots.

Importing the package imports nothing heavy; each module names what it needs. The floors and what may import
what are listed in `pyproject.toml` under `tool.importlinter`.
"""

__version__ = "0.1.0"
