"""A residual model as sources that write to a stream and destinations that read it; and patches of the edges between.

A destination reads the sum of what all sources before it wrote. Patching an edge changes what *one* destination reads
of *one* source, and nothing else: it reads Σ_s (1 − m_ds) · written_s + m_ds · ablated_s, where `written` is what the
source writes in this very run, after patches further up. The sum is formed anew rather than corrected by
m · (ablated − written): the correction leaves the rounding error of what it takes away, which names the input where
nothing else does. Source document: the ablation-activations page of auto-circuit; edges after Wang et al. 2022, arXiv
2211.00593, and Conmy et al. 2023, arXiv 2304.14997.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from nbutils.hooks import edit, unchanged, watch
from nbutils.sites import Site

if TYPE_CHECKING:
    import pandas as pd


_CLOSE = 1e-4  # of the stream's largest value: how far the sources' sum may be from it
FOLD = 32  # edge sets in one forward pass


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
            destinations: name -> module whose input, the first argument, is the stream, or a copy of it a unit.

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
            columns: name -> a value an edge, e.g. `weight=scores`.

        Raises:
            ValueError: a column that has not one value an edge.
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


def residual_mlp_graph(
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
    """
    numbers = range(blocks)
    sources = {"embedding": Site(embedding), **{f"m{i}": Site(branch.format(i)) for i in numbers}}
    destinations = {f"m{i}": Site((reader or branch).format(i)) for i in numbers}
    return ResidualGraph.trace(model, sample, sources, {**destinations, "logits": Site(head)})


@contextmanager
def patch_edges(
    model: nn.Module,
    graph: ResidualGraph,
    edges: Iterable[tuple[str, str]] | Tensor,
    ablations: Tensor,
    *,
    where: Tensor | None = None,
) -> Iterator[None]:
    """Ablate edges inside the block; nothing outlives it.

    With nothing to ablate the model is as it is, to the last bit; with everything ablated by `RESAMPLE` it answers as
    to the corrupt input.

    Args:
        model: the graph's model; its mode is the caller's.
        graph: as from `ResidualGraph.trace`.
        edges: which to ablate; or a mask `[edges]` from 0 (keep) through fractions (interpolate) to 1 (ablate). Masks
            `[sets, edges]` fold several edge sets into one forward pass: the model is then called on the inputs
            repeated for each set, `[sets · items, ...]`, the sets in a row. A mask may require gradients.
        ablations: `[sources, items, ...]` in the order of `graph.sources`, or with one item for all.
        where: True at the places of the stream where edges are ablated, `[items, positions]` or `[1, positions]` for
            streams `[items, positions, width]`; elsewhere every destination reads what is written. Everywhere when not
            given.

    Raises:
        KeyError: an edge of a node that does not exist.
        ValueError: an impossible edge, a mask of another shape or outside [0, 1], ablations or places that do not fit.
    """
    masks = edges if isinstance(edges, Tensor) else graph.mask(edges)
    patch = _Patch(graph, masks, ablations, where)
    with patch.hooked(model):
        yield


@torch.no_grad()
def run_edge_sets(
    model: nn.Module,
    graph: ResidualGraph,
    masks: Tensor,
    inputs: Tensor,
    ablations: Tensor,
    *,
    where: Tensor | None = None,
    fold: int = FOLD,
) -> Tensor:
    """Return the model's outputs under each of many edge sets, several of them in one forward pass.

    The model runs in eval mode and is left as it was.

    Args:
        model, graph, ablations, where: as for `patch_edges`.
        masks: `[sets, edges]`.
        inputs: `[items, ...]`.
        fold: sets in one forward pass, 1 or more; `fold · items` are worked on at a time.

    Returns:
        `[sets, items, ...]`.
    """
    if fold < 1:
        raise ValueError(f"fold must be 1 or more; got {fold}")
    outputs = []
    with unchanged(model):
        model.eval()
        for some in masks.split(fold):
            with _Patch(graph, some, ablations, where).hooked(model):
                outputs.append(model(inputs.repeat(len(some), *[1] * (inputs.ndim - 1))).unflatten(0, (len(some), -1)))
    return torch.cat(outputs)


@dataclass(frozen=True)
class _Span:
    """The nodes that lie in one module: rows `start` to `stop` of the graph's, units on `axis` or none."""

    module: str
    start: int
    stop: int
    axis: int | None

    def __len__(self) -> int:
        return self.stop - self.start


def _spans(sites: Mapping[str, Site]) -> list[_Span]:
    spans: dict[str, _Span] = {}
    for i, site in enumerate(sites.values()):
        span = spans.get(site.module, _Span(site.module, i, i, None if site.unit is None else site.axis))
        spans[site.module] = replace(span, stop=i + 1)
    return list(spans.values())


