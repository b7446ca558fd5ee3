"""The architectures of GGUF files, as differences from their family's config and tensors."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from gguf import MODEL_ARCH_NAMES, TensorNameMap, get_tensor_name_map

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError
from cola_jax.formats.decoder import LLAMA, PAIRS, joined_experts
from cola_jax.formats.families import FAMILIES
from cola_jax.formats.qwen import QWEN3_5
from cola_jax.formats.ropes import ATTENTION_KINDS
from cola_jax.formats.table import Row, Table, make_table, rows_of
from cola_jax.params import field_of

Keys = Mapping[str, str | None]  # to attributes of a Hugging Face config; None for keys without one
EMPTY: Mapping[str, Any] = MappingProxyType({})

KEYS: Keys = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    **dict.fromkeys(("attention.key_length", "attention.value_length", "rope.dimension_count")),
    **dict.fromkeys(("rope.scaling.type", "rope.scaling.factor", "rope.scaling.finetuned")),
    **dict.fromkeys(("rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow")),
    **dict.fromkeys(("rope.scaling.original_context_length", "vocab_size")),
}
WINDOW: Keys = {"attention.sliding_window": "sliding_window"}
EXPERTS: Keys = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
SHARED: Keys = {**EXPERTS, "expert_shared_feed_forward_length": "shared_expert_intermediate_size"}
# as wide as the MLP
LOCAL: Keys = {**EXPERTS, "expert_count": "num_local_experts", "expert_feed_forward_length": None}
PHI3_KEYS: Keys = {
    **{**WINDOW, "rope.scaling.attn_factor": None},
    "rope.scaling.original_context_length": "original_max_position_embeddings",
}
QWEN35_KEYS: Keys = {
    "full_attention_interval": "full_attention_interval",
    "ssm.conv_kernel": "linear_conv_kernel_dim",
    "ssm.state_size": "linear_key_head_dim",
    "ssm.group_count": "linear_num_key_heads",
    "ssm.time_step_rank": "linear_num_value_heads",
    **dict.fromkeys(("ssm.inner_size", "rope.dimension_sections", "nextn_predict_layers")),
}
GEMMA4_KEYS: Keys = {
    **{**WINDOW, "final_logit_softcapping": "final_logit_softcapping"},
    "attention.shared_kv_layers": "num_kv_shared_layers",
    "embedding_length_per_layer_input": "hidden_size_per_layer_input",
    "attention.key_length": "global_head_dim",
    "attention.key_length_swa": "head_dim",
    "expert_count": "num_experts",
    "expert_used_count": "top_k_experts",
    "expert_feed_forward_length": "moe_intermediate_size",
    **dict.fromkeys(("attention.sliding_window_pattern", "attention.value_length_swa")),
    **dict.fromkeys(("rope.freq_base_swa", "rope.dimension_count_swa")),
}
LARGEST = {"gemma2": 46, "gemma3": 62}  # the layers by which llama.cpp recognises the 27B models

WHOLE_EXPERTS = make_table(
    *(LLAMA[name] for name in ("expert_gate", "expert_up", "expert_down")),
    Row("expert_gate_bias", "blk.{i}.ffn_gate_exps.bias", "E X -> E X"),
    Row("expert_up_bias", "blk.{i}.ffn_up_exps.bias", "E X -> E X"),
    Row("expert_down_bias", "blk.{i}.ffn_down_exps.bias", "E D -> E D"),
    Row("sinks", "blk.{i}.attn_sinks.weight", "N -> N"),
)
SHARED_GATE = make_table(Row("shared_gate", "blk.{i}.ffn_gate_inp_shexp.weight", "D -> D"))
# the first value heads of all key heads come first, then the second ones
TILED = {
    "N -> N": "(G K) -> (K G)",
    "N D -> D N": "(G K) D -> D (K G)",
    "(N U) D -> D N U": "(G K U) D -> D (K G) U",
    "D (N U) -> N U D": "D (G K U) -> (K G) U D",
    "(N U) 1 W -> N U W": "(G K U) W -> (K G) U W",
    "(K H) 1 W -> K H W": "(K H) W -> K H W",
}
QWEN35 = make_table(
    *(
        row._replace(pattern=TILED.get(row.pattern, row.pattern))
        for name, row in QWEN3_5.items()
        if name.endswith(".1")
    ),
    Row("forget_bias.1", "blk.{i}.ssm_dt.bias", TILED["N -> N"]),
)


GEMMA4_ROWS = make_table(
    *joined_experts("blk.{i}.ffn_gate_up_exps.weight"),
    Row("expert_down", "blk.{i}.ffn_down_exps.weight", "E D X -> E X D"),
    Row("expert_scale", "blk.{i}.ffn_down_exps.scale", "E -> E"),
    Row("router_norm", "blk.{i}.ffn_gate_inp.scale", "D -> D"),
    Row("output_scale", "blk.{i}.layer_output_scale.weight", "1 -> 1"),
)
ROPE_DIVISORS = "rope_freqs.weight"


class Stored(Protocol):
    """The tensors of a file."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def values(self, name: str) -> list[float]:
        """Dequantise a vector."""
        ...


