"""Models of sequences: recurrent, attention and its relatives, and axes that are easy to take for others."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from any_models import (
    ITEMS,
    TOKENS,
    Case,
    Fn,
    Place,
    ids,
    known,
    layer,
    masked,
    sequences,
)
from torch import Tensor, nn


def recurrent(kind: type[nn.RNNBase], **options: Any) -> nn.Module:
    def forward(self: Any, tokens: Tensor) -> Tensor:
        hidden, _ = self.rnn(self.embed(tokens))
        return self.out(hidden[:, -1])

    rnn = kind(8, 6, batch_first=True, **options)
    width = 12 if options.get("bidirectional") else 6
    return Fn(forward, embed=nn.Embedding(20, 8), rnn=rnn, out=nn.Linear(width, 4))


def items_second() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(self.rnn(x.transpose(0, 1))[0].transpose(0, 1).mean(1))

    return Fn(forward, rnn=nn.LSTM(8, 6), out=nn.Linear(6, 4))


def encoder(nested: bool) -> nn.Module:
    def forward(self: Any, x: Tensor, padding: Tensor | None = None) -> Tensor:
        hidden = self.enc(x, src_key_padding_mask=padding)
        return self.out(hidden[:, 0])

    one = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    return Fn(forward, enc=nn.TransformerEncoder(one, 2, enable_nested_tensor=nested), out=nn.Linear(8, 4))


def padded(items: int) -> dict[str, Tensor]:
    return {"x": sequences(items), "padding": masked(items)["attention_mask"] == 0}


def attention() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        mixed, weights = self.mha(x, x, x, average_attn_weights=False)
        return self.out(mixed.mean(1)) + weights[:, 0, 0, :4]

    return Fn(forward, mha=nn.MultiheadAttention(8, 2, batch_first=True), out=nn.Linear(8, 4))


class Heads(nn.Module):
    """Puts out `[items, heads, tokens, width]`, or with `last` `[items, tokens, heads, width]`."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, 4))
        self.form = "btc,chd->bthd" if last else "btc,chd->bhtd"

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum(self.form, x, self.weight)


def heads(last: bool) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.heads(x) if last else self.heads(x).transpose(1, 2)
        return self.out(hidden.flatten(2).tanh()).mean(1)

    return Fn(forward, heads=Heads(last), out=nn.Linear(12, 4))


def positions() -> nn.Module:
    def forward(self: Any, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)[None]
        return self.out(self.norm(self.words(tokens) + self.places(places)).tanh()).mean(1)

    return Fn(forward, words=nn.Embedding(20, 8), places=nn.Embedding(9, 8), norm=nn.RMSNorm(8), out=nn.Linear(8, 4))


def windows() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        inner = self.inner(x.reshape(-1, 3, 8)).tanh()  # two windows of three tokens to an item
        return self.out(inner.reshape(x.shape[0], 6, 8)).mean(1)

    return Fn(forward, inner=nn.Linear(8, 8), out=nn.Linear(8, 4))


def transposed() -> nn.Module:
    """A part takes `[tokens, items, features]`."""
    return Fn(
        lambda self, x: self.out(self.inner(x.transpose(0, 1)).tanh().transpose(0, 1)).mean(1),
        inner=nn.Linear(8, 8),
        out=nn.Linear(8, 4),
    )


def bag() -> nn.Module:
    return Fn(lambda self, tokens: self.out(self.bag(tokens)), bag=nn.EmbeddingBag(20, 8), out=nn.Linear(8, 4))


def traced() -> nn.Module:
    return torch.fx.symbolic_trace(nn.Sequential(nn.Conv1d(8, 6, 3, dilation=2), nn.GroupNorm(2, 6), nn.Flatten()))


def decoder() -> nn.Module:
    one = nn.TransformerDecoderLayer(8, 2, 12, batch_first=True)
    return Fn(
        lambda self, x, memory: self.out(self.dec(x, memory)).mean(1),
        dec=nn.TransformerDecoder(one, 2),
        out=nn.Linear(8, 4),
    )


class Fourier(nn.Module):
    """Complex numbers inside."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x, dim=1)


def fourier() -> nn.Module:
    return Fn(
        lambda self, x: self.out(torch.fft.irfft(self.low(self.wave(x)) * 0.5, n=6, dim=1).tanh()).mean(1),
        wave=Fourier(),
        low=nn.Identity(),
        out=nn.Linear(8, 4),
    )


class Token(nn.Module):
    """One token for all items, as a view that repeats itself."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.token.expand(len(x), 1, 8)


def with_token() -> nn.Module:
    return Fn(
        lambda self, x: self.out(self.mix(torch.cat([self.token(x), x], 1)).tanh()[:, 0]),
        token=Token(),
        mix=nn.Conv1d(7, 5, 1),
        out=nn.Linear(8, 4),
    )


