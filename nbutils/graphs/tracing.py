"""A traced run: which sum of sources each destination reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from nbutils import batches
from nbutils.batches import Batch
from nbutils.graphs.linear import linear, written
from nbutils.graphs.nodes import Span, spans
from nbutils.graphs.readers import apart, computed, tolerance
from nbutils.hooks import unchanged, watch
from nbutils.sites import Site, submodule

_ROUNDING = 1e-6  # of the largest value: a sum that is this close is taken without a look at shorter ones
FEW = 4  # items


@dataclass
class Trace:
    """What was written and read in one run, in order, and what follows from it; `run` makes it."""

    model: nn.Module
    sources: Mapping[str, Site]
    destinations: Mapping[str, Site]
    through: Mapping[str, str]
    events: list[tuple[str, str, Tensor]] = field(default_factory=list)  # (kind, module, tensor)
    totals: list[Tensor] = field(default_factory=list)  # what each module wrote, of all its units
    names: list[list[str]] = field(default_factory=list)  # of these units
    start: int = 0  # where the stream began, of which was last read

    def run(self, batch: Batch) -> None:
        """Run the model once.

        Raises:
            ValueError: a module that does not run exactly once.
        """
        outputs = {site.module for site in self.sources.values()} | {
            site.module for name, site in self.destinations.items() if name in self.through
        }
        inputs = {site.module for site in self.sources.values() if site.part == "input"} | {
            self.through.get(name, site.module) for name, site in self.destinations.items()
        }
        with (
            unchanged(self.model),
            watch(
                self.model,
                {name: partial(self._note_output, name) for name in outputs},
                inputs={name: self._input_noter(name) for name in inputs},
            ),
            torch.no_grad(),
        ):
            self.model.eval()
            batches.run(self.model, batch)
        for kind, names in (("output", outputs), ("input", inputs)):
            for name in names:
                times = sum(event[:2] == (kind, name) for event in self.events)
                if times != 1:
                    raise ValueError(f"{name!r} must run once in a forward pass to be a node; it ran {times} times")

    def _note_output(self, name: str, output: object) -> None:
        self.events.append(("output", name, Site(name).take(output).detach().clone()))

    def _input_noter(self, name: str) -> Callable[..., None]:
        module = submodule(self.model, name)

        def note(*arguments: Any, **keywords: Any) -> None:
            key = Site(name, part="input").argument(module, arguments, keywords)
            tensor = arguments[key] if isinstance(key, int) else keywords[key]
            self.events.append(("input", name, tensor.detach().clone()))

        return note

    def tensor(self, kind: str, name: str) -> Tensor:
        """Return what a module took in, or put out."""
        return next(tensor for event, module, tensor in self.events if (event, module) == (kind, name))

    def wrote(self, module: str, output: Tensor) -> dict[str, Site]:
        """Add what the sources in a module write, and return them."""
        whole = [site for site in self.sources.values() if site.module == module]
        shares = whole[0].part == "input"
        tensor = self.tensor("input", module) if shares else output
        found = _expand(self.sources, module, tensor)
        parts = [
            written(self.model, site, site.select(tensor)) if shares else site.select(tensor) for site in found.values()
        ]
        total = sum(parts[1:], start=parts[0])
        if shares:
            bias = linear(self.model, module)[1]
            total = total if bias is None else total + bias.detach()
            if not (far := apart(total, output)) <= tolerance(output.dtype):
                raise ValueError(
                    f"the shares of {', '.join(found)} and the bias must make up what {module!r} puts out; they differ "
                    f"by {far:.3g} of the largest value: is a head missing, or is it not a plain linear module?"
                )
        self.totals.append(total)
        self.names.append(list(found))
        return found

    def matched(self, name: str, read: Tensor) -> tuple[int, int]:
        """Return the range of modules the sum of whose writing a destination reads.

        Writing in a row, since parallel branches read what was there before either wrote, and a norm *in* the stream
        (post-norm) begins a new one. The longest where several fit alike.

        Raises:
            ValueError: no sum fits.
        """
        count, best = len(self.totals), (torch.inf, 0, 0)
        for start in [self.start, *(i for i in reversed(range(count)) if i != self.start)]:
            for stop in range(count, start, -1):
                best = min(best, (_misfit(read, self.totals[start:stop]), start, stop), key=lambda found: found[0])
                if best[0] <= _ROUNDING:
                    break
            if best[0] <= tolerance(read.dtype):
                self.start = best[1]
                return best[1:]
        self._refuse(name, read)

    def _refuse(self, name: str, read: Tensor) -> NoReturn:
        some = self.totals[self.start :]
        shape = np.broadcast_shapes(*(total.shape for total in some))
        if tuple(read.shape) != shape:
            raise ValueError(f"{name!r} must read the sum of the sources before it, {shape}; it reads {_shape(read)}")
        difference = (read - sum(some)).abs().max().item()
        raise ValueError(
            f"{name!r} must read the sum of the sources before it; they differ by {difference:.3g} where the largest "
            f"value is {read.abs().max().item():.3g}: is a source missing, or named where it does not write?"
        )


def few(batch: Batch) -> Batch:
    """Return the first items of a batch: enough to tell sums apart, whatever the batch's size."""
    return batches.select(batch, slice(0, FEW)) if batches.count(batch) > FEW else batch


