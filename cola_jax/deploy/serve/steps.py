"""Run steps of layers in vLLM: a share of an update, and parts left out."""

import functools
import inspect
from typing import Any

import torch
from torch import nn

from cola_jax.deploy.serve.copies import copy_module
from cola_jax.steps import ATTENTION, MLP, WHOLE, Step

MIXERS = ("self_attn", "attn", "linear_attn", "mamba")  # names of the parts of layers
MLPS = ("mlp", "block_sparse_moe", "shared_mlp")
# classes of layers that return the state alone, and beside it what the next layer does not read
STATE_ALONE = (
    "Exaone4DecoderLayer",
    "GraniteMoeHybridAttentionDecoderLayer",
    "GraniteMoeHybridMambaDecoderLayer",
    "StablelmDecoderLayer",
)


class NoPart(nn.Module):
    """A part of a layer that adds nothing: it returns zeros, and keeps no cache."""

    def __init__(self, returns_pair: bool):
        """Take whether the part returns something beside the values, which is then None."""
        super().__init__()
        self.returns_pair = returns_pair

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Return zeros in the shape of the hidden states, wherever these are."""
        output = named.get("output")
        if output is not None:  # that some recurrent mixers fill
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


def without_parts(layer: nn.Module, parts: set[int], *, is_transformers: bool) -> nn.Module:
    """Return a layer in which parts add nothing, a copy that shares all other modules.

    The attention of a model of transformers returns weights beside the values.
    """
    copied = copy_module(layer)
    for name, _ in layer.named_children():
        if part_of_name(name) in parts:
            copied._modules[name] = NoPart(is_transformers and name == "self_attn")
    return copied


def run_step(run: nn.Module, step: Step, *, is_transformers: bool) -> nn.Module:
    """Return the module that runs a step, given the one that runs its layer whole."""
    if step.part != WHOLE:
        missing = {ATTENTION: MLP, MLP: ATTENTION}[step.part]
        run = without_parts(run, {missing}, is_transformers=is_transformers)
    if step.share != 1:
        run = copy_module(run)
        run.__class__ = damped(type(run))
        vars(run)["cola_share"] = step.share
    return run


@functools.cache
def damped(layer: type[nn.Module]) -> type[nn.Module]:
    """Return a class of layers f that return h + share * (f(h) - h).

    vLLM passes the state h on as a pair, whose sum it is, or as the hidden states alone.
    """
    names = [*inspect.signature(layer.forward).parameters][1:]
    is_alone = any(base.__name__ in STATE_ALONE for base in layer.__mro__)

    class Damped(layer):
        cola_share: float

        def forward(self, *arguments: Any, **named: Any) -> Any:
            given = dict(zip(names, arguments, strict=False)) | named
            residual = None if is_alone else given.get("residual")
            states = given["hidden_states"]
            # before the layer, which writes into both
            h = states.clone() if residual is None else states + residual
            out = super().forward(*arguments, **named)
            if not isinstance(out, tuple):
                return h + self.cola_share * (out - h)
            updated, beside = out
            if is_alone:
                return h + self.cola_share * (updated - h), beside
            return self.cola_share * (updated + beside - h), h

    Damped.__name__ = Damped.__qualname__ = f"Damped{layer.__name__}"
    return Damped
