"""The supported families: how the config of each is read, and its table of weights."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from cola_jax.config import LayerKind, ModelConfig, Rope
from cola_jax.errors import InputError, shown
from cola_jax.formats.attributes import Attributes, read_rope, read_windows
from cola_jax.formats.table import Part, Row, Table, make_table, rows_of

KINDS = "full_attention", "sliding_attention"  # of layers, in the order of their ropes
# also weights that Llama lacks, by the names that are the same in the other families
LLAMA = make_table(
    Row("embedding", "model.embed_tokens.weight", "V D -> V D"),
    Row("norm", "model.norm.weight", "D -> D"),
    Row("head", "lm_head.weight", "V D -> D V"),
    Row("q", "model.layers.{i}.self_attn.q_proj.weight", "(N H) D -> D N H"),
    Row("k", "model.layers.{i}.self_attn.k_proj.weight", "(K H) D -> D K H"),
    Row("v", "model.layers.{i}.self_attn.v_proj.weight", "(K H) D -> D K H"),
    Row("o", "model.layers.{i}.self_attn.o_proj.weight", "D (N H) -> N H D"),
    Row("q_bias", "model.layers.{i}.self_attn.q_proj.bias", "(N H) -> N H"),
    Row("k_bias", "model.layers.{i}.self_attn.k_proj.bias", "(K H) -> K H"),
    Row("v_bias", "model.layers.{i}.self_attn.v_proj.bias", "(K H) -> K H"),
    Row("o_bias", "model.layers.{i}.self_attn.o_proj.bias", "D -> D"),
    Row("q_norm", "model.layers.{i}.self_attn.q_norm.weight", "H -> H"),
    Row("k_norm", "model.layers.{i}.self_attn.k_norm.weight", "H -> H"),
    Row("attention_norm", "model.layers.{i}.input_layernorm.weight", "D -> D"),
    Row("mlp_norm", "model.layers.{i}.post_attention_layernorm.weight", "D -> D"),
    Row("gate", "model.layers.{i}.mlp.gate_proj.weight", "F D -> D F"),
    Row("up", "model.layers.{i}.mlp.up_proj.weight", "F D -> D F"),
    Row("down", "model.layers.{i}.mlp.down_proj.weight", "D F -> F D"),
    Row("gate_bias", "model.layers.{i}.mlp.gate_proj.bias", "F -> F"),
    Row("up_bias", "model.layers.{i}.mlp.up_proj.bias", "F -> F"),
    Row("down_bias", "model.layers.{i}.mlp.down_proj.bias", "D -> D"),
    Row("router", "model.layers.{i}.mlp.gate.weight", "E D -> D E"),
    Row("expert_gate", "model.layers.{i}.mlp.experts.{e}.gate_proj.weight", "X D -> D X"),
    Row("expert_up", "model.layers.{i}.mlp.experts.{e}.up_proj.weight", "X D -> D X"),
    Row("expert_down", "model.layers.{i}.mlp.experts.{e}.down_proj.weight", "D X -> X D"),
)
SHARED_EXPERT = make_table(
    Row("gate", "model.layers.{i}.mlp.shared_expert.gate_proj.weight", "F D -> D F"),
    Row("up", "model.layers.{i}.mlp.shared_expert.up_proj.weight", "F D -> D F"),
    Row("down", "model.layers.{i}.mlp.shared_expert.down_proj.weight", "D F -> F D"),
    Row("shared_gate", "model.layers.{i}.mlp.shared_expert_gate.weight", "1 D -> D"),
)
GEMMA = make_table(
    Row("attention_post_norm", "model.layers.{i}.post_attention_layernorm.weight", "D -> D"),
    Row("mlp_norm", "model.layers.{i}.pre_feedforward_layernorm.weight", "D -> D"),
    Row("mlp_post_norm", "model.layers.{i}.post_feedforward_layernorm.weight", "D -> D"),
    base=LLAMA,
)
# layers of kind 1 see all tokens
GEMMA4 = make_table(
    Row("output_scale", "model.layers.{i}.layer_scalar", "1 -> 1"),
    Row("router", "model.layers.{i}.router.proj.weight", "E D -> D E"),
    Row("router_norm", "model.layers.{i}.router.scale", "D -> D"),
    Row("expert_scale", "model.layers.{i}.router.per_expert_scale", "E -> E"),
    *(
        Row(ours, "model.layers.{i}.experts.gate_up_proj", "E X D -> E D X", part=part)
        for ours, part in (
            ("expert_gate", Part(("X", "X"), 0, 1)),
            ("expert_up", Part(("X", "X"), 1, 1)),
        )
    ),
    Row("expert_down", "model.layers.{i}.experts.down_proj", "E D X -> E X D"),
    Row("experts_norm", "model.layers.{i}.pre_feedforward_layernorm_2.weight", "D -> D"),
    Row("experts_post_norm", "model.layers.{i}.post_feedforward_layernorm_2.weight", "D -> D"),
    Row("dense_post_norm", "model.layers.{i}.post_feedforward_layernorm_1.weight", "D -> D"),
    base=GEMMA,
)
OLMO = make_table(
    Row("attention_post_norm", "model.layers.{i}.post_attention_layernorm.weight", "D -> D"),
    Row("mlp_post_norm", "model.layers.{i}.post_feedforward_layernorm.weight", "D -> D"),
    Row("q_norm", "model.layers.{i}.self_attn.q_norm.weight", "(N H) -> N H"),
    Row("k_norm", "model.layers.{i}.self_attn.k_norm.weight", "(K H) -> K H"),
    base=LLAMA,
)
MIXTRAL = make_table(
    Row("router", "model.layers.{i}.block_sparse_moe.gate.weight", "E D -> D E"),
    Row("expert_gate", "model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight", "X D -> D X"),
    Row("expert_up", "model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight", "X D -> D X"),
    Row("expert_down", "model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight", "D X -> X D"),
    base=LLAMA,
)
EXAONE4 = make_table(
    Row("attention_post_norm", "model.layers.{i}.post_attention_layernorm.weight", "D -> D"),
    Row("mlp_post_norm", "model.layers.{i}.post_feedforward_layernorm.weight", "D -> D"),
    base=LLAMA,
)
QKV, HALVES = ("N H", "K H", "K H"), ("F", "F")
JOINED_MLP = make_table(
    Row("gate", "model.layers.{i}.mlp.gate_up_proj.weight", "F D -> D F", 0.0, Part(HALVES, 0)),
    Row("up", "model.layers.{i}.mlp.gate_up_proj.weight", "F D -> D F", 0.0, Part(HALVES, 1)),
    base=LLAMA,
)
GRANITE_HYBRID = make_table(
    *(
        Row(ours, "model.layers.{i}.shared_mlp.input_linear.weight", "F D -> D F", part=part)
        for ours, part in (("gate", Part(HALVES, 0)), ("up", Part(HALVES, 1)))
    ),
    Row("down", "model.layers.{i}.shared_mlp.output_linear.weight", "D F -> F D"),
    base=LLAMA,
)
PHI3 = make_table(
    *(
        Row(ours, "model.layers.{i}.self_attn.qkv_proj.weight", pattern, 0.0, Part(QKV, index))
        for index, (ours, pattern) in enumerate(
            {
                "q": "(N H) D -> D N H",
                "k": "(K H) D -> D K H",
                "v": "(K H) D -> D K H",
            }.items()
        )
    ),
    base=JOINED_MLP,
)
# neighbours rotate together in their layout, halves of a head in ours
PAIRS = make_table(
    Row("q", "model.layers.{i}.self_attn.q_proj.weight", "(N h two) D -> D N (two h)"),
    Row("k", "model.layers.{i}.self_attn.k_proj.weight", "(K h two) D -> D K (two h)"),
    Row("q_bias", "model.layers.{i}.self_attn.q_proj.bias", "(N h two) -> N (two h)"),
    Row("k_bias", "model.layers.{i}.self_attn.k_proj.bias", "(K h two) -> K (two h)"),
)
GLM = {**JOINED_MLP, **PAIRS}
GLM4 = make_table(
    Row("attention_post_norm", "model.layers.{i}.post_self_attn_layernorm.weight", "D -> D"),
    Row("mlp_post_norm", "model.layers.{i}.post_mlp_layernorm.weight", "D -> D"),
    base=GLM,
)
GATES, GATE_UP = ("X", "X"), "model.layers.{i}.mlp.experts.gate_up_proj"
GPT_OSS = make_table(
    Row("sinks", "model.layers.{i}.self_attn.sinks", "N -> N"),
    Row("router", "model.layers.{i}.mlp.router.weight", "E D -> D E"),
    Row("router_bias", "model.layers.{i}.mlp.router.bias", "E -> E"),
    Row("expert_gate", GATE_UP, "E D X -> E D X", part=Part(GATES, 0, 2, True)),
    Row("expert_up", GATE_UP, "E D X -> E D X", part=Part(GATES, 1, 2, True)),
    Row("expert_gate_bias", GATE_UP + "_bias", "E X -> E X", part=Part(GATES, 0, 1, True)),
    Row("expert_up_bias", GATE_UP + "_bias", "E X -> E X", part=Part(GATES, 1, 1, True)),
    Row("expert_down", "model.layers.{i}.mlp.experts.down_proj", "E X D -> E X D"),
    Row("expert_down_bias", "model.layers.{i}.mlp.experts.down_proj_bias", "E D -> E D"),
    base=LLAMA,
)
HALF = "model.layers.{i}.block_sparse_moe.input_linear.weight"
GRANITE_MOE = make_table(
    Row("router", "model.layers.{i}.block_sparse_moe.router.layer.weight", "E D -> D E"),
    Row("expert_gate", HALF, "E X D -> E D X", part=Part(GATES, 0, 1)),
    Row("expert_up", HALF, "E X D -> E D X", part=Part(GATES, 1, 1)),
    Row("expert_down", "model.layers.{i}.block_sparse_moe.output_linear.weight", "E D X -> E X D"),
    base=LLAMA,
)
MINIMAX = {  # what transformers computes; their own code has other values as well
    **{"scoring_func": "sigmoid", "use_routing_bias": True, "shared_intermediate_size": 0},
    **{"use_qk_norm": True, "qk_norm_type": "per_layer"},
}
MINIMAX_M2 = make_table(
    *(OLMO[name] for name in ("q_norm", "k_norm")),
    Row("router_bias", "model.layers.{i}.block_sparse_moe.e_score_correction_bias", "E -> E"),
    base=MIXTRAL,
)

MLP = "gate", "up", "down"
DENSE_FIRST = make_table(  # layers of kind 1 have no experts
    *(LLAMA[name]._replace(ours=f"{name}.1") for name in MLP),
    *(
        Row(name, row.theirs.replace(".mlp.", ".mlp.shared_experts."), row.pattern)
        for name, row in LLAMA.items()
        if name in MLP
    ),
    base=LLAMA,
)
GLM4_MOE = make_table(
    Row("router_bias", "model.layers.{i}.mlp.gate.e_score_correction_bias", "E -> E"),
    base=DENSE_FIRST,
)
ERNIE_MOE = make_table(
    Row("router_bias", "model.layers.{i}.mlp.moe_statics.e_score_correction_bias", "1 E -> E"),
    base={**DENSE_FIRST, **PAIRS},
)


GEMMA4_EDGE = {
    "num_kv_shared_layers": "layers that attend to the keys and values of others",
    "hidden_size_per_layer_input": "embeddings for each layer",
}


def joined(
    theirs: str, sizes: tuple[str, ...], patterns: Mapping[str, str], groups: str = ""
) -> Iterator[Row]:
    """Yield the rows of weights that a tensor joins along its first axis, in their order."""
    for index, (ours, pattern) in enumerate(patterns.items()):
        yield Row(ours, theirs, pattern, part=Part(sizes, index, groups=groups))


# the gate of each head follows its query; layers of kind 1 are Gated DeltaNets
DELTA_NET, DELTA_QKV = "model.layers.{i}.linear_attn", ("K H", "K H", "N U")
QWEN_HYBRID = make_table(
    *joined(
        "model.layers.{i}.self_attn.q_proj.weight",
        ("H", "H"),
        dict.fromkeys(("q", "output_gate"), "(N H) D -> D N H"),
        groups="N",
    ),
    *joined(
        f"{DELTA_NET}.conv1d.weight",
        DELTA_QKV,
        {f"{name}_taps.1": f"({n}) 1 W -> {n} W" for name, n in zip("qkv", DELTA_QKV, strict=True)},
    ),
    Row("o.1", f"{DELTA_NET}.out_proj.weight", "D (N U) -> N U D"),
    Row("forget_bias.1", f"{DELTA_NET}.dt_bias", "N -> N"),
    Row("forget_rate.1", f"{DELTA_NET}.A_log", "N -> N"),
    Row("value_norm.1", f"{DELTA_NET}.norm.weight", "U -> U"),
    base=LLAMA,
)
QWEN3_5 = make_table(
    *joined(
        f"{DELTA_NET}.in_proj_qkv.weight",
        DELTA_QKV,
        {f"{name}.1": f"({n}) D -> D {n}" for name, n in zip("qkv", DELTA_QKV, strict=True)},
    ),
    Row("output_gate.1", f"{DELTA_NET}.in_proj_z.weight", "(N U) D -> D N U"),
    Row("write.1", f"{DELTA_NET}.in_proj_b.weight", "N D -> D N"),
    Row("forget.1", f"{DELTA_NET}.in_proj_a.weight", "N D -> D N"),
    base=QWEN_HYBRID,
)
# each key head has its G value heads beside it
QWEN3_NEXT = make_table(
    *joined(
        f"{DELTA_NET}.in_proj_qkvz.weight",
        ("H", "H", "G U", "G U"),
        {
            **dict.fromkeys(("q.1", "k.1"), "(K H) D -> D K H"),
            **dict.fromkeys(("v.1", "output_gate.1"), "(N U) D -> D N U"),
        },
        groups="K",
    ),
    *joined(
        f"{DELTA_NET}.in_proj_ba.weight",
        ("G", "G"),
        dict.fromkeys(("write.1", "forget.1"), "N D -> D N"),
        groups="K",
    ),
    base={**QWEN_HYBRID, **SHARED_EXPERT},
)


def read_decoder(attributes: Attributes, ropes: tuple[Rope, ...] | None = None) -> dict[str, Any]:
    """Read the fields that all families have; `ropes` are given by families with several."""
    get = attributes.get
    layers, width, heads = map(get, ("num_hidden_layers", "hidden_size", "num_attention_heads"))
    return {
        "vocab_size": get("vocab_size"),
        "num_layers": layers,
        "width": width,
        "num_heads": heads,
        "num_kv_heads": get("num_key_value_heads"),
        "head_dim": get("head_dim") or width // heads,
        "mlp_width": get("intermediate_size"),
        "context": get("max_position_embeddings"),
        "norm_eps": get("rms_norm_eps"),
        "ropes": ropes or (read_rope(get("rope_parameters")),),
        "layer_ropes": (0,) * layers,
        "windows": (None,) * layers,
        "tied": get("tie_word_embeddings"),
    }


def read_ropes(attributes: Attributes) -> tuple[Rope, ...]:
    """Read the ropes of layers without and with a window."""
    ropes = attributes.get("rope_parameters")
    if unknown := set(ropes) - set(KINDS):
        raise InputError(f"rope_parameters has {shown(sorted(unknown))}, not kinds of layer.")
    return tuple(read_rope(ropes[kind]) for kind in KINDS)


def read_bias(attributes: Attributes) -> dict[str, Any]:
    """Read whether the projections of attention have biases, as most families spell it."""
    return dict.fromkeys(("qkv_bias", "output_bias"), attributes.get("attention_bias"))


def read_experts(attributes: Attributes) -> dict[str, Any]:
    """Read the fields that all families with experts have."""
    names = "num_experts", "num_local_experts"  # the second is not an older name in all families
    return {
        "experts": next(filter(None, map(attributes.get, names)), 0),
        "experts_per_token": attributes.get("num_experts_per_tok"),
        "normalised_routing": attributes.get("norm_topk_prob"),
    }


def read_llama(attributes: Attributes) -> ModelConfig:
    """Read Llama 2 to 3.2, or SmolLM2."""
    fields = read_decoder(attributes) | read_bias(attributes)
    return ModelConfig(**fields, mlp_bias=attributes.get("mlp_bias"))


def read_mistral(attributes: Attributes) -> ModelConfig:
    """Read Mistral: all layers have the same window, or none."""
    fields = read_decoder(attributes)
    fields["windows"] = (attributes.get("sliding_window"),) * fields["num_layers"]
    return ModelConfig(**fields)


def read_qwen2(attributes: Attributes) -> ModelConfig:
    """Read Qwen2 or 2.5; biases of q, k and v are not optional."""
    fields = read_decoder(attributes)
    fields["windows"] = read_windows(attributes)
    return ModelConfig(**fields, qkv_bias=True)


def read_qwen3(attributes: Attributes) -> ModelConfig:
    """Read a dense Qwen3, which normalises heads."""
    fields = read_decoder(attributes) | read_bias(attributes)
    fields["windows"] = read_windows(attributes)
    return ModelConfig(**fields, head_norms=True)


def read_qwen_experts(attributes: Attributes) -> dict[str, Any]:
    """Read the fields of experts in Qwen's families.

    Raises InputError for models that have experts in some of their layers only.
    """
    step, dense = attributes.get("decoder_sparse_step"), attributes.get("mlp_only_layers")
    if step != 1 or dense:
        raise InputError(
            f"decoder_sparse_step is {shown(step)} and mlp_only_layers "
            f"{shown(dense)}, so some layers have experts and others do not. Only models whose "
            "layers are all of one kind can be converted."
        )
    return read_experts(attributes) | {"expert_width": attributes.get("moe_intermediate_size")}


def read_qwen2_moe(attributes: Attributes) -> ModelConfig:
    """Read Qwen1.5-MoE or Qwen2-MoE, with a shared expert."""
    fields = read_decoder(attributes) | read_qwen_experts(attributes)
    fields["mlp_width"] = attributes.get("shared_expert_intermediate_size")
    fields["windows"] = read_windows(attributes)
    return ModelConfig(**fields, qkv_bias=attributes.get("qkv_bias"))


def read_qwen3_moe(attributes: Attributes) -> ModelConfig:
    """Read Qwen3-MoE: all layers have the same window, or none."""
    fields = read_decoder(attributes) | read_qwen_experts(attributes) | read_bias(attributes)
    fields["mlp_width"] = 0
    attributes.get("layer_types")  # released configs have max_window_layers, without effect
    fields["windows"] = (attributes.get("sliding_window"),) * fields["num_layers"]
    return ModelConfig(**fields, head_norms=True)


def read_qwen_hybrid(attributes: Attributes) -> dict[str, Any]:
    """Read the fields of Qwen's hybrids: gated attention, and Gated DeltaNets as kind 1."""
    types, get = attributes.get("layer_types"), attributes.get
    if unknown := {*types} - {"full_attention", "linear_attention"}:
        raise InputError(f"layer_types has {shown(sorted(unknown))}, which is not supported.")
    delta = LayerKind(
        num_heads=get("linear_num_value_heads"),
        num_kv_heads=get("linear_num_key_heads"),
        head_dim=get("linear_key_head_dim"),
        value_dim=get("linear_value_head_dim"),
        convolution=get("linear_conv_kernel_dim"),
        head_norms=False,
        qkv_bias=False,
        output_bias=False,
        output_gate=False,
    )
    get("partial_rotary_factor")
    rope = dict(get("rope_parameters"))
    for name in ("mrope_section", "mrope_interleaved"):  # positions in three parts, equal for text
        rope.pop(name, None)
    partial = "partial_rotary_factor"
    fields = read_decoder(attributes, (read_rope(rope, (partial,)),)) | read_bias(attributes)
    return fields | {
        "rotary_dim": int(fields["head_dim"] * rope[partial]),
        "kinds": (delta,),
        "layer_kinds": tuple(int(kind == "linear_attention") for kind in types),
        **{"head_norms": True, "output_gate": True, "norm_offset": 1.0},
    }


