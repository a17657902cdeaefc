"""A residual model as sources that write to a stream and destinations that read it.

A destination reads the sum of what all sources before it wrote; `nbutils.graphs.patch` changes what it reads of one of
them. Source document: the ablation-activations page of auto-circuit; edges after Wang et al. 2022, arXiv 2211.00593,
and Conmy et al. 2023, arXiv 2304.14997.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from nbutils.hooks import unchanged, watch
from nbutils.sites import Site

if TYPE_CHECKING:
    import pandas as pd


_CLOSE = 1e-4  # of the stream's largest value: how far the sources' sum may be from it


class Edge(NamedTuple):
    """From what writes to what reads."""

    source: str
    destination: str

    def __str__(self) -> str:
        return f"{self.source} → {self.destination}"


@dataclass(frozen=True)
class ResidualGraph:
    """Sources, destinations, and an edge from each source to each destination that runs after it. Make it by `trace`.

    Attributes:
        sources: name -> output of a module, or a unit of it, in the order in which they run.
        destinations: name -> *input* of a module, or a unit of it, in the order in which they run.
        source_depth, destination_depth: name -> layer: destinations that read the same stream share one, and a source
            has that of the last destination before it.

    >>> import nbutils as nb, torch
    >>> class Net(torch.nn.Module):  # h ← h + f(h)
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embed, self.block, self.head = (torch.nn.Linear(*shape) for shape in ((2, 4), (4, 4), (4, 3)))
    ...     def forward(self, x):
    ...         h = self.embed(x)
    ...         return self.head(h + self.block(h))
    >>> model, x = Net(), torch.randn(6, 2)
    >>> graph = nb.residual_graph(model, x, embedding="embed", branch="block", blocks=1, head="head")
    >>> [str(edge) for edge in graph.edges]
    ['embedding → m0', 'embedding → logits', 'm0 → logits']
    """

    sources: Mapping[str, Site]
    destinations: Mapping[str, Site]
    source_depth: Mapping[str, int]
    destination_depth: Mapping[str, int]

    @classmethod
    def trace(
        cls, model: nn.Module, sample: Tensor, sources: Mapping[str, Site], destinations: Mapping[str, Site]
    ) -> ResidualGraph:
        """Run a model once, and return the graph of the places named.

        A name with `{}` stands for all units of its site, each a node of its own with its number in the braces:
        `"a0.{}": Site("blocks.0.attention.heads", axis=2)`.

        Args:
            model: any module; left as it was.
            sample: inputs `[items, ...]`.
            sources: name -> output of a module that is added to the stream.
            destinations: name -> module whose input, the first argument, is the stream, or a copy of it per unit.

        Raises:
            KeyError: no such module; the message lists the nearest names.
            ValueError: a module that does not run exactly once, or a destination that does not read the sum of the
                sources before it.
        """
        for site in (*sources.values(), *destinations.values()):
            site.on(model)
        destinations = {name: replace(site, part="input") for name, site in destinations.items()}
        events: list[tuple[str, str, Tensor]] = []  # (kind, module, stream), in order

        def note(kind: str, module: str, tensor: Tensor, *_arguments: object, **_keywords: object) -> None:
            events.append((kind, module, tensor.detach().clone()))

        wrote = {site.module: partial(note, "wrote", site.module) for site in sources.values()}
        read = {site.module: partial(note, "read", site.module) for site in destinations.values()}
        with unchanged(model), watch(model, wrote, inputs=read), torch.no_grad():
            model.eval()
            model(sample)
        for kind, sites in (("wrote", sources), ("read", destinations)):
            for site in sites.values():
                times = sum(event[:2] == (kind, site.module) for event in events)
                if times != 1:
                    raise ValueError(
                        f"{site.module!r} must run once in a forward pass to be a node; it ran {times} times"
                    )
        found: tuple[dict[str, Site], dict[str, Site]] = ({}, {})
        depths: tuple[dict[str, int], dict[str, int]] = ({}, {})
        depth, stream, last = 0, torch.zeros(()), "wrote"
        for kind, module, tensor in events:
            if kind == "read" and last == "wrote":
                depth += 1
            last = kind
            reads = kind == "read"
            for name, site in _expand(destinations if reads else sources, module, tensor):
                if name in found[reads]:
                    raise ValueError(f"two {'destinations' if reads else 'sources'} are called {name!r}")
                found[reads][name], depths[reads][name] = site, depth
                part = site.select(tensor)
                if reads:
                    _check_sum(name, part, stream)
                else:
                    stream = stream + part
        return cls(*found, *depths)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All edges, by destination, then by source, in the order in which they run."""
        return tuple(
            Edge(source, destination)
            for destination in self.destinations
            for source in self.sources
            if self.source_depth[source] < self.destination_depth[destination]
        )

    @cached_property
    def index(self) -> dict[Edge, int]:
        """Edge -> its place in `edges`, in scores and in masks."""
        return {edge: i for i, edge in enumerate(self.edges)}

    @property
    def sites(self) -> list[Site]:
        """The sources' sites, in order: what `src_ablations` takes."""
        return list(self.sources.values())

    def out_edges(self, source: str) -> tuple[Edge, ...]:
        """Return all edges of a source. To ablate them is to ablate the node.

        Raises:
            KeyError: no such source; the message lists the nearest names.
        """
        self._known(source, self.sources, "source")
        return tuple(edge for edge in self.edges if edge.source == source)

    def mask(self, edges: Iterable[tuple[str, str]]) -> Tensor:
        """Return the mask `[edges]` that ablates some edges: 1 at these, 0 elsewhere.

        Raises:
            KeyError: a node that does not exist; the message lists the nearest names.
            ValueError: an edge that cannot be, because its destination runs before its source.
        """
        mask = torch.zeros(len(self.edges))
        for source, destination in edges:
            self._known(source, self.sources, "source")
            self._known(destination, self.destinations, "destination")
            if (edge := Edge(source, destination)) not in self.index:
                possible = [
                    str(edge) for edge in self.edges if source == edge.source or destination == edge.destination
                ]
                near = difflib.get_close_matches(str(edge), possible, n=3, cutoff=0.0)
                raise ValueError(
                    f"no edge {edge}: {destination!r} has read the stream before {source!r} writes to it; "
                    f"nearest: {', '.join(near)}"
                )
            mask[self.index[edge]] = 1.0
        return mask

    def frame(self, **columns: Sequence[float] | Tensor) -> pd.DataFrame:
        """Return the edges as a table: `source`, `destination`, `source_depth`, `destination_depth`, and columns given.

        Args:
            columns: name -> one value per edge, e.g. `weight=scores`.

        Raises:
            ValueError: a column without one value per edge.
        """
        import pandas as pd

        frame = pd.DataFrame(self.edges, columns=["source", "destination"])
        frame["source_depth"] = frame["source"].map(self.source_depth)
        frame["destination_depth"] = frame["destination"].map(self.destination_depth)
        for name, values in columns.items():
            if len(values) != len(frame):
                raise ValueError(f"{name!r} needs one value for each of the {len(frame)} edges; got {len(values)}")
            frame[name] = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
        return frame

    def _known(self, name: str, names: Mapping[str, Site], kind: str) -> None:
        if name not in names:
            near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.3) or list(names)[:5]
            raise KeyError(f"no {kind} {name!r}; nearest: {', '.join(near)}")


