"""The configuration of a pretrained model: one frozen dataclass for every family."""

import dataclasses
import json
import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from cola_jax.errors import InputError, reading, shown

MOST_LAYERS = 10_000
LIMIT = 2**31  # of any other size, as indices have 32 bits
SMALLEST, LARGEST = 1e-30, 1e30  # of numbers that float32 has to hold
STRICT = ConfigDict(strict=True, extra="forbid")

Size = Annotated[int, Field(ge=1, lt=LIMIT)]
Count = Annotated[int, Field(ge=0, lt=LIMIT)]
Positive = Annotated[float, Field(ge=SMALLEST, le=LARGEST)]
Layers = Annotated[int, Field(ge=1, le=MOST_LAYERS)]


@dataclass(frozen=True, config=STRICT)
class Rope:
    """A rotary embedding: the base, and how its wavelengths are stretched."""

    theta: Positive
    linear_factor: Positive = 1.0  # positions are divided by it
    # factor, low, high, original context
    llama3: tuple[Positive, Positive, Positive, Size] | None = None
    divisors: tuple[Positive, ...] | None = None  # one a frequency, as GGUF files store them

    def __post_init__(self):
        if self.llama3 is not None and not self.llama3[1] < self.llama3[2]:
            raise InputError(f"llama3 of a rope must have low < high, got {shown(self.llama3)}.")

    def frequencies(self, head_dim: int) -> np.ndarray:
        """Return the inverse frequencies [head_dim / 2] in float32, radians per position.

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


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """The shape of a decoder and the attributes of its layers; hashable, so static under jit."""

    vocab_size: Size
    num_layers: Layers
    width: Size
    num_heads: Size
    num_kv_heads: Size
    head_dim: Size
    mlp_width: Count  # of the MLP, or of the shared expert; 0 where a layer has experts alone
    context: Size  # the longest prompt the model was made for, in tokens
    norm_eps: Annotated[float, Field(ge=SMALLEST, le=1.0)]
    ropes: tuple[Rope, ...]  # the distinct rope tables
    layer_ropes: tuple[int, ...]  # per layer, an index into `ropes`
    windows: tuple[Size | None, ...]  # per layer, the positions a token sees back; None sees all
    tied: bool  # the head is the embedding
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False  # RMSNorm over each query and key head before the rotation
    projection_norms: bool = False  # the same, over all query heads and all key heads together
    pre_norms: bool = True  # RMSNorm of the inputs of attention and MLP
    post_norms: bool = False  # RMSNorm of their outputs
    # added to norms' weights, which then apply in float32
    norm_offset: Annotated[float, Field(allow_inf_nan=False)] | None = None
    embedding_scale: Positive = 1.0  # of embeddings, rounded as the weights are
    query_scale: Positive = 1.0  # of queries, besides 1 / sqrt(head_dim)
    clip_qkv: Positive | None = None  # bound of queries, keys and values
    activation: Literal["silu", "gelu_tanh"] = "silu"
    experts: Count = 0
    experts_per_token: Count = 0
    expert_width: Count = 0
    normalised_routing: bool = False  # the weights of a token's experts add up to 1

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                f"{self.num_heads} query heads cannot share {self.num_kv_heads} key/value heads: "
                "the first must be a multiple of the second."
            )
        if self.head_dim % 2:
            raise InputError(f"head_dim must be even, got {self.head_dim}.")
        self.check_layers()
        self.check_experts()

    def check_layers(self) -> None:
        """Raise InputError where ropes and windows do not fit the layers."""
        for name in ("layer_ropes", "windows"):
            if len(getattr(self, name)) != self.num_layers:
                raise InputError(
                    f"{name} has {len(getattr(self, name))} entries for {self.num_layers} layers."
                )
        if any(not 0 <= rope < len(self.ropes) for rope in self.layer_ropes):
            raise InputError(f"layer_ropes must be 0 to {len(self.ropes) - 1}, as ropes are given.")
        for rope in self.ropes:
            if rope.divisors is not None and len(rope.divisors) != self.head_dim // 2:
                raise InputError(
                    f"a rope has {len(rope.divisors)} divisors for heads of {self.head_dim}: "
                    "one is needed for every two dimensions."
                )

    def check_experts(self) -> None:
        """Raise InputError for layers without MLP and experts, and for experts that do not fit."""
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
        """Write the config for a file.

        Returns:
          Its fields by name, of types that JSON has.
        """
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "ModelConfig":
        """Rebuild a config from the fields that `to_json` wrote.

        Returns:
          The config.

        Raises:
          InputError: for fields that are unknown, missing or break a rule.
        """
        with reading("the model config"):
            return TypeAdapter(ModelConfig).validate_json(json.dumps(fields))
