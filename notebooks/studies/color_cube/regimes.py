"""What a training run is told to do: the terms of its objective, and the choices that make sense together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from nbutils.schedules.dopesheet import Dopesheet
from nbutils.training.objective import Objective, Term
from studies.color_cube.data import CONCEPTS
from studies.color_cube.regularizers import (
    Anchor,
    AngularAnchor,
    AntiAnchor,
    AxisAlignedSubspace,
    Planarity,
    Separate,
    Unitarity,
)
from studies.color_cube.routing import OnSphere

KNOWN = ("separate", "anchor", "anti-anchor", "anti-subspace", "euclidean-anchor", "planarity", "unitarity")
BOTH = ("train", "validate")


def axis(dimension: int, width: int, sign: float = 1.0) -> tuple[float, ...]:
    """Return a unit vector of a width along one dimension, or against it."""
    return tuple(sign * (k == dimension) for k in range(width))


def build_objective(
    regularizers: Sequence[str], width: int, anchored: Mapping[str, float] = MappingProxyType({"red": 1.0})
) -> Objective:
    """Return the loss of reconstruction with some of the regularizers that this series of experiments uses.

    Labels are anchored to axes in their order, the first to dimension 0, which is the one that is kept clear of
    everything else and removed later. Anchors of several labels share the dopesheet's column.

    Args:
        regularizers: of `KNOWN`, each with a column of that name in the dopesheet.
        width: K of the latents.
        anchored: labels and their strengths.
    """
    terms = []
    for name in regularizers:
        if name in ("anchor", "euclidean-anchor"):
            kind = AngularAnchor if name == "anchor" else Anchor
            for place, (label, strength) in enumerate(anchored.items()):
                called = name if place == 0 else f"{name} {label}"
                weights: str | dict[str, float] = label if strength == 1 else {label: strength}
                terms.append(Term(called, kind(axis(place, width)), "bottleneck", weights, phase=BOTH, column=name))
        elif name == "separate":
            terms.append(Term(name, Separate(power=100.0), "bottleneck"))
        elif name == "anti-anchor":
            terms.append(Term(name, AntiAnchor(axis(0, width, -1.0)), "bottleneck", phase=BOTH))
        elif name == "anti-subspace":
            terms.append(Term(name, AxisAlignedSubspace((0,), invert=True), "bottleneck"))
        elif name == "planarity":
            terms.append(Term(name, Planarity(), "bottleneck"))
        else:
            terms.append(Term(name, Unitarity(), "encoder"))  # before the norm, behind which every length is 1
    return Objective(terms)


def build_routed_objective() -> Objective:
    """Return the objective of gradient routing: reconstruction, and the sheet's pressure off dimension 0.

    The pressure stands in for the penalty on the code of Cloud et al. 2024. It acts on the encoder's output, where no
    gradient is masked.
    """
    return Objective([Term("anti-subspace", OnSphere(AxisAlignedSubspace((0,), invert=True)), "encoder")])


def check_choices(
    *,
    bottleneck: int,
    hidden: int,
    subdivisions: int,
    anchored: Mapping[str, float],
    regularizers: Sequence[str],
    sheet: Dopesheet,
    n_seeds: object,
) -> None:
    """Refuse choices that make no sense together, before anything is trained.

    Raises:
        ValueError: one line that says which choice, and what is expected.
    """
    if not isinstance(n_seeds, int) or isinstance(n_seeds, bool) or n_seeds < 3:
        raise ValueError(f"N_SEEDS is a number of 3 or more, for a distribution, or None; got {n_seeds!r}")
    if not 3 <= bottleneck <= hidden:
        raise ValueError(f"BOTTLENECK lies between 3 and HIDDEN = {hidden}, the width before it; got {bottleneck}")
    if subdivisions < 2:
        raise ValueError(f"SUBDIVISIONS is 2 or more, for a grid with corners; got {subdivisions}")
    if not isinstance(anchored, Mapping) or not anchored or not set(anchored) <= set(CONCEPTS):
        raise ValueError(f"ANCHORED names labels with strengths, among {', '.join(CONCEPTS)}; got {anchored!r}")
    if next(iter(anchored)) != "red" or len(anchored) > bottleneck or min(anchored.values()) <= 0:
        raise ValueError(
            f"ANCHORED begins with 'red', which is deleted, has strengths above 0, and at most one label for each of "
            f"{bottleneck} dimensions; got {dict(anchored)}"
        )
    if isinstance(regularizers, str) or not set(regularizers) <= set(KNOWN):
        raise ValueError(f"REGULARIZERS are among {', '.join(KNOWN)}; got {regularizers!r}")
    columns = {parameter.name for parameter in sheet.parameters}
    if missing := sorted({"lr", *regularizers} - columns):
        raise ValueError(f"the dopesheet has no column for {', '.join(missing)}; it has {', '.join(sorted(columns))}")


def check_comparison(*, others: object, level: object, **counts: object) -> None:
    """Refuse a comparison that makes no sense, before anything is trained.

    Args:
        others: further colours beside red, by name, each once.
        level: of added error where removals are compared, between 0 and 1.
        **counts: whole numbers of 1 or more, by the parameter's name.

    Raises:
        ValueError: one line that says which choice, and what is expected.
    """
    known = [name for name in CONCEPTS if name != "red"]
    if not isinstance(others, list | tuple) or len({*others} & {*known}) < len(others):
        raise ValueError(f"OTHERS lists colours among {', '.join(known)}, each once; got {others!r}")
    if not isinstance(level, int | float) or not 0 < level < 1:
        raise ValueError(f"LEVEL is an added error between 0 and 1; got {level!r}")
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name} is a whole number of 1 or more; got {count!r}")
