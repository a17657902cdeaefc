from dataclasses import replace

import pytest
import torch

from nbutils.schedules import Dopesheet, Timeline
from nbutils.training.ensemble import Ensemble
from nbutils.training.fit import fit
from studies.color_cube.data import CONCEPTS, BatchesByMember, ColorBatches, concept_hsv, degree, rgb_grid
from studies.color_cube.network import ColorMLP
from studies.color_cube.regimes import build_objective, build_routed_objective, check_choices, check_comparison
from studies.color_cube.routing import RoutedBatches, RoutedMLP

SHEET = Dopesheet.from_text("STEP,lr,separate,anchor\n0,0.1,0.1,0.1\n9,,,\n")
CHOICES = {"bottleneck": 5, "hidden": 10, "subdivisions": 8, "anchored": {"red": 1.0}, "regularizers": ["anchor"]}
CHOICES |= {"sheet": SHEET, "n_seeds": 3}


def test_every_pure_hue_is_a_concept_as_red_is():
    grid = rgb_grid(8).reshape(-1, 3)
    red = degree(grid, "red")
    assert red == pytest.approx(grid[:, 0] * (1 - grid[:, 1] / 2 - grid[:, 2] / 2), abs=0)
    for name, corner in CONCEPTS.items():
        found = degree(grid, name)
        assert grid[found == 1].tolist() == [list(corner)]
        assert sorted(found) == pytest.approx(sorted(red))  # distributed alike, so labels are as rare
        assert concept_hsv(name)[1:] == (1, 1)
    with pytest.raises(KeyError, match="mauve"):
        degree(grid, "mauve")


def test_a_second_label_changes_no_draw_of_the_first():
    one, two = ColorBatches().draw(1, 0), ColorBatches(labels=("red", "cyan")).draw(1, 0)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(two["cyan"], two["red"])
    validation = ColorBatches(labels=("red", "cyan")).validation()
    assert (validation["red"].sum().item(), validation["cyan"].sum().item()) == (1, 1)


def test_routing_masks_gradients_and_nothing_else():
    ensemble = Ensemble(RoutedMLP, [0, 1])
    batch = RoutedBatches(label_rate=1.0, label_power=1.0, labels=("blue",), concepts=("blue", "blue"))
    drawn = {key: torch.stack([value[0]] * 2) for key, value in batch.draw(0, 0).items()}
    full = batch.batch(drawn, torch.float64)
    same = Ensemble(ColorMLP, [0, 1])
    for labels, learning in ((torch.ones(2, 64, 1), [0]), (torch.zeros(2, 64, 1), [1, 2, 3, 4])):
        x = torch.cat([full["target"], labels.double()], -1)
        out, seen = ensemble(x, ("encoder",), training=True)
        plain, _ = same(full["target"], training=True)
        assert torch.allclose(out, plain, atol=1e-12)
        ensemble.backward((out - full["target"]).square().sum())
        rows = ensemble.gradients["encoder.4.weight"].abs().sum(-1) > 0  # (members, K)
        assert [k for k in range(5) if rows[:, k].all()] == learning
        assert [k for k in range(5) if rows[:, k].any()] == learning
    assert full["input"][..., 3].sum() == full["label"].sum() > 0
    (term,) = build_routed_objective().terms
    assert term(seen, {}).shape == (2,)


def test_a_member_among_those_of_other_concepts_is_the_network_of_its_own():
    seeds, concepts = [0, 1], ("red", "blue")
    timeline = Timeline(Dopesheet.from_text("STEP,lr,anchor\n0,0.01,0.1\n5,,\n"))

    def trained(ensemble, batches, label):
        batches = replace(batches, label_rate=1.0, label_power=1.0)
        return fit(ensemble, batches, build_objective(["anchor"], 5, {label: 1.0}), timeline).ensemble

    together = Ensemble(ColorMLP, seeds).across(concepts)
    together = trained(together, BatchesByMember(labels=concepts, concepts=together.variants), "label")
    alone = trained(Ensemble(ColorMLP, seeds), ColorBatches(labels=("blue",)), "blue")
    assert torch.equal(together.flat[2:], alone.flat)
    assert not torch.equal(together.flat[:2], alone.flat)
    with pytest.raises(ValueError, match="a concept of each member, among"):
        BatchesByMember(labels=concepts, concepts=("green",))


def test_labels_are_anchored_to_axes_in_their_order():
    objective = build_objective(["separate", "anchor", "unitarity"], 4, {"red": 1.0, "cyan": 0.5})
    assert [term.name for term in objective.terms] == ["separate", "anchor", "anchor cyan", "unitarity"]
    assert objective.columns == ("separate", "anchor", "unitarity")
    z = {"bottleneck": torch.eye(4)[None, :2]}  # two samples, on axes 0 and 1
    labels = {"red": torch.tensor([[1.0, 0]]), "cyan": torch.tensor([[0.0, 1]])}
    assert [objective.terms[i](z, labels).item() for i in (1, 2)] == pytest.approx([0, 0])
    labels = {"red": labels["cyan"], "cyan": labels["red"]}
    assert [objective.terms[i](z, labels).item() for i in (1, 2)] == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_seeds": [0, 1, 2]}, r"^N_SEEDS is a number of 3 or more.*got \[0, 1, 2\]$"),
        ({"n_seeds": 2}, "^N_SEEDS is"),
        ({"bottleneck": 11}, "^BOTTLENECK lies between 3 and HIDDEN = 10, .*got 11$"),
        ({"bottleneck": 2}, "got 2$"),
        ({"subdivisions": 1}, "^SUBDIVISIONS is 2 or more.*got 1$"),
        ({"anchored": {"mauve": 1.0}}, "^ANCHORED names labels.*mauve"),
        ({"anchored": ["red"]}, "^ANCHORED names labels"),
        ({"anchored": {"blue": 1.0}}, "begins with 'red'"),
        ({"regularizers": ["anchor", "gravity"]}, "^REGULARIZERS are among .*gravity"),
        ({"regularizers": ["planarity"]}, "^the dopesheet has no column for planarity; it has anchor, lr, separate$"),
    ],
)
def test_choices_that_make_no_sense_are_refused_in_one_line(wrong, message):
    check_choices(**CHOICES)
    with pytest.raises(ValueError, match=message) as error:
        check_choices(**CHOICES | wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"others": ["mauve"]}, "^OTHERS lists colours among .*mauve"),
        ({"others": ["blue", "blue"]}, "^OTHERS lists .* each once"),
        ({"others": "blue"}, "^OTHERS lists .*got 'blue'$"),
        ({"others": ["red"]}, "^OTHERS lists"),
        ({"level": 0}, "^LEVEL is an added error between 0 and 1; got 0$"),
        ({"SIDE_SEEDS": 0}, "^SIDE_SEEDS is a whole number of 1 or more; got 0$"),
        ({"BATCH_SIZE": "64"}, "^BATCH_SIZE is a whole number of 1 or more; got '64'$"),
    ],
)
def test_comparisons_that_make_no_sense_are_refused_in_one_line(wrong, message):
    sensible = {"others": ["blue", "cyan"], "level": 0.1, "SIDE_SEEDS": 20}
    check_comparison(**sensible)
    with pytest.raises(ValueError, match=message):
        check_comparison(**sensible | wrong)
