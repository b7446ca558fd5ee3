"""Add a task: WinoGrande, sentences with a gap and two options to fill it.

python experiments/examples/task.py [MODEL [DIRECTORY]]

The directory is a local copy of the data set; without one it comes from the Hub.
"""

import sys

import cola_jax
from cola_jax.tasks import registry

MODEL = sys.argv[1] if sys.argv[1:] else "HuggingFaceTB/SmolLM2-135M-Instruct"
DIRECTORY = sys.argv[2] if sys.argv[2:] else None

# rows of a question, options and an answer, whose text has another name
registry.TASKS["winogrande"] = registry.Task(
    "winogrande",
    "choice",
    "allenai/winogrande",
    ("winogrande_xl",),
    split="validation",
    fields="question=sentence",
    meaning="1",  # its answers count from 1
)

questions = cola_jax.load_questions("winogrande", limit=20, hub=DIRECTORY)
model = cola_jax.load(MODEL)
layers = range(model.config.num_layers)
results = cola_jax.evaluate(model, questions, [layers, layers[:-1]], scorer="options")
print(results.to_pandas().groupby("path", sort=False)[["correct", "margin"]].mean())
