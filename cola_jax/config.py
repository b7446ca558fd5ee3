"""The configuration of a pretrained model: one frozen dataclass for every family."""

import dataclasses
import functools
import json
import math
from typing import Any

import numpy as np

from cola_jax.errors import InputError, reading, shown

MOST_LAYERS = 10_000
MOST_EXPERTS = 100_000  # of all layers together
LIMIT = 2**31  # of any other size, as indices have 32 bits
SMALLEST, LARGEST = 1e-30, 1e30  # of numbers that float32 has to hold
ACTIVATIONS = ("silu", "gelu_tanh")
STRICT = {"strict": True, "extra": "forbid"}  # how pydantic reads the classes below from JSON


def check_size(name: str, value: int, least: int = 1, limit: int = LIMIT) -> None:
    """Raises ValueError unless a size is `least` to `limit - 1`."""
    if not least <= value < limit:
        raise InputError(f"{name} must be {least:,} to {limit - 1:,}, got {shown(value)}.")


def check_positive(name: str, *values: float, limit: float = LARGEST) -> None:
    """Raises ValueError unless values are positive and fit float32; NaN does not."""
    for value in values:
        if not SMALLEST <= value <= limit:
            raise InputError(f"{name} must be {SMALLEST} to {limit}, got {shown(value)}.")


