import pytest
import torch
from torch import nn

from nbutils.sweeps.metrics import accuracy
from studies.backdoor.swaps import swap_layers

LAYERS = {"first": "0", "second": "2", "third": "4"}


def network(seed=0, width=7):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3)).eval()


def test_swapped_layers_are_those_of_the_other_model():
    a, b, x = network(0), network(1), torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
    metrics = {"agrees with b": accuracy(lambda batch: b(batch).argmax(1))}
    before = {name: tensor.clone() for name, tensor in a.state_dict().items()}
    frame = swap_layers(a, b, LAYERS, [x], metrics).set_index([*LAYERS]).value
    assert len(frame) == 8
    assert frame[True, True, True] == 1
    assert frame[False, False, False] < 1
    c = network()
    c.load_state_dict({**a.state_dict(), **{key: value for key, value in b.state_dict().items() if key[0] == "2"}})
    expected = (c(x).argmax(1) == b(x).argmax(1)).double().mean().item()
    assert frame[False, True, False] == pytest.approx(expected)
    assert expected not in (frame[False, False, False], frame[True, True, True])  # so that the comparison can fail
    assert all(torch.equal(before[name], tensor) for name, tensor in a.state_dict().items())
    with pytest.raises(ValueError, match="'2' differs"):
        swap_layers(a, network(width=6), {"second": "2"}, [x], metrics)
