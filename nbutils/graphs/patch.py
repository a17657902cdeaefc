"""Patches of a residual graph's edges: one destination reads something else of one source, and nothing else changes.

A destination then reads Σ_s (1 − m_ds) · written_s + m_ds · ablated_s, where `written` is what the source writes in
this very run, after patches further up. The sum is formed anew rather than corrected by m · (ablated − written): the
correction leaves the rounding error of what it takes away, which names the input where nothing else does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nbutils.graphs.linear import columns, linear, written
from nbutils.graphs.nodes import Graph, Span, Values, spans
from nbutils.graphs.readers import apart, computed, tolerance
from nbutils.graphs.weaving import woven
from nbutils.sites import Site, submodule


@contextmanager
def patch_edges(
    model: nn.Module,
    graph: Graph,
    edges: Iterable[tuple[str, str]] | Tensor,
    ablations: Values,
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
        ablations: what stands at the sources' sites: as from `src_ablations(model, graph.sites, ...)`, a tensor
            `[sources, items, ...]` or an entry for each site; or with one item for all. A head's are those at the input
            of its output projection.
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
    patch = Patch(graph, masks, ablations, where)
    with patch.hooked(model):
        yield


class _Pending(NamedTuple):
    """What destinations read through a module that is about to run."""

    stream: Tensor  # as it comes
    read: Tensor  # `[sets, destinations, items, ...]`
    sets: Tensor  # which edge sets these are
    touched: Tensor  # where it differs


@dataclass
class Patch:
    """Masks and ablations, and what the sources have written so far in the pass that is running.

    Attributes:
        given: what ablated sources add to the stream `[sources, items, ...]`; None: what the graph says of `ablations`.
        known: module -> what its sources are known to write in the pass, `[1, units, items, ...]` for all sets.
        stacks: of known values, what was read last; for the patches that share them.
    """

    graph: Graph
    masks: Tensor
    ablations: Values
    where: Tensor | None = None
    given: Tensor | None = None
    known: Mapping[str, Tensor] = field(default_factory=dict)
    stacks: dict[tuple[tuple[str, ...], int], Tensor] = field(default_factory=dict)
    own: dict[tuple[tuple[str, ...], int], Tensor] = field(default_factory=dict)  # likewise, of this pass
    written: dict[str, Tensor] = field(default_factory=dict)  # module -> `[sets, units, items, ...]`
    pending: dict[tuple[str, str], _Pending] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)  # modules where others have hooks, or dropout is on
    rows: Tensor = field(init=False)

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
        self.graph.check(self.ablations)
        index = self.graph.places.to(masks.device)
        destinations = len(self.graph.destinations)
        empty = masks.new_zeros(len(masks), destinations * sources)
        self.masks = empty.index_copy(1, index, masks).unflatten(1, (-1, sources))  # (sets, destinations, sources)
        edge = torch.zeros(destinations * sources, dtype=torch.bool)
        edge[index.cpu()] = True
        self.edge = edge.view(-1, sources)  # (destinations, sources)
        # A mask of 0 has a gradient, too.
        self.touched = (self.masks != 0).any(2) | masks.requires_grad  # (sets, destinations)
        self.read = self.edge & self.touched.any(0)[:, None].cpu()  # (destinations, sources)
        self.sources = spans(self.graph.sources)
        touched = self.read.any(1).tolist()
        self.destinations = [
            _trimmed(span, touched[span.rows])
            for span in spans(self.graph.destinations, self.graph.through)
            if any(touched[span.rows])
        ]

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        self.model = model
        self.rows = self.graph.written(model, self.ablations) if self.given is None else self.given
        if (parameter := next(model.parameters(), None)) is not None:
            self.masks, self.touched, self.rows = (
                tensor.to(parameter.device) for tensor in (self.masks, self.touched, self.rows)
            )
        written: dict[Site, Callable[[Tensor], None]] = {
            Site(span.module, part=span.sites[0].part): partial(self._write, span)
            for span in self.sources
            if span.module not in self.known and self.read[:, span.rows].any()
        }
        read: dict[Site, Callable[[Tensor], None]] = {}
        patches: dict[Site, Callable[[Tensor], Tensor]] = {}
        for span in self.destinations:
            if span.through is None:
                patches[Site(span.module, part="input")] = partial(self._read, span)
            else:
                here = [other for other in self.destinations if other.through == span.through]
                read[Site(span.through, part="input")] = partial(self._meet, here)
                written[Site(span.module, part="input")] = partial(self._check_way, span)
                patches[Site(span.module)] = partial(self._compute, span)
        try:
            with woven(model, written=written, read=read, patches=patches, begin=self._begin):
                yield
        finally:
            self.written, self.strangers = {}, []
            self.pending.clear()
            self.own.clear()

    @contextmanager
    def noting(self, model: nn.Module) -> Iterator[None]:
        """Patch nothing, and keep in `written` what every source writes in the pass inside the block."""
        self.model = model
        self.rows = self.graph.written(model, self.ablations) if self.given is None else self.given
        written = {Site(span.module, part=span.sites[0].part): partial(self._write, span) for span in self.sources}
        with woven(model, written=written, read={}, patches={}, begin=self._begin):
            yield

    def _begin(self, strangers: list[str]) -> None:
        self.written = dict(self.known)
        self.own.clear()
        self.pending.clear()
        self.strangers = strangers

    def _write(self, span: Span, tensor: Tensor) -> None:
        sets = len(self.masks)
        if span.sites[0].part == "input":
            tensor = torch.stack([written(self.model, site, site.select(tensor)) for site in span.sites])
        else:
            tensor = span.apart(tensor)  # (units, sets·items, ...)
        rows = self.rows[span.rows]  # (units, items or 1, ...)
        items, left = divmod(tensor.shape[1], sets)
        shared = tensor.shape[1] == 1  # vectors of positions, say, the same for every item
        fits = rows.ndim == tensor.ndim and all(
            a in (1, b) for a, b in zip(rows.shape[2:], tensor.shape[2:], strict=True)
        )
        if (left and not shared) or not (shared or rows.shape[1] in (1, items)) or not fits:
            raise ValueError(
                f"{span.module!r} writes {tuple(tensor.shape[1:])} for {sets} edge sets, where ablations are "
                f"{_shape(self.rows)}: expected [{len(self.rows)}, items, ...], and inputs [sets · items]"
            )
        tensor = tensor[None] if shared else tensor.unflatten(1, (sets, items)).transpose(0, 1)
        # A copy, where the model may write into what it put out.
        self.written[span.module] = tensor if span.sites[0].part == "input" else tensor.clone()

    def _sum(self, span: Span, masks: Tensor, sets: Tensor, copies: Tensor) -> Tensor:
        """Return what destinations read under masks, in some sets `[sets, destinations, items, ...]`."""
        read = [source for source in self.sources if self.read[span.rows, source.rows].any()]
        if (given := self.rows.shape[1]) not in (1, items := copies.shape[2]):
            raise ValueError(f"ablations are of {given} items, where {span.module!r} reads {items} for each edge set")
        stack = self._stacked(span, read, items)  # (sets or 1, sources, items, ...)
        shape = stack.shape[2:]
        index = torch.cat([torch.arange(len(self.rows), device=sets.device)[source.rows] for source in read])
        mask = masks[sets, span.rows].index_select(2, index).to(stack)  # (sets, destinations, sources)
        kept = self.edge[span.rows].to(stack).index_select(1, index) - mask
        if len(stack) == 1:
            total = kept.flatten(0, 1) @ stack.flatten(0, 1).flatten(1)  # (sets · destinations, items · ...)
        else:
            some = stack if len(sets) == len(stack) else stack.index_select(0, sets)
            total = (kept @ some.flatten(2)).flatten(0, 1)
        used = mask.detach().flatten(0, 1).any(0) | mask.requires_grad
        if used.any():  # in a sweep over single edges one of many
            ablated = _chosen(self.rows, index[used]).to(stack).expand(-1, *shape).flatten(1)
            total = torch.addmm(total, mask[..., used].flatten(0, 1), ablated)
        total = total.unflatten(0, (len(sets), -1)).unflatten(2, shape)
        for source in read:
            if source.sites[0].part == "input" and (bias := linear(self.model, source.module)[1]) is not None:
                # Nobody's, and so in every sum in which the module's heads are.
                there = self.edge[span.rows, source.start].to(bias)
                total = total + there.view(-1, *[1] * (total.ndim - 2)) * bias
        return total

    def _stacked(self, span: Span, read: list[Span], items: int) -> Tensor:
        """Return what some modules wrote `[sets or 1, sources, items, ...]`; 1 where all edge sets share it."""
        for source in read:
            if source.module not in self.written:
                raise ValueError(f"{source.module!r} has not run when {span.module!r} reads what it writes")
        key = tuple(source.module for source in read), items
        # Queries, keys and values read the same; and of known values the passes that follow.
        shared = all(source.module in self.known for source in read)
        stacks = self.stacks if shared else self.own
        if key not in stacks:
            written = [self.written[source.module] for source in read]
            sets = max(len(tensor) for tensor in written)
            stacks.clear()  # the last is enough: they are large
            stacks[key] = torch.cat([one.expand(sets, -1, items, *one.shape[3:]) for one in written], 1)
        return stacks[key]

    def _patched(self, span: Span, copies: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what destinations read in the edge sets that reach them, which sets these are, and where it differs.

        Args:
            copies: what they would read `[sets, destinations or 1, items, ...]`.
        """
        everywhere = torch.arange(len(self.masks), device=copies.device)
        if self.strangers:
            plain = self._sum(span, torch.zeros_like(self.masks), everywhere, copies)
            _check_read(span, copies, plain, self.strangers)
        # Only for the edge sets that reach this module: in a sweep over single edges they are few.
        sets = self.touched[:, span.rows].any(1).nonzero()[:, 0]
        total = self._sum(span, self.masks, sets, copies)
        touched = self.touched[sets, span.rows].view(len(sets), len(span), *[1] * (copies.ndim - 2))
        if self.where is not None:
            touched = touched & _places(self.where, copies).to(copies.device)
        if self.where is None and touched.all():
            return total, sets, touched
        copies = copies if len(sets) == len(self.masks) else copies.index_select(0, sets)
        return torch.where(touched, total, copies), sets, touched

    def _read(self, span: Span, x: Tensor) -> Tensor:
        all_sets = len(self.masks)
        if span.axis is None:
            whole = x.unflatten(0, (all_sets, 1, -1))  # (sets, 1, items, ...)
            patched, sets, _ = self._patched(span, whole)
            return (patched if len(sets) == all_sets else whole.index_copy(0, sets, patched)).flatten(0, 2)
        units = torch.tensor([site.indices[0] for site in span.sites], device=x.device)
        copies = x.unflatten(0, (all_sets, -1)).movedim(span.axis % x.ndim + 1, 1)  # (sets, units, items, ...)
        patched, sets, _ = self._patched(span, _chosen(copies.transpose(0, 1), units).transpose(0, 1))
        if len(units) == copies.shape[1] and len(sets) == all_sets:
            whole = patched
        else:
            whole = copies.index_put((sets[:, None], units[None]), patched)
        return whole.movedim(1, span.axis % x.ndim + 1).flatten(0, 1)

    def _meet(self, here: list[Span], x: Tensor) -> None:
        """Note what destinations read where they read the stream through the module that is about to run."""
        copies = x.unflatten(0, (len(self.masks), 1, -1))  # (sets, 1, items, ...)
        for span in here:
            self.pending[span.module, str(span.through)] = _Pending(x, *self._patched(span, copies))

    def _check_way(self, span: Span, x: Tensor) -> None:
        """Refuse an edit on the way from the stream to what destinations compute: it would be lost for them."""
        if self.strangers and span.through != span.module:
            here = self.pending[span.module, str(span.through)]
            plain = submodule(self.model, str(span.through)).forward(here.stream)
            if apart(x, plain) > tolerance(x.dtype):
                raise ValueError(
                    f"{span.module!r} does not take in what {span.through!r} gives for the stream: an edit between "
                    f"them would be lost where edges are patched; others have hooks at {', '.join(self.strangers)}"
                )

    def _compute(self, span: Span, output: Tensor) -> Tensor:
        """Return a module's output with the slices that destinations compute from what they read."""
        here = self.pending.pop((span.module, str(span.through)))
        whole = output.unflatten(0, (len(self.masks), -1))
        some = whole.index_select(0, here.sets)  # (sets, items, ..., width)
        indices = [columns(site, output.shape[-1], output.device) for site in span.sites]
        parts = [
            torch.where(here.touched[:, i], one, some.index_select(-1, index))
            for i, (one, index) in enumerate(zip(computed(self.model, span, here.read), indices, strict=True))
        ]
        some = some.index_copy(-1, torch.cat(indices), torch.cat(parts, -1))
        return whole.index_copy(0, here.sets, some).flatten(0, 1)


