"""What a linear probe can read from features, on slides it was not fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nbutils.stats.proportions import Proportion

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray
    from sklearn.pipeline import Pipeline


class UndefinedProbeError(ValueError):
    """A probe has no meaning here: there is one class only, or classes that it was never shown."""


@dataclass(frozen=True)
class ThreeSets:
    """Items to rank channels on, to fit probes on, and to judge them on; no slide is in two of them.

    Attributes:
        ranking, fitting, evaluation: indices.
    """

    ranking: NDArray[np.int64]
    fitting: NDArray[np.int64]
    evaluation: NDArray[np.int64]


def three_sets(slides: ArrayLike, *strata: ArrayLike, seed: int = 0) -> ThreeSets:
    """Deal slides to three sets so that each has about the same share of every stratum; by scikit-learn.

    Args:
        slides: `[items]`; an item without a slide is one of its own.
        strata: columns `[items]`, e.g. hospitals and labels: combinations of their values are balanced.
        seed: of the names of the sets, and of the deal among like slides.

    Raises:
        ValueError: fewer than three slides, or too few of some combination to be in all three sets (it is named).
    """
    from sklearn.model_selection import StratifiedGroupKFold

    slides = np.asarray(slides)
    columns = np.stack([np.asarray(column) for column in strata], 1)
    kinds, kind = np.unique(columns, axis=0, return_inverse=True)
    if len(np.unique(slides)) < 3:
        raise ValueError(f"three sets without a common slide need three slides or more; got {len(np.unique(slides))}")
    folds = StratifiedGroupKFold(3, shuffle=True, random_state=seed).split(slides, kind.ravel(), slides)
    parts = [part for _, part in folds]
    for part in parts:
        missing = np.setdiff1d(np.arange(len(kinds)), kind.ravel()[part])
        if len(missing):
            one = kinds[missing[0]]
            count = len(np.unique(slides[(columns == one).all(1)]))
            raise ValueError(f"items with {one.tolist()} are on {count} slides, too few to be in all three sets")
    return ThreeSets(*(parts[place] for place in np.random.default_rng(seed).permutation(3)))


def fit_probe(features: ArrayLike, targets: ArrayLike, *, C: float = 1.0) -> Pipeline:
    """Fit a multinomial logistic regression on features `[items, C]` standardised by themselves; by scikit-learn.

    Args:
        features: `[items, C]`.
        targets: `[items]`, classes.
        C: inverse strength of the L2 penalty; the source's 1 by default.

    Raises:
        UndefinedProbeError: one class only.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    targets = np.asarray(targets)
    if len(found := np.unique(targets)) < 2:
        raise UndefinedProbeError(f"undefined: a probe needs two classes or more to be fitted; all items are {found}")
    # Double precision and Newton steps to the optimum: stopped short of it, as L-BFGS is by default, or in single
    # precision, the coefficients, and with them rankings of channels, depend on the processor.
    optimum = LogisticRegression(C=C, solver="newton-cg", tol=1e-8, max_iter=1000)
    probe = make_pipeline(StandardScaler(), optimum)
    return probe.fit(np.asarray(features, dtype=np.float64), targets)


def channel_scores(probe: Pipeline) -> NDArray[np.float64]:
    """Return how much a fitted probe relies on each channel `[C]`: the L2 norm of its coefficients over classes.

    Of a hospital probe this is the source's shortcut score (M6), of a tumour probe its morphology score.
    """
    return np.linalg.norm(probe[-1].coef_, axis=0)


def probe_accuracy(probe: Pipeline, features: ArrayLike, targets: ArrayLike) -> Proportion:
    """Return the share of items that a fitted probe gets right.

    Raises:
        UndefinedProbeError: the items have one class only, so that there is nothing to tell apart, or a class that
            the probe was not fitted on.
    """
    targets = np.asarray(targets)
    found = np.unique(targets)
    if len(found) < 2:
        raise UndefinedProbeError(
            f"undefined: the set holds one class only ({found[0]}), so a probe's accuracy there says nothing"
        )
    known = probe[-1].classes_
    if len(unknown := np.setdiff1d(found, known)):
        raise UndefinedProbeError(f"undefined: the set holds {unknown}, the probe was fitted on {known}")
    return Proportion.of(probe.predict(np.asarray(features, dtype=np.float64)) == targets)


