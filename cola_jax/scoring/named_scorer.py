"""`named_scorer`: the scorer of a name, with the tokenizer and the stop tokens of a model."""

from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

from cola_jax.checkpoint import stop_tokens, tokenizer_of
from cola_jax.errors import InputError, did_you_mean, shown
from cola_jax.params import Model
from cola_jax.question import Question
from cola_jax.scoring import scorer_class
from cola_jax.scoring.format import FREE_FORMATS, Format
from cola_jax.scoring.grader import choose_grader
from cola_jax.scoring.scorer import Scorer


class ScorerOptions(TypedDict, total=False):
    """Keywords of a scorer that is given by its name; a Scorer has its own.

    chat: whether prompts go through the tokenizer's chat template.
    format: how a question is put; `exact` and `generation` have question (the default,
      "Question: ..., Answer:"), prompt (the text alone), and direct (an answer in a box), `options`
      has plain (the default), short, bare and instruction, `letter` plain and harness.
    max_new_tokens: the most tokens that `generation` decodes; 50 by default.
    """

    chat: bool
    format: str
    max_new_tokens: int | None


def named_scorer(
    model: Model, name: str, questions: Sequence[Question], **options: Unpack[ScorerOptions]
) -> Scorer:
    """Make a scorer of questions by its name, with the model's own tokenizer and stop tokens.

    InputError for an unknown name, and for options that the scorer does not have.
    """
    make: Any = scorer_class(name)
    if model.checkpoint is None:
        raise InputError("this model was not loaded from a checkpoint with a tokenizer.")
    known = {"chat", "format"} | ({"max_new_tokens"} if make.decodes else set())
    if unknown := sorted(options.keys() - known):
        raise InputError(f"the scorer {name!r} has no {', '.join(unknown)}: leave it out.")
    settings: dict[str, Any] = {**options, "context": model.config.context}
    if make.open:
        format = ask_format(settings.pop("format", "question"))
        settings |= {"format": format, "stop_tokens": stop_tokens(model.checkpoint)}
    if make.decodes:
        golds = ((f"question {each.id}", each.gold) for each in questions if each.open)
        settings["grader"] = choose_grader(golds)
    return make(tokenizer_of(model.checkpoint), **settings)


def ask_format(name: str) -> Format:
    """Return the format of open questions of a name."""
    if name not in FREE_FORMATS:
        near = did_you_mean(str(name), FREE_FORMATS)
        raise InputError(f"format {shown(name)} is not one of {', '.join(FREE_FORMATS)}{near}.")
    return FREE_FORMATS[name]
