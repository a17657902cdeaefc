"""Many edge sets of a graph: few at a time, by their bytes, and each only from the first place that it changes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nbutils import batches, devices
from nbutils.ablation.running import answer, answered
from nbutils.batches import Batch
from nbutils.graphs.nodes import Graph, Values
from nbutils.graphs.patch import Patch
from nbutils.graphs.prefix import Order, OrderError, Prefix, PrefixWarning
from nbutils.graphs.readers import apart
from nbutils.hooks import unchanged

FOLD = 32  # edge sets in one forward pass, at most
NARROW = 2 << 20  # bytes of the largest activation in one pass: what is larger is written to fresh pages every time
NARROW_ELSEWHERE = 256 << 20  # on another device than the processor, where nothing is
WORTH = 8  # edge sets times batches, for each place where they may begin, from which on clean runs and checks pay
NEVER = 1 << 62

See = Callable[[list[int], Tensor], None]


class FoldWarning(UserWarning):
    """Items of a batch change each other's answers: passes that would share one batch ran one at a time."""


@torch.no_grad()
def run_edge_sets(
    model: nn.Module,
    graph: Graph,
    masks: Tensor,
    inputs: Batch,
    ablations: Values,
    *,
    where: Tensor | None = None,
    fold: int | None = None,
    memory: int | None = None,
) -> Tensor:
    """Return the model's outputs under each of many edge sets, to rounding those of a full forward pass for each.

    The model runs in eval mode and is left as it was. What precedes the first place that a set touches is answered from
    one clean run, where that is found to give the same (see `EdgeSets`).

    Args:
        model, graph, ablations, where: as for `patch_edges`.
        masks: `[sets, edges]`.
        inputs: one batch.
        fold, memory: as for `EdgeSets`; the outputs returned come on top.

    Returns:
        `[sets, items, ...]`.
    """
    found: dict[int, Tensor] = {}

    def see(sets: list[int], outputs: Tensor) -> None:
        found.update(zip(sets, outputs, strict=True))

    sets = EdgeSets(model, graph, fold=fold, memory=memory, expected=len(masks))
    sets.run(masks, inputs, ablations, see, where=where)
    return torch.stack([found[i] for i in range(len(masks))])


