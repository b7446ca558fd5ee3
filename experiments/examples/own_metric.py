"""Searches with a metric of your own: the shortest path that predicts a text as well as the model.

python experiments/examples/own_metric.py [MODEL]
"""

import sys

import numpy as np

import cola_jax

MODEL = sys.argv[1] if sys.argv[1:] else "HuggingFaceTB/SmolLM2-135M-Instruct"
TEXTS = [
    "Rain falls from a cloud when its drops of water become too heavy to stay in the air.",
    "The heart is a muscle that pumps blood through the body, about seventy times a minute.",
    "To be, or not to be, that is the question.",
]
ALLOWED = 0.05  # nats per token by which a path may be worse than the model

model = cola_jax.load(MODEL)
layers = model.config.num_layers
whole = cola_jax.run_paths(model, TEXTS, [range(layers)]).logprob  # [B, 1, Q], of the next tokens
tokens = np.isfinite(whole)  # the texts differ in length


def evaluate(paths: np.ndarray) -> np.ndarray:
    """Takes the paths [B, C, P] of a wave, and scores each [B, C], which the search maximizes."""
    logprob = cola_jax.run_paths(model, TEXTS, paths, progress=False).logprob  # [B, C, Q]
    gain = logprob.mean(-1, where=tokens) - whole.mean(-1, where=tokens)
    return np.asarray(gain) + ALLOWED  # correct where it is not negative


questions = [cola_jax.Question(str(i), text) for i, text in enumerate(TEXTS)]
outcomes = cola_jax.search(evaluate, questions, simulations=50, num_layers=layers)
print(outcomes.to_pandas()[["question", "best", "length", "evaluations"]].to_string(index=False))
