"""`Facts`: what a run records of itself, its settings and its last start."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from cola_jax.layer_costs import LayerCosts
from cola_jax.path import parse_stored


class Facts(NamedTuple):
    """The settings of a run and the record of a start, as `run.json` and `starts` have them."""

    settings: Mapping[str, Any]
    start: Mapping[str, Any]

    @property
    def command(self) -> str:
        """The command that made the run."""
        return str(self.settings.get("command"))

    @property
    def num_layers(self) -> int:
        """The layers of the model."""
        return self.start["num_layers"]

    @property
    def paths(self) -> list[tuple[int, ...]]:
        """The given paths of a run that evaluates such, as ids of steps."""
        paths = self.settings["paths"]
        return [parse_stored(path) if isinstance(path, str) else tuple(path) for path in paths]

    @property
    def costs(self) -> LayerCosts:
        """The costs of layers and of their parts, by which the lengths of paths are counted."""
        settings = self.settings
        return LayerCosts(self.num_layers, settings.get("layer_costs"), settings.get("part_costs"))

    @property
    def is_open(self) -> bool:
        """Whether the questions offer no options; False where it was not recorded."""
        return self.scorer_flag("open")

    @property
    def decodes(self) -> bool:
        """Whether the scorer decodes answers; False where it was not recorded."""
        return self.scorer_flag("decodes")

    @property
    def log_likelihoods(self) -> bool:
        """Whether scores are such; where it was not recorded, those of the scorer of this name."""
        known = self.settings.get("scorer") != "options-norm"
        return bool((self.start.get("scorer") or {}).get("log_likelihoods", known))

    @property
    def unit_of_margins(self) -> str:
        """The unit of margins."""
        return "nats" if self.log_likelihoods else "score"

    def scorer_flag(self, name: str) -> bool:
        """Return a flag of the scorer, False where it was not recorded."""
        return bool((self.start.get("scorer") or {}).get(name))

    def to_json(self) -> dict[str, Any]:
        """Return both, as `results.json` has them."""
        return {"settings": dict(self.settings), "start": dict(self.start)}