@dataclass
class EdgeSets:
    """Runs a model under edge sets, batch after batch.

    A clean run is trusted from a module on when an edge set that begins there has been compared with the whole model,
    on the first batch. Where they differ, or modules are not called as in the clean run, every set runs in full, with
    a `PrefixWarning`. Two sets are also compared in one pass and by themselves; where the model mixes the items of a
    batch they differ, and every set has a pass of its own, with a `FoldWarning`.

    Args:
        model: the graph's.
        graph: as from `ResidualGraph.trace`.
        fold: edge sets in one forward pass, 1 or more; None: as many as are fast, by their bytes.
        memory: upper bound in bytes, without the model, the inputs and the ablations; None: as
            `nbutils.devices.room` says, 500 MB on the processor; or what one set at a time needs.
        expected: how many sets times batches will be asked for; few are not worth a clean run.
        item: which tensor the model answers with, as for `nbutils.ablation.running.answer`.

    Raises:
        ValueError: a fold below 1; on running, a memory below what one set needs.
    """

    model: nn.Module
    graph: Graph
    fold: int | None = None
    memory: int | None = None
    expected: int = WORTH
    item: int | str | None = None
    order: Order | None = field(default=None, init=False)
    skips: bool = field(default=True, init=False)
    folds: bool | None = field(default=None, init=False)  # whether sets may share a pass; None: not known yet
    checked: set[int] = field(default_factory=set, init=False)
    held: dict[Hashable, _Clean] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.fold is not None and self.fold < 1:
            raise ValueError(f"fold must be 1 or more; got {self.fold}")

    @torch.no_grad()
    def run(
        self,
        masks: Tensor,
        inputs: Batch,
        ablations: Values,
        see: See,
        *,
        where: Tensor | None = None,
        key: Hashable = None,
    ) -> None:
        """Run one batch under each of the sets `[sets, edges]`.

        Args:
            see: called with the numbers of some sets and the outputs under them `[sets, items, ...]`.
            key: of the batch; a clean run with a key is kept for later calls, as far as memory allows.
        """
        Patch(self.graph, masks, ablations, where)  # refuses what does not fit, of any set
        batch = _Batch(inputs, self.graph.written(self.model, ablations), ablations, where)
        with unchanged(self.model):
            self.model.eval()
            fold = self._fold(batch)
            clean = self._clean(batch, key) if self.skips else None
            starts = self._starts(masks)
            order = sorted(range(len(masks)), key=lambda i: -starts[i])  # those of no edges come first
            fold = self._folded(masks, batch, [i for i in order if starts[i] < NEVER], fold)
            if clean is not None:
                self._check(masks, batch, clean, {start: i for i, start in enumerate(starts)}, fold)
            for some in _chunks(order, starts, fold):
                see(some, self._outputs(masks[some], batch, clean, min(starts[i] for i in some)))

    def _starts(self, masks: Tensor) -> list[int]:
        """Return when the first destination that each set touches starts to read."""
        moments = self._moments()
        edges = [moments[edge.destination] for edge in self.graph.edges]
        return torch.where(masks.cpu() != 0, torch.tensor(edges), NEVER).amin(1).tolist()

    def _fold(self, batch: _Batch) -> int:
        """Return how many sets run in one pass; clean runs that memory has no room for are given up."""
        if self.order is None:
            self.order = Order.of(self.model, batch.inputs)
            self.skips = self.expected >= WORTH * len(set(self._moments().values()))
        items = batches.count(batch.inputs)
        largest = int(self.order.largest * items)
        written = batch.rows.nbytes // batch.rows.shape[1] * items
        one, kept = 4 * largest + written, written + self.order.nbytes(set(self._moments().values())) * items
        if self.memory is not None and self.memory < one:
            raise ValueError(f"memory={self.memory} bytes is less than one edge set needs; give at least {one}")
        room = devices.room(batch.rows.device) if self.memory is None else self.memory
        if self.memory is not None and self.skips and room < kept + one:
            self.skips = False
        room -= kept if self.skips else 0
        narrow = NARROW if batch.rows.device.type == "cpu" else NARROW_ELSEWHERE
        fold = fold_of(self.order, items, narrow) if self.fold is None else self.fold
        return max(1, min(fold, room // one))

    def _folded(self, masks: Tensor, batch: _Batch, order: list[int], fold: int) -> int:
        """Return how many sets run in one pass: one where two of them answer otherwise together than alone."""
        if self.folds is None and fold > 1 and len(order) > 1:
            two = [order[0], order[-1]]
            together = self._outputs(masks[two], batch, None, 0)
            alone = torch.cat([self._outputs(masks[[i]], batch, None, 0) for i in two])
            self.folds = same(together, alone)
            if not self.folds:
                warn_mixed(self.model)
        return 1 if self.folds is False else fold

    def _moments(self) -> dict[str, int]:
        """Return when each destination starts to read: when its module starts, or the one that it reads through."""
        assert self.order is not None
        started, through = self.order.started, self.graph.through
        return {
            name: min(started.get(module, 0) for module in (site.module, through.get(name, site.module)))
            for name, site in self.graph.destinations.items()
        }

    def _clean(self, batch: _Batch, key: Hashable) -> _Clean | None:
        """Return the clean run of a batch, or None where its modules run in another order."""
        assert self.order is not None
        if key in self.held:
            return self.held[key]
        nothing = torch.zeros(1, len(self.graph.edges))
        patch = Patch(self.graph, nothing, batch.ablations, given=batch.rows)
        try:
            with patch.noting(self.model):
                prefix = Prefix.of(self.model, batch.inputs, self.order, set(self._moments().values()))
        except OrderError as error:
            self._distrust(str(error))
            return None
        clean = _Clean(prefix, patch.written)
        room = devices.room(batch.rows.device) if self.memory is None else self.memory // 2
        if key is not None and clean.nbytes + sum(other.nbytes for other in self.held.values()) <= room:
            self.held[key] = clean
        return clean

    def _check(self, masks: Tensor, batch: _Batch, clean: _Clean, sets: dict[int, int], fold: int) -> None:
        """Compare sets that begin at moments of which there was none before with the whole model, alone and folded.

        Args:
            sets: moment -> the number of a set that begins there.
        """
        new = [start for start in sets if start not in self.checked and start < NEVER]
        for first in range(0, len(new), fold):
            some = new[first : first + fold]
            these = masks[[sets[start] for start in some]]
            whole = self._outputs(these, batch, None, 0)
            alone = [slice(at, at + 1) for at in range(len(some))]
            for group in [*alone, slice(None)] if len(some) > 1 else alone:
                if why := self._differs(whole[group], these[group], batch, clean, min(some[group])):
                    return self._distrust(why)
        self.checked |= set(new)
        return None

    def _differs(self, whole: Tensor, masks: Tensor, batch: _Batch, clean: _Clean, start: int) -> str | None:
        """Return how outputs from the clean run on differ from those of the whole model; None: not."""
        try:
            short = self._shortened(masks, batch, clean, start)
        except Exception as error:  # the whole model ran: whatever this is, it comes of the clean run
            return f"{type(error).__name__}: {error}"
        if same(whole, short):
            return None
        scale, far = whole.abs().max().item(), (whole - short).abs().max().item()
        return f"outputs differ by {far:.3g}, where the largest is {scale:.3g}"

    def _distrust(self, why: str) -> None:
        self.skips = False
        self.held.clear()
        name = type(self.model).__name__
        warnings.warn(
            f"what precedes the patched edges of {name} cannot be answered from a clean run: {why}; the whole model "
            "runs for each edge set instead",
            PrefixWarning,
            stacklevel=5,
        )

    def _outputs(self, masks: Tensor, batch: _Batch, clean: _Clean | None, start: int) -> Tensor:
        """Return the outputs of some sets `[sets, items, ...]`, whose first destination starts at a moment."""
        if start == NEVER:
            given = (
                self._answer(batch.inputs) if clean is None else answered(self.model, clean.prefix.output, self.item)
            )
            return given.expand(len(masks), *given.shape)
        if clean is not None and self.skips:
            try:
                return self._shortened(masks, batch, clean, start)
            except OrderError as error:
                self._distrust(str(error))
        with Patch(self.graph, masks, batch.ablations, batch.where, batch.rows).hooked(self.model):
            return self._answer(batch.repeated(len(masks))).unflatten(0, (len(masks), -1))

    def _shortened(self, masks: Tensor, batch: _Batch, clean: _Clean, start: int) -> Tensor:
        """As `_outputs`, from the clean run on."""
        assert self.order is not None
        ended = self.order.finished
        known = {module: tensor for module, tensor in clean.written.items() if ended.get(module, NEVER) < start}
        patch = Patch(self.graph, masks, batch.ablations, batch.where, batch.rows, known, clean.stacks)
        with clean.prefix.answering(start, len(masks)), patch.hooked(self.model):
            return self._answer(batch.repeated(len(masks))).unflatten(0, (len(masks), -1))

    def _answer(self, inputs: Batch) -> Tensor:
        return answer(self.model, inputs, self.item)


@dataclass(frozen=True)
class _Batch:
    inputs: Batch
    rows: Tensor  # what ablated sources add to the stream `[sources, items, ...]`
    ablations: Values
    where: Tensor | None

    def repeated(self, times: int) -> Batch:
        return self.inputs if times == 1 else batches.repeat(self.inputs, times)


@dataclass(frozen=True)
class _Clean:
    """A clean run of a batch, and what its sources wrote: module -> `[1, units, items, ...]`."""

    prefix: Prefix
    written: dict[str, Tensor]
    stacks: dict[tuple[tuple[str, ...], int], Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return self.prefix.nbytes + sum(tensor.nbytes for tensor in self.written.values())


def same(one: Tensor, other: Tensor) -> bool:
    """Return whether two ways to compute outputs differ by no more than rounding."""
    if not one.is_floating_point():
        return torch.equal(one, other)
    return apart(one, other) <= min(1e3 * torch.finfo(one.dtype).eps, 0.02)


def warn_mixed(model: nn.Module) -> None:
    """Say that passes do not share a batch."""
    warnings.warn(
        f"{type(model).__name__} mixes the items of a batch: what it answers to some depends on the others; passes "
        "that would share one batch run one at a time instead",
        FoldWarning,
        stacklevel=5,
    )


def fold_of(order: Order, items: int, narrow: int = NARROW) -> int:
    """Return how many passes over some items are fast as one: as many as keep every activation narrow."""
    return max(1, min(FOLD, int(narrow // max(1.0, order.largest * items))))


def _chunks(order: list[int], starts: list[int], size: int) -> Iterator[list[int]]:
    """Yield sets in groups; those without an edge, which are the clean model, by themselves."""
    none = [i for i in order if starts[i] == NEVER]
    some = order[len(none) :]
    for group in (none, some):
        for first in range(0, len(group), size):
            yield group[first : first + size]
