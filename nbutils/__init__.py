"""Ablation of neural networks: ensembles, schedules, hooks, interventions, sweeps, edge scores, and pictures of them.

`import nbutils as nb` imports nothing heavy: the names of `__init__.pyi` are imported when they are first used. Modules
stand on floors, each on those below its own; `pyproject.toml` lists them under `tool.importlinter`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