def head_width(fields: Mapping[str, Any]) -> int:
    """Return the width of a head."""
    width = fields["embedding_length"] // fields["attention.head_count"]
    return fields.get("attention.key_length", width)


def query_scale(fields: Mapping[str, Any], tensors: Stored, largest: int) -> dict[str, Any]:
    """Return the query scale, which files of Gemma 2 and 3 do not hold."""
    is_largest = fields["block_count"] == largest
    per_head = fields["embedding_length"] // fields["attention.head_count"]
    return {"query_pre_attn_scalar": per_head if is_largest else head_width(fields)}


def rotated_part(fields: Mapping[str, Any], tensors: Stored) -> dict[str, Any]:
    """Return the part of a head that rotates."""
    width = head_width(fields)
    return {"partial_rotary_factor": fields.get("rope.dimension_count", width) / width}


def hybrid_sizes(fields: Mapping[str, Any], tensors: Stored) -> dict[str, Any]:
    """Return the sizes that Qwen3.5 spells otherwise; layers for further tokens do not count."""
    return rotated_part(fields, tensors) | {
        "num_hidden_layers": fields["block_count"] - fields.get("nextn_predict_layers", 0),
        "linear_value_head_dim": fields["ssm.inner_size"] // fields["ssm.time_step_rank"],
    }


def gemma4_layers(fields: Mapping[str, Any], tensors: Stored) -> dict[str, Any]:
    """Return the per-layer attributes of Gemma 4 and its ropes, partial in full attention."""
    layers = fields["block_count"]
    has_window = fields["attention.sliding_window_pattern"]
    if not isinstance(has_window, list) or len(has_window) != layers:
        raise InputError("attention.sliding_window_pattern must have an entry for each layer.")

    def of_layers(key: str, window: bool) -> Any:
        value = fields[key]
        values = value if isinstance(value, list) else [value] * layers
        return next((x for x, w in zip(values, has_window, strict=True) if w == window), values[0])

    if ROPE_DIVISORS not in tensors.shapes:
        raise InputError(f"it has no {ROPE_DIVISORS}, which says what part of a head rotates.")
    divisors = tensors.values(ROPE_DIVISORS)
    width = fields["feed_forward_length"]
    full, part = ATTENTION_KINDS
    base = {"rope_type": "proportional", "rope_theta": fields["rope.freq_base"]}
    lacks_values = any(f"blk.{i}.attn_v.weight" not in tensors.shapes for i in range(layers))
    return {
        "layer_types": [part if window else full for window in has_window],
        "num_key_value_heads": of_layers("attention.head_count_kv", True),
        "num_global_key_value_heads": of_layers("attention.head_count_kv", False),
        "intermediate_size": width[0] if isinstance(width, list) else width,
        "use_double_wide_mlp": isinstance(width, list) and width[-1] > width[0],
        # keys are values where a layer with keys has no values
        "attention_k_eq_v": lacks_values and f"blk.{layers - 1}.attn_k.weight" in tensors.shapes,
        "enable_moe_block": bool(fields.get("expert_count")),
        "vocab_size_per_layer_input": tensors.shapes["token_embd.weight"][0],
        "head_dim": fields["attention.key_length_swa"],
        "rope_parameters": {
            full: {**base, "partial_rotary_factor": divisors.count(1.0) / len(divisors)},
            part: {"rope_type": "default", "rope_theta": fields["rope.freq_base_swa"]},
        },
    }


