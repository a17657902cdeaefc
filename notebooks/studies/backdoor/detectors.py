"""Find the poisoned items among data, from a network's activations or answers.

Every detector returns one score per item, higher for more suspicious ones, so that `detection_summary` can compare
them where the truth is known. All but STRIP look for a *minority* within a class: with half of a class poisoned there
is none, and they are not expected to work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from nbutils.ablation.layers import copied
from nbutils.seeding import generator, stream_seed

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class ActivationClusters:
    """Two clusters of activations per class.

    Attributes:
        scores: `[items]`: distance to the centre of the class's larger cluster minus distance to the smaller one's, in
            the reduced coordinates of that class. Above 0 in the smaller cluster.
        classes: one row per class: `label`, `n`, `smaller` (share of the smaller cluster, in [0, 0.5]), `silhouette`
            (mean, in [−1, 1]) and `suspicious`.
    """

    scores: NDArray[np.float64]
    classes: pd.DataFrame


def activation_clusters(
    activations: ArrayLike,
    labels: ArrayLike,
    *,
    dims: int = 10,
    whiten: bool = False,
    silhouette: float = 0.10,
    smaller: float = 0.30,
    seed: int = 0,
) -> ActivationClusters:
    """Split each class's activations in two by k-means, and call classes suspicious that fall apart unevenly.

    Chen et al. 2018, "Detecting backdoor attacks on deep neural networks by activation clustering", arXiv 1811.03728:
    activations of the last hidden layer, reduced to ten independent components, 2-means, and two of the paper's
    criteria together: a high silhouette (they use 0.10 to 0.15) and a small cluster (poison is the minority).

    Independent components are whitened principal ones, rotated, and neither 2-means nor the silhouette sees a rotation:
    with `whiten` the clusters are the paper's, without an iteration that may not converge. The default leaves out the
    whitening, because it makes directions that hardly vary count like the others, and a few outliers along one become
    the small cluster. By scikit-learn.

    Args:
        activations: `[items, units]`.
        labels: the class of each item as *labelled* in the data, `[items]`.
        dims: components; fewer where a class's activations have a lower rank.
        whiten: scale components to one variance, as independent ones have it.
        silhouette: the least mean silhouette of a suspicious class.
        smaller: the largest share of the smaller cluster of a suspicious class.
        seed: of k-means.

    Raises:
        ValueError: shapes do not fit, values that are not finite, a class of fewer than four items, or without two
            different ones.
    """
    import pandas as pd
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score

    activations, labels = _check(activations, labels, least=4)
    state = stream_seed(seed, "activation clusters") % 2**32  # scikit-learn takes 32 bits
    scores, rows = np.zeros(len(labels)), []
    for label in np.unique(labels):
        inside = labels == label
        points = activations[inside]
        rank = int(np.linalg.matrix_rank(points - points.mean(0)))
        if rank == 0:
            raise ValueError(f"all activations of class {label:g} are the same; they have no clusters")
        points = PCA(min(dims, rank), whiten=whiten, svd_solver="full").fit_transform(points)
        found = KMeans(2, n_init=10, random_state=state).fit(points)
        counts = np.bincount(found.labels_, minlength=2)
        small = int(counts.argmin())
        distance = found.transform(points)
        scores[inside] = distance[:, 1 - small] - distance[:, small]
        share, separation = counts[small] / counts.sum(), float(silhouette_score(points, found.labels_))
        suspicious = separation >= silhouette and share <= smaller
        rows.append((int(label), int(inside.sum()), share, separation, suspicious))
    classes = pd.DataFrame(rows, columns=["label", "n", "smaller", "silhouette", "suspicious"])
    return ActivationClusters(scores, classes)


def spectral_signatures(activations: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Return how far each item lies along its class's direction of largest variance: ((a − mean)·v)².

    v is the first right singular vector of the class's centred activations. Tran, Li and Madry 2018, "Spectral
    signatures in backdoor attacks", NeurIPS (Algorithm 1; they then drop the 1.5·ε highest of a class, ε the expected
    share of poison).

    Args:
        activations: `[items, units]`.
        labels: the class of each item as labelled in the data, `[items]`.

    Returns:
        `[items]`. Scores of different classes are on their own scales.

    Raises:
        ValueError: shapes do not fit, values that are not finite, or a class of fewer than two items.
    """
    activations, labels = _check(activations, labels, least=2)
    scores = np.zeros(len(labels))
    for label in np.unique(labels):
        inside = labels == label
        centred = activations[inside] - activations[inside].mean(0)
        direction = np.linalg.svd(centred, full_matrices=False)[2][0]
        scores[inside] = (centred @ direction) ** 2
    return scores


