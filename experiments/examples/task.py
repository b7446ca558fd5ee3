"""Add a task: WinoGrande, sentences with a gap and two options to fill it.

python experiments/examples/task.py [MODEL [DIRECTORY]]

The directory is a local copy of the data set; without one it comes from the Hub.
"""

import sys
from typing import Literal

import cola_jax
from cola_jax.tasks import readers, registry

MODEL = sys.argv[1] if sys.argv[1:] else "HuggingFaceTB/SmolLM2-135M-Instruct"
DIRECTORY = sys.argv[2] if sys.argv[2:] else None


class WinoGrande(readers.Fields):
    """A row of WinoGrande; pydantic checks the fields and names those that are wrong."""

    sentence: readers.Text
    option1: readers.Text
    option2: readers.Text
    answer: Literal["1", "2"]

    def question(self, default_id: str | None) -> cola_jax.Question:
        """Make the question of the row."""
        text = f'Which word belongs in the gap of "{self.sentence}"?'
        options = (self.option1, self.option2)
        id = self.id or default_id or readers.text_id(text, *options)
        return cola_jax.Question(id, text, options, int(self.answer) - 1)


readers.KINDS["winogrande"] = WinoGrande
registry.CHOICE = (*registry.CHOICE, "winogrande")
registry.TASKS["winogrande"] = registry.Task(
    "winogrande", "winogrande", "allenai/winogrande", ("winogrande_xl",), split="validation"
)

questions = cola_jax.load_questions("winogrande", limit=20, hub=DIRECTORY)
model = cola_jax.load(MODEL)
layers = range(model.config.num_layers)
results = cola_jax.evaluate(model, questions, [layers, layers[:-1]], scorer="options")
print(results.to_pandas().groupby("path", sort=False)[["correct", "margin"]].mean())
