"""The configuration of a pretrained model: one frozen dataclass for every family."""

import dataclasses
import math
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Rope:
    """A rotary embedding: the base, and how its wavelengths are stretched."""

    theta: float
    linear_factor: float = 1.0  # positions are divided by it
    llama3: tuple[float, float, float, int] | None = None  # factor, low, high, original context
    divisors: tuple[float, ...] | None = None  # one a frequency, as GGUF files store them

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
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{self.num_heads} query heads cannot share {self.num_kv_heads} key/value heads: "
                "the first must be a multiple of the second."
            )
        for name in ("layer_ropes", "windows"):
            if len(getattr(self, name)) != self.num_layers:
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries for {self.num_layers} layers."
                )
        if self.experts_per_token > self.experts:
            raise ValueError(
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
          ValueError: for unknown or missing fields.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        required = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING}
        if not required <= set(fields) <= known:
            raise ValueError(
                f"model config: missing {sorted(required - set(fields))}, "
                f"unknown {sorted(set(fields) - known)}."
            )
        ropes = tuple(Rope(**{k: as_tuple(v) for k, v in rope.items()}) for rope in fields["ropes"])
        return cls(
            **{
                **fields,
                "ropes": ropes,
                "layer_ropes": tuple(fields["layer_ropes"]),
                "windows": tuple(fields["windows"]),
            }
        )


def as_tuple(value: Any) -> Any:
    """Turns the lists of JSON back into tuples."""
    return tuple(value) if isinstance(value, list) else value
