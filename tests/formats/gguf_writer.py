"""Tiny GGUF files, written as llama.cpp writes them."""

import json
from typing import Any, NamedTuple

import numpy as np
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.quants import dequantize, quantize
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tests import oracle

MODEL = {"intermediate_size": 64, "num_hidden_layers": 3, "rms_norm_eps": 1e-5}  # blocks of 32

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)
TEXTS = (
    "Hello world, 12345 tokens!",
    "def f(x):\n    return x ** 2  # squared\n",
    "  leading and   inner spaces\t\n\n",
    "naïve café — 東京 🙂 Ω",
    "<|im_start|>user\nHi<|im_end|>\n",
    "<s>not special at the start</s>",
    "",
)
KINDS = ["sliding_attention"] * 5 + ["full_attention"]
GEMMA_KEYS = {
    **{"attention.key_length": 12, "attention.value_length": 12, "attention.sliding_window": 5},
    **{"rope.freq_base": 1e6, "rope.dimension_count": None, "vocab_size": None},
}


class Tiny(NamedTuple):
    """A random transformers model, and its tensors as a GGUF file stores them."""

    model: Any
    tensors: dict[str, np.ndarray]


def tiny_llama(**changes):
    """Make a random Llama, its queries and keys permuted as llama.cpp does."""
    model = oracle.random_model("llama", **{**MODEL, **changes})
    tensors = {
        name: permute(tensor.numpy(), heads_of(model, name))
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight" or not model.config.tie_word_embeddings
    }
    return Tiny(model, tensors)


def tiny_gemma(**changes):
    """Make a random Gemma 3 of seven layers, 1 added to its norms as llama.cpp does."""
    sizes = {"head_dim": 12, "sliding_window": 5, "query_pre_attn_scalar": 12}
    sizes |= {"num_hidden_layers": 7, "layer_types": [*KINDS, KINDS[0]], "rms_norm_eps": 1e-6}
    model = oracle.random_model("gemma3_text", **sizes, tie_word_embeddings=True, **changes)
    tensors = {n: x.numpy() for n, x in model.state_dict().items() if n != "lm_head.weight"}
    return Tiny(model, {n: x + 1 if n.endswith("norm.weight") else x for n, x in tensors.items()})


def heads_of(model, name):
    """Return the heads of a projection that llama.cpp permutes; None of other weights."""
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return heads.get(name.split(".")[-2])


def permute(weights, heads, inverse=False):
    """Permute as `LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py does, or undo it."""
    if heads is None:
        return weights
    half = len(weights) // heads // 2
    parts = weights.reshape(heads, *((half, 2) if inverse else (2, half)), -1)
    return parts.swapaxes(1, 2).reshape(weights.shape)


def write(file, tiny, kind="F32", *, keys=(), extra=(), metadata=(), architecture="llama"):
    """Write a GGUF file; return its dequantised tensors.

    `keys` add to the metadata, or remove from it when None; `extra` are more tensors, by the names
    in the file; `metadata` are functions that write more.
    """
    config = tiny.model.config
    writer = GGUFWriter(file, architecture)
    writer.add_name("tiny")
    writer.add_file_type(0)
    for write_more in metadata:
        write_more(writer)
    values = {
        "rope.freq_base": config.rope_parameters.get("rope_theta"),
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.head_dim,
        "vocab_size": config.vocab_size,
    }
    for key, value in (values | dict(keys)).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        if value is not None:
            add[type(value)](f"{architecture}.{key}", value)
    exact = write_tensors(writer, tiny.tensors, kind, architecture)
    for name, tensor in extra:
        writer.add_tensor(name, tensor)
    finish(writer)
    return exact


def write_tensors(writer, tensors, kind, architecture):
    """Add tensors, matrices quantised; return the dequantised ones."""
    names = get_tensor_name_map(MODEL_ARCH["GEMMA3" if architecture == "gemma3" else "LLAMA"], 9)
    exact = {}
    for name, tensor in tensors.items():
        # llama.cpp keeps vectors in float32 whatever the rest is
        chosen = GGMLQuantizationType["F32" if tensor.ndim == 1 else kind]
        stored = quantize(tensor, chosen)
        writer.add_tensor(names.get_name(name, [".weight"]), stored, raw_dtype=chosen)
        exact[name] = dequantize(stored, chosen).reshape(tensor.shape)
    return exact


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def set_parameters(model, tensors):
    """Set the parameters of the transformers model to the values in a file."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = permute(tensors[name], heads_of(model, name), inverse=True)
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def add_byte_level(writer, **flags):
    """Write a byte-level BPE of 300 tokens, trained on TEXTS, and a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([tokenizer.id_to_token(i) for i in range(300)])
    writer.add_token_types([3] * 3 + [1] * 297)  # control tokens come first
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    add_special(writer, flags)


def add_sentencepiece(writer, **flags):
    """Write a vocabulary of pieces with scores, with bytes as fallback and no merges."""
    pieces = ["▁", "e", "l", "o", "H", "w", "r", "d", "lo", "el", "▁w", "or", "▁wor", "ld", "Hel"]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + pieces
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(pieces))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(pieces))
    add_special(writer, flags)


def add_special(writer, flags):
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, value in flags.items():
        getattr(writer, f"add_{name}")(value)
