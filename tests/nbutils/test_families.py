"""Graphs of transformers that nobody here wrote: the identities, and edges computed by hand."""

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nbutils as nb
from nbutils.graphs.edge_sets import run_edge_sets
from nbutils.graphs.prefix import PrefixWarning
from nbutils.graphs.scores import mask_gradients

transformers = pytest.importorskip("transformers")

TOKENS = {"num_hidden_layers": 2, "vocab_size": 11, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDE = {"num_attention_heads": 4, "hidden_size": 16, "intermediate_size": 20}


def gpt2(**keywords):
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_layer=2, n_head=3, n_embd=12, vocab_size=11, n_positions=8, bos_token_id=1, eos_token_id=2, **keywords
        )
    )


def parallel():
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**TOKENS, **WIDE))


def serial():
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**TOKENS, **WIDE, use_parallel_residual=False))


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**TOKENS, **WIDE, num_key_value_heads=2))


def bert():
    return transformers.BertForMaskedLM(transformers.BertConfig(**TOKENS, **WIDE, max_position_embeddings=8))


def vit():
    config = transformers.ViTConfig(**WIDE, num_hidden_layers=2, image_size=8, patch_size=4)
    return transformers.ViTForImageClassification(config)


FAMILIES = [gpt2, parallel, serial, llama, bert, vit]


def made(make):
    """Return a model whose attention is far from even, in float64, and clean and corrupt inputs of four items."""
    torch.manual_seed(0)
    model = make().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.25)
    if make is vit:
        return model, *({"pixel_values": pixels} for pixels in torch.randn(2, 4, 3, 8, 8, dtype=torch.float64))
    mask = torch.ones(4, 5, dtype=torch.long)
    mask[1, 3:] = 0
    return model, *({"input_ids": ids, "attention_mask": mask} for ids in torch.randint(3, 11, (2, 4, 5)))


@pytest.fixture(params=FAMILIES, ids=lambda make: make.__name__)
def case(request):
    model, clean, corrupt = made(request.param)
    return model, nb.residual_graph(model, clean), clean, corrupt


