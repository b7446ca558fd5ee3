"""The scorer of a task: which one asks its questions, with what shots, and what is recorded."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cola_jax.errors import InputError
from cola_jax.question import Question
from cola_jax.scoring import Generation, Options, Scorer, scorer_class, scorer_names
from cola_jax.scoring.answer import check_rule
from cola_jax.scoring.encode import TEMPLATE_ARGUMENTS
from cola_jax.scoring.filtered import FilteredGeneration
from cola_jax.tasks import harness_names
from cola_jax.tasks.answerable import check_answerable
from cola_jax.tasks.formats import Format, format_of
from cola_jax.tasks.harness_grader import load_grader
from cola_jax.tasks.kinds import CHOICE, DEFAULTS, HARNESS, HARNESS_OPEN, OWN, USUAL
from cola_jax.tasks.shots import SOURCE, Shots, load_shots

if TYPE_CHECKING:
    from cola_jax.tasks.task import TaskConfig

Asked = Sequence[Sequence[Question]]  # the questions of each source, in order
Made = tuple[Scorer, dict[str, Any]]  # a scorer, and what is recorded of it


def make_scorer(
    config: "TaskConfig", kind: str, tokenizer: Any, asked: Asked, common: dict[str, Any]
) -> Made:
    """Makes the scorer of a kind of questions; `common` goes to any scorer.

    Raises ValueError for settings that do not fit the task, and for too few shots.
    """
    common = common | {"chat": config.chat}
    if kind in (HARNESS, HARNESS_OPEN):
        return harness_scorer(config, kind, tokenizer, common)
    if kind in CHOICE:
        return choice_scorer(config, kind, tokenizer, asked, common)
    return open_scorer(config, kind, tokenizer, asked, common)


def harness_scorer(config: "TaskConfig", kind: str, tokenizer: Any, common: dict[str, Any]) -> Made:
    """Makes the scorer of a task of lm-evaluation-harness, whose prompts are ready."""
    fitting = "generation" if kind == HARNESS_OPEN else "options or options-norm"
    scorer = choose_scorer(config, fitting.split()[0], open=kind == HARNESS_OPEN)
    own = config.chat or config.format or config.shots_file or config.shots_seed
    if own or scorer.name not in fitting.split():
        raise InputError(
            f"the prompts of {config.task} are lm-evaluation-harness's own: leave out --chat, "
            f"--format, --shots-file and --shots-seed, and use the scorer {fitting}."
        )
    prompt = {"format": "lm-evaluation-harness", "shots": [], "num_fewshot": config.shots}
    record: dict[str, Any] = {"scorer": scorer.name, "chat": None, "prompt": prompt}
    if kind == HARNESS:
        refuse_decoding(config)
        return scorer(tokenizer, **common), record
    grader = load_grader(harness_names.find(config.task) or config.task, config.hub, config.rule)
    limit = {"max_new_tokens": config.max_new_tokens}
    made = FilteredGeneration(tokenizer, grader, **limit, **common)
    prompt["stop"] = list(made.stop.strings)
    prompt["stop_tokens"] = list(made.stop.tokens)
    return made, record | made.record()


def choice_scorer(
    config: "TaskConfig", kind: str, tokenizer: Any, asked: Asked, common: dict[str, Any]
) -> Made:
    """Makes the scorer of multiple choice.

    MMLU is asked as lm-evaluation-harness asks it, unless a scorer or a format is given.
    """
    usual_scorer, usual_format = DEFAULTS.get(kind, USUAL)
    scorer = choose_scorer(config, usual_scorer, open=False)
    refuse_decoding(config)
    style = config.format or (usual_format if usual_format in scorer.formats else "plain")
    if style not in scorer.formats:
        raise InputError(
            f"the scorer {scorer.name!r} has the formats {', '.join(scorer.formats)}, not "
            f"{style!r}: use another scorer or format."
        )
    record: dict[str, Any] = {"scorer": scorer.name, **chat_record(config)}
    shots = shots_of_task(config, 0, asked)
    if style == "plain" and shots and not issubclass(scorer, Options):
        raise InputError(
            f"the plain prompt of the scorer {scorer.name!r} shows no shots: use the format "
            "`harness`, the scorer `options`, or 0 shots."
        )
    if style != "plain" or shots:
        record["prompt"] = {"format": style, **shots.record(first_asked(asked))}
        common = common | {"shots": shots}
    if style != "plain":
        common = common | {"harness": True}
    return scorer(tokenizer, **common), record


def open_scorer(
    config: "TaskConfig", kind: str, tokenizer: Any, asked: Asked, common: dict[str, Any]
) -> Made:
    """Makes the scorer of open questions."""
    format = format_of(kind, config.format)
    # the ways to give an answer are many where the format does not fix how it ends
    many = format.shows_work or kind in OWN
    scorer = choose_scorer(config, "generation" if many else "exact", open=True)
    if config.rule is not None:
        format = dataclasses.replace(format, extract=check_rule(config.rule))
    shots = shots_of_task(config, format.shots, asked)
    if scorer.decodes:
        common = common | {"max_new_tokens": config.max_new_tokens}
    else:
        refuse_decoding(config)
    make: Any = scorer
    made = make(tokenizer, format, shots=shots, **common)
    if kind in OWN and isinstance(made, Generation):
        check_answerable([question for source in asked for question in source], made, tokenizer)
    record = {"scorer": scorer.name, **chat_record(config)}
    record["prompt"] = open_prompt(format, shots, asked, common["stop_tokens"])
    return made, record | made.record()


def open_prompt(
    format: Format, shots: Shots, asked: Asked, stop_tokens: Sequence[int]
) -> dict[str, Any]:
    """Returns what is recorded of the prompts of open questions."""
    stated = dataclasses.asdict(format) | {"shots": len(shots), "stop": list(format.stop)}
    stop = {"stop_tokens": [int(token) for token in stop_tokens]}
    return {"format": stated, **shots.record(first_asked(asked)), **stop}


def choose_scorer(config: "TaskConfig", default: str, *, open: bool) -> type[Scorer]:
    """Returns the scorer asked for; ValueError for one of the other sort of questions."""
    scorer = scorer_class(config.scorer or default)
    if scorer.open != open:
        fitting = ", ".join(scorer_names(open=open))
        asks = "asks open questions" if open else "is multiple choice"
        raise InputError(
            f"{config.task} {asks}, which the scorer {scorer.name!r} is not for: use {fitting}."
        )
    return scorer


def refuse_decoding(config: "TaskConfig") -> None:
    """Raises ValueError for settings that only a scorer that decodes uses."""
    for name in ("max_new_tokens", "rule"):
        if getattr(config, name) is not None:
            raise InputError(f"{name} is a setting of the scorer `generation`: leave it out.")


def chat_record(config: "TaskConfig") -> dict[str, Any]:
    """Returns what is recorded about the chat template."""
    return {"chat": dict(TEMPLATE_ARGUMENTS) if config.chat else None}


def first_asked(asked: Asked) -> Question:
    """Returns the first question, whose shots do not depend on how many others are asked."""
    return next(question for questions in asked for question in questions)


def shots_of_task(config: "TaskConfig", default: int, asked: Asked) -> Shots:
    """Loads the questions shown before each."""
    return load_shots(
        config.task,
        default if config.shots is None else config.shots,
        shots_file=config.shots_file,
        asked=asked,
        level=config.level,
        subject=config.subject,
        hub=None if config.task in SOURCE else config.hub,
        seed=config.shots_seed,
    )
