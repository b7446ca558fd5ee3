"""Add a strategy: skip ever larger blocks around the middle of the model.

python experiments/examples/strategy.py [MODEL]
"""

import dataclasses
import sys

import cola_jax
from cola_jax.strategies.rules import PRESETS, Rules
from cola_jax.strategies.walks import WALKS, Leaf, Walk, WalkStart

MODEL = sys.argv[1] if sys.argv[1:] else "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclasses.dataclass(frozen=True)
class MiddleOutRules(Rules):
    """Skip one more layer around the middle in each path."""

    name = "middle-out"

    step: int = 1  # layers by which the block grows


def middle_out(start: WalkStart, rules: MiddleOutRules) -> Walk:
    """Yield the next paths; each `yield` returns their results, which other strategies use."""
    path = start.identity.path
    for size in range(rules.step, len(path) - start.fitting.shortest + 1, rules.step):
        first = (len(path) - size) // 2
        yield [Leaf(path[:first] + path[first + size :], path)]


WALKS[MiddleOutRules] = middle_out
PRESETS["middle-out"] = MiddleOutRules()

question = cola_jax.Question("france", "What is the capital of France?", ("Rome", "Paris"), 1)
model = cola_jax.load(MODEL)
outcomes = cola_jax.search(model, [question], scorer="options", preset="middle-out", simulations=10)
print(outcomes.to_pandas().to_string(index=False))