def _trimmed(span: Span, touched: list[bool]) -> Span:
    """Return a span from the first of its nodes that is touched to the last."""
    first, last = touched.index(True), len(touched) - touched[::-1].index(True)
    return Span(span.module, span.start + first, span.sites[first:last], span.through)


def _check_read(span: Span, read: Tensor, summed: Tensor, strangers: list[str]) -> None:
    if not (far := apart(read.expand_as(summed), summed)) <= tolerance(read.dtype):
        raise ValueError(
            f"{span.through or span.module!r} does not read the sum of what its sources write; they differ by "
            f"{far:.3g} of the largest value: an edit between them would be lost where edges are patched, and so would "
            "dropout. Edit what a source writes, or what a destination computes, in eval mode; others have hooks, or "
            f"dropout is on, at {', '.join(strangers)}"
        )


def _chosen(tensor: Tensor, index: Tensor) -> Tensor:
    """Return rows of a tensor; a view where they stand together."""
    first = int(index[0])
    if len(index) == int(index[-1]) - first + 1 and bool((index.diff() > 0).all()):
        return tensor[first : first + len(index)]
    return tensor.index_select(0, index)


def _places(where: Tensor, copies: Tensor) -> Tensor:
    """Return the places with a last axis for the stream's width."""
    places = copies.shape[2:-1]  # (items, positions)
    if where.dtype != torch.bool or where.shape not in (places, (1, *places[1:])):
        raise ValueError(f"where must be booleans {tuple(places)}; got {where.dtype} {_shape(where)}")
    return where[..., None]


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