def cell() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = x.new_zeros(len(x), 6)
        for step in x.unbind(1):
            hidden = self.cell(step, hidden)
        return self.out(hidden)

    return Fn(forward, cell=nn.GRUCell(8, 6), out=nn.Linear(6, 4))


def gru_answers() -> nn.Module:
    """The last state, `[layers, items, width]`, goes into the answer: axis 0 has length 1, and is not the items."""

    def forward(self: Any, x: Tensor) -> Tensor:
        hidden, state = self.rnn(x)
        return self.out(hidden.mean(1) + state[-1])

    return Fn(forward, rnn=nn.GRU(8, 6, batch_first=True), out=nn.Linear(6, 4))


E0 = "enc.layers.0"

CASES = [
    Case(
        "mlp on tokens",
        lambda: Fn(lambda s, x: s.b(s.a(x).relu()).mean(1), a=nn.Linear(8, 6), b=nn.Linear(6, 4)),
        sequences,
        (layer("a", 2, TOKENS), known("b", 2, TOKENS, part="input"), layer("b", 2, TOKENS)),
    ),
    Case(
        "LSTM",
        partial(recurrent, nn.LSTM),
        ids,
        (layer("embed", 2, TOKENS), known("rnn", 2, TOKENS), Place("rnn", 2, item=1, calls=0), layer("out", 1)),
    ),
    Case(
        "GRU, both directions, two layers",
        partial(recurrent, nn.GRU, num_layers=2, bidirectional=True, dropout=0.3),
        ids,
        (known("rnn", 2, TOKENS), known("rnn", 2, TOKENS, "input"), Place("rnn", 2, item=1, refused=True)),
    ),
    Case("LSTM, items second", items_second, sequences, (Place("rnn", 2, refused=True), layer("out", 1))),
    Case(
        "transformer encoder, fused",
        partial(encoder, False),
        sequences,
        (
            *(layer(f"{E0}.norm1", 2, TOKENS), layer(f"{E0}.linear1", 2, TOKENS), known(E0, 2, TOKENS)),
            *(known(f"{E0}.self_attn", 2, TOKENS), Place(f"{E0}.self_attn.out_proj", 2, TOKENS, calls=0)),
            Place("enc", 2, TOKENS),
        ),
    ),
    Case(
        "transformer encoder, padded and nested",
        partial(encoder, True),
        padded,
        (layer(f"{E0}.linear2", 2, TOKENS), known("enc.layers.1", 2, TOKENS), Place("enc", 2, TOKENS)),
    ),
    Case(
        "transformer decoder",
        decoder,
        lambda n: (sequences(n), sequences(n, 4)),
        (
            *(known("dec.layers.0.multihead_attn", 2, TOKENS), known("dec.layers.1", 2, TOKENS)),
            layer("dec.layers.0.linear1", 2, TOKENS),
        ),
    ),
    Case(
        "attention with its weights",
        attention,
        sequences,
        (known("mha", 2, TOKENS), Place("mha", 1, (2, 3), item=1), Place("mha", 2, TOKENS, "input", 1)),
    ),
    Case("heads on axis 1", partial(heads, False), sequences, (Place("heads", 1, (2,), given=True),)),
    Case("heads on axis 2", partial(heads, True), sequences, (Place("heads", 2, (1,)), Place("heads", 3, (1, 2)))),
    Case(
        "positions shared by all items",
        positions,
        ids,
        (layer("places", 2, TOKENS, shared=True), layer("words", 2, TOKENS), layer("norm", 2, TOKENS, weights=False)),
    ),
    Case("windows on axis 0", windows, sequences, (Place("inner", 2, (1,), refused=True), layer("out", 2, TOKENS))),
    Case(
        "items on axis 1 in a part",
        transposed,
        partial(sequences, length=ITEMS),
        (Place("inner", 2, refused=True), layer("out", 2, TOKENS)),
    ),
    Case("traced Conv1d, GroupNorm", traced, lambda n: sequences(n, 8, 9), (layer("0", 1, (2,)), known("1", 1, (2,)))),
    Case(
        "Fourier",
        fourier,
        sequences,
        (Place("wave", 2, TOKENS), Place("low", 2, TOKENS), known("out", 2, TOKENS, "input")),
    ),
    Case("a token for all", with_token, sequences, (Place("token", 2, TOKENS), layer("mix", 1, (2,)))),
    Case("a cell in a loop", cell, sequences, (Place("cell", 1, calls=6), layer("out", 1))),
    Case(
        "GRU, its last state", gru_answers, sequences, (known("rnn", 2, TOKENS), Place("rnn", 2, item=1, refused=True))
    ),
    Case("embedding bag", bag, ids, (Place("bag", 1), layer("out", 1))),
]
