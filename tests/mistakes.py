"""Mistakes in the arguments of public functions, which raise one line that names the argument.

python -m tests.mistakes CHECKPOINT

Not under pytest, whose type checks would come first.
"""

import re
import sys

import numpy as np

import cola_jax
from cola_jax.errors import InputError
from cola_jax.scoring import Options
from tests import tiny
from tests.strategies.formula import formula, questions

model = cola_jax.load(sys.argv[1])
QUESTIONS, PATHS = questions(3), ["0-4", "0-2,4"]


def search(**settings):
    return cola_jax.search(formula(), QUESTIONS, num_layers=6, **settings)


def evaluate(asked=QUESTIONS, paths=PATHS, **settings):
    return cola_jax.evaluate(formula(), asked, paths, num_layers=6, **settings)


def ask(**settings):
    return cola_jax.evaluate(model, tiny.questions(3), PATHS, **settings)


CASES = [
    (lambda: search(control="some"), "control 'some' is not one of all, one, none"),
    (lambda: search(simulations="20"), "simulations must be a whole number, it is '20'"),
    (lambda: search(seed=0.5), "seed must be a whole number"),
    (lambda: search(preset=None), "preset None is not one of best"),
    (lambda: search(early_stop="no"), "early_stop must be True or False"),
    (lambda: search(layer_costs=2.0), r"layer_costs must be a list \[L\]"),
    (
        lambda: search(max_simulations=5),
        r"max_simulations \(did you mean simulations\?\)",
    ),
    (lambda: search(on_device="no"), "on_device must be True or False, it is 'no'"),
    (lambda: cola_jax.choose(5, 3.0), "the directory of `cola static`, not by 5"),
    (lambda: search(prior=5), "prior must be run directories of searches, it is 5"),
    (lambda: search(prior=["run"]), "a prior is made of runs of a model: leave it out"),
    (lambda: search(batch_size=2), "batch_size: this is for a model, not for a function"),
    (lambda: evaluate(scorer="options"), "scorer: this is for a model"),
    (lambda: evaluate("q.jsonl"), r"cola_jax.load_questions\('q.jsonl'\)"),
    (lambda: evaluate({"question": "a"}), "questions is of type dict"),
    (lambda: evaluate([{"question": "a"}]), "must be a list of Question"),
    (lambda: evaluate(QUESTIONS[0]), "the single question 'q0': give a list"),
    (lambda: evaluate(QUESTIONS[:1] * 2), "two questions have the id 'q0'"),
    (lambda: evaluate(paths=[0, 1, -1]), r"layer ids \[-1\]"),
    (lambda: evaluate(paths=[]), "there are no paths"),
    (lambda: evaluate(paths=5), "paths are 5, but must be a path"),
    (lambda: evaluate(paths={"a": [0]}), "paths are {'a': "),
    (
        lambda: cola_jax.search("m", QUESTIONS),
        "the model is .m., but must be",
    ),
    (
        lambda: cola_jax.search(formula(), QUESTIONS, num_layers="6"),
        "num_layers must be",
    ),
    (
        lambda: cola_jax.search(QUESTIONS, formula(), num_layers=6),
        "is of type function",
    ),
    (lambda: cola_jax.run_paths("smollm2", "a", [0]), "the model is of type str"),
    (lambda: cola_jax.generate("smollm2", "a"), "the model is of type str"),
    (lambda: cola_jax.generate("m", "a", max_tokens=5), r"\(did you mean max_new_tokens\?\)"),
    (lambda: cola_jax.run_paths("m", "a", [0], tile_token=5), "did you mean tile_tokens"),
    (
        lambda: cola_jax.load(None),
        "a model is loaded by its name, .* not from None",
    ),
    (lambda: cola_jax.load("m", mesh="data"), "mesh must be a jax.sharding.Mesh"),
    (lambda: cola_jax.parse_path([0, 1], 6), r"not \[0, 1\]"),
    (lambda: cola_jax.format_path("0-4"), "'0-4' is a text"),
    (
        lambda: cola_jax.Question("q", "?", "ab"),
        "options must be a list of texts",
    ),
    (lambda: cola_jax.Question("q", "?", ["a", "b"], 2), "answer must be the index .* 0 to 1"),
    (lambda: cola_jax.Question("q", "?", ["a", "b"], "b"), "answer must be the index"),
    (lambda: ask(scorer=Options), "give scorer= as well, not <class"),
    (lambda: ask(scorer="options", engine="ray"), "engine must be a cola_jax.RayEngine"),
    (lambda: ask(scorer="options", batch_size=0), "batch_size must be at least 1"),
    (lambda: ask(scorer="options", memory_budget="2GB"), "memory_budget must be a whole number"),
    (lambda: ask(scorer="options", tile_tokens=-1), "tile_tokens must be at least 1"),
    (lambda: ask(scorer="options", dtype="int8"), "dtype 'int8' is not one of"),
    (lambda: ask(scorer="options", num_layers=30), "the model has 5 layers, not num_layers=30"),
    (lambda: ask(scorer="options", max_new_tokens=5), "scorer 'options' has no max_new_tokens"),
    (lambda: ask(scorer="exact", max_tokens=5), r"max_tokens \(did you mean max_new_tokens\?\)"),
    (lambda: ask(scorer="exact", format="questions"), "format 'questions' is not one of question"),
    (lambda: ask(scorer="exact"), "question q0 is multiple choice"),
    (lambda: ask(chat=True), "chat: this is for a scorer that is given by its name"),
    (lambda: cola_jax.run_path(model, [[1, 2], [3]], [0]), "rows of ids differ in length"),
    (lambda: cola_jax.run_path(model, np.ones((1, 3)), [0]), r"float64 of shape \(1, 3\)"),
    (lambda: cola_jax.run_path(model, "a", [[0, 1], [2]]), "a path is text or a list of ids"),
    (lambda: cola_jax.run_path(model, "a", [0, 1, -1]), r"layer ids \[-1\]"),
    (lambda: cola_jax.generate(model, "a", [0, 1, -1]), r"layer ids \[-1\]"),
    (lambda: cola_jax.generate(model, "a", max_new_tokens="5"), "max_new_tokens must be a whole"),
]


def outcome_of(call):
    """Return the type and the text of what a call raises."""
    try:
        return "returns", repr(call())
    except Exception as error:
        return type(error).__name__, str(error)


if __name__ == "__main__":
    wrong = 0
    for call, message in CASES:
        kind, text = outcome_of(call)
        if kind != InputError.__name__ or not text.isprintable() or not re.search(message, text):
            print(f"expected {message!r}: {kind}: {text}")
            wrong += 1
    sys.exit(wrong > 0)
