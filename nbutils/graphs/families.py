"""Families of unmodified transformers: which modules write to the stream and which read it, by their names.

A traced run confirms what is said here (`nbutils.graphs.residual`): other names or sums are refused, never believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

from nbutils.graphs.linear import linear
from nbutils.sites import Site


@dataclass
class Places:
    """Sources, destinations, and through which modules these read."""

    sources: dict[str, Site] = field(default_factory=dict)
    destinations: dict[str, Site] = field(default_factory=dict)
    through: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """Names of modules: of a block's relative to the block, of the others to the model that holds the blocks.

    Attributes:
        blocks: the list of blocks.
        embeddings: source -> module.
        qkv: the modules that compute queries, keys and values: three, or one that computes all.
        by_head: of one module: queries, keys and values of a head lie together, not those of all heads.
        out: the output projection of attention.
        norm: through which attention reads the stream; None: it reads it itself.
        mlp: the module that reads the stream for the MLP, and the one that writes.
        norms: norms in the stream, after attention and after the MLP.
        last: the module that reads the stream at the end; None: the last of `norms`.
    """

    name: str
    blocks: str
    embeddings: dict[str, str]
    qkv: tuple[str, ...]
    out: str
    norm: str | None
    mlp: tuple[str, str]
    last: str | None
    by_head: bool = False
    norms: tuple[str, str] | None = None


_BERT = tuple(f"attention.self.{name}" for name in ("query", "key", "value"))
_VIT = tuple(f"attention.attention.{name}" for name in ("query", "key", "value"))

FAMILIES = (
    Family(
        "GPT-2", "h", {"token": "wte", "position": "wpe"},
        ("attn.c_attn",), "attn.c_proj", "ln_1", ("ln_2", "mlp"), "ln_f",
    ),
    Family(
        "GPT-NeoX", "layers", {"token": "embed_in"},
        ("attention.query_key_value",), "attention.dense", "input_layernorm",
        ("post_attention_layernorm", "mlp"), "final_layer_norm", by_head=True,
    ),
    Family(
        "Llama", "layers", {"token": "embed_tokens"},
        tuple(f"self_attn.{letter}_proj" for letter in "qkv"), "self_attn.o_proj", "input_layernorm",
        ("post_attention_layernorm", "mlp"), "norm",
    ),
    Family(
        "BERT", "encoder.layer", {"embedding": "embeddings"}, _BERT, "attention.output.dense", None,
        ("intermediate.dense", "output.dense"), None, norms=("attention.output.LayerNorm", "output.LayerNorm"),
    ),
    Family(
        "ViT", "layers", {"embedding": "embeddings"},
        tuple(f"attention.{letter}_proj" for letter in "qkv"), "attention.o_proj", "layernorm_before",
        ("layernorm_after", "mlp"), "layernorm",
    ),
    Family(  # the same in transformers 4
        "ViT", "encoder.layer", {"embedding": "embeddings"}, _VIT, "attention.output.dense", "layernorm_before",
        ("layernorm_after", "output.dense"), "layernorm",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A family, and where in a model its modules are."""

    model: nn.Module
    family: Family
    base: str  # path of what holds the blocks, "" or with a dot at its end

    @property
    def blocks(self) -> list[str]:
        """The blocks' paths."""
        path = f"{self.base}{self.family.blocks}"
        return [f"{path}.{name}" for name, _ in self.model.get_submodule(path).named_children()]

    def head_width(self, block: str) -> int:
        """Return the width of a head, as the configuration says.

        Raises:
            ValueError: there is no configuration, or the output projection takes in no whole number of heads.
        """
        config = getattr(self.model.get_submodule(self.base.rstrip(".")), "config", None)
        heads, width = getattr(config, "num_attention_heads", None), getattr(config, "hidden_size", None)
        if not isinstance(heads, int) or not isinstance(width, int):
            raise ValueError(f"{self.base or 'the model'!r} has no configuration with num_attention_heads: give count=")
        each = getattr(config, "head_dim", None) or width // heads
        out = f"{block}.{self.family.out}"
        inputs = len(linear(self.model, out)[0])
        if inputs % each:
            raise ValueError(f"{out!r} takes in {inputs} units, no whole number of heads of {each}")
        return int(each)

    def heads(self, block: str) -> list[Site]:
        """Return each head's site: its slice of the output projection's input."""
        return head_sites(self.model, f"{block}.{self.family.out}", self.head_width(block))


def head_sites(model: nn.Module, module: str, width: int) -> list[Site]:
    """Return the slices of a width of a linear module's input."""
    inputs = len(linear(model, module)[0])
    return [Site(module, range(i, i + width), -1, part="input") for i in range(0, inputs, width)]


