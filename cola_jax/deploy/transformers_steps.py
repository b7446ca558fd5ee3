"""Steps of a layer of transformers: hooks that add a share of its update, and parts left out."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from cola_jax.steps import ATTENTION

MIXERS = ("self_attn", "linear_attn", "mamba")  # names of the parts of layers, of any family
MLPS = ("mlp", "block_sparse_moe", "shared_mlp", "experts")
PAIRS = ("self_attn", "GptOssMLP")  # name or class of parts that return weights or scores as well


@dataclasses.dataclass(frozen=True)
class AddShare:
    """A forward hook of a layer f, which returns h + share * (f(h) - h)."""

    share: float

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], updated: Tensor) -> Tensor:
        h = arguments[0]
        return h + self.share * (updated - h)


class NoPart(nn.Module):
    """A part of a layer that adds nothing: it returns zeros, and keeps no cache."""

    def __init__(self, returns_pair: bool):
        """Take whether the part returns something beside the values, which is then None."""
        super().__init__()
        self.returns_pair = returns_pair

    def forward(self, hidden_states: Tensor, *rest: Any, **others: Any) -> Any:
        """Return zeros in the shape of the input."""
        zeros = torch.zeros_like(hidden_states)
        return (zeros, None) if self.returns_pair else zeros


def without_other_part(layer: nn.Module, part: int) -> dict[str, nn.Module | None]:
    """Return the modules of a layer, with those of the other part than `part` left out."""
    left_out = MLPS if part == ATTENTION else MIXERS
    modules = dict(layer._modules)
    for name, module in layer.named_children():
        if name in left_out:
            returns_pair = name in PAIRS or type(module).__name__ in PAIRS
            modules[name] = NoPart(returns_pair).train(module.training)
    return modules
