"""Transformers built by hand: which edges their answers depend on is known, and which stand-ins are blind to them."""

from __future__ import annotations

import torch

from nbutils.seeding import generator
from studies.circuits.sequences import Prompts, reversal
from studies.circuits.transformer import Transformer


def plant_reversal(length: int = 5, vocabulary: int = 3, sharpness: float = 30.0) -> Transformer:
    """Build by hand a transformer that reverses its input: one block, one head, nothing trained.

    The stream is [token | position | output], one-hot each. The query of position i is that of its mirror, `length` − 1
    − i, the key of position j is j, both scaled so that the score is `sharpness` at the mirror and 0 elsewhere. The
    value copies the token; the head writes it to the output part, which alone is read by the unembedding.

    Of the nine edges therefore five never matter to the answers, whatever stands in for them: token → q, token → k and
    position → v, because q and k read positions only and v tokens only, and token → logits and position → logits, the
    *direct* edges. The other four, each ablated alone on all `vocabulary**length` inputs, have the accuracies that
    follow (in brackets for 5 tokens of 3 kinds, 243 inputs).

    - **Zero.** position → q and position → k: all scores are 0, attention is uniform, the answer at every position is
      the most frequent token, which is right wherever that token stands. Its mean count is Σ over count triples (5,0,0)
      3·5, (4,1,0) 30·4, (3,2,0) 60·3, (3,1,1) 60·3, (2,2,1) 90·2 = 675 of 243·5 = 1,215: accuracy [5/9], and
      ties do not matter, since tied tokens are equally frequent. token → v and head → logits: all logits are 0, the
      answer is the same for all inputs: 1/`vocabulary` [1/3]. So **four** edges matter.
    - **Mean at each position**, over a dataset or a batch of all inputs. A position's vector is the same in all inputs:
      its mean is itself, and position → q and position → k change nothing [1]. token → v and head → logits lose the
      input: one answer per position for all inputs, 1/`vocabulary`. So **two** edges matter.
    - **Mean over a batch and its positions.** The mean position vector is the same at all positions: uniform attention,
      as for zero [5/9]; the other two as for a mean at each position. **Four** edges.
    - **Resample** from inputs in which every token is another one. Positions are the same: no change. token → v and
      head → logits carry the corrupt token: every answer is that to the corrupt input, which is wrong [0]. **Two**
      edges.

    (With a stream where one source writes token and position together, as in the source system, the counts are the same
    of five edges.)

    Args:
        length: tokens; all inputs must have this many.
        vocabulary: different tokens.
        sharpness: β, the score of the mirror position; at 30 other positions have e⁻³⁰ of its weight.

    Returns:
        The network in eval mode, float32.
    """
    model = _blank(vocabulary, length, heads=1)
    _wire_reversal(model, 0, vocabulary, length, sharpness)
    return model


def plant_alarm(length: int = 5, vocabulary: int = 3, sharpness: float = 30.0) -> tuple[Transformer, Prompts]:
    """Build a transformer that reverses, unless one more token is there: a second head then answers 0 everywhere.

    Head 0 is that of `plant_reversal`. Head 1 attends to all places alike and reads nothing but the token `vocabulary`,
    the alarm; where it stands anywhere, head 1 writes ten times what head 0 does to the output of token 0. In clean
    prompts, all `vocabulary**length` without an alarm, head 1 writes zeros; the twin has an alarm in one place.

    Six edges are used: the four of the reversal, token → a0.1.v and a0.1 → logits. The last two carry zeros in every
    clean prompt, so zeros, whatever is taken from clean prompts, and the best constant change nothing there; the twin
    and means over twins do. What changes position → a0.0.q and position → a0.0.k is as for the reversal.

    Returns:
        The network in eval mode, float32; the prompts, whose answer is the reversal of the clean one.
    """
    model = _blank(vocabulary + 1, length, heads=2)
    _wire_reversal(model, 0, vocabulary + 1, length, sharpness)
    value, out = (model.get_parameter(f"blocks.0.attention.{name}") for name in ("value", "out"))
    with torch.no_grad():
        value[1, vocabulary, 0] = 1
        out[1, 0, vocabulary + 1 + length] = 10.0 * length  # its attention gives each place 1 / length
    clean = reversal(length, vocabulary).clean
    place = torch.randint(length, (len(clean), 1), generator=generator(0, "alarm"))
    corrupt = clean.scatter(1, place, vocabulary)
    tokens = torch.arange(vocabulary + 1)
    right = clean.flip(1)[..., None] == tokens
    return model, Prompts(clean, corrupt, tuple(range(length)), right, ~right & (tokens == 0))


def plant_witnesses(
    length: int = 5, vocabulary: int = 3, sharpness: float = 30.0, backup: float = 1.0, first: float = 1.2
) -> Transformer:
    """Build a transformer in which two heads reverse the input, the first a little louder: either alone is enough.

    All eight edges of the two heads are used, and no single one of them is missed where it is silenced: the other head
    speaks, and outvotes a head that says the same of all places or tokens. Answers change only where a token's way
    through head 0 (token → a0.0.v, a0.0 → logits) is fed with another token, by a twin or another prompt. The six
    others are blind spots of every stand-in that is put to one edge at a time. Taking head 0 away altogether, by
    zeros, leaves the behaviour: a circuit of head 0 alone is faithful, and not complete.

    Args:
        backup, first: what the heads 1 and 0 write to the output; `first` above `backup`, and by so little that with 4
            places in 5 for another token head 0 does not outvote head 1.

    Returns:
        The network in eval mode, float32, for the prompts of `reversal`.
    """
    model = _blank(vocabulary, length, heads=2)
    for head, strength in enumerate((first, backup)):
        _wire_reversal(model, head, vocabulary, length, sharpness, strength)
    return model


def _blank(vocabulary: int, length: int, heads: int) -> Transformer:
    """Return a transformer of one block, all of whose weights are 0 but for the one-hot stream.

    The stream is [token | position | output], the output part alone is read by the unembedding.
    """
    width, head = 2 * vocabulary + length, max(vocabulary, length)
    model = Transformer(
        vocabulary, length, layers=1, heads=heads, width=width, head_width=head, mlp=0, norm=False, causal=False
    ).eval()
    token, position = torch.arange(vocabulary), torch.arange(length)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embedding.weight[token, token] = 1
        model.positions.weight[position, vocabulary + position] = 1
        model.unembed.weight[token, vocabulary + length + token] = 1
    return model


def _wire_reversal(
    model: Transformer, head: int, vocabulary: int, length: int, sharpness: float, strength: float = 1.0
) -> None:
    """Have a head attend to the mirror of each position, and write the token there with a strength; in place."""
    token, position = torch.arange(vocabulary), torch.arange(length)
    attention = model.get_submodule("blocks.0.attention")
    query, key, value, out = (attention.get_parameter(name) for name in ("query", "key", "value", "out"))
    with torch.no_grad():
        query[head, vocabulary + position, position.flip(0)] = sharpness * query.shape[2] ** 0.5  # scores divide by it
        key[head, vocabulary + position, position] = 1
        value[head, token, token] = 1
        out[head, token, vocabulary + length + token] = strength