def strip(
    model: nn.Module,
    images: Tensor,
    overlays: Tensor,
    *,
    copies: int = 32,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return how sure a network stays when other images are laid over an image: minus the mean entropy, in bits.

    A trigger decides the answer whatever is laid over it, so poisoned images stay sure. Gao et al. 2019, "STRIP: A
    defence against trojan attacks on deep neural networks", ACSAC: pixels are added and clipped at white; they use 100
    copies.

    Args:
        model: gives logits `[N, classes]`; not changed, run in evaluation mode.
        images: `[items, ...]`, to be judged.
        overlays: `[M, ...]` clean images of the same shape; their minimum is black.
        copies: overlays per image, drawn with replacement.
        seed: of the draws.

    Returns:
        `[items]` in [−log2(classes), 0].

    Raises:
        ValueError: shapes differ, or `copies` is below 1.
    """
    if images.shape[1:] != overlays.shape[1:] or not len(overlays) or copies < 1:
        raise ValueError(
            f"overlays like the images and copies >= 1 expected; got images {list(images.shape)}, "
            f"overlays {list(overlays.shape)}, copies={copies}"
        )
    model = copied(model).eval().to(memory_format=torch.channels_last)  # faster max-pooling
    black, white = overlays.min(), torch.maximum(images.max(), overlays.max())
    drawn = torch.randint(len(overlays), (len(images), copies), generator=generator(seed, "strip"))
    scores = []
    with torch.no_grad():
        for part, index in zip(images.split(32), drawn.split(32), strict=True):  # bounds the memory
            mixed = (part[:, None] + overlays[index] - black).clamp_max(white)  # (items, copies, ...)
            log_share = model(mixed.flatten(0, 1)).log_softmax(1)
            entropy = -(log_share.exp() * log_share).sum(1) / np.log(2)
            scores.append(-entropy.unflatten(0, index.shape).mean(1))
    return torch.cat(scores).double().cpu().numpy()


def detection_summary(
    scores: Mapping[str, ArrayLike], poisoned: ArrayLike, *, false_positives: float = 0.01
) -> pd.DataFrame:
    """Return how well detectors tell poisoned from clean items where the truth is known.

    Args:
        scores: detector -> `[items]`, higher is more suspicious.
        poisoned: `[items]`, booleans, both values present.
        false_positives: share of clean items that may be called poisoned, in (0, 1).

    Returns:
        One row per detector: `detector`, `auroc` (0.5 is chance), `caught`: the largest share of poisoned items above a
        threshold that keeps to `false_positives`. By scikit-learn.

    Raises:
        ValueError: shapes differ, or only clean or only poisoned items.
    """
    import pandas as pd
    from sklearn.metrics import roc_auc_score, roc_curve

    poisoned = np.asarray(poisoned, dtype=bool)
    if poisoned.all() or not poisoned.any():
        raise ValueError(f"poisoned and clean items are needed; got {int(poisoned.sum())} poisoned of {poisoned.size}")
    rows = []
    for detector, values in scores.items():
        values = np.asarray(values, dtype=float)
        if values.shape != poisoned.shape:
            raise ValueError(f"{detector}: {list(values.shape)} scores for {list(poisoned.shape)} items")
        false, true, _ = roc_curve(poisoned, values)
        rows.append((detector, float(roc_auc_score(poisoned, values)), float(true[false <= false_positives].max())))
    return pd.DataFrame(rows, columns=["detector", "auroc", "caught"])


def _check(activations: ArrayLike, labels: ArrayLike, *, least: int) -> tuple[NDArray, NDArray]:
    activations, labels = (x.detach().cpu() if isinstance(x, Tensor) else x for x in (activations, labels))
    activations, labels = np.asarray(activations, dtype=float), np.asarray(labels)
    if activations.ndim != 2 or labels.shape != activations.shape[:1] or not np.isfinite(activations).all():
        raise ValueError(
            "finite activations [items, units] and labels [items] expected; "
            f"got {list(activations.shape)}, {list(labels.shape)}"
        )
    names, counts = np.unique(labels, return_counts=True)
    if not len(counts) or counts.min() < least:
        found = zip(names.tolist(), counts.tolist(), strict=True)
        raise ValueError(f"every class needs {least} items or more; got {dict(found)}")
    return activations, labels