@dataclasses.dataclass(frozen=True)
class Rope:
    """A rotary embedding: the base, and how its wavelengths are stretched."""

    __pydantic_config__ = STRICT

    theta: float
    linear_factor: float = 1.0  # positions are divided by it
    llama3: tuple[float, float, float, int] | None = None  # factor, low, high, original context
    divisors: tuple[float, ...] | None = None  # one a frequency, as GGUF files store them

    def __post_init__(self):
        check_positive("theta of a rope", self.theta)
        check_positive("linear_factor of a rope", self.linear_factor)
        check_positive("divisors of a rope", *(self.divisors or ()))
        check_positive("llama3 of a rope", *(self.llama3 or ()))
        if self.llama3 is not None and not self.llama3[1] < self.llama3[2]:
            raise InputError(f"llama3 of a rope must have low < high, got {shown(self.llama3)}.")

    def frequencies(self, head_dim: int) -> np.ndarray:
        """Returns the inverse frequencies [head_dim / 2] in float32, radians per position.

        The bands of Llama 3.1 follow `_compute_llama3_parameters` in transformers: wavelengths
        beyond the original context / low are divided by the factor, those below the original
        context / high are kept, and those between are blended.
        """
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        frequencies = (1.0 / np.float32(self.theta) ** exponents).astype(np.float32)
        frequencies = frequencies / np.float32(self.linear_factor)
        if self.divisors is not None:
            frequencies = frequencies / np.asarray(self.divisors, np.float32)
        if self.llama3 is None:
            return frequencies
        factor, low, high, original = self.llama3
        wavelengths = 2 * math.pi / frequencies
        blend = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
        return ((1 - blend) * frequencies / factor + blend * frequencies).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder and the attributes of its layers; hashable, so static under jit."""

    __pydantic_config__ = STRICT

    vocab_size: int
    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_width: int  # of the MLP, or of the shared expert; 0 where a layer has experts alone
    context: int  # the longest prompt the model was made for, in tokens
    norm_eps: float
    ropes: tuple[Rope, ...]  # the distinct rope tables
    layer_ropes: tuple[int, ...]  # per layer, an index into `ropes`
    windows: tuple[int | None, ...]  # per layer, the positions a token sees back; None sees all
    tied: bool  # the head is the embedding
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False  # RMSNorm over each query and key head before the rotation
    projection_norms: bool = False  # the same, over all query heads and all key heads together
    pre_norms: bool = True  # RMSNorm of what attention and MLP read
    post_norms: bool = False  # RMSNorm of what they add
    norm_offset: float | None = None  # added to norms' weights, which then apply in float32
    embedding_scale: float = 1.0  # of embeddings, rounded as the weights are
    query_scale: float = 1.0  # of queries, besides 1 / sqrt(head_dim)
    clip_qkv: float | None = None  # bound of queries, keys and values
    activation: str = "silu"  # or gelu_tanh
    experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    normalised_routing: bool = False  # the weights of a token's experts add up to 1

    def __post_init__(self):
        check_size("num_layers", self.num_layers, limit=MOST_LAYERS + 1)
        for name in ("vocab_size", "width", "num_heads", "num_kv_heads", "head_dim", "context"):
            check_size(name, getattr(self, name))
        for name in ("mlp_width", "experts", "experts_per_token", "expert_width"):
            check_size(name, getattr(self, name), least=0)
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                f"{self.num_heads} query heads cannot share {self.num_kv_heads} key/value heads: "
                "the first must be a multiple of the second."
            )
        if self.head_dim % 2:
            raise InputError(f"head_dim must be even, got {self.head_dim}.")
        self.check_numbers()
        self.check_layers()
        self.check_experts()

    def check_numbers(self) -> None:
        """Raises ValueError for numbers with which no model computes anything."""
        check_positive("norm_eps", self.norm_eps, limit=1.0)
        check_positive("embedding_scale", self.embedding_scale)
        check_positive("query_scale", self.query_scale)
        if self.clip_qkv is not None:
            check_positive("clip_qkv", self.clip_qkv)
        if self.norm_offset is not None and not abs(self.norm_offset) <= LARGEST:
            raise InputError(f"norm_offset must be finite, got {shown(self.norm_offset)}.")
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"activation must be {' or '.join(ACTIVATIONS)}, got {shown(self.activation)}."
            )

    def check_layers(self) -> None:
        """Raises ValueError where what is given for each layer does not fit them."""
        for name in ("layer_ropes", "windows"):
            if len(getattr(self, name)) != self.num_layers:
                raise InputError(
                    f"{name} has {len(getattr(self, name))} entries for {self.num_layers} layers."
                )
        for window in self.windows:
            if window is not None:
                check_size("a layer's window", window)
        if any(not 0 <= rope < len(self.ropes) for rope in self.layer_ropes):
            raise InputError(f"layer_ropes must be 0 to {len(self.ropes) - 1}, as ropes are given.")
        for rope in self.ropes:
            if rope.divisors is not None and len(rope.divisors) != self.head_dim // 2:
                raise InputError(
                    f"a rope has {len(rope.divisors)} divisors for heads of {self.head_dim}: "
                    "one for two dimensions belongs there."
                )

    def check_experts(self) -> None:
        """Raises ValueError for layers without MLP and experts, and for experts that do not fit."""
        check_size("experts of all layers", self.experts * self.num_layers, 0, MOST_EXPERTS + 1)
        if not (self.experts or self.mlp_width):
            raise InputError("a layer must have an MLP or experts: mlp_width and experts are 0.")
        if self.mlp_bias and not self.mlp_width:
            raise InputError("mlp_bias needs an MLP, but mlp_width is 0.")
        if self.experts and not (self.experts_per_token and self.expert_width):
            raise InputError(
                f"{self.experts} experts need experts_per_token and expert_width above 0."
            )
        if self.experts_per_token > self.experts:
            raise InputError(
                f"a token cannot use {self.experts_per_token} of {self.experts} experts."
            )

    @property
    def shared_expert(self) -> bool:
        """Whether an MLP that every token uses stands beside the experts."""
        return bool(self.experts and self.mlp_width)

    def to_json(self) -> dict[str, Any]:
        """Writes the config for a file.

        Returns:
          Its fields by name, of types that JSON has.
        """
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "ModelConfig":
        """Rebuilds what `to_json` wrote.

        Returns:
          The config.

        Raises:
          ValueError: for unknown or missing fields, and values of other types or out of bounds.
        """
        with reading("the model config"):
            return json_schema().validate_json(json.dumps(fields))


@functools.cache
def json_schema() -> Any:
    """Returns the pydantic type of a config in JSON, where a tuple is a list."""
    from pydantic import TypeAdapter  # on first use: it takes a moment to import

    return TypeAdapter(ModelConfig)
