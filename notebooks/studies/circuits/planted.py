"""A transformer built by hand that reverses its input: which edges matter is known."""

from __future__ import annotations

import torch

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
    width, head = 2 * vocabulary + length, max(vocabulary, length)
    model = Transformer(
        vocabulary, length, layers=1, heads=1, width=width, head_width=head, mlp=0, norm=False, causal=False
    ).eval()
    token = torch.arange(vocabulary)
    position = torch.arange(length)
    attention = model.get_submodule("blocks.0.attention")
    query, key, value, out = (attention.get_parameter(name) for name in ("query", "key", "value", "out"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embedding.weight[token, token] = 1
        model.positions.weight[position, vocabulary + position] = 1
        query[0, vocabulary + position, position.flip(0)] = sharpness * head**0.5  # scores are divided by it
        key[0, vocabulary + position, position] = 1
        value[0, token, token] = 1
        out[0, token, vocabulary + length + token] = 1
        model.unembed.weight[token, vocabulary + length + token] = 1
    return model
