"""The attention and the MLP of layers of transformers and of vLLM, by the names of modules."""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from cola_jax.steps import ATTENTION, MLP

# names of the parts of layers, of any family
MIXERS = ("self_attn", "attn", "linear_attn", "mamba")
MLPS = ("mlp", "block_sparse_moe", "shared_mlp", "experts")
# name or class of parts that return weights or scores as well, in transformers
PAIRS = ("self_attn", "GptOssMLP")


class NoPart(nn.Module):
    """A part of a layer that adds nothing: it returns zeros, and keeps no cache."""

    def __init__(self, returns_pair: bool):
        """Take whether the part returns something beside the values, which is then None."""
        super().__init__()
        self.returns_pair = returns_pair

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Return zeros in the shape of the hidden states, wherever these are."""
        output = named.get("output")
        if output is not None:  # that some recurrent mixers of vLLM fill
            return output.zero_()
        states = named.get("hidden_states")
        if states is None:
            states = next(x for x in arguments if x.is_floating_point())  # not the positions
        zeros = torch.zeros_like(states)
        return (zeros, None) if self.returns_pair else zeros


def part_of_name(name: str) -> int | None:
    """Return the part of a layer that a module is, by its name, also in a checkpoint."""
    if name in MIXERS:
        return ATTENTION
    return MLP if name in MLPS else None


def modules_without(
    layer: nn.Module, parts: Collection[int], *, is_transformers: bool
) -> dict[str, nn.Module | None]:
    """Return the modules of a layer, with those of parts replaced by ones that add nothing.

    `is_transformers` says whether the layer is of transformers, where some parts return pairs.
    """
    modules = dict(layer._modules)
    for name, module in layer.named_children():
        if part_of_name(name) in parts:
            returns_pair = is_transformers and (name in PAIRS or type(module).__name__ in PAIRS)
            modules[name] = NoPart(returns_pair).train(module.training)
    return modules
