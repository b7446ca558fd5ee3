"""Run steps of layers in vLLM: a share of an update, and parts left out."""

import functools
import inspect
from typing import Any

from torch import nn

from cola_jax.deploy.serve.copies import copy_module
from cola_jax.deploy.serve.parts import modules_without
from cola_jax.steps import Step, missing_part

# classes of layers that return the state alone, and beside it what the next layer does not read
STATE_ALONE = (
    "Exaone4DecoderLayer",
    "GraniteMoeHybridAttentionDecoderLayer",
    "GraniteMoeHybridMambaDecoderLayer",
    "StablelmDecoderLayer",
)


def without_parts(layer: nn.Module, parts: set[int], *, is_transformers: bool) -> nn.Module:
    """Return a copy of a layer in which parts add nothing; all other modules are shared."""
    copied = copy_module(layer)
    copied._modules = modules_without(layer, parts, is_transformers=is_transformers)
    return copied


def run_step(run: nn.Module, step: Step, *, is_transformers: bool) -> nn.Module:
    """Return the module that runs a step, given the one that runs its layer whole."""
    if (missing := missing_part(step.id)) is not None:
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
