"""Read a Hugging Face `config.json`: an attribute is used, known to be harmless, or refused."""

import copy
import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from cola_jax.config import MOST_LAYERS, Rope
from cola_jax.errors import InputError, first_line, printed, shorten, shown

# The forward pass of no supported family depends on these.
HARMLESS = {
    *("architectures", "model_type", "transformers_version", "torch_dtype", "dtype"),
    *("use_cache", "initializer_range", "attention_dropout", "pretraining_tp"),
    *("transformers.js_config", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("unk_token_id", "sep_token_id"),
    *("id2label", "label2id", "problem_type", "task_specific_params", "finetuning_task"),
    *("return_dict", "output_attentions", "output_hidden_states", "torchscript", "tokenizer_class"),
    *("prefix", "is_llama_config", "unsloth_version", "unsloth_fixed", "cache_implementation"),
    # for training
    *("output_router_logits", "router_aux_loss_coef", "router_jitter_noise"),
    *("resid_pdrop", "embd_pdrop", "residual_dropout", "init_method"),
    # of SmolVLM's training, and of parts that its text part does not have
    *("neftune_noise_alpha", "perceiver_config", "pixel_shuffle_factor"),
    "rys_relayer",  # the path of a model that RYS exported
}
NO_LIMIT = [0.0, {"__float__": "Infinity"}]  # of time steps of Mamba, as transformers writes it
# These would change the forward pass at any other value.
REQUIRED = {
    "hidden_act": "silu",
    "rope_interleaved": False,
    "partial_rotary_factor": 1.0,
    **dict.fromkeys(("attention_bias", "mlp_bias", "use_bias", "lm_head_bias"), False),
    "moe_norm_min": 1e-12,
    "normalization_function": "rmsnorm",
    **dict.fromkeys(("qk_layer_norms", "use_resampler"), False),
    **dict.fromkeys(("full_attn_mod", "interpolate_factor"), 1),  # of Phi-4-mini, without effect
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
# Older names of attributes, by the name that transformers turns them into.
OLDER = {
    "rope_parameters": ("rope_theta", "rope_scaling"),
    "layer_types": (
        "full_attention_interval",
        "use_sliding_window",
        "max_window_layers",
        "sliding_window_pattern",
    ),
    "num_experts": ("num_local_experts",),
    "hidden_activation": ("hidden_act",),  # in releases of Gemma 2, without effect
    "sliding_window": ("sliding_window_size",),
}
# The attributes of a rotary embedding, by its type.
ROPES = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        *("factor", "low_freq_factor", "high_freq_factor"),
        "original_max_position_embeddings",
    ),
    "yarn": (
        *("factor", "beta_fast", "beta_slow", "original_max_position_embeddings", "truncate"),
        *("attention_factor", "mscale", "mscale_all_dim"),
    ),
    "proportional": ("factor",),
    "longrope": (
        *("factor", "short_factor", "long_factor", "original_max_position_embeddings"),
        "attention_factor",
    ),
}
YARN = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}  # what transformers sets


class Attributes:
    """The attributes of a config; records which were read, so that the rest can be checked.

    transformers checks their types and sets those that are missing.
    """

    def __init__(self, model_type: str, values: Mapping[str, Any]):
        from huggingface_hub.errors import StrictDataclassError
        from transformers import AutoConfig

        self.values = {
            name: value
            for name, value in values.items()
            # those with an underscore are private
            if name not in HARMLESS and not name.startswith("_") and value != NO_LIMIT
        }
        self.seen: set[str] = set()
        layers = values.get("num_hidden_layers")
        if isinstance(layers, int) and layers > MOST_LAYERS:  # transformers lists their types
            raise InputError(f"num_hidden_layers must be at most {MOST_LAYERS:,}, got {layers}.")
        try:
            self.theirs = AutoConfig.for_model(model_type, **copy.deepcopy(self.values))
        except StrictDataclassError as error:
            raise InputError(f"{first_line(error.__cause__ or error)}.") from error

    def get(self, name: str) -> Any:
        """Return an attribute, None where the family has none of this name."""
        self.seen |= {name, *OLDER.get(name, ())}
        return getattr(self.theirs, name, None)

    def of_layers(self, kind: str, *names: str) -> "Attributes":
        """Return the attributes of the layers of one of `layer_types`, which must be the same.

        Raises InputError where layers of two types differ in more than `names`.
        """
        part = copy.copy(self)  # with the same set of names
        part.theirs = self.get("per_layer_config")[kind]
        differ = {*(self.get("per_layer_attributes") or ()), *(part.get("skip") or ())}
        if unknown := differ - {*names}:
            raise InputError(f"layers differ in {shown(sorted(unknown))}, which is not supported.")
        return part

    def refuse_unknown(self) -> None:
        """Raise InputError for attributes that were not read and may matter."""
        problems = [
            f"{printed(name)} = {shown(value)}"
            for name, value in sorted(self.values.items())
            if name not in self.seen and (name not in REQUIRED or value != REQUIRED[name])
        ]
        if problems:
            raise InputError(
                f"it has attributes that this converter does not handle: {shorten(problems)}. The "
                "converted model could be silently wrong, so nothing was converted; "
                "convert/README.md shows how to add support."
            )