def read_qwen3_5_text(attributes: Attributes) -> ModelConfig:
    """Read the text part of a dense Qwen3.5 or 3.6."""
    return ModelConfig(**read_qwen_hybrid(attributes))


def read_qwen3_5_moe_text(attributes: Attributes) -> ModelConfig:
    """Read the text part of a Qwen3.5 or 3.6 with experts, one of them shared."""
    fields = read_qwen_hybrid(attributes) | read_experts(attributes)
    width, shared = "moe_intermediate_size", "shared_expert_intermediate_size"
    fields |= {"expert_width": attributes.get(width), "mlp_width": attributes.get(shared)}
    return ModelConfig(**fields | {"normalised_routing": True})


def read_qwen3_next(attributes: Attributes) -> ModelConfig:
    """Read Qwen3-Next, all of whose layers have experts."""
    fields = read_qwen_hybrid(attributes) | read_qwen_experts(attributes)
    fields["mlp_width"] = attributes.get("shared_expert_intermediate_size")
    return ModelConfig(**fields)


def read_text_part(attributes: Attributes) -> ModelConfig:
    """Read the text part of a multimodal Qwen3.5; pictures are not supported."""
    parts = ("text_config", "vision_config", "image_token_id", "video_token_id")
    for name in (*parts, "vision_start_token_id", "vision_end_token_id"):
        attributes.get(name)
    tied = attributes.get("tie_word_embeddings")
    text = {"tie_word_embeddings": tied, **attributes.values.get("text_config", {})}
    return read_attributes(f"{attributes.theirs.model_type}_text", text)


