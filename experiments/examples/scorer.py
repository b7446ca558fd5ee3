"""Add a scorer: the difference of the logits of two names, as in studies of indirect objects.

python experiments/examples/scorer.py [MODEL]
"""

import sys

import numpy as np

import cola_jax
from cola_jax.scoring import Encoded, encode_answers

MODEL = sys.argv[1] if sys.argv[1:] else "HuggingFaceTB/SmolLM2-135M-Instruct"
TEXT = "When Mary and John went to the store,{} gave a drink to"
NAMES = (" Mary", " John")


class NameDifference(cola_jax.Scorer):
    """The log-probability of the right name minus that of the other one."""

    name = "name-difference"
    log_likelihoods = True  # the unit of the scores: by default they have none

    def encode(self, question: cola_jax.Question) -> Encoded:
        """Pack the options after one shared prompt."""
        return encode_answers(question, self.tokenizer, question.text, question.options)

    def verdicts(self, readings: cola_jax.Readings, encoded: Encoded) -> cola_jax.Verdicts:
        """Compare the first tokens of both options; readings have the log-probabilities [C, Q]."""
        first = [encoded.option.tolist().index(j) for j in range(2)]
        scores = np.asarray(readings.logprob)[:, first]
        return cola_jax.Verdicts.of_scores(scores, encoded.question.answer)


questions = [
    cola_jax.Question(name, TEXT.format(name), NAMES, 1 - j) for j, name in enumerate(NAMES)
]
model, tokenizer = cola_jax.load(MODEL), cola_jax.load_tokenizer(MODEL)
scorer = NameDifference(tokenizer)
outcomes = cola_jax.search(model, questions, scorer=scorer, simulations=20)
best = [outcome.paths[outcome.verdicts.margin.argmax()] for outcome in outcomes]
results = cola_jax.evaluate(model, questions, best, scorer=scorer)
margins = results.verdicts.margin  # [questions, paths]
print(margins)
