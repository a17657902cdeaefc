"""Models of `transformers`, small, from configurations, and what is true of places in them."""

from __future__ import annotations

from functools import partial

import transformers as hf
from any_models import TOKENS, Case, Place, ids, images, known, layer, masked
from torch import Tensor, nn

SMALL = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
END = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def gpt2() -> nn.Module:
    return hf.GPT2LMHeadModel(hf.GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=20, n_positions=16, **END))


def neox() -> nn.Module:
    return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SMALL, max_position_embeddings=16, **END))


def llama() -> nn.Module:
    return hf.LlamaForCausalLM(
        hf.LlamaConfig(**{**SMALL, "hidden_size": 16, "num_attention_heads": 4}, num_key_value_heads=2, **END)
    )


def bert() -> nn.Module:
    return hf.BertForSequenceClassification(hf.BertConfig(**SMALL, max_position_embeddings=16, num_labels=4))


def vit() -> nn.Module:
    sizes = {name: size for name, size in SMALL.items() if name != "vocab_size"}
    return hf.ViTForImageClassification(hf.ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=4))


def t5() -> nn.Module:
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2, "vocab_size": 20}
    return hf.T5ForConditionalGeneration(hf.T5Config(**sizes, decoder_start_token_id=0, pad_token_id=0))


def pixels(items: int) -> dict[str, Tensor]:
    return {"pixel_values": images(items, size=16)}


def both(items: int) -> dict[str, Tensor]:
    return masked(items) | {"decoder_input_ids": ids(items, 5)}


G0, B0, V0 = "transformer.h.0", "bert.encoder.layer.0", "vit.encoder.layer.0"
tokens = partial(layer, axis=2, positions=TOKENS)
block = partial(Place, axis=2, positions=TOKENS)

CASES = [
    Case(
        "GPT-2",
        gpt2,
        ids,
        (
            *(tokens("transformer.wpe", shared=True), tokens(f"{G0}.mlp.c_fc"), block(f"{G0}.attn")),
            *(
                known(f"{G0}.attn.c_proj", 2, TOKENS, "input"),
                block(G0),
                tokens("transformer.ln_f"),
                block(f"{G0}.mlp"),
            ),
        ),
        key="logits",
        part=lambda logits: logits[:, -1],
    ),
    Case(
        "GPT-NeoX",
        neox,
        masked,
        (
            *(tokens("gpt_neox.layers.0.attention.query_key_value"), block("gpt_neox.layers.0.attention")),
            *(block("gpt_neox.layers.1"), tokens("gpt_neox.layers.1.mlp.dense_h_to_4h"), tokens("gpt_neox.embed_in")),
        ),
        key="logits",
        part=lambda logits: logits[:, 2],
    ),
    Case(
        "Llama",
        llama,
        masked,
        (
            *(tokens("model.layers.0.mlp.up_proj"), block("model.layers.0.self_attn")),
            *(known("model.layers.0.self_attn.o_proj", 2, TOKENS, "input"), block("model.norm")),
            block("model.layers.1.self_attn", part="input", item="hidden_states"),
        ),
        key="logits",
        part=lambda logits: logits[:, 2],
    ),
    Case(
        "BERT",
        bert,
        masked,
        (
            *(tokens("bert.embeddings.position_embeddings", shared=True), tokens("bert.embeddings.word_embeddings")),
            *(block(f"{B0}.attention.self"), tokens(f"{B0}.intermediate.dense"), block(f"{B0}.output"), block(B0)),
            *(layer("bert.pooler.dense", 1), layer("classifier", 1), tokens(f"{B0}.attention.output.LayerNorm")),
        ),
        key="logits",
    ),
    Case(
        "ViT",
        vit,
        pixels,
        (
            block("vit.embeddings"),
            layer("vit.embeddings.patch_embeddings.projection", 1, (2, 3)),
            tokens("vit.layernorm"),
        ),
        key="logits",
    ),
    Case(
        "T5",
        t5,
        both,
        (
            *(tokens("encoder.block.0.layer.1.DenseReluDense.wi"), block("encoder.block.0.layer.0.SelfAttention")),
            *(tokens("decoder.block.0.layer.1.EncDecAttention.v"), block("decoder.block.0"), block("encoder")),
            tokens("shared", calls=0),
        ),
        key="logits",
        part=lambda logits: logits[:, -1],
    ),
]