def answer(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def first_seven(logits, _batch):
    return logits.flatten(1)[:, :7].sum(1)


def patched(model, graph, edges, batch, values, **keywords):
    with nb.patch_edges(model, graph, edges, values, **keywords):
        return answer(model, batch)


def test_nothing_patched_is_the_model_and_everything_the_corrupt_run(case):
    model, graph, clean, corrupt = case
    values = nb.src_ablations(model, graph.sites, corrupt)
    whole, other = answer(model, clean), answer(model, corrupt)
    assert torch.equal(patched(model, graph, [], clean, values), whole)
    assert torch.allclose(patched(model, graph, graph.edges, clean, values), other, atol=1e-5)
    some = patched(model, graph, graph.out_edges("a0.0"), clean, values)
    assert min((some - run).abs().max() for run in (whole, other)) > 1e-3
    assert (whole - other).abs().max() > 0.1
    nowhere = torch.zeros(1, graph.written(model, values).shape[2], dtype=torch.bool)
    assert torch.equal(patched(model, graph, graph.edges, clean, values, where=nowhere), whole)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_sources_write_sums_up_to_what_is_read(case):
    """By plain hooks at the modules that read the stream; a bias of a projection is in no source, but in the sum."""
    model, graph, clean, _ = case
    read = {}
    modules = {name: graph.through.get(name, site.module) for name, site in graph.destinations.items()}
    handles = [
        model.get_submodule(module).register_forward_pre_hook(lambda _m, x, name=name: read.__setitem__(name, x[0]))
        for name, module in modules.items()
    ]
    answer(model, clean)
    for handle in handles:
        handle.remove()
    written = graph.written(model, nb.src_ablations(model, graph.sites, clean))
    names = list(graph.sources)
    for name in graph.destinations:
        here = list(graph.reads[name])
        projections = {graph.sources[source].module for source in here if graph.sources[source].part == "input"}
        biases = [bias for module in projections if (bias := model.get_submodule(module).bias) is not None]
        total = sum((written[names.index(source)] for source in here), start=sum(biases))
        assert torch.allclose(total, read[name], atol=1e-9)


def test_all_edges_of_a_head_are_its_site_edited_under_every_type(case):
    model, graph, clean, corrupt = case
    loader = nb.PairLoader(nb.Pairs(clean, corrupt, torch.zeros(4)), 4)
    batch = next(iter(loader))
    out = graph.sources["a1.1"].module
    assert nb.heads(model, out)[1] == graph.sources["a1.1"]
    written = graph.written(model, nb.src_ablations(model, graph.sites, clean))
    for kind in nb.AblationType:
        task = nb.EdgeTask(model, graph, loader, kind, lambda logits, _: logits[:, 0])
        for name in ("a0.1", "m0", next(iter(graph.sources))):
            site = graph.sources[name]
            with nb.edit(model, nb.edits([site], {site: task.of(batch)[site]})):
                edited = answer(model, clean)
            by_edges = patched(model, graph, graph.out_edges(name), clean, task.of(batch))
            assert torch.allclose(by_edges, edited, atol=1e-6)
        assert not torch.allclose(by_edges, answer(model, clean), atol=1e-3)
    mean = {site: row.mean((0, 1), keepdim=True) for site, row in task.of(batch).items()}  # one for all positions
    everywhere = {site: row.expand(4, written.shape[2], -1) for site, row in mean.items()}
    by_both = [patched(model, graph, graph.edges[::3], clean, some) for some in (mean, everywhere)]
    assert torch.allclose(*by_both, atol=1e-9)
    zeros = {site: torch.zeros(1) for site in graph.sites}
    del zeros[site]
    with pytest.raises(ValueError, match="an entry for each source"), nb.patch_edges(model, graph, [], zeros):
        pass


def test_attribution_is_the_gradient_of_the_mask_at_nothing(case):
    model, graph, clean, corrupt = case
    loader = nb.PairLoader(nb.Pairs(clean, corrupt, torch.zeros(4)), 3)
    task = nb.EdgeTask(
        model, graph, loader, nb.AblationType.RESAMPLE, lambda logits, _: logits.flatten(1)[:, :7].sum(1)
    )
    gradient, scores = mask_gradients(task)[0], nb.attribution_scores(task)
    scale = gradient.abs().max()
    assert torch.allclose(scores, gradient, atol=1e-6 * scale)
    assert not torch.allclose(scores, nb.exact_scores(task), atol=1e-2 * scale)
    small = 1e-4  # and that gradient is the slope of the metric
    masks = torch.cat([torch.zeros(1, len(graph.edges)), small * torch.eye(len(graph.edges))[::7]]).double()
    values = nb.src_ablations(model, graph.sites, corrupt)
    metric = run_edge_sets(model, graph, masks, clean, values).flatten(2)[..., :7].sum(2).mean(1)
    assert torch.allclose((metric[1:] - metric[0]) / small, gradient[::7], atol=1e-2 * scale)


def test_edge_sets_run_from_clean_prefixes_are_patched_edges(case):
    model, graph, clean, corrupt = case
    values = nb.src_ablations(model, graph.sites, corrupt)
    alone = torch.eye(len(graph.edges)).repeat(2, 1)  # enough for clean runs to pay
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrefixWarning)
        found = run_edge_sets(model, graph, alone, clean, values)
    whole = answer(model, clean)
    for i, edge in list(enumerate(graph.edges))[::6]:
        expected = patched(model, graph, [edge], clean, values)
        assert torch.allclose(found[i], expected, atol=1e-9 + 1e-6 * (expected - whole).abs().max())


def test_queries_keys_and_values_are_what_they_are_called(case):
    """Changed at one position, a query changes its head there alone, a value its heads linearly, and a key neither."""
    model, graph, clean, _ = case
    heads = [graph.sources[name] for name in graph.sources if name.startswith("a1.") and "norm" not in name]
    sharing = 2 if "a1.g0.k" in graph.destinations else 1

    def change(site, size):
        def add(part):
            noise = torch.zeros_like(part)
            noise[:, 1] = size * torch.randn(part.shape[2:], generator=torch.Generator().manual_seed(0))
            return part + noise

        with nb.capture(model, *heads) as before:
            answer(model, clean)
        with nb.edit(model, {site: add}), nb.capture(model, *heads) as after:
            answer(model, clean)
        return [after[head] - before[head] for head in heads]

    for name, site in graph.destinations.items():
        if not name.startswith("a1.") or "norm" in name:
            continue
        which, letter = name.split(".")[1:]
        mine = range(int(which[1:]) * sharing, (int(which[1:]) + 1) * sharing) if "g" in which else [int(which)]
        once, twice = change(site, 1.0), change(site, 2.0)
        for head, moved in enumerate(once):
            assert (moved.abs().max() > 1e-4) == (head in mine), name
        moved, double = once[mine[0]], twice[mine[0]]
        elsewhere = torch.arange(moved.shape[1]) != 1
        assert (moved[:, elsewhere].abs().max() < 1e-9) == (letter == "q"), name
        assert torch.allclose(double, 2 * moved, atol=1e-9) == (letter == "v"), name