def residual_graph(
    model: nn.Module,
    sample: Tensor,
    *,
    embedding: str,
    branch: str = "blocks.{}",
    reader: str | None = None,
    blocks: int,
    head: str = "out_ln",
) -> ResidualGraph:
    """Return the graph of a model h ← h + f_i(h) with an embedding before and a head after, by its modules' names.

    Sources: `embedding` and the branches `m{block}`. Destinations: `m{block}` and `logits`.

    Args:
        model: any module.
        sample: inputs `[items, ...]`.
        embedding: path of the module that puts out h_0.
        branch: path of f_i, with `{}` for i: the module whose output is added to the stream.
        reader: path of the module that reads the stream in block i, with `{}` for i; that of the branch when not given.
        blocks: how many there are.
        head: path of the module that reads the stream at the end.

    Raises:
        KeyError, ValueError: as for `ResidualGraph.trace`; a branch that includes the skip connection is refused so.

    >>> import nbutils as nb, torch
    >>> class Net(torch.nn.Module):  # h ← h + f(h)
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embed, self.block, self.head = (torch.nn.Linear(*shape) for shape in ((2, 4), (4, 4), (4, 3)))
    ...     def forward(self, x):
    ...         h = self.embed(x)
    ...         return self.head(h + self.block(h))
    >>> model, x = Net(), torch.randn(6, 2)
    >>> graph = nb.residual_graph(model, x, embedding="embed", branch="block", blocks=1, head="head")
    >>> list(graph.sources), list(graph.destinations)
    (['embedding', 'm0'], ['m0', 'logits'])
    """
    numbers = range(blocks)
    sources = {"embedding": Site(embedding), **{f"m{i}": Site(branch.format(i)) for i in numbers}}
    destinations = {f"m{i}": Site((reader or branch).format(i)) for i in numbers}
    return ResidualGraph.trace(model, sample, sources, {**destinations, "logits": Site(head)})


def _expand(sites: Mapping[str, Site], module: str, tensor: Tensor) -> list[tuple[str, Site]]:
    found = []
    for name, site in sites.items():
        if site.module == module:
            each = "{}" in name
            found += [(name.format(unit.unit), unit) for unit in site.each(tensor)] if each else [(name, site)]
    return found


def _check_sum(name: str, read: Tensor, written: Tensor) -> None:
    if read.shape != written.shape:
        raise ValueError(
            f"{name!r} must read the sum of the sources before it, {tuple(written.shape)}; it reads {tuple(read.shape)}"
        )
    apart, scale = (read - written).abs().max().item(), read.abs().max().item()
    if not apart <= _CLOSE * max(scale, written.abs().max().item()):
        raise ValueError(
            f"{name!r} must read the sum of the sources before it; they differ by {apart:.3g} where the largest value "
            f"is {scale:.3g}: is a source missing, or named where it does not write?"
        )
