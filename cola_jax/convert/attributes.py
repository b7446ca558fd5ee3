"""Reading a Hugging Face `config.json`: each attribute is used, known as harmless, or refused."""

import math
from collections.abc import Mapping
from typing import Any

from cola_jax.config import Rope

# What no forward pass of a supported family depends on.
HARMLESS = {
    *("architectures", "model_type", "transformers_version", "torch_dtype", "dtype"),
    *("_name_or_path", "_attn_implementation_autoset", "use_cache"),
    *("initializer_range", "attention_dropout", "pretraining_tp", "transformers.js_config"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id"),
    *("id2label", "label2id", "problem_type", "task_specific_params", "finetuning_task"),
    *("return_dict", "output_attentions", "output_hidden_states", "torchscript", "tokenizer_class"),
    *("prefix", "is_llama_config", "unsloth_version", "unsloth_fixed", "cache_implementation"),
    *("output_router_logits", "router_aux_loss_coef"),  # of training
}

# What would change the forward pass unless it has exactly this value.
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
    """A config's attributes; remembers which were read, so that the rest can be judged."""

    def __init__(self, values: Mapping[str, Any]):
        self.values = dict(values)
        self.seen: set[str] = set()

    def assume(self, **defaults: Any) -> None:
        """Gives attributes that the config lacks the values that its family takes for them."""
        self.values = {**defaults, **self.values}

    def get(self, name: str, default: Any = None) -> Any:
        """Returns an attribute, or the default where the config lacks it."""
        self.seen.add(name)
        return self.values.get(name, default)

    def number(self, name: str, default: int | float | None = None) -> Any:
        """Returns a positive number; ValueError where it is missing or something else."""
        value = self.get(name, default)
        if value is None:
            value = default
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else 0
        if not 0 < number < math.inf:
            raise ValueError(f"config.json: {name} must be a positive number, it is {value!r}.")
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """Returns a positive whole number; ValueError where it is missing or something else."""
        value = self.number(name, default)
        if value != int(value):
            raise ValueError(f"config.json: {name} must be a whole number, it is {value!r}.")
        return int(value)

    def window(self, name: str, default: int) -> int | None:
        """Returns a window in tokens, or None where it is null; ValueError for anything else."""
        return None if self.get(name, default) is None else self.whole(name, default)

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Returns a JSON object, empty where missing or null; ValueError for anything else."""
        value = self.get(name)
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"config.json: {name} must be an object, it is {value!r}.")
        return value or {}

    def flag(self, name: str, default: bool) -> bool:
        """Returns a boolean; ValueError for anything else."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise ValueError(f"config.json: {name} must be true or false, it is {value!r}.")
        return value

    def refuse_unknown(self) -> None:
        """Raises ValueError for attributes that nothing has read and that may matter."""
        rest = set(self.values) - self.seen - HARMLESS
        wrong = {k for k in rest & set(REQUIRED) if self.values[k] != REQUIRED[k]}
        unknown = rest - set(REQUIRED)
        if wrong or unknown:
            listed = ", ".join(f"{k} = {self.values[k]!r}" for k in sorted(wrong | unknown))
            raise ValueError(
                f"config.json has attributes that this converter does not handle: {listed}. The "
                "converted model would be silently wrong, so nothing was converted; see "
                "convert/README.md for how to teach it."
            )


def read_windows(
    attributes: Attributes, window: int | None, sliding: list[bool]
) -> tuple[int | None, ...]:
    """Reads from `layer_types` which layers have the window; without it `sliding` says so."""
    default = ["sliding_attention" if slides else "full_attention" for slides in sliding]
    types, known = attributes.get("layer_types"), ("full_attention", "sliding_attention")
    types = default if types is None else types
    layers = len(sliding)
    if not isinstance(types, list) or len(types) != layers or any(x not in known for x in types):
        raise ValueError(
            f"config.json: layer_types must name full_attention or sliding_attention for each of "
            f"{layers} layers, it is {types}."
        )
    if window is None and "sliding_attention" in types:
        raise ValueError("config.json: layer_types has sliding_attention, but there is no window.")
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def read_rope(attributes: Attributes) -> Rope:
    """Reads the rotary embedding: rope_theta with rope_scaling, or the newer rope_parameters."""
    fields = Attributes(
        {**attributes.mapping("rope_scaling"), **attributes.mapping("rope_parameters")}
    )
    theta = float(fields.number("rope_theta", attributes.number("rope_theta", 10000.0)))
    older, kind = fields.get("type"), fields.get("rope_type")
    kind = kind or older or "default"
    if fields.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError("config.json: a partial rotary embedding is not supported.")
    if kind == "default":
        rope = Rope(theta=theta)
    elif kind == "linear":
        rope = Rope(theta=theta, linear_factor=float(fields.number("factor")))
    elif kind == "llama3":
        factor = float(fields.number("factor"))
        low, high = (float(fields.number(f"{k}_freq_factor")) for k in ("low", "high"))
        original = fields.whole("original_max_position_embeddings")
        if not low < high:
            raise ValueError("config.json: low_freq_factor must be less than high_freq_factor.")
        rope = Rope(theta=theta, llama3=(factor, low, high, original))
    else:
        raise ValueError(
            f"config.json: rope type {kind!r} is not supported; default, linear and llama3 are."
        )
    if unknown := {k: v for k, v in fields.values.items() if k not in fields.seen}:
        raise ValueError(
            f"config.json: rope type {kind!r} has attributes we do not know: {unknown}."
        )
    return rope
