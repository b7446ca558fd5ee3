"""`LayerCosts`: the cost of running each layer, or a part of it, by which paths are weighed."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from cola_jax.errors import InputError, check_belongs, count, reading, shown
from cola_jax.files import read_text
from cola_jax.storage import AnyPath

if TYPE_CHECKING:
    from cola_jax.config import ModelConfig

MOST = 1e9  # milliseconds of a layer
LAYER = "layer {}"  # the group of the time of a layer
PARTS = ("attention {}", "mlp {}")  # the groups of the times of its parts
PartCosts = Sequence[Sequence[float]]  # [L][2], the costs of attention and MLP of each layer
# weights of the MLP or of experts; other weights of a layer belong to its attention or mixer
MLP_WEIGHTS = frozenset(
    {
        *("mlp_norm", "mlp_norm_bias", "mlp_post_norm", "dense_post_norm", "shared_gate"),
        *("gate", "up", "down", "gate_bias", "up_bias", "down_bias"),
        *("router", "router_bias", "router_norm", "experts_norm", "experts_post_norm"),
        *("expert_gate", "expert_up", "expert_down", "expert_scale"),
        *("expert_gate_bias", "expert_up_bias", "expert_down_bias"),
    }
)
# weights that run with either part
OF_BOTH = frozenset({"input_gate", "input_up", "input_norm", "output_scale"})


@dataclasses.dataclass(frozen=True)
class LayerCosts:
    """The cost of each of L layers: milliseconds of a table, or 1 where there is none.

    Raises InputError for a table of another number of layers, or with a cost out of range.
    """

    num_layers: int
    milliseconds: tuple[float, ...] | None = None  # [L]
    # [L][2], of the attention and of the MLP of each layer alone, in the unit of the layers; half
    # of a layer each where None
    parts: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self):
        self.check_number(self.of_layer, "layer costs")
        for layer, cost in enumerate(self.of_layer):
            check_cost(cost, LAYER.format(layer))
        if self.parts is None:
            return
        self.check_number(self.parts, "pairs of costs of parts")
        for layer, costs in enumerate(self.parts):
            if not isinstance(costs, Sequence) or isinstance(costs, str) or len(costs) != 2:
                raise InputError(
                    f"the costs of the parts of layer {layer} are {shown(costs)}: give two, of "
                    "its attention and of its MLP."
                )
            for name, cost in zip(PARTS, costs, strict=True):
                check_cost(cost, name.format(layer))

    def check_number(self, table: Sequence[Any], name: str) -> None:
        """Raise InputError for a table of another number of layers."""
        if len(table) != self.num_layers:
            raise InputError(
                f"there are {len(table)} {name}, but the model has "
                f"{count(self.num_layers, 'layer')}: give one for each."
            )

    @functools.cached_property
    def of_layer(self) -> tuple[float, ...]:
        """The cost of each layer, [L]."""
        return (1.0,) * self.num_layers if self.milliseconds is None else self.milliseconds

    @functools.cached_property
    def of_parts(self) -> tuple[tuple[float, ...], ...]:
        """The cost of the attention and of the MLP of each layer alone, [L][2]."""
        if self.parts is None:
            return tuple((cost / 2, cost / 2) for cost in self.of_layer)
        return self.parts

    @functools.cached_property
    def total(self) -> float:
        """The cost of the identity path."""
        return math.fsum(self.of_layer)

    @property
    def fractions(self) -> PartCosts:
        """The costs of parts as fractions of those of their layers, [L][2]."""
        pairs = zip(self.of_layer, self.of_parts, strict=True)
        return tuple(tuple(part / cost for part in parts) for cost, parts in pairs)

    def with_fractions(self, fractions: PartCosts) -> "LayerCosts":
        """Return costs whose parts cost these fractions [L][2] of their layer."""
        parts = (
            tuple(cost * fraction for fraction in of_layer)
            for cost, of_layer in zip(self.of_layer, fractions, strict=True)
        )
        return dataclasses.replace(self, parts=tuple(parts))

    def of(self, path: Iterable[int]) -> float:
        """Return the cost of a path; those of the same steps in another order are equal.

        A step with a share of its update costs what it costs with all of it.
        """
        return math.fsum(map(self.of_step, path))

    def of_step(self, step: int) -> float:
        """Return the cost of a step, by its id."""
        from cola_jax.steps import WHOLE, layer_of, part_of

        part = part_of(step)
        if part == WHOLE:
            return self.of_layer[layer_of(step)]
        return self.of_parts[layer_of(step)][part - 1]

    def layers(self, path: Iterable[int]) -> float:
        """Return the length of a path in layers: a part counts as much as it costs of its layer.

        A whole number, the length of the path, where all of its steps are whole layers.
        """
        from cola_jax.steps import WHOLE, layer_of, part_of

        steps = list(path)
        if max(steps, default=0) < self.num_layers:  # at once, as most paths are
            return len(steps)
        whole = sum(part_of(step) == WHOLE for step in steps)
        if whole == len(steps):
            return whole
        parts = (step for step in steps if part_of(step) != WHOLE)
        fractions = (self.of_step(step) / self.of_layer[layer_of(step)] for step in parts)
        return whole + math.fsum(fractions)


def check_cost(cost: Any, name: str) -> None:
    """Raise InputError for a cost that is not a number of milliseconds."""
    is_number = isinstance(cost, Real) and not isinstance(cost, bool)
    # compared as it is: a file may have an integer that no float holds
    if not is_number or cost <= 0 or not cost <= MOST:
        raise InputError(
            f"the cost of {name} is {shown(cost)}: give milliseconds above 0 and up to {MOST:g}."
        )


def part_fractions(config: "ModelConfig") -> tuple[tuple[float, float], ...]:
    """Return the fraction of a layer's weights that each part uses for a token, [L][2].

    Of experts, those of one token count, and the mixer of a recurrent layer is its attention. What
    a layer has beside both runs with either, so that fractions may add up to more than 1.
    """
    fractions = [fractions_of_parts(config, kind) for kind in range(len(config.kinds))]
    return tuple(fractions[config.kind_of(layer)] for layer in range(config.num_layers))


def fractions_of_parts(config: "ModelConfig", kind: int) -> tuple[float, float]:
    """Return the fraction of the weights of a layer of a kind that each part uses for a token."""
    attention, mlp, both = used_weights(config, kind)
    total = attention + mlp + both
    return (attention + both) / total, (mlp + both) / total


def used_weights(config: "ModelConfig", kind: int) -> tuple[float, float, float]:
    """Count the weights that a token uses of a layer of a kind: attention's, MLP's, with both."""
    from cola_jax.params import LAYER_INPUT_AXES, axis_sizes, layer_axes, sized

    layer = config.kinds[kind]
    axes = layer_axes(layer) | (LAYER_INPUT_AXES if config.layer_input else {})
    attention = mlp = both = 0.0
    for name, shape in sized(axes, axis_sizes(config, kind) | {"L": 1}).items():
        weights = float(math.prod(shape))
        if name.startswith("expert_"):
            weights *= layer.experts_per_token / layer.experts
        if name in OF_BOTH:
            both += weights
        elif name in MLP_WEIGHTS:
            mlp += weights
        else:
            attention += weights
    return attention, mlp, both


def read_layer_costs(
    file: AnyPath | None, num_layers: int, model: str, fractions: PartCosts | None = None
) -> LayerCosts:
    """Read the file of `cola benchmark --layers`, or a JSON list of milliseconds by layer.

    Without a file, each layer costs 1. Where attention and MLP are not timed, they cost these
    `fractions` [L][2] of their layer, such as `part_fractions`, or half each. Raises InputError for
    a file with other content, and for one of another model than that of this digest.
    """
    if file is None:
        costs = LayerCosts(num_layers)
        return costs if fractions is None else costs.with_fractions(fractions)
    with reading(file):
        content = from_json(read_text(file))
        measured = content if isinstance(content, Mapping) else {"milliseconds": content}
        if "estimates" in measured:
            measured = read_times(measured)
        table = list_of(measured["milliseconds"], "milliseconds")
        action = "measure this model with `cola benchmark --layers`"
        theirs = {"model": measured.get("model")}
        check_belongs(str(file), theirs, "this model", {"model": model}, action)
        costs = LayerCosts(num_layers, table)
        parts = measured.get("parts")
        if parts is not None:
            pairs = list_of(parts, "pairs of milliseconds")
            return dataclasses.replace(costs, parts=tuple(map(to_tuple, pairs)))
        return costs if fractions is None else costs.with_fractions(fractions)


def list_of(table: Any, name: str) -> tuple[Any, ...]:
    """Return a table of a file as a tuple; InputError where it is not a list."""
    if not isinstance(table, list):
        raise InputError(f"a list of {name} by layer belongs here, not {shown(table)}.")
    return tuple(table)


def to_tuple(costs: Any) -> Any:
    """Return a list as a tuple, and another value as it is, for `LayerCosts` to refuse."""
    return tuple(costs) if isinstance(costs, list) else costs


def read_times(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model and the times of its layers in the results of `cola benchmark --layers`.

    Earlier versions timed whole layers alone.
    """
    times = {each["group"]: each["value"] for each in results["estimates"] if "group" in each}
    layers = range(results["run"]["start"]["num_layers"])
    measured = {
        "model": results["run"]["settings"]["model"],
        "milliseconds": [times[LAYER.format(i)] for i in layers],
    }
    if PARTS[0].format(0) in times:
        measured["parts"] = [[times[part.format(i)] for part in PARTS] for i in layers]
    return measured
