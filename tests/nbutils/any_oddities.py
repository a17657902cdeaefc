"""Small models, each with something that may go wrong: shared, wrapped, compiled, counted, written over, named."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from any_models import (
    ITEMS,
    Case,
    Fn,
    Place,
    known,
    layer,
    spread,
    vectors,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm
from torch.utils.checkpoint import checkpoint


def siamese() -> nn.Module:
    tower = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4))
    return Fn(lambda self, x: self.teacher(x), student=tower, teacher=tower)


def towers() -> nn.Module:
    tower = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
    return Fn(
        lambda self, a, b: self.out(self.tower(a) * self.tower(b) + self.once(a)),
        tower=tower,
        once=nn.Linear(5, 6),
        out=nn.Linear(6, 4),
    )


def autoencoder() -> nn.Module:
    def encode(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x.tanh()), self.scale(x).clamp(-2, 2)

    def forward(self: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, scale = self.encode(self.trunk(x))
        code = mean + torch.randn_like(mean) * scale.exp() if self.training else mean + 0.1 * scale
        return self.decode(code), mean, scale

    parts = Fn(encode, mean=nn.Linear(6, 3), scale=nn.Linear(6, 3))
    return Fn(forward, trunk=nn.Linear(5, 6), encode=parts, decode=nn.Linear(3, 5))


def inside(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(wrap(nn.Linear(5, 7)), nn.Tanh(), nn.Linear(7, 4))


def scripted() -> nn.Module:
    part = torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.Tanh()))
    return nn.Sequential(nn.Linear(5, 6), part, nn.Linear(6, 4))


def checkpointed() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(checkpoint(self.block, self.first(x), use_reentrant=False))

    block = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Tanh())
    return Fn(forward, first=nn.Linear(5, 6), block=block, out=nn.Linear(6, 4))


def keywords_only() -> nn.Module:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 6), nn.Linear(3, 6)

        def forward(self, *, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
            return self.a(left) * scale + self.b(right)

    return Fn(
        lambda self, *, left, right, flag: self.out(self.block(left=left, right=right, scale=2.0 if flag else 1.0)),
        block=Block(),
        out=nn.Linear(6, 4),
    )


Answer = namedtuple("Answer", "logits features")


def named_answer(kind: str) -> nn.Module:
    def trunk(self: Any, x: Tensor) -> Any:
        hidden = self.a(x).tanh()
        if kind == "dict":
            return {"hidden": hidden, "square": hidden**2, "count": len(x)}
        return Answer(hidden, hidden**2) if kind == "namedtuple" else [hidden, hidden**2]

    def forward(self: Any, x: Tensor) -> Any:
        found = self.trunk(x)
        hidden, square = (found["hidden"], found["square"]) if kind == "dict" else found
        logits = self.out(hidden + 0.5 * square)
        return {"logits": logits, "features": hidden} if kind == "dict" else Answer(logits, hidden)

    return Fn(forward, trunk=Fn(trunk, a=nn.Linear(5, 6)), out=nn.Linear(6, 4))


def written_over() -> nn.Module:
    """What a module put out is written into by the model."""

    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.drop(self.a(x))
        hidden += 1.0
        hidden.mul_(2)
        hidden[:, 0] = 0.5
        return self.out(hidden.tanh())

    return Fn(forward, a=nn.Linear(5, 6), drop=nn.Dropout(0.5), out=nn.Linear(6, 4))


def choice() -> nn.Module:
    experts = nn.ModuleDict({"tanh": nn.Linear(5, 6), "relu": nn.Sequential(nn.Linear(5, 6), nn.ReLU())})
    return Fn(
        lambda self, x, which: self.out(self.norms[0](self.experts[which](x)) + self.scale),
        experts=experts,
        norms=nn.ModuleList([nn.LayerNorm(6)]),
        scale=nn.ParameterList([torch.ones(6)])[0],
        out=nn.Linear(6, 4),
    )


def counting() -> nn.Module:
    """In training mode all of it is random, and it counts its calls."""

    def forward(self: Any, x: Tensor) -> Tensor:
        self.calls += 1
        return self.out(self.drop(self.norm(self.a(x))).relu())

    model = Fn(forward, a=nn.Linear(5, 6), norm=nn.BatchNorm1d(6), drop=nn.Dropout(0.5), out=nn.Linear(6, 4))
    model.register_buffer("calls", torch.zeros((), dtype=torch.long))
    return model


def hooked() -> nn.Module:
    """Hooks of the user's own stay, and count."""
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4))
    model[1].register_forward_hook(lambda _module, _inputs, output: output * 3 + 1)
    model[3].register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 0.5,))
    return model


def replaced() -> nn.Module:
    """A `forward` of the object's own, and a branch that runs beside the chain."""
    model = Fn(
        lambda self, x: self.c((h := self.a(x).relu()) + self.b(h).relu()),
        a=nn.Linear(5, 6),
        b=nn.Linear(6, 6),
        c=nn.Linear(6, 4),
    )
    own = model.a.forward
    model.a.forward = lambda x: own(x).sin()
    return model


