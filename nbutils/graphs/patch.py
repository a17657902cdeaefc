"""Patches of a residual graph's edges: one destination reads something else of one source, and nothing else changes.

A destination then reads Σ_s (1 − m_ds) · written_s + m_ds · ablated_s, where `written` is what the source writes in
this very run, after patches further up. The sum is formed anew rather than corrected by m · (ablated − written): the
correction leaves the rounding error of what it takes away, which names the input where nothing else does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from nbutils import batches
from nbutils.ablation.running import answer
from nbutils.batches import Batch
from nbutils.graphs.residual import ResidualGraph
from nbutils.hooks import edit, unchanged, watch
from nbutils.sites import Site

FOLD = 32  # edge sets in one forward pass


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
    >>> values = nb.src_ablations(model, graph.sites, x.flip(0))
    >>> corrupt = model(x.flip(0))
    >>> with nb.patch_edges(model, graph, graph.edges, values):
    ...     torch.allclose(model(x), corrupt, atol=1e-6)
    True
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
    inputs: Batch,
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
        inputs: one batch.
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
                outputs.append(answer(model, batches.repeat(inputs, len(some))).unflatten(0, (len(some), -1)))
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
        fits = rows.ndim == written.ndim and all(
            a in (1, b) for a, b in zip(rows.shape[2:], written.shape[2:], strict=True)
        )
        if written.shape[1] % sets or rows.shape[1] not in (1, items) or not fits:
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


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