def read_gemma(attributes: Attributes, ropes: tuple[Rope, ...] | None = None) -> dict[str, Any]:
    """Read the fields of Gemma 2 and 3: windows by layer, and four norms per layer."""
    if attributes.get("hidden_activation") != "gelu_pytorch_tanh":
        raise InputError("hidden_activation must be gelu_pytorch_tanh.")
    if attributes.get("use_bidirectional_attention"):
        raise InputError("use_bidirectional_attention is not supported.")
    fields = read_decoder(attributes, ropes) | read_bias(attributes)
    fields |= {
        "windows": read_windows(attributes),
        "embedding_scale": fields["width"] ** 0.5,
        "query_scale": (fields["head_dim"] / attributes.get("query_pre_attn_scalar")) ** 0.5,
    }
    return fields | {"post_norms": True, "norm_offset": 1.0, "activation": "gelu_tanh"}


def read_gemma2(attributes: Attributes) -> ModelConfig:
    """Read Gemma 2, which caps attention's scores and logits."""
    caps = map(attributes.get, ("attn_logit_softcapping", "final_logit_softcapping"))
    names = "attention_softcap", "logit_softcap"
    return ModelConfig(**read_gemma(attributes), **dict(zip(names, caps, strict=True)))


def read_gemma3_text(attributes: Attributes) -> ModelConfig:
    """Read Gemma 3: layers with a window have a rope of their own."""
    attributes.get("rope_local_base_freq")  # an older name of the theta of the second rope
    fields = read_gemma(attributes, read_ropes(attributes))
    fields["layer_ropes"] = tuple(int(window is not None) for window in fields["windows"])
    return ModelConfig(**fields, head_norms=True)