class Architecture(NamedTuple):
    """A `general.architecture`; its name is also the prefix of its keys."""

    model_type: str  # of the Hugging Face config that the keys are translated to
    keys: Keys = EMPTY  # besides KEYS
    facts: Mapping[str, Any] = EMPTY  # attributes of all such models, which files may leave out
    rows: Table = EMPTY  # that differ from the family's
    # more attributes, in place of others
    derive: Callable[[Mapping[str, Any], Stored], dict[str, Any]] = lambda fields, tensors: {}


GEMMA2_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
ARCHITECTURES = {
    "llama": Architecture("llama", rows=PAIRS),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "qwen2moe": Architecture("qwen2_moe", SHARED, rows=SHARED_GATE),
    "qwen3moe": Architecture("qwen3_moe", EXPERTS, {"norm_topk_prob": True}),
    "gemma2": Architecture(
        "gemma2",
        {**WINDOW, **{name: name for name in GEMMA2_CAPS}},
        GEMMA2_CAPS,
        derive=functools.partial(query_scale, largest=LARGEST["gemma2"]),
    ),
    "gemma3": Architecture(
        "gemma3_text",
        {**WINDOW, "rope.freq_base_swa": "rope_local_base_freq"},
        derive=functools.partial(query_scale, largest=LARGEST["gemma3"]),
    ),
    "gemma4": Architecture("gemma4_text", GEMMA4_KEYS, rows=GEMMA4_ROWS, derive=gemma4_layers),
    "phi3": Architecture(
        "phi3", PHI3_KEYS, {"original_max_position_embeddings": 4096}, derive=rotated_part
    ),
    "gpt-oss": Architecture(
        "gpt_oss", {**WINDOW, **LOCAL}, {"rope_scaling": {"truncate": False}}, WHOLE_EXPERTS
    ),
    "minimax-m2": Architecture(
        "minimax_m2",
        {**LOCAL, "expert_gating_func": "scoring_func", "rope.dimension_count": "rotary_dim"},
        rows=make_table(Row("router_bias", "blk.{i}.exp_probs_b.bias", "E -> E")),
    ),
    "qwen35": Architecture("qwen3_5_text", QWEN35_KEYS, rows=QWEN35, derive=hybrid_sizes),
    "qwen35moe": Architecture(
        "qwen3_5_moe_text",
        {**QWEN35_KEYS, **SHARED},
        rows={**QWEN35, **SHARED_GATE},
        derive=hybrid_sizes,
    ),
}


def gguf_rows(name: str, config: ModelConfig) -> tuple[Row, ...]:
    """Return the rows of the weights that a model of this config has in a file."""
    kinds = {text: kind for kind, text in MODEL_ARCH_NAMES.items()}
    names = get_tensor_name_map(kinds[name], 1)
    architecture = ARCHITECTURES[name]
    table = {**FAMILIES[architecture.model_type].weights, **architecture.rows}
    return tuple(rename(row, names, config.norm_offset or 0.0) for row in rows_of(table, config))


def rename(row: Row, names: TensorNameMap, norm_offset: float) -> Row:
    """Return a row of safetensors with its name in GGUF, where one tensor holds all experts.

    Norms are stored with the offset that the model adds to them, except those of values.
    """
    theirs = row.theirs
    pattern = row.pattern
    field = field_of(row.ours)
    if "{e}." in theirs:
        theirs = theirs.replace("{e}.", "")
        pattern = f"E {pattern}".replace("->", "-> E")
    name = names.get_name(theirs.format(i=0), (".weight", ".bias"))
    offset = -norm_offset if field.endswith("norm") and field != "value_norm" else 0.0
    return row._replace(
        theirs=name.replace("blk.0.", "blk.{i}.") if name else theirs,
        pattern=pattern,
        offset=offset,
    )
