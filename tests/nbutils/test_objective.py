import pytest
import torch

from nbutils.training.objective import Objective, Term
from nbutils.training.regularizers import ParameterDrift


def latents(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_labelled_term_averages_over_the_label_only():
    z = torch.tensor([[[1.0, 0], [0, 1], [-1, 0]]], dtype=torch.float64)  # (1 member, 3 samples, 2)
    term = Term("anchor", lambda latents: 1 - latents[..., 0], "latent", label="red")
    for label, expected in (([0.0, 1, 1], 1.5), ([1.0, 0, 0], 0.0), ([0.0, 0, 0], 0.0)):
        assert term({"latent": z}, {"red": torch.tensor([label])}).item() == pytest.approx(expected)


def test_a_term_with_weight_zero_is_not_computed():
    def explode(_):
        raise AssertionError("computed")

    objective = Objective([Term("never", explode, "latent")])
    x = torch.zeros(2, 3, 1)
    total, values = objective(x, {"target": x + 1}, {}, {"never": 0.0})
    assert total.tolist() == [1, 1]
    assert values.keys() == {"reconstruction"}
    with pytest.raises(AssertionError, match="computed"):
        objective(x, {"target": x}, {"latent": x}, {"never": 0.1})


def test_drift_is_the_mean_over_all_parameters_of_a_member():
    reference = {"w": latents(3, 4, 5), "b": latents(3, 2, seed=1)}
    moved = {name: tensor.clone() for name, tensor in reference.items()}
    drift = ParameterDrift(reference)
    assert drift(moved).tolist() == [0, 0, 0]
    moved["w"][1, 2, 3] -= 1.1
    moved["b"][2] += 2.2
    assert torch.allclose(drift(moved), torch.tensor([0, 1.1 / 22, 4.4 / 22], dtype=torch.float64))
    assert torch.allclose(drift.select([2])({k: v[2:] for k, v in moved.items()}), drift(moved)[2:])
    reference["w"] += 1  # the reference is a copy
    assert drift(moved)[0] == 0
    pull = torch.autograd.grad(drift({k: v.requires_grad_() for k, v in moved.items()}).sum(), list(moved.values()))
    assert torch.allclose(pull[1], torch.tensor([[0.0] * 2, [0] * 2, [1 / 22] * 2], dtype=torch.float64))
    for wrong in ({"w": moved["w"]}, {**moved, "b": moved["b"][:2]}):
        with pytest.raises(ValueError, match="reference"):
            drift(wrong)


def test_labels_weigh_samples_by_their_strengths_and_sites_add_up():
    z = torch.tensor([[[1.0], [0.5], [0.25]]], dtype=torch.float64)  # (1 member, 3 samples, 1)
    red, blue = torch.tensor([[1.0, 0, 0]]), torch.tensor([[0.0, 1, 0]])

    def loss(latents):
        return latents[..., 0]

    both = Term("anchor", loss, "latent", label={"red": 1.0, "blue": 0.5})
    assert both({"latent": z}, {"red": red, "blue": blue}).item() == pytest.approx((1 + 0.5 * 0.5) / 1.5)
    assert both({"latent": z}, {"red": red, "blue": 0 * blue}).item() == pytest.approx(1)
    alone = Term("anchor", loss, "latent", label="red")({"latent": z}, {"red": red})
    assert Term("anchor", loss, "latent", label={"red": 3.0})({"latent": z}, {"red": red}).item() == pytest.approx(
        alone
    )
    two = Term("both", loss, ("latent", "later"))
    assert two.sites == ("latent", "later")
    assert two({"latent": z, "later": 2 * z}, {}).item() == pytest.approx(3 * z.mean().item())
    for wrong in ({"site": ()}, {"site": "a", "phase": ("test",)}, {"site": "a", "label": {"red": -1.0}}):
        with pytest.raises(ValueError, match="'wrong' needs"):
            Term("wrong", loss, **wrong)


def test_a_term_belongs_to_its_phases_and_its_column():
    terms = [Term("a", lambda z: z[..., 0], "latent", column="weight", phase=("train", "validate"))]
    objective = Objective([*terms, Term("b", lambda z: z[..., 0], "latent", column="weight")])
    assert objective.columns == ("weight",)
    x = torch.ones(2, 3, 1)
    for phase, names in (("train", {"reconstruction", "a", "b"}), ("validate", {"reconstruction", "a"})):
        total, values = objective(x, {"target": x}, {"latent": x}, {"weight": 0.5}, phase=phase)
        assert values.keys() == names
        assert total.tolist() == [0.5 * (len(names) - 1)] * 2
