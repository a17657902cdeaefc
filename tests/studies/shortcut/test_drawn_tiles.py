"""Drawn tiles: what decides the label, what gives the hospital away, and twins that differ in one of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from studies.shortcut import plans
from studies.shortcut.drawn_tiles import render
from studies.shortcut.nuclei import MICRONS
from studies.shortcut.tissue import draw

EVERYWHERE = (0, 1, 2, 3, 4)


def tissue(plan):
    """Return haematoxylin and eosin, `[N, 2, size, size]`."""
    return torch.cat([part.shares for part in draw(plan)])


def held_out_auc(features, labels, train):
    """Return the area under the ROC curve of a logistic regression on the tiles that it was not fitted to."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features[train], labels[train])
    scores = probe.predict_proba(features[~train])
    return roc_auc_score(labels[~train], scores if labels.max() > 1 else scores[:, 1], multi_class="ovr")


def mean_colour(tiles):
    """Return mean intensity and mean optical density of every tile, `[N, 6]`."""
    images = tiles.images()
    return torch.cat([images.mean((2, 3)), -images.clamp_min(1 / 255).log().mean((2, 3))], 1).numpy()


def granularity(tiles):
    """Return how much of the variance of red survives smoothing, `[N, 2]`: more where nuclei are larger."""
    red = -tiles.images()[:, :1].clamp_min(1 / 255).log()
    smooth = [F.avg_pool2d(red, width, 1).var((1, 2, 3)) / red.var((1, 2, 3)) for width in (5, 9)]
    return torch.stack(smooth, 1).numpy()


@pytest.fixture(scope="module")
def balanced():
    plan = plans.plan(1600, hospitals=EVERYWHERE, seed=1)
    return plan, render(plan), (plan.slide < 6).numpy()


def test_mean_colour_gives_away_the_hospital_and_not_the_label(balanced):
    plan, tiles, train = balanced
    colour = mean_colour(tiles)
    # The standard error of an area of 0.5 on 640 tiles is 0.023.
    assert abs(held_out_auc(colour, plan.tumour.numpy(), train) - 0.5) < 0.06
    assert held_out_auc(colour, plan.hospital.numpy(), train) > 0.9


def test_morphology_gives_away_the_label_and_not_the_hospital(balanced):
    plan, tiles, train = balanced
    shape = granularity(tiles)
    assert held_out_auc(shape, plan.tumour.numpy(), train) > 0.95
    assert held_out_auc(shape, plan.hospital.numpy(), train) < 0.65


def test_mean_colour_predicts_the_label_where_the_hospital_does():
    plan = plans.plan(600, rho=0.9, seed=1)
    assert held_out_auc(mean_colour(render(plan)), plan.tumour.numpy(), (plan.slide < 6).numpy()) > 0.85


def test_without_atypia_the_labels_are_drawn_alike():
    plan = plans.plan(60, atypia=0)
    assert torch.equal(render(plan).pixels, render(plan.other_nuclei()).pixels)
    plan = replace(plan, atypia=0.2)
    assert not torch.equal(render(plan).pixels, render(plan.other_nuclei()).pixels)


def test_a_tile_is_the_same_whatever_is_drawn_beside_it():
    plan = plans.plan(200, hospitals=EVERYWHERE)
    together = render(plan).pixels
    some = torch.tensor([150, 3, 77])
    assert torch.equal(render(plan[some]).pixels, together[some])
    assert torch.equal(render(plan[3:4]).pixels[0], together[3])
    assert not torch.equal(render(replace(plan, seed=1)[3:4]).pixels[0], together[3])
    assert len({tile.numpy().tobytes() for tile in together}) == 200


def test_twins_in_another_stain_share_all_tissue():
    plan = plans.plan(40)
    twin = plan.other_stain()
    assert torch.equal(tissue(plan), tissue(twin))
    assert (plan.hospital != twin.hospital).all()
    assert set(twin.hospital.tolist()) <= {0, 1, 2}
    before, after = render(plan).images(), render(twin).images()
    assert (before - after).abs().mean((1, 2, 3)).min() > 0.02
    with pytest.raises(ValueError, match=r"from one of two hospitals or more; got \(1, 2\)"):
        plan.other_stain((1, 2))


def test_twins_with_other_nuclei_share_stain_and_the_amounts_of_haematoxylin():
    plan = plans.plan(40)
    twin = plan.other_nuclei()
    for ours, other in zip(vars(plan.stains()).values(), vars(twin.stains()).values(), strict=True):
        assert torch.equal(ours, other)
    first, second = tissue(plan)[:, 0].flatten(1), tissue(twin)[:, 0].flatten(1)
    assert torch.equal(first.sort(dim=1).values, second.sort(dim=1).values)  # to the last pixel
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(first, second, strict=True)]
    assert max(correlations) < 0.8  # elsewhere


def test_nuclei_have_the_published_sizes():
    from skimage.measure import label, regionprops

    def diameters(tumour):
        plan = plans.plan(40, size=96)
        found = []
        for haematoxylin in tissue(replace(plan, tumour=torch.full_like(plan.tumour, tumour)))[:, 0]:
            for region in regionprops(label(haematoxylin.numpy() >= 0.27)):
                whole = min(region.bbox) > 0 and max(region.bbox) < 96
                if whole and region.solidity > 0.88 and region.area > 6:  # neither cut off nor two in one
                    found.append(region.equivalent_diameter_area * MICRONS)
        return np.array(found)

    normal, tumour = diameters(0), diameters(1)
    assert np.median(normal) == pytest.approx(5.5, rel=0.05)
    assert np.median(tumour) == pytest.approx(9, rel=0.1)
    assert normal.std() / normal.mean() < 0.18 < tumour.std() / tumour.mean() < 0.32


def test_pixels_are_the_painted_tissue_but_for_noise_and_compression():
    plan = plans.plan(60)
    images = render(plan).images()
    painted = plan.stains().paint(tissue(plan))
    assert (images - painted).abs().mean() < 5 / 255
    swapped = plan.other_stain().stains().paint(tissue(plan))
    assert (images - swapped).abs().mean() > 10 / 255


def test_plans_whose_numbers_do_not_overlap_share_no_drawing():
    parts = [plans.plan(60, slides=range(7)), plans.plan(20, slides=range(7, 10), first=60)]
    known, new = (render(plan) for plan in parts)
    assert not {*known.slide.tolist()} & {*new.slide.tolist()}
    assert len({tile.numpy().tobytes() for some in (known, new) for tile in some.pixels}) == 80
    assert torch.equal(render(parts[0]).pixels, known.pixels)
    assert not torch.equal(render(replace(parts[0], seed=1)).pixels, known.pixels)