def find(model: nn.Module) -> Found | None:
    """Return the family of a model, or None.

    Raises:
        ValueError: it holds several models of a family, an encoder and a decoder, say.
    """
    names = {name for name, _ in model.named_modules(remove_duplicate=False)}
    found = [one for family in FAMILIES for one in _fits(model, family, names)]
    if len(found) > 1:
        told = ", ".join(f"{one.family.name} at {one.base or 'the model'!r}" for one in found)
        raise ValueError(f"{type(model).__name__} holds several models ({told}): give one of them, or name the places")
    return found[0] if found else None


def _fits(model: nn.Module, family: Family, names: set[str]) -> Iterator[Found]:
    first = f"{family.blocks}.0.{family.qkv[0]}"
    inside = [*family.qkv, family.out, *family.mlp, *(family.norms or ()), *([family.norm] if family.norm else [])]
    outside = [*family.embeddings.values(), *([family.last] if family.last else [])]
    for name in sorted(names):
        if name == first or name.endswith(f".{first}"):
            base = name.removesuffix(first)
            if all(f"{base}{family.blocks}.0.{part}" in names for part in inside) and all(
                f"{base}{part}" in names for part in outside
            ):
                yield Found(model, family, base)


def places(model: nn.Module) -> Places:
    """Return sources and destinations of a model of a known family.

    Raises:
        ValueError: the family is not known; the message lists those that are, and the other way.
    """
    if (found := find(model)) is not None:
        return _placed(found)
    names = [name for name, _ in model.named_modules()]
    blocks = [name.removesuffix(".attention.q_input") for name in names if name.endswith(".attention.q_input")]
    if blocks and {"embedding", "positions", "unembed_input", f"{blocks[0]}.attention.heads"} <= set(names):
        return _modular(blocks, set(names))
    known = ", ".join(dict.fromkeys(family.name for family in FAMILIES))
    raise ValueError(
        f"{type(model).__name__} is of no family that is known ({known}; of transformers). Name its places: "
        'residual_graph(model, batch, embedding="…", branch="blocks.{}", blocks=…, head="…"), or what writes and what '
        "reads by ResidualGraph.trace(model, batch, sources, destinations)"
    )


def _placed(found: Found) -> Places:
    family, where = found.family, Places()
    where.sources |= {name: Site(f"{found.base}{module}", axis=-1) for name, module in family.embeddings.items()}
    for i, block in enumerate(found.blocks):
        heads = found.heads(block)
        where.sources |= {f"a{i}.{head}": site for head, site in enumerate(heads)}
        readers = _readers(found, i, block, len(heads))
        where.destinations |= readers
        for name, site in readers.items():
            where.through[name] = site.module if family.norm is None else f"{block}.{family.norm}"
        where.sources[f"m{i}"] = Site(f"{block}.{family.mlp[1]}", axis=-1)
        where.destinations[f"m{i}"] = Site(f"{block}.{family.mlp[0]}")
        for letter, norm in zip("am", family.norms or (), strict=False):
            where.sources[f"{letter}{i}.norm"] = where.destinations[f"{letter}{i}.norm"] = Site(
                f"{block}.{norm}", axis=-1
            )
    if family.last is None:  # what reads the last norm reads nothing else
        name = list(where.sources)[-1]
        del where.sources[name]
        where.destinations["logits"] = where.destinations.pop(name)
    else:
        where.destinations["logits"] = Site(f"{found.base}{family.last}")
    return where


def _readers(found: Found, i: int, block: str, heads: int) -> dict[str, Site]:
    """Return the queries, keys and values of a block's heads, or of its groups of heads."""
    width, readers = found.head_width(block), {}
    for k, letter in enumerate("qkv"):
        fused = len(found.family.qkv) == 1
        module = f"{block}.{found.family.qkv[0 if fused else k]}"
        outputs = linear(found.model, module)[0].shape[1]
        expected = 3 * heads * width if fused else outputs // width * width
        if outputs != expected or (not fused and heads % (outputs // width)):
            raise ValueError(f"{module!r} puts out {outputs} units, for {heads} heads of {width}")
        count = heads if fused else outputs // width
        for j in range(count):
            slot = (3 * j + k if found.family.by_head else k * heads + j) if fused else j
            name = f"a{i}.{j}.{letter}" if count == heads else f"a{i}.g{j}.{letter}"
            readers[name] = Site(module, range(slot * width, (slot + 1) * width), -1)
    return readers


def _modular(blocks: list[str], names: set[str]) -> Places:
    """Return the places of a transformer in which whatever writes and whatever reads is a module of its own."""
    where = Places({"token": Site("embedding"), "position": Site("positions", axis=-1)})
    for i, block in enumerate(blocks):
        where.sources[f"a{i}.{{}}"] = Site(f"{block}.attention.heads", axis=2)
        for letter in "qkv":
            where.destinations[f"a{i}.{{}}.{letter}"] = Site(f"{block}.attention.{letter}_input", axis=2)
        if f"{block}.mlp" in names:
            where.sources[f"m{i}"] = where.destinations[f"m{i}"] = Site(f"{block}.mlp", axis=-1)
    where.destinations["logits"] = Site("unembed_input")
    return where
