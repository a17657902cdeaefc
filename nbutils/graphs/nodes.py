"""The nodes and edges of a residual model: sources that write to a stream, destinations that read a sum of them.

Source document: the ablation-activations page of auto-circuit; edges after Wang et al. 2022, arXiv 2211.00593, and
Conmy et al. 2023, arXiv 2304.14997.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from nbutils.graphs.linear import written
from nbutils.sites import Site

if TYPE_CHECKING:
    import pandas as pd

Values = Tensor | Mapping[Site, Tensor]


class Edge(NamedTuple):
    """From what writes to what reads."""

    source: str
    destination: str

    def __str__(self) -> str:
        return f"{self.source} → {self.destination}"


@dataclass(frozen=True)
class Graph:
    """Sources, destinations, and an edge from each source to each destination that reads a sum in which it is.

    Attributes:
        sources: name -> output of a module, or a unit of it; or units of the *input* of a linear module, which write
            their share of its output. Its bias is nobody's: a constant of the stream, which no edge carries.
        destinations: name -> *input* of a module, or a unit of it; or units of the *output* of a module that reads the
            stream through another, named in `through`. Both in the order in which they run.
        source_depth, destination_depth: name -> layer: destinations that read the same stream share one, and a source
            has that of the last destination before it.
        reads: destination -> the sources in the sum that it reads.
        through: destination -> the module whose input is the stream, such as the norm before an attention.
    """

    sources: Mapping[str, Site]
    destinations: Mapping[str, Site]
    source_depth: Mapping[str, int]
    destination_depth: Mapping[str, int]
    reads: Mapping[str, tuple[str, ...]]
    through: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All edges, by destination, then by source, in the order in which they run."""
        return tuple(
            Edge(source, destination)
            for destination in self.destinations
            for source in self.sources
            if source in self.reads[destination]
        )

    @cached_property
    def index(self) -> dict[Edge, int]:
        """Edge -> its place in `edges`, in scores and in masks."""
        return {edge: i for i, edge in enumerate(self.edges)}

    @cached_property
    def places(self) -> Tensor:
        """Where each edge is in a table of destinations and their sources, row after row `[edges]`."""
        sources, destinations = (
            {name: i for i, name in enumerate(names)} for names in (self.sources, self.destinations)
        )
        rows = [destinations[edge.destination] * len(sources) + sources[edge.source] for edge in self.edges]
        return torch.tensor(rows, dtype=torch.long)

    @property
    def sites(self) -> list[Site]:
        """The sources' sites, in order: what `src_ablations` takes."""
        return list(self.sources.values())

    def written(self, model: nn.Module, values: Values) -> Tensor:
        """Return what the sources add to the stream `[sources, items, ...]`, given what is at their sites.

        A head's values are those at the input of its output projection, and what it adds is their product with its
        slice of the weight; means and zeros are therefore those of the head, and its bias stays.

        Args:
            model: the graph's; heads take their weights from it.
            values: as from `src_ablations(model, graph.sites, ...)`: a row, or an entry, for each source.

        Raises:
            ValueError: no row or entry for a source, or values that do not fit its site.
        """
        self.check(values)
        rows = list(values) if isinstance(values, Tensor) else [values[site] for site in self.sites]
        if isinstance(values, Tensor) and all(site.part == "output" for site in self.sites):
            return values
        if (parameter := next(model.parameters(), None)) is not None:
            rows = [row.to(parameter.device) for row in rows]
        rows = [
            written(model, site, row) if site.part == "input" else row
            for site, row in zip(self.sites, rows, strict=True)
        ]
        try:
            return torch.stack(torch.broadcast_tensors(*rows))
        except RuntimeError:
            shapes = dict(zip(self.sources, (tuple(row.shape) for row in rows), strict=True))
            raise ValueError(f"sources of one stream write one shape; their values give {shapes}") from None

    def check(self, values: Values) -> None:
        """Refuse values that are not one for each source, with a ValueError."""
        if isinstance(values, Tensor):
            if values.ndim < 2 or len(values) != len(self.sources):
                raise ValueError(
                    f"ablations need a row for each of {len(self.sources)} sources; got {tuple(values.shape)}"
                )
        elif missing := [site for site in self.sites if site not in values]:
            raise ValueError(f"ablations need an entry for each source: none for {missing[0]}, say")

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
            ValueError: an edge that cannot be, because its destination reads no sum in which its source is.
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
                    f"no edge {edge}: what {source!r} writes is not in the sum that {destination!r} reads; "
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


@dataclass(frozen=True)
class Span:
    """The nodes that lie in one module: rows `start` to `stop` of the graph's.

    Attributes:
        through: of destinations that read the stream through another module, that module.
    """

    module: str
    start: int
    sites: tuple[Site, ...]
    through: str | None = None

    def __len__(self) -> int:
        return len(self.sites)

    @property
    def rows(self) -> slice:
        """The nodes' places among the graph's."""
        return slice(self.start, self.start + len(self.sites))

    @property
    def axis(self) -> int | None:
        """The axis of the units where each node is one of them; None where the one node is everything."""
        return None if self.sites[0].unit is None else self.sites[0].axis

    def apart(self, tensor: Tensor) -> Tensor:
        """Return what is there with the nodes first, `[nodes, items, ...]`."""
        if self.axis is None:
            return tensor[None]
        units, tensor = [site.indices[0] for site in self.sites], tensor.movedim(self.axis, 0)
        return tensor if units == list(range(len(tensor))) else tensor[units]


def spans(sites: Mapping[str, Site], through: Mapping[str, str] | None = None) -> list[Span]:
    """Return the modules in which nodes lie, in order; nodes of one module stand together."""
    found: list[Span] = []
    for i, (name, site) in enumerate(sites.items()):
        way = (through or {}).get(name)
        if found and (found[-1].module, found[-1].through) == (site.module, way):
            found[-1] = Span(site.module, found[-1].start, (*found[-1].sites, site), way)
        else:
            found.append(Span(site.module, i, (site,), way))
    return found
