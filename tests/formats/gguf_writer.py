"""Tiny GGUF files, written as llama.cpp writes them."""

import json
from typing import Any, NamedTuple

import numpy as np
import torch
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.quants import dequantize, quantize
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tests import oracle

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
HEADS = {"attention.key_length": 256, "attention.value_length": 256}
WINDOW = {"attention.sliding_window": 5}
COUNTS = {"expert_count": 4, "expert_used_count": 2}
HYBRID = {
    **{"num_hidden_layers": 4, "head_dim": 16, "tie_word_embeddings": True},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 6, "linear_conv_kernel_dim": 3},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 10},
    "rope_parameters": {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5},
}
HYBRID_KEYS = {
    **{"attention.key_length": 16, "attention.value_length": 16, "rope.dimension_count": 8},
    **{"full_attention_interval": 4, "ssm.conv_kernel": 3, "ssm.state_size": 8},
    **{"ssm.group_count": 2, "ssm.time_step_rank": 6, "ssm.inner_size": 60},
    "rope.dimension_sections": [1, 1, 2, 0],
}
GEMMA4_KINDS = "full_attention", "sliding_attention"
GEMMA4 = {
    **{"head_dim": 12, "global_head_dim": 20, "num_hidden_layers": 6, "sliding_window": 5},
    **{"layer_types": [GEMMA4_KINDS[i] for i in (0, 1, 1, 1, 1, 0)], "rms_norm_eps": 1e-5},
    **{"hidden_size_per_layer_input": 0, "final_logit_softcapping": 4.0, "pad_token_id": 0},
    "rope_parameters": {
        "full_attention": {
            **{"rope_type": "proportional", "rope_theta": 50.0, "partial_rotary_factor": 0.4}
        },
        "sliding_attention": {"rope_type": "default", "rope_theta": 80.0},
    },
    "tie_word_embeddings": True,
}
# family, sizes where transformers' loader reads no key, and keys, by architecture
FAMILIES = {
    "llama": ("llama", {}, {}),
    "qwen2": ("qwen2", {}, {"rope.dimension_count": None}),
    "qwen3": ("qwen3", {"head_dim": 128}, {"attention.key_length": 128}),
    "qwen2moe": (
        "qwen2_moe",
        {**EXPERTS, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
        {
            **{**COUNTS, "expert_feed_forward_length": 1408},
            "expert_shared_feed_forward_length": 5632,
        },
    ),
    "qwen3moe": (
        "qwen3_moe",
        {**EXPERTS, "moe_intermediate_size": 768, "head_dim": 12, "norm_topk_prob": True},
        {**COUNTS, "expert_feed_forward_length": 768, "attention.key_length": 12},
    ),
    "gemma2": (
        "gemma2",
        {"head_dim": 256, "sliding_window": 5, "tie_word_embeddings": True},
        {**HEADS, **WINDOW, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3": (
        "gemma3_text",
        {
            **{"head_dim": 256, "sliding_window": 5, "tie_word_embeddings": True},
            **{"num_hidden_layers": 7, "rope_theta": 1e6},
        },
        {**HEADS, **WINDOW, "rope.freq_base": 1e6},
    ),
    **{
        f"gemma4{end}": (
            "gemma4_text",
            {**GEMMA4, **sizes},
            {
                **{"attention.key_length": 20, "attention.value_length": 20},
                **{"attention.key_length_swa": 12, "attention.value_length_swa": 12},
                **{"rope.dimension_count": 20, "rope.dimension_count_swa": 12},
                **{"rope.freq_base": 50.0, "rope.freq_base_swa": 80.0},
                **{**WINDOW, "final_logit_softcapping": 4.0},
                "attention.sliding_window_pattern": [False, True, True, True, True, False],
                **{"attention.shared_kv_layers": 0, "embedding_length_per_layer_input": 0},
                **keys,
            },
        )
        for end, sizes, keys in (
            (
                "",
                {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
                {"attention.head_count_kv": [1, 2, 2, 2, 2, 1]},
            ),
            (
                "-e",
                {
                    **{"num_kv_shared_layers": 2, "use_double_wide_mlp": True},
                    **{"hidden_size_per_layer_input": 32, "vocab_size_per_layer_input": 300},
                },
                {
                    **{"attention.shared_kv_layers": 2, "embedding_length_per_layer_input": 32},
                    "feed_forward_length": [64, 64, 64, 64, 128, 128],
                },
            ),
            (
                "-moe",
                {
                    **{"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2},
                    "moe_intermediate_size": 32,
                },
                {**COUNTS, "expert_feed_forward_length": 32},
            ),
        )
    },
    "phi3": ("phi3", {}, {"attention.sliding_window": 0}),
    "gpt-oss": (
        "gpt_oss",
        {
            **{**LOCAL_EXPERTS, "head_dim": 12, "sliding_window": 5},
            "rope_parameters": {
                **oracle.YARN,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
            },
        },
        {
            **{**COUNTS, **WINDOW, "attention.key_length": 12, "attention.value_length": 12},
            **{"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0},
            "rope.scaling.original_context_length": 16,
        },
    ),
    "minimax-m2": (
        "minimax_m2",
        {**LOCAL_EXPERTS, "head_dim": 12, "rotary_dim": 8},
        {
            **{**COUNTS, "expert_feed_forward_length": 64, "expert_gating_func": 2},
            **{"attention.key_length": 12, "attention.value_length": 12},
            "rope.dimension_count": 8,
        },
    ),
    "qwen35": ("qwen3_5_text", HYBRID, HYBRID_KEYS),
    "qwen35moe": (
        "qwen3_5_moe_text",
        {
            **{**HYBRID, **EXPERTS, "moe_intermediate_size": 64},
            "shared_expert_intermediate_size": 32,
        },
        {
            **{**HYBRID_KEYS, **COUNTS, "expert_feed_forward_length": 64},
            **{"expert_shared_feed_forward_length": 32, "feed_forward_length": None},
        },
    ),
}
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


def tiny(architecture, **changes):
    """Make a random model of an architecture, its tensors as llama.cpp stores them."""
    family, sizes, _ = FAMILIES[architecture]
    model = oracle.random_model(family, **{**MODEL, **sizes, **changes})
    return Tiny(model, dict(stored(architecture, model)))


def stored(architecture, model):
    """Yield the tensors of a model as llama.cpp's converters of its architecture write them."""
    centred = architecture.startswith(
        ("gemma2", "gemma3", "qwen35")
    )  # norms, which models add to 1
    if architecture.startswith("gemma4"):  # the pairs of a wide head that turn
        yield "rope_freqs.weight", np.array([1.0] * 4 + [1e30] * 6, np.float32)
    for name, tensor in model.state_dict().items():
        values, field = tensor.numpy(), name.split(".")[-2]
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if name.endswith("norm.weight") and centred and "linear_attn" not in name:
            values = values + 1
        if architecture == "llama":
            values = permute(values, heads_of(model, name))
        if "linear_attn" in name:
            name, values = tile(name, values, model.config)
        layer = name.removeprefix("model.layers.").split(".")[0]
        if name.endswith("router.scale"):
            yield f"blk.{layer}.ffn_gate_inp.scale", values
        elif name.endswith("per_expert_scale"):
            yield f"blk.{layer}.ffn_down_exps.scale", values
        elif name.endswith("layer_scalar") or (
            architecture == "gemma4-moe" and ".experts." in name
        ):
            yield f"{name}.weight", values
        elif "experts.gate_up_proj" in name:
            yield from split_experts(name, values, architecture)
        elif "experts.down_proj" in name:
            is_bias = name.endswith("_bias")
            values = values.swapaxes(1, 2) if architecture == "gpt-oss" and not is_bias else values
            yield name.removesuffix("_bias") + (".bias" if is_bias else ".weight"), values
        elif name.endswith("e_score_correction_bias"):
            yield f"blk.{name.split('.')[2]}.exp_probs_b.bias", values
        elif name.endswith("sinks"):
            yield f"{name}.weight", values
        else:
            yield name, values.squeeze() if field == "shared_expert_gate" else values


def split_experts(name, values, architecture):
    """Yield the gates and the inputs of experts, which gpt-oss interleaves."""
    is_bias = name.endswith("_bias")
    if architecture == "gpt-oss":
        halves = values[..., ::2], values[..., 1::2]
        halves = halves if is_bias else [half.swapaxes(1, 2) for half in halves]
    else:
        halves = np.split(values, 2, axis=1)
    for part, half in zip(("gate_proj", "up_proj"), halves, strict=True):
        theirs = name.removesuffix("_bias").replace("gate_up_proj", part)
        yield theirs + (".bias" if is_bias else ".weight"), np.ascontiguousarray(half)


def tile(name, values, config):
    """Put the first value head of each key head first, then the second ones, and so on."""
    keys, values_per_key = config.linear_num_key_heads, config.linear_num_value_heads
    axis = int("out_proj" in name)
    start = 2 * keys * config.linear_key_head_dim if "qkv" in name or "conv1d" in name else 0
    values = np.moveaxis(values.squeeze(), axis, 0)
    if "norm" not in name:
        heads = values[start:].reshape(keys, values_per_key // keys, -1, *values.shape[1:])
        tiled = heads.swapaxes(0, 1).reshape(-1, *values.shape[1:])
        values = np.concatenate([values[:start], tiled])
    values = np.ascontiguousarray(np.moveaxis(values, 0, axis))
    if name.endswith("A_log"):
        return name, -np.exp(values)
    return name.replace("dt_bias", "dt_proj.bias"), values


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
        "attention.head_count_kv": config.to_dict()["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.to_dict().get("head_dim"),
        "vocab_size": config.vocab_size,
    }
    for key, value in (values | dict(keys)).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[list] = writer.add_array
        if value is not None:
            add[type(value)](f"{architecture}.{key}", value)
    exact = write_tensors(writer, tiny.tensors, kind, architecture)
    for name, tensor in extra:
        writer.add_tensor(name, tensor)
    finish(writer)
    return exact


def write_tensors(writer, tensors, kind, architecture):
    """Add tensors, matrices quantised; return the dequantised ones."""
    kinds = {name: kind for kind, name in MODEL_ARCH_NAMES.items()}
    names = get_tensor_name_map(kinds[architecture], 9)
    exact = {}
    for name, tensor in tensors.items():
        # llama.cpp keeps vectors in float32 whatever the rest is
        chosen = GGMLQuantizationType["F32" if tensor.ndim == 1 else kind]
        raw = quantize(tensor, chosen)
        writer.add_tensor(
            names.get_name(name, [".weight", ".bias", ".scale"]), raw, raw_dtype=chosen
        )
        exact[name] = dequantize(raw, chosen).reshape(tensor.shape)
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
