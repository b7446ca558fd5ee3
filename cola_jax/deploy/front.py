"""`Front`: the paths that `cola static` measured, by their cost, and the best one for a budget."""

import dataclasses
import math
import os
from numbers import Real
from typing import NamedTuple

from cola_jax.deploy.settings import ROUNDING, cost_limit
from cola_jax.errors import InputError, count, reading, shown
from cola_jax.files import exists
from cola_jax.layer_costs import LayerCosts, read_layer_costs
from cola_jax.path import LayerPath, format_path, identity, parse_path
from cola_jax.runs.estimates import CHANGE, CORRECT, MODEL, Estimate, number_text
from cola_jax.runs.path_results import LAYERS, TIME, group_of
from cola_jax.runs.results import RESULTS, Results, read_results
from cola_jax.storage import AnyPath, path_of


class Candidate(NamedTuple):
    """A path of a front, as it was measured on held-out questions."""

    path: LayerPath
    cost: float  # milliseconds of its layers, or their number where no times were measured
    correct: float  # share
    change: Estimate | None  # the difference from the model, None for the model itself


class Budget(NamedTuple):
    """What a path was chosen for, in words."""

    limit: str
    cost: str  # of the path
    among: str

    def facts(self) -> dict[str, str]:
        """Return the facts for a model card."""
        return {"budget": self.limit, "cost": self.cost, "chosen for it": self.among}


@dataclasses.dataclass(frozen=True)
class Front:
    """The model and the paths that `cola static` measured beside it, the cheapest first."""

    source: str  # file of results
    model: str  # digest
    num_layers: int
    candidates: tuple[Candidate, ...]
    total: float  # cost of the model
    timed: bool  # costs are milliseconds

    @classmethod
    def read(cls, source: AnyPath, layer_costs: AnyPath | None = None) -> "Front":
        """Read the front of a run of `cola static`: its directory, `static.json` or results.

        `layer_costs` is a file of `cola benchmark --layers`, in place of the costs with which the
        paths were searched. Raises InputError for the results of another command, and for those
        without the accuracy of a path.
        """
        if not isinstance(source, str | os.PathLike):
            raise InputError(
                f"a front is given by the directory of `cola static`, not by {shown(source)}."
            )
        place = path_of(source)
        folder = place.parent if place.name.endswith(".json") else place
        file = folder / RESULTS
        if not exists(file):
            raise InputError(
                f"{source} has no {RESULTS} beside it, which has the front: give the directory of "
                "`cola static`."
            )
        results = read_results(file)
        settings = results.run["settings"]
        if settings.get("command") != "static":
            raise InputError(
                f"{file} was made by {shown(settings.get('command'))}, but a front is that of "
                "`cola static`: give its directory."
            )
        with reading(file):
            num_layers = results.run["start"]["num_layers"]
            model = settings["model"]
            timed = settings.get("layer_costs")
            searched = LayerCosts(num_layers, timed, settings.get("part_costs"))
        costs = None  # not in the block above, whose errors name the results
        if layer_costs is not None:
            costs = read_layer_costs(layer_costs, num_layers, model, searched.fractions)
        with reading(file):
            paths = [path_of_group(group, num_layers) for group in results.groups]
            each = [candidate_of(results, path, num_layers, costs) for path in paths]
            (total,) = (x.cost for x in each if x.change is None)
            if any(math.isnan(x.correct) for x in each):
                raise InputError(
                    "a path has no accuracy on held-out questions, by which one is chosen"
                )
        timed = costs is not None or results.find(TIME, MODEL) is not None
        ordered = sorted(each, key=lambda candidate: candidate.cost)
        return cls(str(file), model, num_layers, tuple(ordered), total, timed)

    def within(self, limit: float) -> list[Candidate]:
        """List the candidates of at most this cost; InputError where there is none."""
        found = [each for each in self.candidates if each.cost <= limit * (1 + ROUNDING)]
        if not found:
            cheapest = self.candidates[0]
            raise InputError(
                f"no path of {self.source} costs at most {self.cost_text(limit)}: the cheapest "
                f"costs {self.cost_text(cheapest.cost)} ({format_path(cheapest.path)}); allow as "
                "much, or search with `cola static --max-cost`."
            )
        return found

    def best_within(self, limit: float) -> Candidate:
        """Return the candidate of at most this cost with the largest held-out accuracy.

        Of equals it is the cheapest. Where the model itself is within the limit, that is the one,
        unless another is shown to be better: with simultaneous intervals over all that were
        measured. Raises InputError where none costs as little.
        """
        found = self.within(limit)
        models = [each for each in found if each.change is None]
        if not models:
            return max(found, key=lambda each: (each.correct, -each.cost))
        changes = [(each, each.change) for each in found if each.change is not None]
        better = [pair for pair in changes if pair[1].is_shown and pair[1].value > 0]
        (best, _) = max(better, key=lambda pair: pair[1].low, default=(models[0], None))
        return best

    def best(self, max_cost: str) -> Candidate:
        """Return the best candidate for a highest cost, such as 80% or 12.5ms."""
        return self.best_within(cost_limit(max_cost, self.total, timed=self.timed))

    def budget(self, max_cost: str) -> Budget:
        """Say for a model card what the best candidate was chosen for, and among how many."""
        chosen = self.best(max_cost)
        found = self.within(cost_limit(max_cost, self.total, timed=self.timed))
        measure = "measured times of layers" if self.timed else "the number of layers"
        among = f"the best of {count(len(found), 'path')} within the budget on held-out questions"
        return Budget(
            f"a cost of at most {max_cost.strip()}, by {measure}",
            f"{self.cost_text(chosen.cost)} of {self.cost_text(self.total)}",
            f"{among}, whose accuracy is that of the best; intervals hold for all that were "
            "measured",
        )

    def cost_text(self, cost: float) -> str:
        """Write a cost with its unit and its share of the model's."""
        size = f"{cost:.3g} ms" if self.timed else f"{cost:.3g} layers"
        return f"{size} ({number_text(cost / self.total, 'share')})"


