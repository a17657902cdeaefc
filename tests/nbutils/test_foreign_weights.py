"""Checkpoints as other trainers save them are read whole, or named for what they are; code in them is never run."""

from __future__ import annotations

import argparse
import collections
import gzip
import io
import json
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nbutils.data.weights import LeftAsideWarning, StateError, fill


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))

    def forward(self, x):
        return self.net(x)


class Outer(nn.Module):
    """A stand-in for a trainer's own module, which keeps the network under a name of its own."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


@pytest.fixture(scope="module")
def trained() -> Small:
    torch.manual_seed(0)
    model = Small()
    model(torch.rand(8, 1, 3, 3))  # so that statistics are not those of a new network
    return model.eval()


def moved(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return other weights of the same shapes, as an average over steps has them."""
    return {name: tensor * 2 for name, tensor in model.state_dict().items()}


def training(model: nn.Module) -> dict:
    """Return the state of an optimizer that has taken a step: its averages have the shapes of the weights."""
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(4, 1, 3, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def prefixed(prefix: str, state: dict) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


def data_parallel(model, path):
    torch.save(nn.DataParallel(model).state_dict(), path)


def compiled(model, path):
    torch.save(torch.compile(model).state_dict(), path)


def compiled_parallel(model, path):
    torch.save({"epoch": 3, "model_state_dict": prefixed("module._orig_mod.", model.state_dict())}, path)


def compiled_within(model, path):
    state = model.state_dict()
    torch.save({name.replace("net.0.", "net.0._orig_mod."): tensor for name, tensor in state.items()}, path)


def lightning(model, path):
    """The layout of `Trainer.save_checkpoint`."""
    content = {
        "epoch": 4,
        "global_step": 100,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": Outer(model=model).state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 5}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [training(Small())],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1},
    }
    torch.save(content, path)


def wilds(model, path):
    """The layout of WILDS' `save_model`: the algorithm keeps its network as `model`."""
    torch.save({"algorithm": Outer(model=model).state_dict(), "epoch": 4, "best_val_metric": np.float64(0.9)}, path)


def timm(model, path):
    """The layout of timm's `CheckpointSaver`."""
    content = {
        "epoch": 7,
        "arch": "small",
        "state_dict": model.state_dict(),
        "optimizer": training(Small()),
        "version": 2,
        "args": argparse.Namespace(lr=0.1, model="small"),
        "amp_scaler": {"scale": 65536.0, "growth_factor": 2.0},
        "state_dict_ema": moved(model),
        "metric": 0.5,
    }
    torch.save(content, path)


def averaged(model, path):
    torch.save(torch.optim.swa_utils.AveragedModel(model).state_dict(), path)


def average_only(model, path):
    torch.save({"ema": model.state_dict(), "step": 3}, path)


def hub(model, path):
    save_file(prefixed("backbone.", model.state_dict()), path, metadata={"format": "pt"})


def old(model, path):
    """Before torch 0.4.1 normalisations did not count batches."""
    state = {name: tensor for name, tensor in model.state_dict().items() if "num_batches" not in name}
    torch.save({"state_dict": prefixed("module.", state)}, path, _use_new_zipfile_serialization=False)


def twice_wrapped(model, path):
    torch.save({"state_dict": {"model": prefixed("module.model.net.", model.state_dict())}}, path)


MAKERS = [
    data_parallel,
    compiled,
    compiled_parallel,
    compiled_within,
    lightning,
    wilds,
    timm,
    averaged,
    average_only,
    hub,
    old,
    twice_wrapped,
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", ["mine.pt", "mine.ckpt", "mine.safetensors"])
def test_other_trainers_checkpoints_give_their_networks_numbers(trained, tmp_path, make, name):
    path = tmp_path / name
    make(trained, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeftAsideWarning)
        model = fill(Small(), path)
    images = torch.rand(5, 1, 3, 3)
    assert torch.equal(model(images), trained(images))
    assert not torch.equal(Small().eval()(images), trained(images))  # another network does differ
    assert not model.training


def test_what_is_left_aside_is_said(trained, tmp_path):
    timm(trained, tmp_path / "timm.pt")
    with pytest.warns(LeftAsideWarning, match=r"timm\.pt: 'state_dict' is read; 'optimizer', 'state_dict_ema' are not"):
        fill(Small(), tmp_path / "timm.pt")
    data_parallel(trained, tmp_path / "plain.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fill(Small(), tmp_path / "plain.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda s: {"model": s, "state_dict": prefixed("module.", s)},
            r"'model' and 'state_dict' both fit; expected one",
        ),
        (lambda s: {"ema": s, "model_ema": s}, r"'ema' and 'model_ema' both fit; expected one"),
        (
            lambda s: {"state_dict": prefixed("model.", s) | {"criterion.weight": torch.ones(2)}},
            r"in 'state_dict' without 'model\.': 'criterion\.weight' is no parameter of this network; nearest: 'net",
        ),
        (
            lambda s: {"algorithm": prefixed("model.", s | {"net.3.weight": torch.ones(5, 12)})},
            r"in 'algorithm' without 'model\.': 'net\.3\.weight' must have shape \(2, 12\); got \(5, 12\)",
        ),
        (
            lambda s: prefixed("features.", s),
            r"expected a parameter 'net\.0\.weight' of shape \(3, 1, 2, 2\); the file has 'features\.net\.0\.weight'",
        ),
        (lambda s: prefixed("module.", s) | s, r"is no parameter of this network"),
        (lambda s: {"optimizer": training(Small()), "epoch": 3}, r"expected tensors by name; found 'optimizer'"),
        (lambda s: {"optimizer": {"momentum": s}}, r"expected tensors by name; found 'optimizer'"),
        (lambda s: {"epoch": 3, "args": "x"}, r"expected tensors by name; found 'epoch', 'args'"),
        (
            lambda s: {"state_dict": s | {"net.3.bias": torch.tensor([1e300, 0], dtype=torch.float64)}},
            r"'net\.3\.bias' must hold finite real numbers",
        ),
    ],
)
def test_what_does_not_fit_whole_is_refused_and_changes_nothing(trained, tmp_path, content, message):
    path = tmp_path / "other.pt"
    torch.save(content(trained.state_dict()), path)
    model = Small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(StateError, match=rf"other\.pt.*{message}"):
        fill(model, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def numpy_file() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


KINDS = {
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n",
    "a web page": b"\n<!DOCTYPE html><html><head><title>Sign in</title>",
    "a gzip archive": gzip.compress(b"weights"),
    "a NumPy array": numpy_file(),
    "a NumPy archive": zipped(**{"weight.npy": numpy_file()}),
    "a zip archive that torch.save did not write": zipped(**{"readme.txt": b"hello"}),
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(40),
    "a GGUF file": b"GGUF" + bytes(40),
    "JSON text": json.dumps({"weight_map": {}}).encode(),
    "an empty file": b"",
    "zero bytes only": bytes(100),
    "text": b"epoch,loss\n1,0.5\n",
    "a pickle that torch.save did not write": pickle.dumps({"weight": [1, 2]}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_named_for_what_it_is(tmp_path, kind):
    for name in ("mine.pt", "mine.safetensors"):
        path = tmp_path / name
        path.write_bytes(KINDS[kind])
        with pytest.raises(StateError, match=rf"mine\.\w+ is {kind}") as caught:
            fill(Small(), path)
        assert "weights_only" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch.jit
def test_a_script_and_a_cut_file_are_named(trained, tmp_path):
    torch.jit.save(torch.jit.trace(trained, torch.rand(2, 1, 3, 3)), tmp_path / "script.pt")
    with pytest.raises(StateError, match=r"script\.pt is a TorchScript archive"):
        fill(Small(), tmp_path / "script.pt")
    for make, name in ((timm, "cut.pt"), (hub, "cut.safetensors")):
        make(trained, tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(StateError, match=r"cut\.\w+ is cut short or damaged") as caught:
            fill(Small(), tmp_path / name)
        assert "weights_only" not in str(caught.value)
    with pytest.raises(StateError, match=r"expected a file of weights at .*; it is a folder"):
        fill(Small(), tmp_path)


def test_a_bit_that_tipped_over_is_refused(trained, tmp_path):
    path = tmp_path / "mine.pt"
    weight = trained.state_dict()["net.3.weight"]
    for sums in (False, True):  # an archive without checksums is none that is damaged
        torch.serialization.set_crc32_options(sums)
        torch.save(trained.state_dict(), path)
        assert torch.equal(fill(Small(), path).state_dict()["net.3.weight"], weight)
    content = bytearray(path.read_bytes())
    content[content.index(weight.numpy().tobytes()[:16]) + 2] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["net.3.weight"].isfinite().all()  # torch does not tell
    with pytest.raises(
        StateError, match=r"mine\.pt is damaged: the checksum of mine/data/\d+ is not that of its bytes"
    ):
        fill(Small(), path)


def test_a_dictionary_that_lies_in_itself_ends(tmp_path):
    loop: dict = {}
    loop.update({f"part {number}": loop for number in range(300)})
    torch.save(loop, tmp_path / "loop.pt")
    with pytest.raises(StateError, match=r"expected tensors by name; found 'part 0', 'part 1'"):
        fill(Small(), tmp_path / "loop.pt")


class Whole(collections.UserDict):
    """A class of the trainer's own."""


@pytest.mark.parametrize("whole", [lambda m: m, lambda m: {"state_dict": m.state_dict(), "config": Whole(a=1)}])
def test_objects_of_classes_are_refused_without_torchs_advice_to_unpickle(trained, tmp_path, whole):
    path = tmp_path / "whole.pt"
    torch.save(whole(trained), path)
    with pytest.raises(StateError, match=r"without running code.*test_foreign_weights\.(Small|Whole).*state_dict") as c:
        fill(Small(), path)
    assert not {"weights_only", "add_safe_globals", "trust"} & set(str(c.value).replace("=", " ").split())