def read_gemma3(attributes: Attributes) -> ModelConfig:
    """Read the text part of a multimodal Gemma 3; images are not supported."""
    tokens = ("boi_token_index", "eoi_token_index", "image_token_index")
    for name in ("text_config", "vision_config", "mm_tokens_per_image", *tokens):
        attributes.get(name)
    tied = attributes.get("tie_word_embeddings")
    text = {"tie_word_embeddings": tied, **attributes.values.get("text_config", {})}
    return read_attributes("gemma3_text", text)


def read_gemma4_text(attributes: Attributes) -> ModelConfig:
    """Read Gemma 4: layers without a window are kind 1, with heads of their own.

    Raises InputError for the parts that E2B and E4B have beside these.
    """
    get, heads = attributes.get, ("global_head_dim", "num_global_key_value_heads")
    for name in (*heads, "vocab_size_per_layer_input", "use_double_wide_mlp"):
        get(name)  # has no effect, or is in the attributes of layers
    for name, parts in GEMMA4_EDGE.items():
        if get(name):
            raise InputError(
                f"{name} is {shown(get(name))}: {parts}, as in Gemma 4 E2B and E4B, are not "
                "supported. Choose a larger Gemma 4."
            )
    if attributes.values.get("expert_intermediate_size") is None:
        get("expert_intermediate_size")  # in the first releases
    if get("use_bidirectional_attention") == "all":
        raise InputError("use_bidirectional_attention is not supported.")
    if get("hidden_activation") != "gelu_pytorch_tanh":
        raise InputError("hidden_activation must be gelu_pytorch_tanh.")
    types, windows = attributes.values.get("layer_types"), read_windows(attributes)
    if types and types[-1] != KINDS[0]:
        raise InputError(
            f"layer_types ends with {shown(types[-1])}, but transformers gives the last layer of "
            f"Gemma 4 {KINDS[0]}: end with such a layer."
        )
    differ = "head_dim", "num_key_value_heads"
    full, part = (attributes.of_layers(kind, *differ) for kind in KINDS)
    fields = read_decoder(part, read_ropes(attributes)) | read_bias(attributes)
    width = full.get("head_dim")
    kind = LayerKind(
        num_kv_heads=full.get("num_key_value_heads"),
        head_dim=width,
        query_scale=width**0.5,
        keys_as_values=get("attention_k_eq_v"),
    )
    is_full = tuple(int(window is None) for window in windows)
    fields |= {
        **{"windows": windows, "kinds": (kind,), "layer_kinds": is_full},
        "layer_ropes": tuple(1 - x for x in is_full),
        **{"embedding_scale": fields["width"] ** 0.5, "query_scale": fields["head_dim"] ** 0.5},
        "logit_softcap": get("final_logit_softcapping"),
    }
    experts = {
        "experts": get("num_experts"),
        "experts_per_token": get("top_k_experts"),
        "expert_width": get("moe_intermediate_size"),
        **{"parallel_experts": True, "normalised_routing": True, "shared_gate": False},
    }
    if get("enable_moe_block"):
        fields |= experts
    norms = dict.fromkeys(("head_norms", "value_norms", "post_norms", "output_scales"), True)
    return ModelConfig(**fields, **norms, norm_offset=0.0, activation="gelu_tanh")


