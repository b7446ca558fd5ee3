"""`Searches`: the flags of an experiment that runs several searches of one task."""

import dataclasses

from cola_jax.cli.flags import Dtype, RunFlags, TaskFlags
from cola_jax.runs.session import Session
from cola_jax.strategies.rules import Control, Rules, Settings
from cola_jax.tasks.task import TaskConfig


@dataclasses.dataclass(frozen=True)
class Searches:
    """The searches of an experiment."""

    model: str
    """Checkpoint directory."""
    out: str
    """Folder for the run directories."""
    task: TaskConfig
    evaluations: int = 100
    """Evaluations of a question, beyond the baseline."""
    leaves: int = 16
    """Evaluations of a question in a wave."""
    control: Control = "all"
    """Wrong answers that are searched for as well."""
    decoys: str | None = None
    """Run with the model's answers on other paths, which are the decoys of open questions."""
    dtype: Dtype | None = None
    """Dtype of weights and activations; float32 on a CPU by default, else the checkpoint's own."""

    def prepare(self) -> Session:
        """Open the session of the searches."""
        run = RunFlags(dtype=self.dtype)
        return TaskFlags(self.model, self.task, self.out, run).prepare(self.decoys)

    def settings(self, rules: Rules, seed: int = 0) -> Settings:
        """Return the settings of a search with these rules."""
        return Settings(rules, self.evaluations, self.leaves, seed, control=self.control)