def read_windows(attributes: Attributes) -> tuple[int | None, ...]:
    """Read each layer's window from `layer_types`."""
    types, window = attributes.get("layer_types"), attributes.get("sliding_window") or None
    if unknown := set(types) - {"full_attention", "sliding_attention"}:
        raise InputError(f"layer_types has {shown(sorted(unknown))}, which is not supported.")
    if window is None and "sliding_attention" in types:
        raise InputError("layer_types has sliding_attention, but there is no window.")
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def read_rope(parameters: Mapping[str, Any], handled: Collection[str] = ()) -> Rope:
    """Read a rotary embedding from `rope_parameters`; `handled` are attributes that others read."""
    kind, theta = parameters["rope_type"], parameters["rope_theta"]
    if not isinstance(kind, str) or kind not in ROPES:
        raise InputError(
            f"rope type {shown(kind)} is not supported. Supported: {', '.join(ROPES)}."
        )
    partial = "partial_rotary_factor"
    if kind == "proportional":
        handled = (*handled, partial)
    if partial not in handled and parameters.get(partial, 1.0) != 1.0:
        raise InputError("a partial rotary embedding is not supported.")
    known = {"rope_type", "type", "rope_theta", partial, *ROPES[kind], *handled}
    if unknown := {name: value for name, value in parameters.items() if name not in known}:
        raise InputError(f"rope type {kind!r} has unknown attributes: {shown(unknown)}.")
    if kind in ("yarn", "longrope"):
        return read_yarn(parameters) if kind == "yarn" else read_longrope(parameters)
    if kind == "proportional":
        share, factor = parameters.get(partial, 1.0), parameters.get("factor", 1.0)
        return Rope(theta=theta, linear_factor=factor, rotated_share=share)
    numbers = tuple(parameters[name] for name in ROPES[kind])
    if kind == "linear":
        return Rope(theta=theta, linear_factor=numbers[0])
    return Rope(theta=theta, llama3=numbers or None)


def read_yarn(parameters: Mapping[str, Any]) -> Rope:
    """Read a rope of type yarn; the scale of cosines and sines follows from the factor."""
    given = {**YARN, **{name: x for name, x in parameters.items() if x is not None}}
    rope = Rope(theta=given["rope_theta"], yarn=tuple(given[name] for name in ROPES["yarn"][:5]))
    scale = given.get("attention_factor")
    if scale is None:
        growth = 0.1 * math.log(max(1.0, given["factor"]))
        one, all_dim = given.get("mscale"), given.get("mscale_all_dim")
        scale = 1 + growth
        if one and all_dim:
            scale = (1 + one * growth) / (1 + all_dim * growth)
    return dataclasses.replace(rope, scale=scale)


def read_longrope(parameters: Mapping[str, Any]) -> Rope:
    """Read a rope of type longrope as it is up to the original context, with the short factors."""
    factor, original = parameters["factor"], parameters["original_max_position_embeddings"]
    rope = Rope(theta=parameters["rope_theta"], divisors=tuple(parameters["short_factor"]))
    scale = parameters.get("attention_factor")
    if scale is None:
        scale = math.sqrt(1 + max(0.0, math.log(factor)) / math.log(original))
    return dataclasses.replace(rope, scale=scale)