def read_gemma4(attributes: Attributes) -> ModelConfig:
    """Read the text part of a multimodal Gemma 4; pictures, video and sound are not supported."""
    tokens = [name for name in attributes.values if name.endswith(("_token_id", "_token_index"))]
    parts = "text_config", "vision_config", "audio_config", "vision_soft_tokens_per_image"
    for name in (*tokens, *parts):
        attributes.get(name)
    tied = attributes.get("tie_word_embeddings")
    text = {"tie_word_embeddings": tied, **attributes.values.get("text_config", {})}
    return read_attributes(f"{attributes.theirs.model_type}_text", text)


def read_olmo(attributes: Attributes, ropes: tuple[Rope, ...] | None = None) -> dict[str, Any]:
    """Read the fields of OLMo 2, OLMo 3 and OLMoE."""
    fields = read_decoder(attributes, ropes) | read_bias(attributes)
    return fields | {"projection_norms": True}


def read_olmo2(attributes: Attributes) -> ModelConfig:
    """Read OLMo 2, with norms after attention and MLP instead of before them."""
    fields = read_olmo(attributes)
    return ModelConfig(**fields, pre_norms=False, post_norms=True, norm_offset=0.0)


def read_olmoe(attributes: Attributes) -> ModelConfig:
    """Read OLMoE, whose `intermediate_size` is an expert's width."""
    fields = read_olmo(attributes) | read_experts(attributes)
    fields |= {"expert_width": fields["mlp_width"], "mlp_width": 0}
    return ModelConfig(**fields, clip_qkv=attributes.get("clip_qkv"))


def read_olmo3(attributes: Attributes) -> ModelConfig:
    """Read OLMo 3: OLMo 2 with windows, whose layers have a rope of their own."""
    fields = read_olmo(attributes, read_ropes(attributes))
    windows = read_windows(attributes)
    fields |= {"windows": windows, "layer_ropes": tuple(int(x is not None) for x in windows)}
    return ModelConfig(**fields, pre_norms=False, post_norms=True, norm_offset=0.0)


def read_smollm3(attributes: Attributes) -> ModelConfig:
    """Read SmolLM3: Llama, some of whose layers do not rotate."""
    fields = read_decoder(attributes) | read_bias(attributes)
    attributes.get("no_rope_layer_interval")  # from which transformers makes the list
    rotated = attributes.get("no_rope_layers")[: fields["num_layers"]]
    fields["layer_ropes"] = tuple(0 if rotates else None for rotates in rotated)
    fields["windows"] = read_windows(attributes)
    return ModelConfig(**fields, mlp_bias=attributes.get("mlp_bias"))


def read_granite(attributes: Attributes) -> ModelConfig:
    """Read Granite 3: Llama with four multipliers."""
    get, fields = attributes.get, read_decoder(attributes) | read_bias(attributes)
    return ModelConfig(
        **fields,
        mlp_bias=bool(get("mlp_bias")),  # Granite with experts has no such attribute
        embedding_scale=get("embedding_multiplier"),
        query_scale=get("attention_multiplier") * fields["head_dim"] ** 0.5,
        residual_scale=get("residual_multiplier"),
        logit_scale=1 / get("logits_scaling"),
    )


def read_granitemoehybrid(attributes: Attributes) -> ModelConfig:
    """Read a dense Granite 4 without layers of Mamba; its layers rotate, or none does."""
    get = attributes.get
    of_mamba = [name for name in attributes.values if name.startswith("mamba_")]
    for name in (*of_mamba, "intermediate_size", "num_experts_per_tok"):
        get(name)
    if {*get("layer_types")} != {"full_attention"} or get("num_local_experts"):
        raise InputError("some layers have Mamba or experts, which is not supported.")
    config, width = read_granite(attributes), get("shared_intermediate_size")
    rope = 0 if get("position_embedding_type") == "rope" else None
    return dataclasses.replace(config, mlp_width=width, layer_ropes=(rope,) * config.num_layers)


def read_arcee(attributes: Attributes) -> ModelConfig:
    """Read Arcee's AFM: Llama, whose MLP has a squared relu and no gate."""
    if attributes.get("hidden_act") != "relu2":
        raise InputError("hidden_act must be relu2.")
    return dataclasses.replace(read_llama(attributes), activation="relu", gated_mlp=False)


def read_phi3(attributes: Attributes) -> ModelConfig:
    """Read Phi-3, Phi-3.5, Phi-4 or Phi-4-mini.

    With longrope, the context is the original one: longer prompts have other frequencies.
    """
    get, parameters = attributes.get, dict(attributes.get("rope_parameters"))
    get("auto_map")  # the code in these repositories is older than transformers' own
    original, partial = get("original_max_position_embeddings"), "partial_rotary_factor"
    get(partial)
    is_long = parameters["rope_type"] == "longrope"
    if is_long:
        parameters.setdefault("factor", get("max_position_embeddings") / original)
    fields = read_decoder(attributes, (read_rope(parameters, (partial,)),))
    width = fields["head_dim"]
    rotary = int(width * parameters[partial])
    fields |= {"rotary_dim": rotary if rotary < width else None}
    fields |= {"context": original} if is_long else {}
    fields["windows"] = (get("sliding_window"),) * fields["num_layers"]
    return ModelConfig(**fields)