def codes() -> nn.Module:
    """Integers inside."""
    return Fn(
        lambda self, x: self.out(self.book(self.nearest(self.a(x).argmax(-1, keepdim=True)))).flatten(1),
        a=nn.Linear(5, 9),
        nearest=nn.Identity(),
        book=nn.Embedding(9, 8),
        out=nn.Linear(8, 4),
    )


def mapped() -> nn.Module:
    """A part sees one item at a time, without an axis of items."""
    return Fn(
        lambda self, x: self.out(torch.vmap(self.inner)(x).tanh()), inner=nn.Linear(5, ITEMS), out=nn.Linear(ITEMS, 4)
    )


def contrastive() -> nn.Module:
    """Each item's answer depends on the other items."""
    return Fn(lambda self, a, b: self.a(a).tanh() @ self.b(b).tanh().T, a=nn.Linear(5, 6), b=nn.Linear(5, 6))


CASES = [
    Case(
        "mlp",
        lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)),
        vectors,
        (layer("0", 1), Place("1", 1), known("2", 1, part="input"), layer("4", 1), Place("", 1)),
    ),
    Case(
        "one module, two names", siamese, vectors, (layer("student.0", 1), layer("teacher.2", 1), Place("teacher", 1))
    ),
    Case(
        "one module, run twice",
        towers,
        lambda n: (vectors(n), vectors(n)),
        (Place("tower.0", 1, calls=2), layer("once", 1), Place("tower", 1, calls=2)),
    ),
    Case(
        "autoencoder, tuples",
        autoencoder,
        vectors,
        (
            *(Place("encode", 1), Place("encode", 1, item=1), layer("encode.scale", 1), layer("trunk", 1)),
            Place("", 1, item=0),
        ),
        key=0,
    ),
    Case(
        "weight_norm",
        partial(inside, parametrizations.weight_norm),
        vectors,
        (known("0", 1), Place("1", 1), known("2", 1, part="input"), layer("2", 1)),
    ),
    Case("weight_norm, the old one", partial(inside, weight_norm), vectors, (known("0", 1), Place("1", 1))),
    Case("spectral_norm", partial(inside, parametrizations.spectral_norm), vectors, (known("0", 1), Place("1", 1))),
    Case(
        "compiled",
        lambda: torch.compile(spread(inside(lambda part: part)), backend="eager"),
        vectors,
        (Place("_orig_mod.0", 1), Place("_orig_mod.1", 1), Place("_orig_mod.2", 1)),
        plain=lambda model: Fn(lambda s, x: s._orig_mod(x), _orig_mod=model._orig_mod),
    ),
    Case("scripted in part", scripted, vectors, (known("0", 1), Place("1", 1, calls=0), Place("1.0", 1, calls=0))),
    Case(
        "checkpointed",
        checkpointed,
        vectors,
        (layer("first", 1), layer("block.0", 1), Place("block", 1), layer("out", 1)),
    ),
    Case(
        "keywords only",
        keywords_only,
        lambda n: {"left": vectors(n), "right": vectors(n, 3), "flag": True},
        (layer("block.a", 1), Place("block", 1, part="input", item="right"), Place("block", 1)),
    ),
    Case(
        "dict",
        partial(named_answer, "dict"),
        vectors,
        (Place("trunk", 1, item="hidden"), Place("trunk", 1, item="square"), Place("", 1, item="logits")),
        key="logits",
    ),
    Case(
        "named tuple",
        partial(named_answer, "namedtuple"),
        vectors,
        (Place("trunk", 1), Place("trunk", 1, item=1), Place("", 1, item=0)),
        key=0,
    ),
    Case("list", partial(named_answer, "list"), vectors, (Place("trunk", 1, item=1), layer("trunk.a", 1)), key=0),
    Case(
        "one logit",
        lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1)),
        vectors,
        (layer("0", 1), Place("1", 1), layer("2", 1)),
    ),
    Case(
        "no axis of classes",
        lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1), nn.Flatten(0)),
        vectors,
        (layer("0", 1), Place("1", 1)),
    ),
    Case(
        "integers", codes, vectors, (Place("nearest", 1, integers=True), Place("book", 1, part="input", integers=True))
    ),
    Case("a part under vmap", mapped, vectors, (Place("inner", 1, calls=0), layer("out", 1))),
    Case("items compared", contrastive, lambda n: (vectors(n), vectors(n)), (layer("a", 1), layer("b", 1)), mixed=True),
    Case("written over in place", written_over, vectors, (layer("a", 1), Place("drop", 1), layer("out", 1))),
    Case(
        "containers",
        choice,
        lambda n: (vectors(n), "relu"),
        (
            *(layer("experts.relu.0", 1), Place("experts.relu", 1), layer("norms.0", 1)),
            Place("experts.tanh", 1, calls=0),
        ),
    ),
    Case("random and counting in training", counting, vectors, (layer("a", 1), layer("norm", 1), Place("drop", 1))),
    Case("hooks of the user's own", hooked, vectors, (known("1", 1), Place("2", 1), known("3", 1, part="input"))),
    Case("a forward of the object's own", replaced, vectors, (Place("a", 1), layer("b", 1))),
    Case(
        "bfloat16",
        lambda: inside(lambda part: part).bfloat16(),
        lambda n: vectors(n).bfloat16(),
        (layer("2", 1), Place("1", 1), Place("0", 1)),
        close=3e-2,
    ),
]
