"""Read a Hugging Face `config.json`: an attribute is used, known to be harmless, or refused."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import TypeAdapter

from cola_jax.config import Layers, Positive, Rope, Size
from cola_jax.errors import InputError, printed, reading, shorten, shown

NUMBER = TypeAdapter(Positive)
SIZE = TypeAdapter(Size)
LAYERS = TypeAdapter(Layers)
OBJECT = TypeAdapter(dict[str, Any])
BOOLEAN = TypeAdapter(bool)
LAYER_TYPES = TypeAdapter(list[Literal["full_attention", "sliding_attention"]])

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
        """Set the family's defaults for attributes that the config lacks."""
        self.values = {**defaults, **self.values}

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or the default if the config lacks it."""
        self.seen.add(name)
        return self.values.get(name, default)

    def read(self, name: str, kind: TypeAdapter, default: Any = None) -> Any:
        """Return an attribute of a type, or the default if the config lacks it or has null."""
        value = self.get(name, default)
        with reading(name):
            return kind.validate_python(default if value is None else value, strict=True)

    def number(self, name: str, default: float | None = None) -> float:
        """Return a positive number."""
        return self.read(name, NUMBER, default)

    def integer(self, name: str, default: int | None = None) -> int:
        """Return a positive integer."""
        return self.read(name, SIZE, default)

    def layers(self) -> int:
        """Return the number of layers, at most as many as any model has."""
        return self.read("num_hidden_layers", LAYERS)

    def window(self, name: str, default: int) -> int | None:
        """Return a window in tokens, None for null."""
        return None if self.get(name, default) is None else self.integer(name, default)

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Return an object, empty if missing or null."""
        return self.read(name, OBJECT, {})

    def boolean(self, name: str, default: bool) -> bool:
        """Return a boolean."""
        return self.read(name, BOOLEAN, default)

    def refuse_unknown(self) -> None:
        """Raise InputError for attributes that were not read and may matter."""
        problems = [
            f"{printed(name)} = {shown(value)}"
            for name, value in sorted(self.values.items())
            if not (name in self.seen or name in HARMLESS or name.startswith("_"))  # private
            and (name not in REQUIRED or value != REQUIRED[name])
        ]
        if problems:
            raise InputError(
                f"it has attributes that this converter does not handle: {shorten(problems)}. The "
                "converted model could be silently wrong, so nothing was converted; "
                "convert/README.md shows how to add support."
            )


def read_windows(
    attributes: Attributes, window: int | None, sliding: list[bool]
) -> tuple[int | None, ...]:
    """Read each layer's window from `layer_types`; without it, `sliding` says which have one."""
    default = ["sliding_attention" if slides else "full_attention" for slides in sliding]
    types = attributes.read("layer_types", LAYER_TYPES, default)
    if len(types) != len(sliding):
        raise InputError(
            f"layer_types must name full_attention or sliding_attention for each of "
            f"{len(sliding)} layers, got {shown(types)}."
        )
    if window is None and "sliding_attention" in types:
        raise InputError("layer_types has sliding_attention, but there is no window.")
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def read_rope(attributes: Attributes) -> Rope:
    """Read the rotary embedding from rope_theta and rope_scaling, or from rope_parameters."""
    fields = Attributes(
        {**attributes.mapping("rope_scaling"), **attributes.mapping("rope_parameters")}
    )
    theta = fields.number("rope_theta", attributes.number("rope_theta", 10000.0))
    kinds = fields.get("rope_type"), fields.get("type"), "default"
    kind = next(kind for kind in kinds if kind is not None)
    if fields.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError("a partial rotary embedding is not supported.")
    if kind == "default":
        rope = Rope(theta=theta)
    elif kind == "linear":
        rope = Rope(theta=theta, linear_factor=fields.number("factor"))
    elif kind == "llama3":
        factor = fields.number("factor")
        low, high = (fields.number(f"{k}_freq_factor") for k in ("low", "high"))
        original = fields.integer("original_max_position_embeddings")
        rope = Rope(theta=theta, llama3=(factor, low, high, original))
    else:
        raise InputError(
            f"rope type {shown(kind)} is not supported. Supported: default, linear, llama3."
        )
    if unknown := {k: v for k, v in fields.values.items() if k not in fields.seen}:
        raise InputError(f"rope type {kind!r} has unknown attributes: {shown(unknown)}.")
    return rope