# By hand -----------------------------------------------------------------------------------------------------------


class ByHand:
    """A run in which each reader's stream is the sum of what was written, some of it exchanged."""

    def __init__(self, edges=(), ablated=None):
        self.edges, self.ablated, self.written, self.constant = set(edges), ablated or {}, {}, 0.0

    def stream(self, destination):
        return self.constant + sum(
            self.ablated[source] if (source, destination) in self.edges else own for source, own in self.written.items()
        )

    def gpt2(self, model, input_ids, attention_mask):
        net, heads = model.transformer, model.config.n_head
        self.written = {
            "token": net.wte.weight[input_ids],
            "position": net.wpe.weight[: input_ids.shape[1]].expand(len(input_ids), -1, -1),
        }
        for i, block in enumerate(net.h):
            width = 12 // heads
            weight, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
            out, wrote = block.attn.c_proj, {}
            for h in range(heads):
                q, k, v = (
                    block.ln_1(self.stream(f"a{i}.{h}.{letter}")) @ weight[:, at : at + width] + bias[at : at + width]
                    for letter, at in zip("qkv", (h * width, 12 + h * width, 24 + h * width), strict=True)
                )
                wrote[f"a{i}.{h}"] = attend(q, k, v, attention_mask) @ out.weight[h * width : (h + 1) * width]
            self.written |= wrote
            self.constant = self.constant + out.bias
            hidden = block.ln_2(self.stream(f"m{i}")) @ block.mlp.c_fc.weight + block.mlp.c_fc.bias
            hidden = F.gelu(hidden, approximate="tanh")
            self.written[f"m{i}"] = hidden @ block.mlp.c_proj.weight + block.mlp.c_proj.bias
        return net.ln_f(self.stream("logits")) @ net.wte.weight.T

    def llama(self, model, input_ids, attention_mask):
        net, width, shared = model.model, 4, 2
        self.written = {"token": net.embed_tokens.weight[input_ids]}
        frequency = 10000.0 ** (-torch.arange(0, width, 2) / width).double()
        angle = torch.arange(input_ids.shape[1])[:, None] * torch.cat([frequency, frequency])

        def turned(x):
            half = torch.cat([-x[..., width // 2 :], x[..., : width // 2]], -1)
            return x * angle.cos() + half * angle.sin()

        def normed(norm, x):
            return norm.weight * x * (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()

        for i, block in enumerate(net.layers):
            attention, wrote = block.self_attn, {}

            def slice_of(name, index, destination, block=block, attention=attention):
                weight = attention.get_submodule(f"{name}_proj").weight[index * width : (index + 1) * width]
                return normed(block.input_layernorm, self.stream(destination)) @ weight.T

            for h in range(4):
                group = h // shared
                q = turned(slice_of("q", h, f"a{i}.{h}.q"))
                k = turned(slice_of("k", group, f"a{i}.g{group}.k"))
                v = slice_of("v", group, f"a{i}.g{group}.v")
                out = attention.o_proj.weight[:, h * width : (h + 1) * width]
                wrote[f"a{i}.{h}"] = attend(q, k, v, attention_mask) @ out.T
            self.written |= wrote
            x = normed(block.post_attention_layernorm, self.stream(f"m{i}"))
            gate, up, down = (block.mlp.get_submodule(f"{name}_proj").weight for name in ("gate", "up", "down"))
            self.written[f"m{i}"] = (F.silu(x @ gate.T) * (x @ up.T)) @ down.T
        return normed(net.norm, self.stream("logits")) @ model.lm_head.weight.T


def attend(q, k, v, attention_mask):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril() & attention_mask[:, None].bool()
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v


@pytest.mark.parametrize("make", [gpt2, llama], ids=lambda make: make.__name__)
@torch.no_grad()
def test_edges_are_a_run_written_out_by_hand(make):
    model, clean, corrupt = made(make)
    graph = nb.residual_graph(model, clean)
    values = nb.src_ablations(model, graph.sites, corrupt)
    plain, other = ByHand(), ByHand()
    run = make.__name__
    close = {"atol": 1e-5, "rtol": 1e-5}  # the norms of Llama compute in float32
    assert torch.allclose(getattr(plain, run)(model, **clean), answer(model, clean), **close)
    getattr(other, run)(model, **corrupt)
    assert list(other.written) == list(graph.sources)
    assert torch.allclose(torch.stack(list(other.written.values())), graph.written(model, values), **close)
    made_by = torch.Generator().manual_seed(0)
    some = torch.rand(len(graph.edges), generator=made_by) < 0.3
    for edges in [[edge] for edge in graph.edges[::5]] + [[e for e, on in zip(graph.edges, some, strict=True) if on]]:
        expected = getattr(ByHand(edges, other.written), run)(model, **clean)
        found = patched(model, graph, edges, clean, values)
        assert torch.allclose(found, expected, **close), edges
    assert (found - answer(model, clean)).abs().max() > 1e-2


def difference(model, graph, source, clean, corrupt):
    written = [graph.written(model, nb.src_ablations(model, graph.sites, batch)) for batch in (clean, corrupt)]
    return (written[1] - written[0])[list(graph.sources).index(source)]


@pytest.mark.parametrize(
    ("make", "source", "destination", "module"),
    [
        (parallel, "a0.1", "m1", "gpt_neox.layers.1.post_attention_layernorm"),
        (parallel, "token", "logits", "gpt_neox.final_layer_norm"),
        (bert, "a0.1", "a0.norm", "bert.encoder.layer.0.attention.output.LayerNorm"),
        (bert, "m0.norm", "a1.norm", "bert.encoder.layer.1.attention.output.LayerNorm"),
        (vit, "a0.1", "m0", "vit.layers.0.layernorm_after"),
        (vit, "m1", "logits", "vit.layernorm"),
    ],
)
@torch.no_grad()
def test_an_edge_is_a_change_of_what_one_module_takes_in(make, source, destination, module):
    model, clean, corrupt = made(make)
    if make is vit and not hasattr(model.vit, "layers"):
        module = module.replace("vit.layers", "vit.encoder.layer")
    graph = nb.residual_graph(model, clean)
    values = nb.src_ablations(model, graph.sites, corrupt)
    change = difference(model, graph, source, clean, corrupt)
    handle = model.get_submodule(module).register_forward_pre_hook(lambda _m, x: x[0] + change)
    expected = answer(model, clean)
    handle.remove()
    assert torch.allclose(patched(model, graph, [(source, destination)], clean, values), expected, atol=1e-9)
    assert (expected - answer(model, clean)).abs().max() > 1e-3


@pytest.mark.parametrize("make", [parallel, bert, vit], ids=lambda make: make.__name__)
@torch.no_grad()
def test_a_key_reads_what_its_rows_of_the_weight_make_of_the_patched_stream(make):
    model, clean, corrupt = made(make)
    graph = nb.residual_graph(model, clean)
    source, site = graph.reads["a1.2.k"][0], graph.destinations["a1.2.k"]
    change = difference(model, graph, source, clean, corrupt)
    norm, module = model.get_submodule(graph.through["a1.2.k"]), model.get_submodule(site.module)
    rows = slice(2 * 12 + 4, 2 * 12 + 8) if make is parallel else slice(8, 12)  # GPT-NeoX: each head's q, k and v
    seen = {}
    handles = [
        norm.register_forward_pre_hook(lambda _m, x: seen.__setitem__("stream", x[0])),
        module.register_forward_hook(
            lambda m, _x, output: torch.cat(
                [
                    output[..., : rows.start],
                    F.linear(
                        seen["stream"] + change if norm is m else norm.forward(seen["stream"] + change),
                        m.weight[rows],
                        m.bias[rows],
                    ),
                    output[..., rows.stop :],
                ],
                -1,
            )
        ),
    ]
    expected = answer(model, clean)
    for handle in handles:
        handle.remove()
    found = patched(model, graph, [(source, "a1.2.k")], clean, nb.src_ablations(model, graph.sites, corrupt))
    assert torch.allclose(found, expected, atol=1e-9)
    assert (expected - answer(model, clean)).abs().max() > 1e-4


def test_parallel_branches_read_the_stream_before_either_writes():
    graphs = [nb.residual_graph(model, clean) for model, clean, _ in (made(parallel), made(serial))]
    assert [("a0.0", "m0") in graph.index for graph in graphs] == [False, True]
    assert all(("a0.0", "m1") in graph.index for graph in graphs)
    assert graphs[0].destination_depth["m0"] == graphs[0].destination_depth["a0.0.q"]


def test_single_precision_and_either_attention():
    for way in ("eager", "sdpa"):
        model, clean, corrupt = made(partial(gpt2, attn_implementation=way))
        model = model.float()
        assert model.config._attn_implementation == way
        graph = nb.residual_graph(model, clean)
        values = nb.src_ablations(model, graph.sites, corrupt)
        found = patched(model, graph, graph.edges, clean, values)
        assert torch.allclose(found, answer(model, corrupt), atol=1e-5 * found.abs().max())
    with pytest.raises(ValueError, match=r"in a row|of no family"):
        nb.residual_graph(nn.Linear(2, 2), torch.randn(3, 2))


# Edits beside a patch ----------------------------------------------------------------------------------------------


def test_an_edit_beside_a_patch_is_applied_whichever_came_first():
    model, clean, corrupt = made(gpt2)
    graph = nb.residual_graph(model, clean)
    values = nb.src_ablations(model, graph.sites, corrupt)
    edges = [("a0.0", "m1"), ("a0.0", "a1.1.q"), ("token", "a1.2.v"), ("m0", "logits")]
    head, query = graph.sources["a0.0"], graph.destinations["a1.1.q"]
    places = [head, graph.sources["m0"], query, nb.Site("transformer.ln_f", part="input"), graph.destinations["a1.2.v"]]
    for place in places:
        change = {place: lambda x: x + x**2}
        with nb.edit(model, change):
            inside = patched(model, graph, edges, clean, values)
        with nb.patch_edges(model, graph, edges, values), nb.edit(model, change):
            outside = answer(model, clean)
        assert torch.equal(inside, outside)
        assert (inside - patched(model, graph, edges, clean, values)).abs().max() > 1e-4, place
    with nb.edit(model, {head: torch.zeros_like}):  # which does not matter where all of its edges are ablated
        every = patched(model, graph, graph.out_edges("a0.0"), clean, values)
    assert torch.allclose(every, patched(model, graph, graph.out_edges("a0.0"), clean, values), atol=1e-9)


def test_an_edit_that_a_patch_would_lose_is_refused():
    model, clean, corrupt = made(gpt2)
    graph = nb.residual_graph(model, clean)
    values = nb.src_ablations(model, graph.sites, corrupt)
    edges = [("m0", "a1.0.q")]
    lost = ("transformer.h.0.attn.resid_dropout", "transformer.h.0", "transformer.h.1.ln_1", "transformer.drop")
    for place in (*lost, nb.Site("transformer.h.1.ln_1", part="input")):
        for first in (True, False):
            blocks = [
                nb.edit(model, {place: lambda x: x * 1.5}),
                nb.patch_edges(model, graph, edges, values),
            ]
            with pytest.raises(ValueError, match="would be lost"), blocks[not first], blocks[first]:
                answer(model, clean)
    model.train()
    with pytest.raises(ValueError, match="and so would dropout"), nb.patch_edges(model, graph, edges, values):
        answer(model, clean)
    model.eval()
    with nb.capture(model, *lost), nb.patch_edges(model, graph, graph.edges, values):  # to look is no edit
        assert torch.allclose(answer(model, clean), answer(model, clean))
    with (
        nb.patch_edges(model, graph, [], values),
        pytest.raises(ValueError, match="patched already"),
        nb.patch_edges(model, graph, [], values),
    ):
        pass


# What is no graph --------------------------------------------------------------------------------------------------


class Twice(nn.Module):
    """h ← h + f(h) · s(h): the gate s reads the stream, too."""

    def __init__(self, gated):
        super().__init__()
        self.gated, self.embed, self.block, self.gate, self.head = gated, *(nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        h = self.embed(x)
        h = h + self.block(h)
        return self.head(h) * (self.gate(h).sigmoid() if self.gated else 1.0)


def test_something_else_that_reads_the_stream_is_refused():
    named = {"embedding": "embed", "branch": "block", "blocks": 1, "head": "head"}
    for x in (torch.randn(3, 4), torch.randn(1, 4)):
        nb.residual_graph(Twice(False), x, **named)
        with pytest.raises(ValueError, match="something else reads the stream"):
            nb.residual_graph(Twice(True), x, **named)


def test_models_that_are_not_what_their_names_say_are_refused():
    model, clean, _ = made(gpt2)
    with pytest.raises(ValueError, match="ran 2 times"):  # token types are embedded by the same module
        nb.residual_graph(model, {**clean, "token_type_ids": clean["input_ids"]})
    model.transformer.h[0].attn.c_proj.forward = lambda x: 2 * (x @ model.transformer.h[0].attn.c_proj.weight)
    with pytest.raises(ValueError, match=r"must make up what 'transformer\.h\.0\.attn\.c_proj' puts out"):
        nb.residual_graph(model, clean)
    model, clean, _ = made(llama)
    model.config.num_attention_heads = 3
    model.config.head_dim = 5
    with pytest.raises(ValueError, match="no whole number of heads of 5"):
        nb.residual_graph(model, clean)
    decoder = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**TOKENS, **WIDE, head_dim=4))
    with pytest.raises(ValueError, match="must read the sum"):  # norms after each branch
        nb.residual_graph(decoder, clean["input_ids"])
    model, clean, _ = made(gpt2)
    sources = {"token": nb.Site("transformer.wte"), "position": nb.Site("transformer.wpe")}
    with pytest.raises(ValueError, match="of the stream, at each position by itself"):
        nb.ResidualGraph.trace(
            model,
            clean,
            sources,
            {"hidden": nb.Site("transformer.h.0.mlp.c_fc", slice(0, 4))},  # reads through ln_2
            through={"hidden": "transformer.h.0.ln_1"},
        )


# Heads -------------------------------------------------------------------------------------------------------------


def test_heads_are_told_by_the_family_or_by_their_number():
    model, clean, _ = made(llama)
    names = ("model.layers.1.self_attn.o_proj", "model.layers.1.self_attn", "model.layers.1")
    assert all(nb.heads(model, name) == nb.heads(model, names[0], 4) for name in names)
    sites = nb.heads(model, names[0])
    with nb.capture(model, names[0].replace("o_proj", "v_proj"), *sites) as seen:
        answer(model, clean)
    first = seen[names[0].replace("o_proj", "v_proj")][:, 0]  # the first token attends to itself alone
    assert torch.allclose(seen[sites[3]][:, 0], first[:, 4:8], atol=1e-9)
    for module, count, text in (
        ("model.layers.1.mlp.down_proj", None, "not known to be an attention's"),
        ("model.layers.1.mlp.down_proj", 3, "takes in 20 units, which do not make 3 heads"),
        ("model.layers.1.self_attn.o_proj", 2, "has 4 heads, as the configuration says; got count=2"),
        ("model.norm", 2, "must be a linear module"),
    ):
        with pytest.raises(ValueError, match=text):
            nb.heads(model, module, count)
    torch_own = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    for name in ("self_attn", "self_attn.out_proj"):
        with pytest.raises(ValueError, match="never runs as a module"):
            nb.heads(torch_own, name, 2)
    with pytest.raises(KeyError, match=r"nearest: .*o_proj"):
        nb.heads(model, "model.layers.1.self_attn.o_pro")


def test_a_classifier_that_reads_the_last_token_before_the_padding_is_confirmed():
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2, pad_token_id=0, bos_token_id=1, eos_token_id=1
    )
    model = transformers.GPT2ForSequenceClassification(config).eval()
    ids, mask = torch.randint(2, 20, (3, 5)), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    graph = nb.residual_graph(model, {"input_ids": ids * mask, "attention_mask": mask})
    assert list(graph.destinations)[-1] == "logits"
