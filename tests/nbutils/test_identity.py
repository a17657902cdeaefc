"""What tells runs apart, and what does not: for checkpoints, for stored results, for another process."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import textwrap
import types
from collections import namedtuple
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, lru_cache, partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from nbutils import layout, runs
from nbutils.identity import Identifier, UnidentifiedError
from nbutils.schedules import Dopesheet, Timeline
from nbutils.training.checkpoints import CheckpointError
from nbutils.training.ensemble import Ensemble
from nbutils.training.fit import fit
from nbutils.training.objective import Objective, ParameterTerm, Term
from nbutils.training.optimizers import Adam
from nbutils.training.regularizers import ParameterDrift
from studies.color_cube.data import ColorBatches
from studies.color_cube.network import ColorMLP

SHEET = "STEP,lr,pull,drift\n0,1e-3,0.1,0.1\n7,1e-3,0.1,0.1\n"


def identity(value):
    return Identifier().of(value, "value")


def made(text, name="made", **names):
    """Return what a program calls `name`, as if typed at a prompt."""
    names = {"__name__": "prompt", "torch": torch, "nn": nn} | names
    exec(compile(textwrap.dedent(text), "<prompt>", "exec"), names)
    return names[name]


# Checkpoints: each change of one part is refused, and the part is named.


class Net(ColorMLP):
    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = gain
        self.register_buffer("shift", torch.zeros(3))

    def forward(self, x):
        return super().forward(x) * self.gain + self.shift


class Louder(Net):
    def forward(self, x):
        return super().forward(x) * 1.5


class Shifted(Net):
    def __init__(self):
        super().__init__()
        self.shift += 1e-9


@dataclass(frozen=True)
class Tensors(ColorBatches):
    """Colours that are data; its `repr` shows few of them, and not all digits."""

    data: torch.Tensor = field(default_factory=lambda: torch.linspace(0, 1, 8**3 * 3).reshape(-1, 3).double())

    def batch(self, drawn, dtype):
        color = self.data[drawn["index"]].to(dtype)
        return {"input": color, "target": color}


@dataclass(frozen=True)
class Darker(Tensors):
    def batch(self, drawn, dtype):
        batch = super().batch(drawn, dtype)
        return batch | {"input": batch["input"] / 2}


@dataclass(frozen=True)
class Pull:
    to: torch.Tensor

    def __call__(self, latents):
        return (latents - self.to).square().sum(-1)


class Slower:
    """A rule: down the gradient of the loss, times a factor."""

    def __init__(self, factor):
        self.factor = factor

    def __repr__(self):
        return "Slower()"

    def select(self, members):
        return self

    def bind(self, ensemble, objective):
        def step(batch, weights):
            loss = objective.loss(ensemble(batch["input"], training=True)[0], batch["target"])
            ensemble.backward(loss.sum() * self.factor)
            return loss.detach(), {}

        return step


class Sideways(Slower):
    def bind(self, ensemble, objective):
        return super().bind(ensemble, Objective(loss=lambda a, b: (a - b).abs().flatten(1).mean(1)))


def two_groups(first=0.0, rest=0.0):
    def optimizer(parameters):
        return Adam([{"params": parameters, "weight_decay": first}], lr=0.0, weight_decay=rest)

    return optimizer


def reference(by=0.0):
    state = {name: tensor.detach().clone() for name, tensor in Ensemble(Net, [0, 1]).parameters.items()}
    state["encoder.0.weight"][0, 0, 0] += by
    return state


LOSS = "SCALE = {scale}\ndef made(output, target): return (output - target).square().flatten(1).mean(1) {sign} SCALE"
SHARES = "def made(a, b): return part(a - b).flatten(1).mean(1)\ndef part(x): return x.{part}()"
pull, push = lambda a, b: (a - b).square().flatten(1).mean(1), lambda a, b: -(a - b).square().flatten(1).mean(1)


def closing(weight):
    def loss(output, target):
        return weight * (output - target).square().flatten(1).mean(1)

    return loss


def defaulting(power):
    def loss(output, target, p=power):
        return (output - target).abs().pow(p).flatten(1).mean(1)

    return loss


class Losses:
    weight = torch.ones(3)

    def __init__(self, weight):
        self.weight = weight

    def loss(self, output, target):
        return self.weight * (output - target).square().flatten(1).mean(1)


BASE = {
    "build": Net,
    "batches": Tensors(),
    "loss": pull,
    "terms": [Term("pull", Pull(torch.zeros(5)), "bottleneck"), ParameterTerm("drift", ParameterDrift(reference()))],
    "rule": None,
    "optimizer": two_groups(),
    "sheet": SHEET,
}


def train(path, **options):
    part = BASE | options
    ensemble = Ensemble(part["build"], [0, 1])
    objective = Objective(part["terms"] if part["rule"] is None else [], part["loss"])
    timeline = Timeline(Dopesheet.from_text(part["sheet"]))
    more = {"rule": part["rule"], "optimizer": part["optimizer"], "checkpoint": path}
    return fit(ensemble, part["batches"], objective, timeline, **more).ensemble


def term(to):
    return {"terms": [Term("pull", Pull(to), "bottleneck"), BASE["terms"][1]]}


def drift(by):
    return {"terms": [BASE["terms"][0], ParameterTerm("drift", ParameterDrift(reference(by)))]}


def loss(text, **parts):
    return {"loss": made(text.format(**parts))}


def data(by):
    changed = Tensors()
    changed.data[300, 1] += by
    return {"batches": changed}


CHANGES = [
    ("loss", "lambda", {"loss": pull}, {"loss": push}),
    ("loss", "body", loss(LOSS, scale=1, sign="+"), loss(LOSS, scale=1, sign="-")),
    ("loss", "global", loss(LOSS, scale=1, sign="+"), loss(LOSS, scale=2, sign="+")),
    ("loss", "what it calls", loss(SHARES, part="square"), loss(SHARES, part="abs")),
    ("loss", "closure", {"loss": closing(torch.ones(2))}, {"loss": closing(torch.tensor([1, 1 + 1e-6]))}),
    ("loss", "default", {"loss": defaulting(2)}, {"loss": defaulting(3)}),
    ("loss", "partial", {"loss": partial(pull)}, {"loss": partial(push)}),
    ("loss", "method", {"loss": Losses(torch.ones(2)).loss}, {"loss": Losses(torch.full((2,), 1 + 1e-6)).loss}),
    ("terms", "digits", term(torch.zeros(5)), term(torch.full((5,), 1e-9))),
    ("terms", "beyond the printed", term(torch.zeros(5000)[::1000]), term(torch.eye(5)[4] * 1e-3)),
    ("terms", "of parameters", drift(0.0), drift(1e-9)),
    ("batches", "data", data(0.0), data(1e-9)),
    ("batches", "method", {"batches": Tensors()}, {"batches": Darker()}),
    ("model", "forward", {"build": Net}, {"build": Louder}),
    ("model", "attribute", {"build": partial(Net, 1.0)}, {"build": partial(Net, 1.1)}),
    ("buffers", "values", {"build": Net}, {"build": type("Net", (Shifted,), {})}),
    ("builder", "argument", {"build": lambda: Net()}, {"build": lambda: Net(gain=1.0)}),
    ("rule", "attribute", {"rule": Slower(1.0)}, {"rule": Slower(0.5)}),
    ("rule", "method", {"rule": Slower(1.0)}, {"rule": Sideways(1.0)}),
    ("rule", "any", {"rule": None, "terms": []}, {"rule": Slower(1.0)}),
    ("optimizer", "options of a group", {}, {"optimizer": two_groups(first=0.1)}),
    ("optimizer", "factory", {}, {"optimizer": lambda parameters: two_groups()(parameters)}),
    ("timeline", "values", {}, {"sheet": SHEET.replace("1e-3,0.1", "1e-3,0.11")}),
]


@pytest.mark.parametrize(("part", "kind", "first", "second"), CHANGES, ids=[f"{c[0]}: {c[1]}" for c in CHANGES])
def test_a_checkpoint_of_another_run_is_refused_and_the_part_is_named(tmp_path, part, kind, first, second):
    path = tmp_path / "run"
    trained = train(path, **first)
    assert torch.equal(train(path, **first).flat, trained.flat)  # the same run goes on
    # A subclass is also another model: what comes first is named.
    parts = {"buffers": "(model|buffers)", "terms": "terms"}.get(part, part)
    with pytest.raises(CheckpointError, match=f"belongs to another run: {parts} should be"):
        train(path, **second)


def test_shares_of_an_ensemble_have_identities_of_their_own(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    def again(seeds, loss=pull):
        ensemble, timeline = Ensemble(Net, seeds), Timeline(Dopesheet.from_text(SHEET))
        with ThreadPoolExecutor(2) as threads:
            options = {"executor": threads, "workers": 2, "checkpoint": tmp_path / "run"}
            return fit(ensemble, Tensors(), Objective(loss=loss), timeline, **options).ensemble

    first = again([0, 1, 2])
    assert torch.equal(again([0, 1, 2]).flat, first.flat)
    with pytest.raises(CheckpointError, match="loss should be"):
        again([0, 1, 2], push)
    with pytest.raises(CheckpointError, match="seeds should be"):
        again([0, 2, 1])


# Stored results: each change is computed anew.


class Kinds(Enum):
    FEW = 1


Point = namedtuple("Point", "x y")


@dataclass
class Holder:
    value: object


class Slots:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


def hooked(network, hook):
    network.register_forward_hook(hook)
    return network


def linear(**attributes):
    network = nn.Linear(2, 2)
    nn.init.ones_(network.weight)
    nn.init.zeros_(network.bias)
    for name, value in attributes.items():
        setattr(network, name, value)
    return network


def frozen(network):
    return network.requires_grad_(False)


def ensemble(*layers):
    def build():
        return nn.Sequential(nn.Linear(2, 2), *(layer() for layer in layers))

    return Ensemble(build, [0, 1])


def late(change):
    """Return an ensemble that differs in something that is no parameter."""
    found = ensemble(partial(nn.BatchNorm1d, 2))
    found.buffers["1.running_mean"] += change
    return found


CONFIGURATIONS = [
    ("list or tuple", [1], (1,)),
    ("key", {1: 0}, {"1": 0}),
    ("number or text", 1, "1"),
    ("whole or not", 1, 1.0),
    ("truth or number", True, 1),
    ("order of keys", {"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ("sign of zero", 0.0, -0.0),
    ("set", {1, 2}, {1, 3}),
    ("bytes", b"a", "a"),
    ("named tuple", Point(1, 2), (1, 2)),
    ("array or tensor", np.ones(3), torch.ones(3, dtype=torch.float64)),
    ("type of an array", np.ones(3, "float32"), np.ones(3)),
    ("type of a scalar", np.float32(0.5), 0.5),
    ("shape", torch.ones(2, 3), torch.ones(3, 2)),
    ("one element", torch.zeros(5000), torch.zeros(5000).index_fill(0, torch.tensor([2500]), 1e-9)),
    ("texts", np.array(["a", "b"]), np.array(["a", "c"])),
    ("objects", np.array([None, {1: 2}]), np.array([None, {1: 3}])),
    ("mask", np.ma.array([1, 2], mask=[0, 0]), np.ma.array([1, 2], mask=[0, 1])),
    ("table", pd.DataFrame({"x": [1, 2]}), pd.DataFrame({"x": [1, 3]})),
    ("categories", pd.Series(["a"], dtype="category"), pd.Series(["a"])),
    ("gradient", torch.ones(2), torch.ones(2, requires_grad=True)),
    ("dataclass", Holder(torch.zeros(3)), Holder(torch.full((3,), 1e-9))),
    ("slots", Slots(1), Slots(2)),
    ("attribute of an object", types.SimpleNamespace(a=1), types.SimpleNamespace(a=2)),
    ("partial", partial(closing, 1), partial(closing, 2)),
    ("closure", closing(1), closing(2)),
    ("pattern", re.compile("a"), re.compile("b")),
    ("generator", np.random.default_rng(0), np.random.default_rng(1)),
    ("member", Kinds.FEW, 1),
    ("network: attribute", linear(scale=1.0), linear(scale=2.0)),
    ("network: tensor", linear(mask=torch.ones(2)), linear(mask=torch.zeros(2))),
    ("network: hook", hooked(linear(), lambda m, i, o: o), hooked(linear(), lambda m, i, o: -o)),
    ("network: any hook", linear(), hooked(linear(), lambda m, i, o: o)),
    ("network: forward", linear(), linear(forward=lambda x: x)),
    ("network: frozen", linear(), frozen(linear())),
    ("network: mode", linear(), linear().eval()),
    ("ensemble: architecture", ensemble(nn.ReLU), ensemble(nn.Tanh)),
    ("ensemble: option", ensemble(partial(nn.LeakyReLU, 0.1)), ensemble(partial(nn.LeakyReLU, 0.2))),
    ("ensemble: buffer", late(0.0), late(1e-6)),
]

PROGRAM = "{body}\ndef made(x=None): return {{'y': {call}}}"
FUNCTIONS = {
    "class attribute": ("class A:\n    size = {0}\n    def f(self): return self.size", "A().f()", 1, 2),
    "static method": ("class A:\n    @staticmethod\n    def f(): return {0}", "A.f()", 1, 2),
    "class method": ("class A:\n    @classmethod\n    def f(cls): return {0}", "A.f()", 1, 2),
    "property": ("class A:\n    @property\n    def f(self): return {0}", "A().f", 1, 2),
    "nested class": ("class A:\n    class B:\n        def f(self): return {0}", "A.B().f()", 1, 2),
    "base class": ("class B:\n    def f(self): return {0}\nclass A(B): pass", "A().f()", 1, 2),
    "instance": ("class A:\n    def __init__(self): self.a = {0}\na = A()", "a.a", 1, 2),
    "its class": ("class A:\n    def f(self): return {0}\na = A()", "a.f()", 1, 2),
    "cached helper": ("from functools import lru_cache\n@lru_cache\ndef f(): return {0}", "f()", 1, 2),
    "partial": ("from functools import partial\ndef g(x): return x\nf = partial(g, {0})", "f()", 1, 2),
    "what a partial calls": ("from functools import partial\ndef g(x): return x + {0}\nf = partial(g, 1)", "f()", 1, 2),
    "wrapped": ("import torch\n@torch.no_grad()\ndef f(): return {0}", "f()", 1, 2),
    "in a list": ("fs = [lambda: {0}]", "fs[0]()", 1, 2),
    "keyword default": ("def f(*, a={0}): return a", "f()", 1, 2),
    "function attribute": ("def f(): return f.a\nf.a = {0}", "f()", 1, 2),
    "in a comprehension": ("A = {0}", "[A for _ in [0]][0]", 1, 2),
    "set of texts": ("A = {{'a', {0}}}", "len(A)", "'b'", "'c'"),
    "tensor": ("import torch\nA = torch.zeros(3) + {0}", "A.sum()", 0, 1e-9),
    "constant": ("", "{0}", 1, 2),
    "called": ("import math", "math.{0}(0.5)", "sin", "cos"),
}


def function(kind, which):
    body, call, *values = FUNCTIONS[kind]
    return made(PROGRAM.format(body=body.format(values[which]), call=call.format(values[which])))


@pytest.mark.parametrize(("first", "second"), [c[1:] for c in CONFIGURATIONS], ids=[c[0] for c in CONFIGURATIONS])
def test_a_configuration_of_other_content_is_computed(tmp_path, first, second):
    def kept(x):
        return {"y": 1}

    for x in (first, second, first):
        runs.run(kept, [{"x": x}], tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert identity({"x": first}) != identity({"x": second})


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_function_of_other_content_is_computed(tmp_path, kind):
    for which in (0, 1, 0):
        runs.run(function(kind, which), [{}], tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_a_helper_in_another_module_of_ones_own_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_helpers.py").write_text("SCALE = 2\ndef f(x): return SCALE * x\nUNREAD = 0\n")
    import own_helpers

    function = made("import own_helpers\ndef made(x): return {'y': own_helpers.f(x)}")
    before = identity(function)
    monkeypatch.setattr(own_helpers, "UNREAD", 1)
    assert identity(function) == before
    monkeypatch.setattr(own_helpers, "SCALE", 3)
    assert identity(function) != before


def test_what_own_code_puts_into_a_class_of_a_package_counts(monkeypatch):
    before = identity(ColorMLP)
    monkeypatch.setattr(ColorMLP, "forward", lambda self, x: x)
    assert identity(ColorMLP) != before


def test_files_count_by_content_and_folders_by_place(tmp_path):
    file, moved, folder = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "folder"
    folder.mkdir()
    file.write_text("1")
    before = identity(file)
    file.write_text("2")  # of the same size, and maybe within one tick of the clock
    assert identity(file) != before
    moved.write_text("1")
    assert identity(moved) == before
    place = identity(folder)
    (folder / "result.json").write_text("{}")
    assert identity(folder) == place != identity(tmp_path)


# What changes nothing


def test_lines_comments_documentation_and_names_are_no_content():
    plain = made("def made(x: int = 1) -> int:\n    return part(x) + 1000\ndef part(x): return -x")
    dressed = made('''

        def part(x):
            """Return the negative."""
            return -x  # of course


        def made(x: float = 1) -> float:
            """Return something
            else."""
            # first the part
            return part(x) + 1000
        ''')
    assert identity(plain) == identity(dressed)
    assert identity(plain) != identity(made("def made(x=1): return part(x) + 1001\ndef part(x): return -x"))


@dataclass(frozen=True)
class Counted:
    values: torch.Tensor

    @cached_property
    def total(self):
        return self.values.sum()


@lru_cache
def cached(x):
    return x + 1


def uses(x):
    return {"y": cached(x) + Counted(torch.ones(2)).total, "z": {"p", "q", "r"}, "w": Slots}


def test_what_use_leaves_behind_is_no_content():
    counted, before, network = Counted(torch.ones(3)), identity(Counted(torch.ones(3))), ensemble(nn.Dropout)
    assert counted.total == 3
    assert identity(counted) == before
    before = identity(network)
    network(torch.zeros(1, 4, 2, dtype=torch.float64))
    assert identity(network) == before
    assert identity(network.select([1, 0]).select([1, 0])) == before
    before = identity(uses)
    uses(1)
    assert identity(uses) == before
    assert identity([torch.ones(2, 3).T.contiguous().T, np.float64(1), np.int64(2)]) == identity(
        [torch.ones(2, 3), 1.0, 2]
    )


def test_an_unchanged_run_goes_on_in_another_process(tmp_path):
    program = f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from pathlib import Path
        from test_identity import *
        values = [first for _, first, second in CONFIGURATIONS] + [function(kind, 0) for kind in FUNCTIONS]
        print(*map(identity, [*values, uses, {{"a", "b", "c"}}]))
        path, before = Path({str(tmp_path)!r}) / "run", None
        if path.exists():
            before = path.read_bytes()
        train(path, loss=made(LOSS.format(scale=1, sign="+")), optimizer=two_groups(), rule=Slower(1.0))
        print("again" if before == path.read_bytes() else "first")
    """
    said = []
    for seed in "123":
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(layout.root())}
        command = [sys.executable, "-c", textwrap.dedent(program)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        said.append(done.stdout.split())
    assert [words[-1] for words in said] == ["first", "again", "again"]
    assert said[0][:-1] == said[1][:-1] == said[2][:-1]
    assert len(set(said[0])) > 50


# What cannot be told


def test_what_has_no_content_is_refused_unless_it_is_merely_read(tmp_path):
    import threading

    lock = threading.Lock()
    with pytest.raises(UnidentifiedError, match="cannot identify 'value': a lock has no content to compare"):
        identity([1, Holder(lock)])
    with pytest.raises(UnidentifiedError, match="a generator"):
        identity(number for number in [1])
    with open(tmp_path / "file", "w") as file, pytest.raises(UnidentifiedError, match="a TextIOWrapper"):
        identity({"a": file})

    def guarded(scale):
        def function():
            with lock:
                return scale

        return function

    assert identity(guarded(1)) == identity(guarded(1)) != identity(guarded(2))


def test_what_goes_in_a_circle_comes_to_an_end():
    first, second = [1], [1]
    first.append(first)
    second.append(second)
    assert identity(first) == identity(second) != identity([1, [1]])
    even = made("def odd(n): return n and made(n - 1)\ndef made(n): return not n or odd(n - 1)")
    assert identity(even) == identity(even)


def test_dataclasses_replaced_alike_are_alike():
    assert identity(dataclasses.replace(Tensors(), points=7)) == identity(Tensors(points=7)) != identity(Tensors())


def test_a_module_that_is_not_read_by_name_counts_by_its_file(tmp_path, monkeypatch):
    (tmp_path / "held_helpers.py").write_text("def f(x): return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    import held_helpers

    def by_default(x, lib=held_helpers):
        return {"y": lib.f(x)}

    table = {"lib": held_helpers}

    def by_table(x):
        return {"y": table["lib"].f(x)}

    for function in (by_default, by_table):
        before = Identifier().of(function, "function")
        assert Identifier().of(function, "function") == before
        (tmp_path / "held_helpers.py").write_text(f"def f(x): return x + {function.__name__!r}\n")
        assert Identifier().of(function, "function") != before
