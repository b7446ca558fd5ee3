"""`LayerCosts`: the cost of running each layer, by which paths are weighed."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from pydantic_core import from_json

from cola_jax.errors import InputError, check_belongs, reading, shown
from cola_jax.files import read_text
from cola_jax.storage import AnyPath

MOST = 1e9  # milliseconds of a layer
LAYER = "layer {}"  # the group of the time of a layer


@dataclasses.dataclass(frozen=True)
class LayerCosts:
    """The cost of each of L layers: milliseconds of a table, or 1 where there is none.

    Raises InputError for a table of another number of layers, or with a cost out of range.
    """

    num_layers: int
    milliseconds: tuple[float, ...] | None = None  # [L]

    def __post_init__(self):
        table = self.of_layer
        if len(table) != self.num_layers:
            raise InputError(
                f"there are {len(table)} layer costs, but the model has {self.num_layers} layers: "
                "give one for each."
            )
        for layer, cost in enumerate(table):
            if isinstance(cost, bool) or not isinstance(cost, Real) or not 0 < cost <= MOST:
                raise InputError(
                    f"the cost of layer {layer} is {shown(cost)}: give milliseconds above 0 and "
                    f"up to {MOST:g}."
                )

    @functools.cached_property
    def of_layer(self) -> tuple[float, ...]:
        """The cost of each layer, [L]."""
        return (1.0,) * self.num_layers if self.milliseconds is None else self.milliseconds

    @functools.cached_property
    def total(self) -> float:
        """The cost of the identity path."""
        return math.fsum(self.of_layer)

    def of(self, path: Iterable[int]) -> float:
        """Return the cost of a path; those of the same layers in another order are equal."""
        return math.fsum(map(self.of_layer.__getitem__, path))


def read_layer_costs(file: AnyPath | None, num_layers: int, model: str) -> LayerCosts:
    """Read the file of `cola benchmark --layers`, or a JSON list of milliseconds by layer.

    Without a file, each layer costs 1. Raises InputError for a file with other content, and for one
    of another model than that of this digest.
    """
    if file is None:
        return LayerCosts(num_layers)
    with reading(file):
        content = from_json(read_text(file))
        measured = content if isinstance(content, Mapping) else {"milliseconds": content}
        if "estimates" in measured:
            measured = read_times(measured)
        table = measured["milliseconds"]
        if not isinstance(table, list):
            raise InputError(f"a list of milliseconds by layer belongs here, not {shown(table)}.")
        action = "measure this model with `cola benchmark --layers`"
        theirs = {"model": measured.get("model")}
        check_belongs(str(file), theirs, "this model", {"model": model}, action)
        return LayerCosts(num_layers, tuple(table))


def read_times(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model and the times of its layers in the results of `cola benchmark --layers`."""
    times = {each["group"]: each["value"] for each in results["estimates"] if "group" in each}
    layers = [LAYER.format(i) for i in range(results["run"]["start"]["num_layers"])]
    return {
        "model": results["run"]["settings"]["model"],
        "milliseconds": [times[layer] for layer in layers],
    }