def choose(front: AnyPath, milliseconds: float, *, layer_costs: AnyPath | None = None) -> LayerPath:
    """Choose the best path of a front whose layers take at most so many milliseconds.

    The best has the largest accuracy on held-out questions. Where the whole model takes no longer,
    it is chosen, unless another path is shown to be better.

    Args:
      front: the directory of `cola static`, or its `static.json`.
      milliseconds: of all layers of the path, for the prompts on which they were timed; the
        embedding and the head come on top.
      layer_costs: file of `cola benchmark --layers`, where the search had none, or those of another
        machine.

    Raises InputError for a front without times, and where no path is as fast.
    """
    is_number = isinstance(milliseconds, Real) and not isinstance(milliseconds, bool)
    if not is_number or not milliseconds > 0:  # nor is NaN
        raise InputError(f"milliseconds must be a number above 0, it is {shown(milliseconds)}.")
    if not isinstance(layer_costs, str | os.PathLike | None):
        raise InputError(
            f"layer_costs must be a file of `cola benchmark --layers`, it is {shown(layer_costs)}."
        )
    read = Front.read(front, layer_costs)
    if not read.timed:
        raise InputError(
            f"{read.source} has no times of layers: give layer_costs=, a file of `cola benchmark "
            "--layers` for this model."
        )
    return read.best_within(float(milliseconds)).path


def path_of_group(group: str, num_layers: int) -> LayerPath:
    """Return the path of a group of estimates."""
    return identity(num_layers) if group == MODEL else parse_path(group, num_layers)


def candidate_of(
    results: Results, path: LayerPath, num_layers: int, costs: LayerCosts | None
) -> Candidate:
    """Read a path of results, whose cost is by `costs`, by recorded times, or by layers."""
    group = group_of(path, num_layers)
    time = results.find(TIME, group)
    cost = results.value(LAYERS, group) if time is None else time.value
    if costs is not None:
        cost = costs.of(path)
    return Candidate(path, cost, results.value(CORRECT, group), results.find(CHANGE, group))
