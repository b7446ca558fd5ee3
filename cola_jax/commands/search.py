"""`cola search`."""

import dataclasses
import importlib.util

from tyro.conf import OmitArgPrefixes

from cola_jax.commands.console import console
from cola_jax.commands.material import Material, show_use
from cola_jax.commands.report import Report
from cola_jax.search.presets import PRESETS, Preset, PresetName


@dataclasses.dataclass(frozen=True)
class Search:
    """Search, for every question, which layers to skip or repeat."""

    material: OmitArgPrefixes[Material]
    preset: PresetName = "cola"
    """The rules to start from."""
    rules: Preset = PRESETS["cola"]
    simulations: int = 100
    """Evaluations per question, beyond the baseline."""
    leaves: int = 16
    """Evaluations per question and wave; more of them are chosen knowing less."""
    seed: int = 0
    """With a question's id, the random key of its tree."""
    early_stop: bool = False
    """End a question's search at its first improvement."""

    def run(self) -> None:
        from cola_jax.runs.progress import Display

        session = self.material.prepare()
        with Display(console, searches=True) as display:
            run = session.search(
                self.material.out,
                self.rules,
                simulations=self.simulations,
                leaves=self.leaves,
                seed=self.seed,
                early_stop=self.early_stop,
                group=self.material.group,
                watch=display.watch,
            )
        show_use(run)
        Report(self.material.out).show(draws=report_extra_installed())


def report_extra_installed() -> bool:
    """Whether the page of a report can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None