def read_ministral(attributes: Attributes) -> ModelConfig:
    """Read Ministral 8B, Mistral whose layers may differ in their window."""
    fields = read_decoder(attributes)
    return ModelConfig(**fields | {"windows": read_windows(attributes)})


def read_ministral3(attributes: Attributes) -> ModelConfig:
    """Read Ministral 3 or Devstral 2: Mistral, whose queries grow with their position."""
    parameters, beta = attributes.get("rope_parameters"), "llama_4_scaling_beta"
    rope = read_rope(parameters, (beta, "max_position_embeddings"))
    fields = read_decoder(attributes, (rope,))
    fields["windows"] = (attributes.get("sliding_window"),) * fields["num_layers"]
    if parameters.get(beta):
        context = parameters["original_max_position_embeddings"]
        fields["query_growth"] = parameters[beta], context
    return ModelConfig(**fields)


def read_mistral3(attributes: Attributes) -> ModelConfig:
    """Read the text part of a multimodal Ministral 3 or Mistral Small; images are not supported."""
    projector = "projector_hidden_act", "multimodal_projector_bias", "spatial_merge_size"
    for name in ("vision_config", "vision_feature_layer", "image_token_index", *projector):
        attributes.get(name)
    text, tied = attributes.get("text_config").model_type, "tie_word_embeddings"
    if text not in ("mistral", "ministral3"):
        raise InputError(f"model_type {shown(text)} of text_config is not supported.")
    values = attributes.values.get("text_config", {})
    if attributes.get(tied) is not None and tied in attributes.values:
        values = values | {tied: attributes.values[tied]}
    return read_attributes(text, values)


def read_beside_tower(attributes: Attributes) -> ModelConfig:
    """Read the text part of LLaVA, Idefics 3 or SmolVLM; pictures are embeddings of tokens."""
    llava = "image_seq_length", "vision_feature_layer", "vision_feature_select_strategy"
    llava += "image_token_index", "projector_hidden_act", "multimodal_projector_bias"
    smolvlm = "image_token_id", "scale_factor", "use_reentrant_checkpointing"
    for name in (*llava, *smolvlm, "vision_config", "vocab_size", "ignore_index"):
        attributes.get(name)
    text, tied = attributes.get("text_config"), attributes.get("tie_word_embeddings")
    if text.model_type not in ("llama", "mistral", "qwen2"):
        raise InputError(
            f"text_config has model_type {shown(text.model_type)}: text parts of a "
            f"{attributes.theirs.model_type} may be llama, mistral or qwen2."
        )
    values = {"tie_word_embeddings": tied, **attributes.values.get("text_config", {})}
    return read_attributes(text.model_type, values)


def read_mixtral(attributes: Attributes) -> ModelConfig:
    """Read Mixtral, whose `intermediate_size` is an expert's width."""
    fields = read_decoder(attributes) | read_experts(attributes)
    fields |= {"expert_width": fields["mlp_width"], "mlp_width": 0, "normalised_routing": True}
    fields["windows"] = (attributes.get("sliding_window"),) * fields["num_layers"]
    return ModelConfig(**fields)


def read_gemma1(attributes: Attributes) -> ModelConfig:
    """Read Gemma 1: Llama with other norms and activation, and scaled embeddings."""
    names = "hidden_act", "hidden_activation"  # the second prevails in older versions
    activations = {attributes.get(names[0]), attributes.values.get(names[1])} - {None}
    attributes.get(names[1])
    if activations != {"gelu_pytorch_tanh"}:
        raise InputError(f"{' and '.join(names)} must be gelu_pytorch_tanh.")
    if attributes.get("use_bidirectional_attention"):
        raise InputError("use_bidirectional_attention is not supported.")
    fields = read_decoder(attributes) | read_bias(attributes)
    fields["embedding_scale"] = fields["width"] ** 0.5
    return ModelConfig(**fields, norm_offset=1.0, activation="gelu_tanh")


def read_seed_oss(attributes: Attributes) -> ModelConfig:
    """Read Seed-OSS: Llama with other biases."""
    return ModelConfig(
        **read_decoder(attributes),
        qkv_bias=attributes.get("attention_bias"),
        output_bias=attributes.get("attention_out_bias"),
        mlp_bias=attributes.get("mlp_bias"),
    )


def read_exaone4(attributes: Attributes) -> ModelConfig:
    """Read EXAONE 4: if some layers have a window, those without one do not rotate."""
    fields = read_decoder(attributes)
    windows = read_windows(attributes)
    if attributes.get("sliding_window") is not None:
        fields["layer_ropes"] = tuple(None if window is None else 0 for window in windows)
    fields["windows"] = windows
    return ModelConfig(**fields, head_norms=True, pre_norms=False, post_norms=True)


def read_ernie4_5(attributes: Attributes) -> ModelConfig:
    """Read a dense ERNIE 4.5."""
    attributes.get("auto_map")  # the code in these repositories is older than transformers' own
    biases = dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias"), attributes.get("use_bias"))
    return ModelConfig(**read_decoder(attributes), **biases)


def read_helium(attributes: Attributes) -> ModelConfig:
    """Read Helium: Llama without a bias of outputs, whose norms apply in float32."""
    biases = {"qkv_bias": attributes.get("attention_bias"), "mlp_bias": attributes.get("mlp_bias")}
    return ModelConfig(**read_decoder(attributes), **biases, norm_offset=0.0)


def read_cwm(attributes: Attributes) -> ModelConfig:
    """Read CWM: Llama, some of whose layers have a window."""
    fields = read_decoder(attributes) | {"windows": read_windows(attributes)}
    return ModelConfig(**fields, mlp_bias=attributes.get("mlp_bias"))


def read_glm(attributes: Attributes) -> ModelConfig:
    """Read GLM-4 of 2024, which rotates the first half of a head."""
    partial, parameters = "partial_rotary_factor", attributes.get("rope_parameters")
    attributes.get(partial)
    fields = read_decoder(attributes, (read_rope(parameters, (partial,)),))
    pairs = int(fields["head_dim"] * parameters[partial]) // 2
    fields["ropes"] = (dataclasses.replace(*fields["ropes"], pairs=pairs),)
    return ModelConfig(**fields, qkv_bias=attributes.get("attention_bias"))


