"""The oracle: tiny random models of every family, written and run by transformers itself."""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from torch import nn

from cola_jax.formats.conversion import convert, locate
from cola_jax.formats.table import stack
from cola_jax.params import Model, assemble
from cola_jax.path import is_whole_path
from cola_jax.steps import ATTENTION, MLP, WHOLE, Step, is_whole, layer_of

transformers.utils.logging.disable_progress_bar()

TOLERANCE = 1e-5  # relative error in float32, with matrix products at full precision
LAYERS = 6
VOCAB = 97
TOKENS = 12  # longer than the windows below

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 0.02,  # large, so that another one would show
    "tie_word_embeddings": False,
    "pad_token_id": None,  # a family's own may be beyond the vocabulary
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}
LLAMA3 = {  # of a head's four frequencies one is kept, one blended and two are divided
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {  # of a head's four frequencies one is kept, one blended and two are divided
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 1.4,
    "beta_slow": 0.3,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0, 1.5, 3.0],
    "long_factor": [2.0, 4.0, 8.0],
}
PLAIN = {"rope_type": "default", "rope_theta": 50.0}
BY_KIND = {
    "full_attention": LINEAR,
    "sliding_attention": PLAIN,
}
KINDS = ["sliding_attention", "sliding_attention", "full_attention"] * 2
GEMMA = {"head_dim": 12, "sliding_window": 5, "query_pre_attn_scalar": 20, "layer_types": KINDS}
GEMMA4 = {  # heads of two widths; of a wide one's ten pairs four rotate
    **{"head_dim": 12, "global_head_dim": 20, "num_global_key_value_heads": 1},
    **{"sliding_window": 5, "attention_k_eq_v": True, "tie_word_embeddings": True},
    "layer_types": [KINDS[i] for i in (0, 2, 2, 0, 0, 2)],
    "rope_parameters": {
        "full_attention": {
            **{"rope_type": "proportional", "rope_theta": 50.0},
            **{"partial_rotary_factor": 0.4, "factor": 1.5},
        },
        "sliding_attention": {"rope_type": "default", "rope_theta": 80.0},
    },
    **{"hidden_size_per_layer_input": 0, "final_logit_softcapping": 4.0, "pad_token_id": 0},
}
SOFTCAPS = {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 4.0}  # both bend
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 3}
LOCAL_EXPERTS = {"num_local_experts": 6, "num_experts_per_tok": 3}
QWEN_EXPERTS = {**EXPERTS, "moe_intermediate_size": 24}
SHARED_EXPERT = {"shared_expert_intermediate_size": 40}
GPT_OSS = {  # a limit that clamps most of what reaches it
    **{**LOCAL_EXPERTS, "swiglu_limit": 0.7, "head_dim": 12},
    **{"sliding_window": 5, "layer_types": KINDS, "attention_bias": True},
    "rope_parameters": {**YARN, "truncate": False},
}
WINDOW = {"use_sliding_window": True, "sliding_window": 5}
MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.7,
    "residual_multiplier": 0.22,
    "logits_scaling": 49.0,  # 1 / (1 / 49) is not 49
}

HYBRID = {
    "head_dim": 12,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 10, "linear_conv_kernel_dim": 3},
}