def shuffled_floor(
    features: ArrayLike,
    targets: ArrayLike,
    sets: ThreeSets,
    *,
    slides: ArrayLike | None = None,
    repeats: int = 20,
    C: float = 1.0,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return accuracies `[repeats]` of probes fitted on shuffled targets and judged on true ones.

    Args:
        features, targets: of all items; fitted on `sets.fitting`, judged on `sets.evaluation`.
        sets: see `three_sets`.
        slides: `[items]`; whole slides then exchange targets, for a target that is one per slide (the hospital).
            What slides have of their own then counts for the floor as it does for the probe.
        repeats: number of shuffles.
        C: as for `fit_probe`.
        seed: of the shuffles.

    Raises:
        ValueError: a slide has several targets.
        UndefinedProbeError: as for `fit_probe` and `probe_accuracy`.
    """
    features, targets = np.asarray(features), np.asarray(targets)
    units = np.arange(len(targets)) if slides is None else np.asarray(slides)
    units = np.unique(units[sets.fitting], return_inverse=True)[1].ravel()
    own = targets[sets.fitting][np.unique(units, return_index=True)[1]]  # of each unit
    if not np.array_equal(own[units], targets[sets.fitting]):
        raise ValueError("whole slides can exchange targets only where a slide has one; leave out slides=")
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(repeats):
        probe = fit_probe(features[sets.fitting], rng.permutation(own)[units], C=C)
        found.append(probe_accuracy(probe, features[sets.evaluation], targets[sets.evaluation]).value)
    return np.array(found)


def probe_curves(
    features: ArrayLike,
    targets: ArrayLike,
    sets: ThreeSets,
    rankings: Mapping[str, ArrayLike],
    ks: Sequence[int],
    *,
    C: float = 1.0,
) -> pd.DataFrame:
    """Take the first K channels of each ranking away and read the features again, by an old probe and by a new one.

    The channels are put to their mean over the fitting set (the source's zeroing). The fixed probe must fall when the
    channels it relies on go, whether or not others carry the same; the refitted one falls only if none does.

    Args:
        features, targets: of all items; fitted on `sets.fitting`, judged on `sets.evaluation`.
        sets: see `three_sets`.
        rankings: control -> channels `[C]`, first ablated first; a permutation is a random control.
        ks: numbers of channels, fewer than C.
        C: as for `fit_probe`.

    Returns:
        A tidy frame: `control`, `k`, `probe` (`fixed` or `refitted`), `value`, `n`.

    Raises:
        UndefinedProbeError: as for `fit_probe` and `probe_accuracy`.
    """
    import pandas as pd

    features, targets = np.asarray(features, dtype=np.float64), np.asarray(targets)
    fitting, evaluation = features[sets.fitting], features[sets.evaluation]
    wanted, judged = targets[sets.fitting], targets[sets.evaluation]
    mean = fitting.mean(0)
    whole = fit_probe(fitting, wanted, C=C)
    unablated = probe_accuracy(whole, evaluation, judged)
    rows = []
    for control, order in rankings.items():
        for k in ks:
            gone = np.zeros(features.shape[1], dtype=bool)
            gone[np.asarray(order)[:k]] = True
            fixed = probe_accuracy(whole, np.where(gone, mean, evaluation), judged) if k else unablated
            # A constant channel adds nothing to a probe, so those that are gone are left out.
            again = fit_probe(fitting[:, ~gone], wanted, C=C) if k else whole
            refitted = probe_accuracy(again, evaluation[:, ~gone], judged)
            rows += [
                (control, k, "fixed", fixed.value, fixed.total),
                (control, k, "refitted", refitted.value, fixed.total),
            ]
    return pd.DataFrame(rows, columns=["control", "k", "probe", "value", "n"])