def read_glm4(attributes: Attributes) -> ModelConfig:
    """Read GLM-4-0414: GLM with norms of outputs."""
    return dataclasses.replace(read_glm(attributes), post_norms=True)


def read_flex_olmo(attributes: Attributes) -> ModelConfig:
    """Read FlexOlmo: OLMoE with the norms of OLMo 2."""
    norms = {"pre_norms": False, "post_norms": True, "norm_offset": 0.0}
    return dataclasses.replace(read_olmoe(attributes), **norms)


def read_granitemoe(attributes: Attributes) -> ModelConfig:
    """Read a Granite 3 with experts, whose `intermediate_size` is an expert's width."""
    config, experts = read_granite(attributes), read_experts(attributes)
    experts |= {"expert_width": config.mlp_width, "mlp_width": 0, "normalised_routing": True}
    return dataclasses.replace(config, **experts)


def read_partly_rotated(attributes: Attributes) -> dict[str, Any]:
    """Read the fields of a decoder that rotates the first channels of a head."""
    partial, parameters = "partial_rotary_factor", attributes.get("rope_parameters")
    attributes.get(partial)
    fields = read_decoder(attributes, (read_rope(parameters, (partial,)),))
    rotary = int(fields["head_dim"] * parameters.get(partial, 1.0))
    return fields | {"rotary_dim": rotary if rotary < fields["head_dim"] else None}


def read_minimax_m2(attributes: Attributes) -> ModelConfig:
    """Read MiniMax-M2, which routes by sigmoids."""
    attributes.get("rotary_dim")  # from which transformers makes the factor
    of_mtp = "use_mtp", "num_mtp_modules", "mtp_transformer_layers"  # not run by transformers
    for name in ("auto_map", *of_mtp):
        attributes.get(name)
    layers = attributes.get("num_hidden_layers")
    for name, value in {**MINIMAX, "attn_type_list": [1] * layers}.items():
        if attributes.values.get(name) == value:
            attributes.get(name)
    fields = read_partly_rotated(attributes) | read_experts(attributes)
    fields |= dict.fromkeys(("normalised_routing", "sigmoid_routing", "choice_bias"), True)
    fields |= {"expert_width": fields["mlp_width"], "mlp_width": 0, "projection_norms": True}
    return ModelConfig(**fields)


def with_dense_layers(
    fields: dict[str, Any], width: int, shared: int | None, dense: Iterable[bool]
) -> ModelConfig:
    """Return the config of a model whose layers have an MLP, or experts of `width`.

    The MLP is that of `fields`. Beside the experts is another, as wide as `shared` of them.
    """
    mlp = LayerKind(
        mlp_width=fields["mlp_width"], experts=0, experts_per_token=0, choice_bias=False
    )
    fields |= {"expert_width": width, "mlp_width": width * (shared or 0), "shared_gate": False}
    return ModelConfig(**fields, choice_bias=True, kinds=(mlp,), layer_kinds=tuple(map(int, dense)))


def read_glm4_moe(attributes: Attributes) -> ModelConfig:
    """Read GLM-4.5 to 4.7, whose first layers have no experts."""
    get = attributes.get
    get("num_nextn_predict_layers")  # not run by transformers
    if (get("n_group"), get("topk_group")) != (1, 1):
        raise InputError("n_group and topk_group must be 1: groups of experts are not supported.")
    fields = read_partly_rotated(attributes) | {
        "qkv_bias": get("attention_bias"),
        "head_norms": get("use_qk_norm"),
        "experts": get("n_routed_experts"),
        "experts_per_token": get("num_experts_per_tok"),
        "normalised_routing": get("norm_topk_prob"),
        "routed_scale": get("routed_scaling_factor"),
        "sigmoid_routing": True,
    }
    first = get("first_k_dense_replace")
    dense = (i < first for i in range(fields["num_layers"]))
    return with_dense_layers(fields, get("moe_intermediate_size"), get("n_shared_experts"), dense)


def read_ernie4_5_moe(attributes: Attributes) -> ModelConfig:
    """Read ERNIE 4.5 with experts, some of whose layers have none."""
    get = attributes.get
    others = "moe_capacity", "moe_gate", "moe_use_aux_free", "num_nextn_predict_layers"
    for name in ("auto_map", "use_rmsnorm", *others):  # read by their own code alone
        get(name)
    fields = read_decoder(attributes) | {
        "experts": get("moe_num_experts"),
        "experts_per_token": get("moe_k"),
        "normalised_routing": True,
    }
    ends = get("moe_layer_start_index"), get("moe_layer_end_index")
    interval, width = get("moe_layer_interval"), get("moe_intermediate_size")
    dense = (
        not ends[0] <= i <= ends[1] or (i + 1) % interval > 0 for i in range(fields["num_layers"])
    )
    return with_dense_layers(fields, width, get("moe_num_shared_experts"), dense)


def read_gpt_oss(attributes: Attributes) -> ModelConfig:
    """Read gpt-oss, with sinks in attention, and biases and bounds in its experts."""
    for name in ("experts_per_token", "initial_context_length"):  # repeat other attributes
        attributes.get(name)
    stored = attributes.values.get("quantization_config")
    if isinstance(stored, dict) and stored.get("quant_method") == "mxfp4":
        attributes.get("quantization_config")  # tensors in it are widened when they are read
    if attributes.get("swiglu_alpha") != 1.702:
        raise InputError("swiglu_alpha must be 1.702.")
    fields = read_decoder(attributes) | read_bias(attributes) | read_experts(attributes)
    fields |= {"expert_width": fields["mlp_width"], "mlp_width": 0, "normalised_routing": True}
    fields |= {"windows": read_windows(attributes), "swiglu_limit": attributes.get("swiglu_limit")}
    habits = {"sinks": True, "expert_bias": True, "norm_offset": 0.0, "activation": "quick_gelu"}
    return ModelConfig(**fields, **habits)


class Family(NamedTuple):
    """A model_type: how its config is read, and its table of weights."""

    name: str  # of its class in transformers, without ForCausalLM
    read: Callable[[Attributes], ModelConfig]
    table: Table
    ignored: tuple[str, ...] = ()  # prefixes of tensors outside the decoder


def within(table: Table, part: str = "language_model") -> Table:
    """Return the table of a text model for files that hold a vision model beside it."""
    return {
        name: row._replace(theirs=re.sub(r"^model\.", f"model.{part}.", row.theirs))
        for name, row in table.items()
    }


