"""Settings of `cola static`, `menu` and `verify`; it imports no NumPy or JAX."""

import dataclasses
import itertools
import math
import re
from typing import Any, Literal

from cola_jax.errors import InputError, count, shown
from cola_jax.layer_costs import LayerCosts
from cola_jax.strategies.rules import check_shares

Fitness = Literal["accuracy", "margin", "likelihood", "kl", "agreement"]
LABEL_FREE = ("kl", "agreement")  # of which the model's own path is best
Measure = Literal["accuracy", "likelihood", "agreement"]
Outcome = Literal[
    "better", "worse", "as good on fewer layers", "depends on the prompt", "nothing shown", "pilot"
]
COST = re.compile(r"(\d{1,15}\.?\d{0,15}|\.\d{1,15}) ?(%|ms)")
ROUNDING = 1e-9  # of a cost, relative


@dataclasses.dataclass(frozen=True)
class StaticSettings:
    """Rules of the search for one path."""

    generations: int = 30
    """Generations; each tries `offspring` paths."""
    offspring: int = 16
    """Paths of a generation."""
    first: int = 16
    """Questions of the first selection step; each further step has four times as many, and the
    last all."""
    fitness: Fitness = "accuracy"
    """What makes a path better: accuracy, with the margin where it is equal; margin, the mean of
    the logistic function of the correct answer's score minus its best rival's; likelihood, the
    mean log-likelihood of the correct answer, of scorers that give it; kl, which reads no answers:
    closeness to the model's own next-token distributions on the prompts; or agreement, which reads
    none either: the share of tokens of the model's own greedy text that a path predicts, the
    acceptance rate of drafts in self-speculative decoding. kl and agreement need --max-layers or
    --max-cost below the model's, whose own path is best."""
    parts: bool = False
    """Skip attention and MLP of layers separately, as EvoPress does, beside whole layers."""
    shares: tuple[float, ...] = ()
    """Shares of a layer's update, such as 0.5,0.25, that a path may add in place of all of it."""
    max_layers: int | None = None
    """Most layers that a path runs; those of the model by default. With --parts, an attention or
    an MLP counts as much as it costs of its layer."""
    max_cost: str | None = None
    """Highest cost of a path: a share of the model's, such as 80%, or a time such as 12.5ms, by
    --layer-costs."""
    min_layers: int | None = None
    """Fewest layers that a path runs; half of the most by default."""
    validation: float = 1 / 3
    """Share of the questions that the search does not see, on which a path is chosen."""
    finalists: int = 8
    """Paths that are compared there: the best of each length first."""
    seed: int = 0
    """Random seed."""

    @property
    def has_steps(self) -> bool:
        """Whether paths may have parts or shares."""
        return self.parts or bool(self.shares)

    def record(self) -> dict[str, Any]:
        """Return the settings as a run records them, without parts and shares where there are none.

        So runs of whole layers that an earlier version began are resumed.
        """
        fields = dataclasses.asdict(self)
        if not self.has_steps:
            del fields["parts"], fields["shares"]
        return fields

    def highest_cost(self, costs: LayerCosts) -> float:
        """Return the highest cost allowed, infinity by default; InputError for invalid text."""
        if self.max_cost is None:
            return math.inf
        timed = costs.milliseconds is not None
        return cost_limit(self.max_cost, costs.total, timed=timed) * (1 + ROUNDING)

    def limit(self, costs: LayerCosts) -> str:
        """Say what paths are limited to where that leaves out the model's own, otherwise ""."""
        limits = []
        if self.max_layers is not None and self.max_layers < costs.num_layers:
            limits.append(f"at most {count(self.max_layers, 'layer')}")
        if self.max_cost is not None and self.highest_cost(costs) < costs.total:
            limits.append(f"a cost of at most {self.max_cost.strip()}")
        return " and ".join(limits)

    def lengths(self, costs: LayerCosts) -> range:
        """Return the allowed numbers of layers of a path; InputError for invalid settings."""
        check_least(self, generations=1, offspring=1, first=1, finalists=1, seed=0)
        check_shares(self.shares)
        num_layers, highest = costs.num_layers, self.highest_cost(costs)
        longest = num_layers if self.max_layers is None else self.max_layers
        most = int(min(longest, highest / costs.total * num_layers))  # of average cost
        shortest = max(1, most // 2) if self.min_layers is None else self.min_layers
        if not 1 <= shortest <= min(longest, num_layers) or longest > 2 * num_layers:
            raise InputError(
                f"paths of {shortest} to {longest} layers cannot be searched: give a minimum of 1 "
                f"to {num_layers} (the model's) and no maximum below it or above {2 * num_layers}."
            )
        steps = itertools.chain(costs.of_layer, *(costs.of_parts if self.parts else ()))
        cheapest = shortest * min(steps)
        if highest < cheapest:
            share = 100 * cheapest / costs.total
            raise InputError(
                f"--max-cost {self.max_cost} is below the cheapest path of "
                f"{count(shortest, 'layer')}, {share:.3g}% of the model: raise it."
            )
        if self.fitness in LABEL_FREE and longest >= num_layers and highest >= costs.total:
            raise InputError(
                f"the fitness {self.fitness} of the model's own {num_layers} layers is the best "
                f"there is: give --max-layers of at most {num_layers - 1}, or --max-cost below "
                "100%."
            )
        return range(shortest, longest + 1)


@dataclasses.dataclass(frozen=True)
class MenuSettings:
    """Rules of a menu."""

    size: int = 5
    """Most paths of the menu, the identity path among them."""
    candidates: int = 32
    """Paths of the runs that are tried on all training questions: those that were right on most."""
    max_layers: int | None = None
    """Most layers that a path of the menu runs; twice the model's by default."""
    state_layer: int | None = None
    """Layers run before the selector reads the prompt's hidden state; half of the model's by
    default."""

    def longest(self, num_layers: int) -> int:
        """Return the most layers that a path runs."""
        return 2 * num_layers if self.max_layers is None else self.max_layers

    def depth(self, num_layers: int) -> int:
        """Return the layers run before the selector reads the state."""
        return num_layers // 2 if self.state_layer is None else self.state_layer

    def check(self, num_layers: int) -> None:
        """Raise InputError for invalid settings."""
        check_least(self, size=2, candidates=1)
        if self.longest(num_layers) < num_layers:
            raise InputError(
                f"a menu begins with the identity path, whose {num_layers} layers are more than "
                f"{self.max_layers}: raise --max-layers."
            )
        if not 0 <= self.depth(num_layers) <= num_layers:
            raise InputError(
                f"the state after {self.state_layer} layers cannot be read: the model has "
                f"{num_layers}."
            )


@dataclasses.dataclass(frozen=True)
class TrialSettings:
    """Rules of a trial, fixed before its first outcome."""

    measure: Measure = "accuracy"
    """Primary measure: accuracy; likelihood, the mean log-probability of the correct answer among
    the options in nats, for tasks on which the model answers at chance; or agreement, the share of
    tokens of the model's own greedy text that a path predicts, minus its share of the cost: above
    0, it pays as a draft in self-speculative decoding."""
    margin: float = 3.0
    """Largest loss that counts as none, of a path with fewer layers: in points of accuracy, or in
    hundredths of a nat. A trial must be large enough to show a difference of as much."""
    pilot: bool = False
    """Run a trial of any size, which gives figures and their variances, but no verdict."""
    seed: int = 0
    """Random seed of the random paths."""
    allow_overlap: bool = False
    """Judge claims on questions or prompts that chose them, or on which they were tried before;
    each verdict then says so."""

    def check(self) -> None:
        """Raise InputError for invalid settings."""
        check_least(self, seed=0)
        if not 0 < self.margin < 100:
            raise InputError(
                f"the margin must lie between 0 and 100 points, it is {self.margin}: a loss that "
                "counts as none is never 0."
            )


def cost_limit(text: str, total: float, *, timed: bool) -> float:
    """Read a highest cost, such as 80% of the total or 12.5ms; InputError for other text.

    A time is only known where costs are `timed`.
    """
    match = COST.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f"the highest cost {shown(text)} is neither a share such as 80% nor a time such as "
            "12.5ms."
        )
    if match[2] == "ms" and not timed:
        raise InputError(f"--max-cost {text} is a time: give --layer-costs as well.")
    return float(match[1]) * (1 if match[2] == "ms" else total / 100)


def check_least(settings: Any, **least: int) -> None:
    """Raise InputError for a field below its least value."""
    for name, value in least.items():
        if getattr(settings, name) < value:
            raise InputError(f"{name} must be at least {value}, it is {getattr(settings, name)}.")
