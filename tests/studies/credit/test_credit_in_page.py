"""What the live audit's page is given is what differences measure, at states of every length."""

from __future__ import annotations

import copy
from base64 import b64decode
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from nbutils.plotting.marks import mark
from nbutils.plotting.theme import LIGHT, use
from studies.credit import differences as recorded
from studies.credit.chance import fresh_feedback_null
from studies.credit.differences import MODES, STEP, Examined, chance_range, probes, rho, score, scores
from studies.credit.live import live_audit, plain
from studies.credit.loss import loss_from
from studies.credit.network import cast
from studies.credit.perturbation import PerturbationCorrelation, perturbation_correlation, unit_directions
from studies.credit.steps import PRECISIONS

FEW = slice(recorded.IMAGES)


@pytest.fixture(scope="module")
def probed(model, states):
    return probes([Examined("DFA", model, states)], [0, 2])


def stretched(model, times):
    """Return a network of the same function whose residual stream is so many times as long."""
    longer = copy.deepcopy(model)
    with torch.no_grad():
        for writer in (longer.embed, *(block[-1] for block in longer.blocks)):
            writer.weight *= times
            writer.bias *= times
    for norm in (longer.out_ln, *(block[0] for block in longer.blocks)):
        norm.eps *= times**2
    return longer


def differences(model, states, layer, precision, mode, epsilon, times=1.0):
    """Return what the study measures at states so many times as long, `[probes]`."""
    dtype = PRECISIONS[precision]
    h = states.hidden[layer, FEW]
    v = unit_directions(h, recorded.DIRECTIONS).to(dtype)
    low = times * h.to(dtype)
    loss = loss_from(cast(stretched(model, times), dtype), layer, states.labels[FEW])
    found = perturbation_correlation(low, low, loss, directions=v, method=MODES[mode], epsilon=epsilon)
    return found.actual.flatten().numpy()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tables_are_what_differences_measure_and_score(model, states, probed, precision, mode):
    for one in probed:
        table = one.tables[mode][precision]
        assert len(table.codes) > 2
        shortest = recorded.LOWEST - recorded.LONGEST * (mode == "absolute")
        for k in range(max(table.lowest - 1, shortest), recorded.HIGHEST + 1):
            found = table.at(k, one.derivative)
            true = differences(model, states, one.layer, precision, mode, STEP * 4.0**k)
            assert ((found == 0) == (true == 0)).all()
            np.testing.assert_allclose(found, true, rtol=0, atol=2**-15 * np.abs(true - one.derivative).max())
            if k < table.lowest:
                assert not found.any()
            else:
                assert rho(one.derivative, found) == pytest.approx(rho(one.derivative, true), abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_state_4_times_as_long_is_a_fixed_step_of_a_quarter_and_the_same_share(model, states, precision):
    measured = partial(differences, model, states, 1, precision)
    for times, epsilon in ((4.0, 0.256), (4.0**6, 4.096)):
        longer = times * measured("absolute", epsilon, times)
        np.testing.assert_array_equal(longer, measured("absolute", epsilon / times))
        np.testing.assert_array_equal(times * measured("relative", STEP, times), measured("relative", STEP))
        assert (longer != measured("absolute", epsilon)).any()  # the control
    assert (3 * measured("absolute", 0.3, 3.0) != measured("absolute", 0.1)).any()  # no power of 2: other roundings


def test_float32_goes_deaf_at_a_fixed_step_and_not_at_a_share(probed):
    view = {"precision": "float32", "step": 0}
    lengths = range(recorded.LONGEST + 1)
    for one in probed:
        fixed = [score(one, {**view, "mode": "absolute", "length": k})[1] for k in lengths]
        share = {score(one, {**view, "mode": "relative", "length": k})[1] for k in lengths}
        assert len(share) == 1
        assert min(share) > 0.999
        assert fixed[0] > 0.99
        assert np.isnan(fixed[-1])


def test_chance_is_what_each_fresh_matrix_scores(states):
    h, g, e = states.hidden[1, FEW], states.gradients[1, FEW], states.errors[FEW]
    v = unit_directions(h, 40)
    derivative = PerturbationCorrelation.from_gradients(g, g, v).predicted.flatten().float().numpy()
    found = chance_range(e, v, derivative, draws=60)
    null = np.quantile(fresh_feedback_null(e, g, draws=60), [0.025, 0.975])  # of all directions
    np.testing.assert_allclose(found, null, atol=0.03)
    assert np.abs(chance_range(e, v, derivative, draws=60, seed=1) - null).max() > 1e-3


def test_the_page_has_the_tables_and_the_marks_of_precisions(probed):
    data = live_audit(probed).data
    table, own = data["probed"][1]["tables"]["absolute"]["float32"], probed[1].tables["absolute"]["float32"]
    codes = np.frombuffer(b64decode(table["codes"]["base64"]), "<i2").reshape(own.codes.shape)
    np.testing.assert_array_equal(codes, own.codes)
    with use(LIGHT):
        for one in data["precisions"]:
            look = mark(one["name"])
            assert (LIGHT.accents[one["accent"]], one["marker"]) == (to_hex(look.color), look.marker)


def test_every_step_is_a_row_and_the_first_view_is_drawn(probed):
    table = scores(probed)
    by_step = table[(table["precision"] == "float32") & (table["mode"] == "relative") & np.isclose(table["step"], STEP)]
    assert len(by_step) == 2
    assert by_step["rho"].min() > 0.999
    assert by_step["same"].max() < 0.1
    shown = live_audit(probed)
    assert not score(probed[1], shown.data["first"])[0].any()
    words = [text.get_text() for ax in shown.static().axes for text in ax.texts]
    assert {"ρ undefined", f"no change at {recorded.IMAGES} of {recorded.IMAGES} probes (hollow)", *PRECISIONS} <= set(
        words
    )
    assert [plain(value) for value in (1.0, -0.0001, -0.25)] == ["ρ = 1.000", "ρ = 0.000", "ρ = −0.250"]
    with pytest.raises(ValueError, match="every layer of every network"):
        live_audit(probed[:1] + probed[:1])
    with pytest.raises(ValueError, match="every layer"):
        live_audit([])
