"""The model `cola-router` of lm-evaluation-harness: any of its tasks, on the paths of a router.

Importing this module registers the model.
"""

from collections.abc import Sequence
from typing import Any

from lm_eval.api.registry import register_model

from cola_jax.deploy import ColaLM
from cola_jax.errors import InputError
from cola_jax.extras.router import Record, load_router
from cola_jax.params import Model
from cola_jax.path import LayerPath
from cola_jax.prompts import Prompts


@register_model("cola-router")
class RoutedLM(ColaLM):
    """A model of the harness that runs each prompt along the path that a router names."""

    model: Model  # the harness's decorator hides the fields of ColaLM from type checkers

    def __init__(self, *, router: str | None = None, **arguments: Any):
        """Load the model as `ColaLM` does, and a router from its directory.

        Raises InputError without a router, with a path or a menu, and as `load_router`.
        """
        if router is None:
            raise InputError("cola-router needs router=DIRECTORY, as `cola distill` writes it.")
        if others := sorted({"path", "menu"} & arguments.keys()):
            raise InputError(f"router and {others[0]} both name the paths: give one.")
        weights = Record.read(router).weights
        super().__init__(**arguments)
        self.router = load_router(router, self.model)
        self.path = f"router {weights}"

    def paths_of(self, prompts: Sequence[Prompts]) -> Sequence[Sequence[LayerPath]]:
        """Return the path of each prompt, chosen without its continuations."""
        return self.router.paths(Prompts.stack(prompts), beams=1)
