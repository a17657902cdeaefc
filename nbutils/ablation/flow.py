"""A traced run: which layers made what is at a place, and which read it.

The run keeps autograd's graph, in which every operation knows those before it, called by a module or not. Nothing is
read from names, classes or the order of registration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nbutils import batches
from nbutils.ablation.layers import BATCH_NORMS, NORMS, axes, copied, depthwise, of_kind, unscripted
from nbutils.batches import Batch
from nbutils.hooks import unchanged, watch
from nbutils.sites import Site, submodule

Node = Any  # of autograd's graph


class Flow:
    """Who made and who reads the tensors of one run of a model's copy, in eval mode.

    Attributes:
        runs: module path -> how often it ran.
        shapes: site -> shape of the tensor there.
    """

    def __init__(self, model: nn.Module, batch: Batch, sites: Iterable[Site]) -> None:
        for name, parameter in model.named_parameters():
            if parameter.device.type == "meta":
                raise ValueError(f"{name!r} is not on this machine (device 'meta'): the model cannot be traced")
        unscripted(model)
        self.model = copied(model).eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
        self._names = {module: name for name, module in self.model.named_modules()}
        self.runs = dict.fromkeys(self._names.values(), 0)
        self._order: dict[str, None] = {}  # of the ends of their runs
        self.shapes: dict[Site, tuple[int, ...]] = {}
        self._at: dict[Site, Node] = {}
        self._made: dict[str, list[Node]] = {name: [] for name in self.runs}
        self._read: dict[str, list[Node]] = {name: [] for name in self.runs}
        sites = [site.on(self.model) for site in sites]
        after = {name: partial(self._after, name, [s for s in sites if self.path(s) == name]) for name in self.runs}
        before = {name: partial(self._before, name, [s for s in sites if self.path(s) == name]) for name in self.runs}
        with torch.enable_grad(), unchanged(self.model), watch(self.model, after, inputs=before):
            batches.run(self.model, batch)
        for site in sites:
            if self.runs[self.path(site)] != 1:
                times = self.runs[self.path(site)]
                raise ValueError(f"{site.module!r} must run once, so that its units are clear; it ran {times} times")
            if self._at[site] is None:
                raise ValueError(f"nothing that has weights makes {site.name}, as far as autograd's graph tells")
        self._mixers = {name for name in self.runs if name and self.mixes(name)}
        self._stops = {node: name for name in self._mixers for node in self._made[name]}

    def path(self, site: Site) -> str:
        """Return the first name of a site's module."""
        return self._names[submodule(self.model, site.module)]

    def count(self, site: Site) -> int:
        """Return how many units a site's tensor has."""
        site = site.on(self.model)
        shape = self.shapes[site]
        return shape[site.units_axis(torch.empty(shape, device="meta"))]

    def mixes(self, name: str) -> bool:
        """Return whether a module puts out what depends on all units that it takes in, as far as is known."""
        module = self.model.get_submodule(name)
        if of_kind(module, NORMS) or depthwise(module) or of_kind(module, [nn.PReLU]):
            return False
        own = next(module.parameters(recurse=False), None) is not None
        leaf = next(module.children(), None) is None
        return axes(module) is not None or (own and (leaf or type(module).__module__.startswith("torch.nn.")))

    def makers(self, site: Site) -> tuple[list[str], list[str]]:
        """Return the mixing layers that what is at a site comes from, and the modules with weights in between."""
        module = self.path(site)
        if site.part == "output" and module in self._mixers:
            return [module], []
        stopped, visited = self._back([self._at[site.on(self.model)]])
        return stopped, [name for name in self._weighted(visited) if name not in stopped]

    def readers(self, maker: str) -> dict[str, list[str]]:
        """Return the weighted modules that read what a layer made before another mixing layer does.

        Returns:
            Path of the reader -> the modules in between in the order they ran, the reader not among them.
        """
        found = {}
        for name, module in self.model.named_modules():
            if name and _per_unit(module) and self._read[name]:
                leaf = next(module.children(), None) is None
                stopped, visited = self._back(self._read[name])
                if maker in stopped and (leaf or name in self._mixers):
                    found[name] = [n for n in self._leaves(visited) if n not in (*self._mixers, name)]
        return found

    def norm_of(self, name: str) -> str | None:
        """Return the batch norm that takes in the very tensor that a module put out; None where there is none."""
        for other, module in self.model.named_modules():
            if of_kind(module, BATCH_NORMS) and set(self._made[name]) & set(self._read[other]):
                return other
        return None

    def beside(self, reader: str, makers: Iterable[str]) -> list[str]:
        """Return the mixing layers but those given whose answers a reader's input is made of."""
        return [name for name in self._back(self._read[reader])[0] if name not in makers]

    def _back(self, nodes: list[Node]) -> tuple[list[str], set[Node]]:
        """Return the mixing layers at which a way back through the graph ends, and the nodes on the way."""
        stopped: dict[str, None] = {}
        visited: set[Node] = set()
        left = list(nodes)
        while left:
            node = left.pop()
            if node is None or node in visited:
                continue
            visited.add(node)
            if node in self._stops:
                stopped[self._stops[node]] = None
            else:
                left.extend(before for before, _ in node.next_functions)
        return [name for name in self.runs if name in stopped], visited

    def _leaves(self, visited: set[Node]) -> Iterator[str]:
        for name in self._order:
            nodes = self._made[name]
            if name and next(self.model.get_submodule(name).children(), None) is None and visited & set(nodes):
                yield name

    def _weighted(self, visited: set[Node]) -> Iterator[str]:
        for name in self._leaves(visited):
            if _per_unit(self.model.get_submodule(name)):
                yield name

    def _after(self, name: str, sites: list[Site], output: object) -> None:
        self.runs[name] += 1
        self._order[name] = None
        self._made[name] += [tensor.grad_fn for tensor in tensors(output) if tensor.grad_fn is not None]
        for site in sites:
            if site.part == "output":
                self._keep(site, site.take(output))

    def _before(self, name: str, sites: list[Site], *arguments: Any, **keywords: Any) -> None:
        self._read[name] += [tensor.grad_fn for tensor in tensors((arguments, keywords)) if tensor.grad_fn is not None]
        for site in sites:
            if site.part == "input":
                key = site.argument(self.model.get_submodule(name), arguments, keywords)
                self._keep(site, arguments[key] if isinstance(key, int) else keywords[key])

    def _keep(self, site: Site, tensor: Tensor) -> None:
        self._at[site], self.shapes[site] = tensor.grad_fn, tuple(tensor.shape)


def _per_unit(module: nn.Module) -> bool:
    """Return whether a module has weights of its own, or statistics of each unit."""
    buffers = list(module.buffers(recurse=False)) if of_kind(module, NORMS) else []
    return bool([*module.parameters(recurse=False), *buffers])


def tensors(value: object) -> list[Tensor]:
    """Return the tensors in what a module took or put out, nested or not."""
    if isinstance(value, Tensor):
        return [value]
    inside: Iterable[object] = ()
    if isinstance(value, dict):
        inside = value.values()
    elif isinstance(value, tuple | list):
        inside = value
    return [tensor for element in inside for tensor in tensors(element)]


def keep_inputs(model: nn.Module, names: Iterable[str], kept: dict[str, Tensor]) -> dict[str, Callable[..., None]]:
    """Return what `nbutils.hooks.watch` calls back to keep the inputs of modules."""

    def keeper(name: str) -> Callable[..., None]:
        def keep(*arguments: Any, **keywords: Any) -> None:
            key = Site(name, part="input").argument(submodule(model, name), arguments, keywords)
            kept[name] = (arguments[key] if isinstance(key, int) else keywords[key]).clone()

        return keep

    return {name: keeper(name) for name in names}
