"""`cola demo`."""

import dataclasses

from cola_jax.commands.flags import TaskFlags, console
from cola_jax.commands.search import Search
from cola_jax.tasks.task import TaskConfig


@dataclasses.dataclass(frozen=True)
class Demo:
    """Search two dozen questions with a small real model, and write the report."""

    source: str | None = None
    """Another model: a Hub id, a directory or a .gguf file. SmolLM2-135M-Instruct by default."""
    out: str = "cola-demo"
    """The run directory."""
    simulations: int = 50
    """Evaluations per question, beyond the baseline."""

    def run(self) -> None:
        from cola_jax.demo import demo_model, demo_questions

        model = demo_model(self.source, console)
        flags = TaskFlags(str(model), TaskConfig(str(demo_questions())), self.out)
        Search(flags, simulations=self.simulations, leaves=8).run()