@dataclass
class _Patch:
    """Masks and ablations, and what the sources have written so far in the pass that is running."""

    graph: ResidualGraph
    masks: Tensor
    ablations: Tensor
    where: Tensor | None = None
    written: dict[str, Tensor] = field(default_factory=dict)  # module -> `[sets, units, items, ...]`

    def __post_init__(self) -> None:
        edges, sources = len(self.graph.edges), len(self.graph.sources)
        masks = self.masks if self.masks.ndim == 2 else self.masks[None]
        if self.masks.ndim not in (1, 2) or masks.shape[1] != edges or not len(masks):
            raise ValueError(
                f"a mask has one number for each of {edges} edges, or sets of them; got {_shape(self.masks)}"
            )
        # Written so that NaN is refused, too.
        if not ((masks >= 0) & (masks <= 1)).all():
            raise ValueError(f"masks lie in [0, 1]; got {masks.min():.4g} to {masks.max():.4g}")
        if len(self.ablations) != sources:
            raise ValueError(f"ablations need a row for each of {sources} sources; got {_shape(self.ablations)}")
        names = list(self.graph.sources), list(self.graph.destinations)
        places = [names[1].index(edge.destination) * sources + names[0].index(edge.source) for edge in self.graph.edges]
        index = torch.tensor(places, device=masks.device)
        empty = masks.new_zeros(len(masks), len(names[1]) * sources)
        self.masks = empty.index_copy(1, index, masks).unflatten(1, (-1, sources))  # (sets, destinations, sources)
        edge = torch.zeros(len(names[1]) * sources, dtype=torch.bool)
        edge[index.cpu()] = True
        self.edge = edge.view(-1, sources)  # (destinations, sources)
        # A mask of 0 has a gradient, too.
        self.touched = (self.masks != 0).any(2) | masks.requires_grad  # (sets, destinations)
        self.read = self.edge & self.touched.any(0)[:, None].cpu()  # (destinations, sources)

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        if (parameter := next(model.parameters(), None)) is not None:
            self.masks, self.touched, self.ablations = (
                tensor.to(parameter.device) for tensor in (self.masks, self.touched, self.ablations)
            )
        written = {
            span.module: partial(self._write, span)
            for span in _spans(self.graph.sources)
            if self.read[:, span.start : span.stop].any()
        }
        read = {
            Site(span.module, part="input"): partial(self._read, span)
            for span in _spans(self.graph.destinations)
            if self.read[span.start : span.stop].any()
        }
        try:
            with watch(model, written), edit(model, read):
                yield
        finally:
            self.written.clear()

    def _write(self, span: _Span, output: Tensor) -> None:
        sets = len(self.masks)
        written = output[None] if span.axis is None else output.movedim(span.axis, 0)  # (units, sets·items, ...)
        rows = self.ablations[span.start : span.stop].to(written)  # (units, items or 1, ...)
        items = written.shape[1] // sets
        if written.shape[1] % sets or rows.shape[1] not in (1, items) or rows.shape[2:] != written.shape[2:]:
            raise ValueError(
                f"{span.module!r} writes {tuple(written.shape[1:])} for {sets} edge sets, where ablations are "
                f"{_shape(self.ablations)}: expected [{len(self.ablations)}, items, ...], and inputs [sets · items]"
            )
        self.written[span.module] = written.unflatten(1, (sets, items)).transpose(0, 1).clone()

    def _read(self, span: _Span, x: Tensor) -> Tensor:
        here = slice(span.start, span.stop)
        # Only for the edge sets that reach this module: in a sweep over single edges they are few.
        sets = self.touched[:, here].any(1).nonzero()[:, 0]
        total: Tensor | float = 0.0
        for source in _spans(self.graph.sources):
            there = slice(source.start, source.stop)
            if not self.read[here, there].any():
                continue
            written = self.written[source.module].index_select(0, sets)  # (sets, sources, items, ...)
            masks = self.masks[sets, here, there].to(written)  # (sets, destinations, sources)
            ablated = self.ablations[there].to(written).expand(written.shape[1:]).flatten(1)
            part = (1 - masks) @ written.flatten(2) + masks @ ablated
            total = total + part.unflatten(2, written.shape[2:])  # (sets, destinations, items, ...)
        copies = x[None] if span.axis is None else x.movedim(span.axis, 0)  # (destinations, sets·items, ...)
        copies = copies.unflatten(1, (len(self.masks), -1)).transpose(0, 1)
        touched = self.touched[sets, here].view(len(sets), len(span), *[1] * (copies.ndim - 2))
        if self.where is not None:
            touched = touched & _places(self.where, copies).to(copies.device)
        patched = torch.where(touched, total, copies.index_select(0, sets))
        copies = copies.index_copy(0, sets, patched).transpose(0, 1).flatten(1, 2)
        return copies[0] if span.axis is None else copies.movedim(0, span.axis % x.ndim)


def _places(where: Tensor, copies: Tensor) -> Tensor:
    """Return the places with a last axis for the stream's width."""
    places = copies.shape[2:-1]  # (items, positions)
    if where.dtype != torch.bool or where.shape not in (places, (1, *places[1:])):
        raise ValueError(f"where must be booleans {tuple(places)}; got {where.dtype} {_shape(where)}")
    return where[..., None]


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


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
