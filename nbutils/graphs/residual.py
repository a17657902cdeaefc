"""A residual model as sources that write to a stream and destinations that read it.

A destination reads a sum of what sources before it wrote; `nbutils.graphs.patch` changes what it reads of one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from nbutils.batches import Batch
from nbutils.graphs import families, tracing, whole
from nbutils.graphs.nodes import Edge as Edge
from nbutils.graphs.nodes import Graph
from nbutils.sites import Site


@dataclass(frozen=True)
class ResidualGraph(Graph):
    """A graph that a run of its model has confirmed: `trace` makes it, and `residual_graph` for families it knows.

    >>> import nbutils as nb, torch
    >>> class Net(torch.nn.Module):  # h ← h + f(h)
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embed, self.block, self.head = (torch.nn.Linear(*shape) for shape in ((2, 4), (4, 4), (4, 3)))
    ...     def forward(self, x):
    ...         h = self.embed(x)
    ...         return self.head(h + self.block(h))
    >>> model, x = Net(), torch.randn(6, 2)
    >>> graph = nb.residual_graph(model, x, embedding="embed", branch="block", blocks=1, head="head")
    >>> [str(edge) for edge in graph.edges]
    ['embedding → m0', 'embedding → logits', 'm0 → logits']
    """

    @classmethod
    def trace(
        cls,
        model: nn.Module,
        batch: Batch,
        sources: Mapping[str, Site],
        destinations: Mapping[str, Site],
        *,
        through: Mapping[str, str] | None = None,
    ) -> ResidualGraph:
        """Run a model, and return the graph of the places named.

        Which sources a destination reads is decided by the sum that it reads. Where everything that destinations read
        is resampled the model must answer as to the other inputs, and where a stream's beginning alone is replaced for
        all that read it, as where it is replaced itself: both are checked, with the batch's items exchanged.

        A name with `{}` stands for all units of its site, each a node of its own with its number in the braces:
        `"a0.{}": Site("blocks.0.attention.heads", axis=2)`.

        Args:
            model: any module; left as it was.
            batch: inputs, of any kind; of its items, which differ from each other, a few are used.
            sources: name -> output of a module that is added to the stream; or, with `part="input"`, units of the input
                of a linear module whose output is added (`nb.heads`): they write their share of it.
            destinations: name -> module whose input, the first argument, is the stream, or a copy of it per unit; or,
                for names in `through`, a group of units of a module's output.
            through: name of a destination -> the module that reads the stream for it: what the other module takes in
                is this one's output, of the stream; the module itself where it reads the stream.

        Raises:
            KeyError: no such module; the message lists the nearest names.
            ValueError: a module that does not run exactly once, a destination that reads no sum of the sources before
                it, heads that do not make up what their module puts out, or a stream that something else reads, too.
        """
        through = through or {}
        if unknown := [name for name in through if name not in destinations]:
            raise KeyError(f"no destination {unknown[0]!r} that reads through {through[unknown[0]]!r}")
        destinations = {
            name: site if name in through else replace(site, part="input") for name, site in destinations.items()
        }
        some = tracing.few(batch)
        graph = cls(**tracing.trace(model, some, sources, destinations, through))
        whole.check(model, graph, some)
        return graph


def residual_graph(
    model: nn.Module,
    batch: Batch,
    *,
    embedding: str | None = None,
    branch: str = "blocks.{}",
    reader: str | None = None,
    blocks: int | None = None,
    head: str = "out_ln",
) -> ResidualGraph:
    """Return the graph of a model: of one whose family it knows, unmodified; of any other by its modules' names.

    Families: GPT-2, GPT-NeoX, Llama (and what has its modules, such as Mistral and Qwen), BERT and ViT of transformers,
    and transformers whose readers and writers are modules (`blocks.0.attention.q_input`, `.heads`). They are told by
    their modules, and confirmed by a run, as by `ResidualGraph.trace`. Sources: `token` and `position`, or `embedding`;
    heads `a{block}.{head}`, their share of the output projection; `m{block}`. A bias of the projection is no head's.
    Destinations: `a{block}.{head}.q`, `.k` and `.v`, of grouped queries `a{block}.g{group}.k` and `.v`; `m{block}`;
    `logits`, which is the last norm. BERT's norms stand in the stream, each the beginning of a new one: `a{block}.norm`
    and `m{block}.norm` read a sum, and what they put out is a source, for those that read it alone.

    Of any other model h ← h + f_i(h), with an embedding before and a head after: sources `embedding` and `m{block}`,
    destinations `m{block}` and `logits`.

    Args:
        model: any module; left as it was.
        batch: inputs, of any kind; a few of its items are used, which should differ.
        embedding: path of the module that puts out h_0; None for a model of a family.
        branch: path of f_i, with `{}` for i: the module whose output is added to the stream.
        reader: path of the module that reads the stream in block i, with `{}` for i; that of the branch when not given.
        blocks: how many there are.
        head: path of the module that reads the stream at the end.

    Raises:
        KeyError, ValueError: as for `ResidualGraph.trace`; a branch that includes the skip connection is refused so.
        ValueError: no family that is known.

    >>> import nbutils as nb, torch
    >>> class Net(torch.nn.Module):  # h ← h + f(h)
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embed, self.block, self.head = (torch.nn.Linear(*shape) for shape in ((2, 4), (4, 4), (4, 3)))
    ...     def forward(self, x):
    ...         h = self.embed(x)
    ...         return self.head(h + self.block(h))
    >>> model, x = Net(), torch.randn(6, 2)
    >>> graph = nb.residual_graph(model, x, embedding="embed", branch="block", blocks=1, head="head")
    >>> list(graph.sources), list(graph.destinations)
    (['embedding', 'm0'], ['m0', 'logits'])
    """
    if embedding is None:
        places = families.places(model)
        return ResidualGraph.trace(model, batch, places.sources, places.destinations, through=places.through)
    if blocks is None:
        raise ValueError("how many blocks are there? Give blocks=, with the path of one as branch=")
    numbers = range(blocks)
    sources = {"embedding": Site(embedding), **{f"m{i}": Site(branch.format(i)) for i in numbers}}
    destinations = {f"m{i}": Site((reader or branch).format(i)) for i in numbers}
    return ResidualGraph.trace(model, batch, sources, {**destinations, "logits": Site(head)})