# family and what differs from SIZES
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"llama-{name}{end}": ("llama", {"num_key_value_heads": heads, "tie_word_embeddings": tied})
        for name, heads in (("mha", 4), ("gqa", 2), ("mqa", 1))
        for end, tied in (("", False), ("-tied", True))
    },
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-linear-rope": ("llama", {"rope_parameters": LINEAR}),
    "llama-llama3-rope": ("llama", {"rope_parameters": LLAMA3}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-window": ("mistral", {"sliding_window": 5}),
    "qwen2": ("qwen2", {}),
    "qwen2-window": ("qwen2", {**WINDOW, "max_window_layers": 3}),
    "qwen3": ("qwen3", {"head_dim": 12}),
    "qwen3-window": ("qwen3", {"head_dim": 12, **WINDOW, "max_window_layers": 2}),
    "qwen3-biases": ("qwen3", {"head_dim": 12, "attention_bias": True}),
    "gemma3": ("gemma3_text", {**GEMMA, "tie_word_embeddings": True, "rope_parameters": BY_KIND}),
    "gemma3-biases": ("gemma3_text", {**GEMMA, "attention_bias": True, "num_key_value_heads": 4}),
    "gemma2": ("gemma2", {**GEMMA, **SOFTCAPS, "tie_word_embeddings": True}),
    "gemma4": ("gemma4_text", GEMMA4),
    "gemma4-e": (  # as E2B: the last two layers share keys, and every layer has embeddings
        "gemma4_text",
        {
            **{**GEMMA4, "num_global_key_value_heads": None, "attention_k_eq_v": False},
            "layer_types": [KINDS[i] for i in (2, 0, 0, 0, 0, 2)],
            **{"num_kv_shared_layers": 2, "use_double_wide_mlp": True},
            **{"hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": VOCAB},
        },
    ),
    "gemma4-moe": (
        "gemma4_text",
        {
            **{**GEMMA4, "enable_moe_block": True},
            **{"num_experts": 6, "top_k_experts": 3, "moe_intermediate_size": 24},
        },
    ),
    "olmo2": ("olmo2", {}),
    "olmo2-biases": ("olmo2", {"attention_bias": True, "rope_parameters": LLAMA3}),
    "flex-olmo": ("flex_olmo", EXPERTS),
    "granitemoe": ("granitemoe", {**MULTIPLIERS, **LOCAL_EXPERTS}),
    "minimax-m2": ("minimax_m2", {**LOCAL_EXPERTS, "head_dim": 12, "rotary_dim": 8}),
    "gpt-oss": ("gpt_oss", GPT_OSS),
    "glm4-moe": (
        "glm4_moe",
        {
            **{"n_routed_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24},
            **{"first_k_dense_replace": 1, "n_shared_experts": 2, "routed_scaling_factor": 1.7},
            **{"use_qk_norm": True, "attention_bias": True, "head_dim": 8},
        },
    ),
    "ernie4-5-moe": (
        "ernie4_5_moe",
        {
            **{"moe_num_experts": 6, "moe_k": 3, "moe_intermediate_size": 24},
            **{"moe_num_shared_experts": 2, "moe_layer_start_index": 1},
        },
    ),
    "olmoe": ("olmoe", {**EXPERTS, "norm_topk_prob": False}),
    "olmoe-clip": ("olmoe", {**EXPERTS, "norm_topk_prob": True, "clip_qkv": 0.7}),
    "qwen2-moe": ("qwen2_moe", {**QWEN_EXPERTS, **SHARED_EXPERT}),
    "qwen2-moe-window": (
        "qwen2_moe",
        {
            **{**QWEN_EXPERTS, **SHARED_EXPERT, **WINDOW, "max_window_layers": 4},
            **{"norm_topk_prob": True, "qkv_bias": False},
        },
    ),
    "qwen3.5": ("qwen3_5_text", HYBRID),
    "qwen3.5-moe": (
        "qwen3_5_moe_text",
        {**HYBRID, **QWEN_EXPERTS, **SHARED_EXPERT, "tie_word_embeddings": True},
    ),
    "qwen3-next": ("qwen3_next", {**HYBRID, **QWEN_EXPERTS, **SHARED_EXPERT}),
    "qwen3-moe": ("qwen3_moe", {**QWEN_EXPERTS, "head_dim": 12, "norm_topk_prob": True}),
    "qwen3-moe-window": ("qwen3_moe", {**QWEN_EXPERTS, **WINDOW, "attention_bias": True}),
    "llama-yarn-rope": ("llama", {"rope_parameters": {**YARN, "truncate": False}}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0, 1, 1, 0, 1, 1], "rope_parameters": PLAIN}),
    "smollm3-window": ("smollm3", {**WINDOW, "attention_bias": True, "mlp_bias": True}),
    "granite": ("granite", {**MULTIPLIERS, "attention_bias": True, "mlp_bias": True}),
    **{
        f"granite4-mamba{end}": (
            "granitemoehybrid",
            {
                **{**MULTIPLIERS, **LOCAL_EXPERTS, "num_local_experts": experts},
                **{"layer_types": ["mamba", "mamba", "attention"] * 2, "mamba_d_conv": 3},
                **{"shared_intermediate_size": 40, "mamba_n_heads": 4, "mamba_d_state": 8},
                "mamba_n_groups": groups,
            },
        )
        for end, experts, groups in (("-dense", 0, 2), ("", 6, 1))
    },
    **{
        f"granite4-{kind}": (
            "granitemoehybrid",
            {
                **{**MULTIPLIERS, "attention_bias": True, "position_embedding_type": kind},
                **{"layer_types": ["attention"] * LAYERS, "num_local_experts": 0},
                **{"shared_intermediate_size": 40, "mamba_n_heads": 4},
            },
        )
        for kind in ("rope", "nope")
    },
    "arcee": ("arcee", {"mlp_bias": True, "attention_bias": True, "rope_parameters": YARN}),
    "phi3": ("phi3", {"sliding_window": 5}),
    "phi3-longrope": (
        "phi3",
        {
            **{"rope_parameters": {**LONGROPE, "partial_rotary_factor": 0.75}},
            **{"original_max_position_embeddings": 32, "tie_word_embeddings": True},
        },
    ),
    "olmo3": (
        "olmo3",
        {
            **{"sliding_window": 5, "layer_types": KINDS},
            "rope_parameters": {
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
    **{
        f"olmo-hybrid{end}": (
            "olmo_hybrid",
            {
                # transformers writes convolutions of q, k and v as wide as each other
                **{"layer_types": HYBRID["layer_types"], "rope_parameters": rope},
                **{"linear_num_key_heads": 4, "linear_num_value_heads": 4},
                **{"linear_key_head_dim": 12, "linear_value_head_dim": 12},
                **{"linear_conv_kernel_dim": 3, "linear_allow_neg_eigval": rope is PLAIN},
            },
        )
        for end, rope in (("", {**PLAIN, "rope_theta": None}), ("-rope", PLAIN))
    },
    "ministral": ("ministral", {"sliding_window": 5, "layer_types": KINDS, "head_dim": 12}),
    "ministral3": (
        "ministral3",
        {
            **{"head_dim": 8, "sliding_window": None},
            "rope_parameters": {
                **{**YARN, "original_max_position_embeddings": 4, "beta_slow": 0.1},
                **{"mscale": 1.0, "mscale_all_dim": 0.5, "llama_4_scaling_beta": 0.3},
            },
        },
    ),
    "mixtral": ("mixtral", {"num_local_experts": 6, "num_experts_per_tok": 3}),
    "mixtral-window": ("mixtral", {"num_local_experts": 6, "sliding_window": 5}),
    "gemma": ("gemma", {"head_dim": 12, "tie_word_embeddings": True}),
    "gemma-biases": ("gemma", {"head_dim": 12, "attention_bias": True}),
    "seed-oss": ("seed_oss", {"head_dim": 12, "mlp_bias": True}),
    "exaone4": ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 6}),
    "exaone4-window": ("exaone4", {"sliding_window": 5, "layer_types": KINDS}),
    "ernie4-5": ("ernie4_5", {"head_dim": 12, "rope_parameters": LLAMA3}),
    "ernie4-5-biases": ("ernie4_5", {"use_bias": True, "tie_word_embeddings": True}),
    "helium": ("helium", {"head_dim": 8, "attention_bias": True, "mlp_bias": True}),
    "cwm": ("cwm", {"head_dim": 12, "sliding_window": 5, "rope_parameters": LLAMA3}),
    "starcoder2": ("starcoder2", {"norm_epsilon": 0.02, "tie_word_embeddings": True}),
    "starcoder2-window": ("starcoder2", {"use_bias": False, "sliding_window": 5}),
    "stablelm": (
        "stablelm",
        {
            **{"layer_norm_eps": 0.02, "use_qkv_bias": True},
            "rope_parameters": {**PLAIN, "partial_rotary_factor": 0.25},
        },
    ),
    "glm": ("glm", {"head_dim": 12, "rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5}}),
    "glm4": (
        "glm4",
        {
            "head_dim": 8,
            "attention_bias": False,
            "rope_parameters": {**PLAIN, "partial_rotary_factor": 0.25},
        },
    ),
}

FAMILIES = [family for family, _ in VARIANTS.values()]
FIRST = [v for i, v in enumerate(VARIANTS) if FAMILIES[i] not in FAMILIES[:i]]  # of each family
# all but these run with the slow tests
EACH = [v if v in FIRST else pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS]

# One path of each kind through six layers; all fit in ten positions.
PATHS = {
    "identity": (0, 1, 2, 3, 4, 5),
    "skip": (0, 2, 5),
    "repeat": (0, 1, 1, 1, 2, 3, 4, 4, 5),
    "block repeat": (0, 1, 2, 3, 2, 3, 2, 3, 4, 5),
    "reordered": (3, 0, 5, 1, 4, 2),
}
# of parts and shares, which fit in ten positions as well; the first one runs in every family
STEPS = ("0-2,3a,4m,5", "0,1*0.5,2,2*0.25,3m,3a,4,5*1.5", "0m,1a,(2-3)*0.5x2,4a*0.125,5m,5a*2,4")
MIXERS = "self_attn", "linear_attn", "mamba"
MLPS = "mlp", "block_sparse_moe", "shared_mlp", "experts"  # what of them a family has


def make(variant: str, folder: Path) -> Any:
    """Make a random model of a variant, save it with `save_pretrained` and return it."""
    family, fields = VARIANTS[variant]
    model = random_model(family, **fields)
    model.save_pretrained(folder)
    return model


def convert_in_memory(source: Path) -> Model:
    """Convert a directory or file as `cola_jax.convert` does, without writing a checkpoint."""
    opened = locate(str(source)).open()
    weights = dict(stack(opened))
    return jax.device_put(assemble(opened.config, weights))


def random_model(family: str, seed: int = 0, **fields: Any) -> Any:
    """Make a random model of a family; `fields` of its config differ from SIZES."""
    config = transformers.AutoConfig.for_model(family, **{**SIZES, **fields})
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    )
    randomise(model.float().eval(), seed)
    return model


def randomise(model: nn.Module, seed: int) -> None:
    """Draw every parameter; transformers' own biases of 0 and norms of 1 would hide mistakes."""
    centre = 0 if model.config.model_type[:6] in ("gemma", "gemma2", "gemma3") else 1  # of norms
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # a tied head comes once
            values = torch.randn(parameter.shape, generator=generator)
            if name.endswith(("norm.weight", "norm_1.weight", "norm_2.weight", "expert_scale")):
                values = centre + 0.3 * values
            elif name.endswith("router.scale"):  # is divided by this root
                values = parameter.shape[-1] ** 0.5 * (1 + 0.3 * values)
            elif name.endswith("bias"):
                values = 0.5 * values
            elif "embed_tokens" not in name:  # keeps every layer's output as large as its input
                recurrent = name.endswith(
                    ("linear_attn.out_proj.weight", "linear_attn.o_proj.weight")
                )
                scale = 0.3 if recurrent else 1.2  # of values near 1
                values = scale * values / parameter.shape[-1] ** 0.5
            parameter.copy_(values)
        for name, buffer in model.named_buffers():
            if name.endswith("correction_bias"):
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("layer_scalar"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same tiny model as files, in transformers and in ours."""

    variant: str
    made_once: Callable[..., Path]

    @functools.cached_property
    def folder(self) -> Path:
        """The directory that transformers wrote."""
        return self.made_once(self.variant, functools.partial(make, self.variant))

    @functools.cached_property
    def checkpoint(self) -> Path:
        """The directory converted to a checkpoint, as on a user's disk."""
        return self.made_once(f"{self.variant}-converted", self.convert) / "ours"

    def convert(self, folder: Path) -> None:
        convert(str(self.folder), folder / "ours")

    @functools.cached_property
    def theirs(self) -> Any:
        """The model of transformers."""
        family, fields = VARIANTS[self.variant]
        return random_model(family, **fields)

    @functools.cached_property
    def ours(self) -> Model:
        """Our model, converted in memory: a checkpoint of many weights takes longer than a test."""
        return convert_in_memory(self.folder)


def logits(model: Any, ids: np.ndarray, path: Sequence[int]) -> np.ndarray:
    """Return the float32 logits [B, T, V] of a model whose layers are the steps of the path."""
    with torch.no_grad(), rebuilt(model, path):
        out = model(input_ids=torch.from_numpy(np.asarray(ids, np.int64)), use_cache=False)
    return out.logits.float().numpy()


@contextlib.contextmanager
def rebuilt(model: Any, path: Sequence[int]) -> Iterator[None]:
    """Put the path's steps in place of the model's layers, and put those back afterwards.

    The window of a Qwen layer is looked up by its place in `config.layer_types` while the model
    runs, so the list follows the path as well. No layer of a Gemma 4 begins to share keys.
    """
    decoder, config = model.model, model.config
    layers, types = decoder.layers, getattr(config, "layer_types", None)
    try:
        if getattr(config, "hidden_size_per_layer_input", 0):
            follow_with_inputs(decoder, [layer_of(id) for id in path])
        decoder.layers = nn.ModuleList(step_of(layers, id) for id in path)
        config.num_hidden_layers = decoder.first_kv_shared_layer_idx = len(path)
        if types is not None:
            config.layer_types = [types[layer_of(id)] for id in path]
        yield
    finally:
        vars(decoder).pop("get_per_layer_inputs", None)
        vars(decoder).pop("project_per_layer_inputs", None)
        decoder.layers = layers
        config.num_hidden_layers = decoder.first_kv_shared_layer_idx = len(layers)
        if types is not None:
            config.layer_types = types


class OneStep(nn.Module):
    """A step of a layer: h + share * (f(h) - h), where f may lack a part of the layer."""

    def __init__(self, layer: nn.Module, step: Step):
        super().__init__()
        self.layer = layer if step.part == WHOLE else part_of_layer(layer, step.part)
        self.share = step.share

    def forward(self, h: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return h + self.share * (self.layer(h, *args, **kwargs) - h)


class NoMixer(nn.Module):
    """In place of an attention, which would return weights as well, or of a recurrent mixer."""

    def __init__(self, is_attention: bool):
        super().__init__()
        self.is_attention = is_attention

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> Any:
        zeros = torch.zeros_like(hidden_states)
        return (zeros, None) if self.is_attention else zeros


def step_of(layers: nn.ModuleList, id: int) -> nn.Module:
    """Return the module of a step; a whole layer is its own."""
    layer = layers[layer_of(id)]
    return layer if is_whole(id) else OneStep(layer, Step.of(id))


def part_of_layer(layer: nn.Module, part: int) -> nn.Module:
    """Copy a layer, sharing its weights, to run one of its parts: the other one adds nothing."""
    layer = copy.copy(layer)
    layer._modules = dict(layer._modules)
    for name in MLPS if part == ATTENTION else MIXERS:
        module = getattr(layer, name, None)
        if module is None:
            continue
        if part == MLP:
            setattr(layer, name, NoMixer(name == "self_attn"))
            continue
        module = copy.copy(module)
        module._forward_hooks = type(module._forward_hooks)()
        module.register_forward_hook(zeros_of)
        setattr(layer, name, module)
    return layer


def zeros_of(module: nn.Module, inputs: Any, out: Any) -> Any:
    """Replace the values that an MLP or a mixture returns; a mixture may also return scores."""
    if isinstance(out, tuple):
        return torch.zeros_like(out[0]), *out[1:]
    return torch.zeros_like(out)


@contextlib.contextmanager
def scaled_by_roots(model: Any, path: Sequence[int]) -> Iterator[None]:
    """Give each layer of a Gemma 4 the root of its scale for the times that a path runs it."""
    layers = model.model.layers
    before = [layer.layer_scalar.clone() for layer in layers]
    runs = [layer_of(id) for id in path]
    for i, layer in enumerate(layers):
        layer.layer_scalar.copy_(before[i] ** (1 / max(1, runs.count(i))))
    yield
    for layer, scale in zip(layers, before, strict=True):
        layer.layer_scalar.copy_(scale)


def follow_with_inputs(decoder: Any, path: Sequence[int]) -> None:
    """Give each layer of a path the embeddings that it has of its own, wherever it runs."""
    config, layers = decoder.config, len(decoder.layers)
    look_up, project = decoder.get_per_layer_inputs, decoder.project_per_layer_inputs

    def of_all(function: Any, *inputs: Any) -> Any:
        config.num_hidden_layers = layers
        out = function(*inputs)
        config.num_hidden_layers = len(path)
        return out

    decoder.get_per_layer_inputs = lambda *inputs: of_all(look_up, *inputs)
    decoder.project_per_layer_inputs = lambda *inputs: of_all(project, *inputs)[:, :, list(path)]


def decode(model: Any, ids: np.ndarray, path: Sequence[int], tokens: int) -> np.ndarray:
    """Decode greedily along a path, each position with a cache of its own; return tokens [B, n].

    Nothing but the limit ends a row. Without a cache where the path has parts or shares: a first
    position without an attention would leave it without a length.
    """
    batch = torch.from_numpy(np.asarray(ids, np.int64))
    if not is_whole_path(path):
        with torch.no_grad(), rebuilt(model, path):
            out = generate_exactly(model, batch, tokens, use_cache=False)
        return out[:, ids.shape[1] :].numpy()
    with torch.no_grad(), permuted(model, path):
        out = generate_exactly(model, batch, tokens)
    return out[:, ids.shape[1] :].numpy()


@contextlib.contextmanager
def permuted(model: Any, path: Sequence[int]) -> Iterator[None]:
    """Rebuild a model along a path, each position with a KV cache of its own."""
    with rebuilt(model, path):
        blocks = [with_cache(block, i) for i, block in enumerate(model.model.layers)]
        model.model.layers = nn.ModuleList(blocks)
        yield


def generate_exactly(model: Any, batch: torch.Tensor, tokens: int, **options: Any) -> torch.Tensor:
    """Decode that many tokens greedily after a batch of ids; return both."""
    return model.generate(
        batch,
        attention_mask=torch.ones_like(batch),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
        **options,
    )


def with_cache(block: nn.Module, position: int) -> nn.Module:
    """Copy a block of transformers, sharing its weights, to use the KV cache of a position."""
    block = copy.copy(block)
    block._modules = dict(block._modules)
    name = next(name for name in MIXERS if getattr(block, name, None) is not None)
    mixer = copy.copy(getattr(block, name))
    mixer.layer_idx = position
    setattr(block, name, mixer)
    return block


def relative_error(ours: Any, theirs: Any) -> float:
    """Return the largest difference relative to the largest value."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def random_ids(batch: int, tokens: int = TOKENS, seed: int = 0) -> np.ndarray:
    """Draw token ids [B, T]."""
    return np.random.default_rng(seed).integers(0, VOCAB, (batch, tokens), np.int32)
