"""Reads a Hugging Face `config.json`: an attribute is used, known to be harmless, or refused."""

from collections.abc import Mapping
from typing import Any

from cola_jax.config import LARGEST, LIMIT, MOST_LAYERS, SMALLEST, Rope
from cola_jax.errors import InputError, printed, shorten, shown

# The forward pass of no supported family depends on these.
HARMLESS = {
    *("architectures", "model_type", "transformers_version", "torch_dtype", "dtype"),
    *("use_cache", "initializer_range", "attention_dropout", "pretraining_tp"),
    *("transformers.js_config", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("unk_token_id", "sep_token_id"),
    *("id2label", "label2id", "problem_type", "task_specific_params", "finetuning_task"),
    *("return_dict", "output_attentions", "output_hidden_states", "torchscript", "tokenizer_class"),
    *("prefix", "is_llama_config", "unsloth_version", "unsloth_fixed", "cache_implementation"),
    *("output_router_logits", "router_aux_loss_coef"),  # for training
}

# These would change the forward pass at any other value.
REQUIRED = {
    "hidden_act": "silu",
    "rope_interleaved": False,
    "partial_rotary_factor": 1.0,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "quantization_config": None,
    "residual_multiplier": 1.0,
    "embedding_multiplier": 1.0,
    "logits_scaling": 1.0,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
}


class Attributes:
    """The attributes of a config; records which were read, so that the rest can be checked."""

    def __init__(self, values: Mapping[str, Any]):
        self.values = dict(values)
        self.seen: set[str] = set()

    def set_defaults(self, **defaults: Any) -> None:
        """Sets the family's defaults for attributes that the config lacks."""
        self.values = {**defaults, **self.values}

    def get(self, name: str, default: Any = None) -> Any:
        """Returns an attribute, or the default if the config lacks it."""
        self.seen.add(name)
        return self.values.get(name, default)

    def number(self, name: str, default: int | float | None = None) -> Any:
        """Returns a positive number; raises ValueError for anything else."""
        value = self.get(name, default)
        if value is None:
            value = default
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else 0
        if not SMALLEST <= number <= LARGEST:
            raise InputError(
                f"{name} must be a positive number ({SMALLEST} to {LARGEST}), got {shown(value)}."
            )
        return value

    def integer(self, name: str, default: int | None = None, limit: int = LIMIT) -> int:
        """Returns an integer of 1 to `limit - 1`; raises ValueError for anything else."""
        value = self.get(name, default)
        if value is None:
            value = default
        if type(value) is not int or not 1 <= value < limit:
            raise InputError(
                f"{name} must be a positive integer, at most {limit - 1:,}, got {shown(value)}."
            )
        return value

    def layers(self) -> int:
        """Returns the number of layers; raises ValueError for more than any model has."""
        return self.integer("num_hidden_layers", limit=MOST_LAYERS + 1)

    def window(self, name: str, default: int) -> int | None:
        """Returns a window in tokens, None for null; raises ValueError for anything else."""
        return None if self.get(name, default) is None else self.integer(name, default)

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Returns an object, empty if missing or null; raises ValueError for anything else."""
        value = self.get(name)
        if value is not None and not isinstance(value, dict):
            raise InputError(f"{name} must be an object, got {shown(value)}.")
        return value or {}

    def boolean(self, name: str, default: bool) -> bool:
        """Returns a boolean; raises ValueError for anything else."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise InputError(f"{name} must be true or false, got {shown(value)}.")
        return value

    def refuse_unknown(self) -> None:
        """Raises ValueError for attributes that were not read and may matter."""
        rest = {name for name in self.values if not name.startswith("_")}  # private to transformers
        rest -= self.seen | HARMLESS
        wrong = {k for k in rest & set(REQUIRED) if self.values[k] != REQUIRED[k]}
        unknown = rest - set(REQUIRED)
        if wrong or unknown:
            listed = shorten(
                [f"{printed(k)} = {shown(self.values[k])}" for k in sorted(wrong | unknown)]
            )
            raise InputError(
                f"it has attributes that this converter does not handle: {listed}. The "
                "converted model could be silently wrong, so nothing was converted; "
                "convert/README.md shows how to add support."
            )


def read_windows(
    attributes: Attributes, window: int | None, sliding: list[bool]
) -> tuple[int | None, ...]:
    """Reads each layer's window from `layer_types`; without it, `sliding` says which have one."""
    default = ["sliding_attention" if slides else "full_attention" for slides in sliding]
    types, known = attributes.get("layer_types"), ("full_attention", "sliding_attention")
    types = default if types is None else types
    layers = len(sliding)
    if not isinstance(types, list) or len(types) != layers or any(x not in known for x in types):
        raise InputError(
            f"layer_types must name full_attention or sliding_attention for each of "
            f"{layers} layers, got {shown(types)}."
        )
    if window is None and "sliding_attention" in types:
        raise InputError("layer_types has sliding_attention, but there is no window.")
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def read_rope(attributes: Attributes) -> Rope:
    """Reads the rotary embedding from rope_theta and rope_scaling, or from rope_parameters."""
    fields = Attributes(
        {**attributes.mapping("rope_scaling"), **attributes.mapping("rope_parameters")}
    )
    theta = float(fields.number("rope_theta", attributes.number("rope_theta", 10000.0)))
    older, kind = fields.get("type"), fields.get("rope_type")
    kind = "default" if kind is None and older is None else older if kind is None else kind
    if fields.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError("a partial rotary embedding is not supported.")
    if kind == "default":
        rope = Rope(theta=theta)
    elif kind == "linear":
        rope = Rope(theta=theta, linear_factor=float(fields.number("factor")))
    elif kind == "llama3":
        factor = float(fields.number("factor"))
        low, high = (float(fields.number(f"{k}_freq_factor")) for k in ("low", "high"))
        original = fields.integer("original_max_position_embeddings")
        if not low < high:
            raise InputError("low_freq_factor must be less than high_freq_factor.")
        rope = Rope(theta=theta, llama3=(factor, low, high, original))
    else:
        raise InputError(
            f"rope type {shown(kind)} is not supported. Supported: default, linear, llama3."
        )
    if unknown := {k: v for k, v in fields.values.items() if k not in fields.seen}:
        raise InputError(f"rope type {kind!r} has unknown attributes: {shown(unknown)}.")
    return rope