def trace(
    model: nn.Module,
    batch: Batch,
    sources: Mapping[str, Site],
    destinations: Mapping[str, Site],
    through: Mapping[str, str],
) -> dict[str, Any]:
    """Return the fields of the graph of the places named, as one run of the model shows it.

    Raises:
        KeyError, ValueError: as for `ResidualGraph.trace`.
    """
    for site in (*sources.values(), *destinations.values(), *map(Site, through.values())):
        site.on(model)
    whole = [site for site in sources.values() if site.part == "output"]
    for site in (*whole, *(site for name, site in destinations.items() if name not in through)):
        if not isinstance(site.unit, int | None):
            raise ValueError(f"{site.name} writes or reads the stream as one, or unit by unit; got the group {site}")
    seen = Trace(model, sources, destinations, through)
    seen.run(batch)
    fields: dict[str, dict[str, Any]] = {
        name: {} for name in ("sources", "destinations", "source_depth", "destination_depth", "reads", "through")
    }
    streams: dict[tuple[int, int], int] = {}  # each that is read, and its depth
    depth = 0
    for kind, module, tensor in seen.events:
        if kind == "output" and any(site.module == module for site in sources.values()):
            for name, site in seen.wrote(module, tensor).items():
                _add(fields["sources"], name, site, "sources")
                fields["source_depth"][name] = depth
        if kind == "input":
            for name, site in _readers(seen, module, tensor).items():
                _add(fields["destinations"], name, site, "destinations")
                range_ = seen.matched(name, tensor if name in through else site.select(tensor))
                depth = streams.setdefault(range_, len(streams) + 1)
                fields["destination_depth"][name] = depth
                fields["reads"][name] = tuple(source for names in seen.names[slice(*range_)] for source in names)
    fields["through"] = dict(through)
    _check_apart(fields["destinations"], through)
    for span in spans(fields["destinations"], through):
        if span.through is not None:
            _check_way(seen, span)
    return fields


def _check_apart(destinations: Mapping[str, Site], through: Mapping[str, str]) -> None:
    """Refuse destinations that lie in each other: to patch what one reads would change the other."""
    direct = {site.module: name for name, site in destinations.items() if name not in through}
    owner: dict[tuple[str, bool, int | None], str] = {}
    for name, site in destinations.items():
        if (way := through.get(name)) in direct:
            raise ValueError(f"{name!r} reads through {way!r}, which is a destination itself, {direct[str(way)]!r}")
        for unit in site.indices or (None,):
            key = site.module, name in through
            taken = [owner.get((*key, unit)), owner.get((*key, None))]
            taken += [one for place, one in owner.items() if unit is None and place[:2] == key]
            if other := next(filter(None, taken), ""):
                raise ValueError(f"{name!r} and {other!r} are one destination, or lie in each other: {site}")
        owner |= {(site.module, name in through, unit): name for unit in site.indices or (None,)}


def _check_way(seen: Trace, span: Span) -> None:
    """Check that a module's output is what destinations compute of the stream, at each position by itself."""
    read, output = seen.tensor("input", str(span.through)), seen.tensor("output", span.module)
    ways = [read] if read.ndim < 3 else [read, read.flip(1)]
    for i, stream in enumerate(ways):
        with torch.no_grad():
            parts = computed(seen.model, span, stream.expand(1, len(span), *stream.shape))
        for site, part in zip(span.sites, parts, strict=True):
            wanted = site.select(output.flip(1) if i else output)
            if part[0].shape != wanted.shape or not apart(part[0], wanted) <= tolerance(read.dtype):
                raise ValueError(
                    f"{site} must be {span.module!r} of {span.through!r} of the stream, at each position by itself; it "
                    "is something else"
                )


def _readers(seen: Trace, module: str, tensor: Tensor) -> dict[str, Site]:
    """Return the destinations that read the stream at a module's input; those of one module stand together."""
    here: dict[str, Site] = {}
    direct = {name: site for name, site in seen.destinations.items() if name not in seen.through}
    here |= _expand(direct, module, tensor)
    through = {name: site for name, site in seen.destinations.items() if seen.through.get(name) == module}
    for other in dict.fromkeys(site.module for site in through.values()):
        for name, site in through.items():
            if site.module == other:
                output = seen.tensor("output", other)
                placed = site.on(seen.model)
                last = site.unit is None or placed.units_axis(output) == output.ndim - 1
                if isinstance(site.unit, int) or not last:
                    raise ValueError(f"{name!r} must be a group of units on the last axis; got {site}")
                here[name] = placed
    return here


def _expand(sites: Mapping[str, Site], module: str, tensor: Tensor) -> dict[str, Site]:
    found: dict[str, Site] = {}
    for name, site in sites.items():
        if site.module == module:
            each = {name.format(unit.unit): unit for unit in site.each(tensor)} if "{}" in name else {name: site}
            for one, unit in each.items():
                _add(found, one, unit, "sources" if site.part == "output" else "destinations")
    return found


def _add(found: dict[str, Any], name: str, site: Site, kind: str) -> None:
    if name in found:
        raise ValueError(f"two {kind} are called {name!r}")
    found[name] = site


def _misfit(read: Tensor, totals: list[Tensor]) -> float:
    """Return how far a sum is from what is read, at most at a place, in units of what was summed there."""
    wide = torch.promote_types(read.dtype, torch.float32)
    totals = [total.to(wide) for total in totals]
    total = sum(totals[1:], start=totals[0])
    try:
        if np.broadcast_shapes(total.shape, read.shape) != read.shape:  # torch's own imports sympy, a second and a half
            return torch.inf
    except ValueError:
        return torch.inf
    scale = sum(one.abs() for one in totals[1:]) + totals[0].abs()
    difference = (read - total).abs().amax(-1)
    ratio = difference / scale.amax(-1).expand_as(difference).clamp_min(torch.finfo(wide).tiny)
    return ratio.max().item() if ratio.isfinite().all() else torch.inf


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
