"""`ReportedEffect`: what a path does on a task, as model cards and `path.json` state it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from cola_jax.runs.estimates import Estimate


class ReportedEffect(NamedTuple):
    """The effect of a path on questions that it was not chosen on, in the results of a command."""

    task: str  # with its split
    prompts: int  # in which each question was asked
    before: Estimate  # accuracy of the pretrained model
    after: Estimate  # accuracy along the path
    change: Estimate
    sentence: str
    facts: Mapping[str, str]  # of the trial, or of the command that measured it

    @property
    def size(self) -> str:
        """The difference in points with its interval, where it has one."""
        interval = self.change.interval_text
        return f"{self.change.text} ({interval})" if interval else self.change.text

    def to_json(self) -> dict[str, Any]:
        """Return the fields, estimates as `results.json` has them."""
        estimates = {name: getattr(self, name).to_json() for name in ("before", "after", "change")}
        return self._asdict() | estimates | {"facts": dict(self.facts)}
