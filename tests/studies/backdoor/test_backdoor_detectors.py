import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import FastICA
from sklearn.metrics import silhouette_score
from torch import nn

from studies.backdoor.detectors import activation_clusters, detection_summary, spectral_signatures, strip


def planted(share: float, distance: float = 8.0, seed: int = 0):
    """Two classes of Gaussian activations in 12 dimensions; a share of class 1 is moved in one direction."""
    rng = np.random.default_rng(seed)
    activations, labels = rng.normal(size=(800, 12)), np.repeat([0, 1], 400)
    poisoned = (labels == 1) & (rng.random(800) < share)
    activations[poisoned] += distance * np.array([0.6, 0.8, *[0] * 10])
    return activations, labels, poisoned


@pytest.mark.parametrize("whiten", [True, False])
def test_clusters_find_a_planted_minority_in_its_class_and_nowhere_else(whiten):
    activations, labels, poisoned = planted(0.15)
    found = activation_clusters(activations, labels, whiten=whiten)
    assert found.classes["suspicious"].tolist() == [False, True]
    assert found.classes["smaller"][1] == pytest.approx(poisoned.sum() / 400, abs=0.01)
    assert ((found.scores > 0) == poisoned)[labels == 1].mean() > 0.99
    nothing = activation_clusters(*planted(0.0)[:2], whiten=whiten)
    assert not nothing.classes["suspicious"].any()


def test_half_a_class_is_no_minority():
    found = activation_clusters(*planted(0.5)[:2])
    assert found.classes["silhouette"][1] > 0.1  # the clusters are there
    assert not found.classes["suspicious"].any()


@pytest.mark.filterwarnings("ignore:FastICA did not converge")  # Gaussian directions have no best rotation
def test_whitened_principal_components_cluster_like_independent_ones():
    activations, labels, _ = planted(0.15)
    points = activations[labels == 1]
    ica = FastICA(10, whiten="unit-variance", tol=1e-2, max_iter=1000, random_state=0).fit_transform(points)
    groups = KMeans(2, n_init=10, random_state=0).fit_predict(ica)
    found = activation_clusters(activations, labels, whiten=True)
    agree = (groups == (found.scores[labels == 1] > 0)).mean()
    assert max(agree, 1 - agree) > 0.99
    assert found.classes["silhouette"][1] == pytest.approx(silhouette_score(ica, groups), abs=0.01)


def test_spectral_scores_are_the_share_of_the_first_singular_direction():
    activations, labels, poisoned = planted(0.1)
    scores = spectral_signatures(activations, labels)
    centred = activations[labels == 1] - activations[labels == 1].mean(0)
    assert scores[labels == 1].sum() == pytest.approx(np.linalg.norm(centred, 2) ** 2)
    inside = labels == 1
    found = detection_summary({"spectral": scores[inside]}, poisoned[inside])
    assert found["auroc"][0] > 0.99
    # Half of a class poisoned: the mean is in the middle and both halves are as far from it.
    activations, labels, poisoned = planted(0.5)
    scores = spectral_signatures(activations, labels)
    assert 0.3 < detection_summary({"spectral": scores[inside]}, poisoned[inside])["auroc"][0] < 0.7


def test_silent_and_constant_units_do_no_harm():
    activations, labels, _ = planted(0.15)
    padded = np.concatenate([activations, np.zeros((800, 3)), np.ones((800, 1))], axis=1)
    found = activation_clusters(padded, labels)
    assert found.classes["suspicious"].tolist() == [False, True]
    with pytest.raises(ValueError, match="class 0 are the same"):
        activation_clusters(np.ones((8, 2)), np.zeros(8, dtype=int))
    with pytest.raises(ValueError, match="4 items or more"):
        activation_clusters(activations[:402], labels[:402])
    with pytest.raises(ValueError, match="finite"):
        spectral_signatures(np.full((4, 2), np.nan), np.zeros(4))


class Answers(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


def stripped(gain: float):
    """Score images whose brightest of four pixels is the answer; pixel 4 is the trigger, and has a gain."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 4
    images = torch.zeros(80, 5)
    images[torch.arange(80), labels] = 1 + torch.rand(80, generator=g)
    poisoned = torch.arange(80) >= 60
    images[poisoned, 4] = 2

    def classify(x):
        return torch.cat([3 * x[:, :3], 3 * x[:, 3:4] + gain * x[:, 4:]], dim=1)

    model = Answers(classify)
    return strip(model, images, images[~poisoned]), poisoned.numpy(), model, images


def test_strip_sees_answers_that_nothing_laid_over_changes():
    scores, poisoned, model, images = stripped(gain=20.0)
    assert detection_summary({"strip": scores}, poisoned)["auroc"][0] > 0.99
    blind, _, _, _ = stripped(gain=0.0)
    assert detection_summary({"strip": blind}, poisoned)["auroc"][0] < 0.8
    assert np.array_equal(scores, strip(model, images, images[:60]))
    assert not np.array_equal(scores, strip(model, images, images[:60], seed=1))
    with pytest.raises(ValueError, match=r"\[80, 5\]"):
        strip(model, images, images[:, :4])


def test_entropy_in_bits_by_hand():
    x = torch.zeros(3, 4)
    assert strip(nn.Identity(), x, x) == pytest.approx(-2)
    assert strip(Answers(lambda x: x + torch.tensor([0, 0, -1e4, -1e4])), x, x) == pytest.approx(-1)


def test_summary_by_hand():
    poisoned = np.array([True] * 4 + [False] * 100)
    scores = np.concatenate([[200, 98.5, 97.5, -1], np.arange(100.0)])
    found = detection_summary({"some": scores, "none": np.zeros(104)}, poisoned)
    above = (100 + 99 + 98 + 0) / 400  # of pairs, how many are in order
    assert found["auroc"].tolist() == pytest.approx([above, 0.5])
    assert found["caught"].tolist() == [0.5, 0]  # at 98.5 one clean item of 100 is above
    with pytest.raises(ValueError, match="0 poisoned of 3"):
        detection_summary({}, [False] * 3)
    with pytest.raises(ValueError, match="some"):
        detection_summary({"some": [1.0]}, poisoned)
