"""The README's page "Ablate your own model", run block by block, and its results against hooks written by hand."""

import re
import warnings
from pathlib import Path

import pytest
import torch

import nbutils as nb

pytest.importorskip("transformers")
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def page():
    """Return what the page's names stand for at its end."""
    text = README.read_text(encoding="utf-8")
    section = text.split("\n## Ablate your own model\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.S)
    assert len(blocks) == 5
    names = {"__name__": "guide"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in blocks:
            exec(compile(block, "README.md", "exec"), names)
    return names


@torch.no_grad()
def test_a_head_is_a_slice_of_what_its_projection_reads(page):
    model, prompts, projection = page["model"], page["prompts"], page["model"].transformer.h[1].attn.c_proj
    read = []
    handle = projection.register_forward_pre_hook(lambda _module, arguments: read.append(arguments[0].clone()))
    intact = model(prompts).logits
    handle.remove()

    def by_hand(_module, arguments):
        changed = arguments[0].clone()
        changed[..., 32:48] = read[0][..., 32:48].mean(0)
        return (changed,)

    handle = projection.register_forward_pre_hook(by_hand)
    expected = model(prompts).logits
    handle.remove()
    assert torch.allclose(page["without"], expected, atol=1e-5)
    assert not torch.allclose(page["without"], intact, atol=1e-3)


@torch.no_grad()
def test_the_sweeps_are_what_single_edits_give(page):
    model, prompts, answers = page["model"], page["prompts"], page["answers"]
    heads, pairs = page["heads"], page["pairs"].pairs
    values = nb.gather(model, heads, nb.AblationType.RESAMPLE, [pairs.corrupt])
    effects = page["effects"]
    assert effects.site.tolist() == [f"head {i}" for i in range(4) for _ in range(2)]
    for i, site in enumerate(heads):
        with nb.edit(model, nb.edits([site], values)):
            p = model(prompts).logits[:, -1].softmax(-1).gather(1, answers[:, None]).mean().item()
        row = effects[(effects.site == f"head {i}") & (effects.metric == "probability")]
        assert row.value.item() == pytest.approx(p, abs=1e-6)
    assert page["intact"].n.tolist() == [16, 16]
    assert len(page["channels"]) == 2 * 256
    assert page["smaller"].layer3[0].conv1.out_channels == 253


def test_scores_of_edges_and_units_agree_with_what_they_predict(page):
    edges = page["edges"]
    assert edges.attribution.corr(edges.exact) > 0.9  # small effects are nearly linear
    shuffled = edges.attribution.sample(frac=1, random_state=0).reset_index(drop=True)
    assert abs(shuffled.corr(edges.exact)) < 0.5
    predicted, channels = page["predicted"], page["channels"]
    loss = channels[channels.metric == "loss"].value
    assert torch.corrcoef(torch.tensor([predicted.value.tolist(), loss.tolist()]))[0, 1] > 0.5
    assert page["gradient"].shape == (32, 256, 2, 2)
    assert len(page["medians"]) == 512