def add_prefix(table: Table) -> Table:
    """Return the table of the text part of a multimodal model."""
    return {n: row._replace(theirs=f"language_model.{row.theirs}") for n, row in table.items()}


VISION = "vision_tower.", "multi_modal_projector."
GEMMA4_PARTS = tuple(
    f"model.{part}."
    for part in ("vision_tower", "vision_embedder", "embed_vision", "audio_tower", "embed_audio")
)
IDEFICS = Family(
    "", read_beside_tower, within(LLAMA, "text_model"), ("model.vision_model.", "model.connector.")
)
PICTURES = "idefics3", "llava", "smolvlm"  # whose masks and positions are those of text
NOT_AS_TEXT = {  # families with pictures, and what differs
    **dict.fromkeys(
        (
            *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"),
            *("glm4v", "glm4v_moe"),
        ),
        "rotary positions in three parts",
    ),
    **dict.fromkeys(("gemma3", "paligemma"), "two-way masks over a picture"),
}
FAMILIES = {
    "llama": Family("Llama", read_llama, LLAMA),
    "mistral": Family("Mistral", read_mistral, LLAMA),
    "qwen2": Family("Qwen2", read_qwen2, LLAMA),
    "qwen3": Family("Qwen3", read_qwen3, LLAMA),
    "qwen2_moe": Family("Qwen2Moe", read_qwen2_moe, {**LLAMA, **SHARED_EXPERT}),
    "qwen3_moe": Family("Qwen3Moe", read_qwen3_moe, LLAMA),
    "gemma2": Family("Gemma2", read_gemma2, GEMMA),
    "qwen3_5_text": Family("Qwen3_5", read_qwen3_5_text, QWEN3_5, ("mtp.",)),
    "qwen3_5_moe_text": Family(
        "Qwen3_5Moe", read_qwen3_5_moe_text, {**QWEN3_5, **SHARED_EXPERT}, ("mtp.",)
    ),
    "qwen3_5": Family("", read_text_part, within(QWEN3_5), ("model.visual.", "mtp.")),
    "qwen3_5_moe": Family(
        "", read_text_part, within({**QWEN3_5, **SHARED_EXPERT}), ("model.visual.", "mtp.")
    ),
    "qwen3_next": Family("Qwen3Next", read_qwen3_next, QWEN3_NEXT, ("mtp.",)),
    "gemma3_text": Family("Gemma3", read_gemma3_text, GEMMA),
    # read only: its text part is written as gemma3_text
    "gemma3": Family(
        "",
        read_gemma3,
        add_prefix(GEMMA),
        VISION,
    ),
    "gemma4_text": Family("Gemma4", read_gemma4_text, GEMMA4),
    "gemma4": Family("", read_gemma4, within(GEMMA4), GEMMA4_PARTS),
    "gemma4_unified_text": Family("Gemma4Unified", read_gemma4_text, GEMMA4),
    "gemma4_unified": Family("", read_gemma4, within(GEMMA4), GEMMA4_PARTS),
    "mistral3": Family("", read_mistral3, add_prefix(LLAMA), VISION),  # as gemma3
    "llava": Family("", read_beside_tower, add_prefix(LLAMA), VISION),
    "smolvlm": IDEFICS,
    "idefics3": IDEFICS,
    "olmo2": Family("Olmo2", read_olmo2, OLMO),
    "flex_olmo": Family("FlexOlmo", read_flex_olmo, OLMO),
    "granitemoehybrid": Family("GraniteMoeHybrid", read_granitemoehybrid, GRANITE_HYBRID),
    "arcee": Family("Arcee", read_arcee, LLAMA),
    "granitemoe": Family("GraniteMoe", read_granitemoe, GRANITE_MOE),
    "minimax_m2": Family("MiniMaxM2", read_minimax_m2, MINIMAX_M2),
    "gpt_oss": Family("GptOss", read_gpt_oss, GPT_OSS),
    "olmoe": Family("Olmoe", read_olmoe, OLMO),
    "olmo3": Family("Olmo3", read_olmo3, OLMO),
    "smollm3": Family("SmolLM3", read_smollm3, LLAMA),
    "granite": Family("Granite", read_granite, LLAMA),
    "phi3": Family("Phi3", read_phi3, PHI3),
    "ministral": Family("Ministral", read_ministral, LLAMA),
    "ministral3": Family("Ministral3", read_ministral3, LLAMA),
    "mixtral": Family("Mixtral", read_mixtral, MIXTRAL),
    "gemma": Family("Gemma", read_gemma1, LLAMA),
    "seed_oss": Family("SeedOss", read_seed_oss, LLAMA),
    "exaone4": Family("Exaone4", read_exaone4, EXAONE4),
    "ernie4_5": Family("Ernie4_5", read_ernie4_5, {**LLAMA, **PAIRS}),
    "helium": Family("Helium", read_helium, {**LLAMA, **PAIRS}),
    "cwm": Family("Cwm", read_cwm, LLAMA),
    "glm": Family("Glm", read_glm, GLM),
    "glm4": Family("Glm4", read_glm4, GLM4),
    "glm4_moe": Family("Glm4Moe", read_glm4_moe, GLM4_MOE, ("model.layers.{L}.",)),
    "ernie4_5_moe": Family("Ernie4_5_Moe", read_ernie4_5_moe, ERNIE_MOE, ("model.mtp_",)),
}


def read_config(values: Mapping[str, Any]) -> tuple[ModelConfig, tuple[Row, ...]]:
    """Read a Hugging Face config; return ours and the table of its weights.

    Raises InputError for a family or an attribute that is not supported.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        differs = f", as it has {NOT_AS_TEXT[kind]}" if kind in NOT_AS_TEXT else ""
        raise InputError(
            f"model_type {shown(kind)} is not supported{differs}. Supported: "
            f"{', '.join(sorted(FAMILIES))}. convert/README.md shows how to add a family."
        )
    config = read_attributes(kind, values)
    return config, rows_of(FAMILIES[kind].table, config)


def read_attributes(kind: str, values: Mapping[str, Any]) -> ModelConfig:
    """Read the attributes of a model_type; InputError for those that it does not handle."""
    attributes = Attributes(kind, values)
    config = FAMILIES[kind].read(attributes)
    attributes.refuse_unknown()
    return dataclasses.replace(config, model_type=config.model_type or kind)
