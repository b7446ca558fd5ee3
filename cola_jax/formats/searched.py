"""Questions that PoLar and Dr.LLM searched, as their files hold them, in and out.

The layouts are those of tianyi-lab/PoLar 30d0efd (`polar/data.py`) and parameterlab/dr-llm 14e8837
(`data_generation.py`, `train.py`); peers.md says what is lost between them and ours.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
)

from cola_jax.errors import InputError, reading, shown
from cola_jax.files import read_text
from cola_jax.path import validate

Layer = Annotated[int, Field(strict=True, ge=0)]
Path = Annotated[tuple[Layer, ...], Field(min_length=1)]
Label = StrictStr | StrictInt | StrictFloat
Right = Annotated[float, Field(ge=0, le=1), AfterValidator(lambda score: score == 1)]

VALID, INVALID = "final_valid_transitions", "final_invalid_transitions"
UNANSWERABLE = "unanswerable"  # gold of a question of SQuAD 2 without answers
MOST_RUNS = 2  # of a layer, in Dr.LLM's labels


@dataclasses.dataclass(frozen=True)
class Searched:
    """The results of a search for one question."""

    question: str
    gold: str  # its correct answer: a letter of the options in the question, or text
    correct_paths: tuple[tuple[int, ...], ...]
    wrong_paths: tuple[tuple[int, ...], ...]
    baseline_right: bool | None  # of the pretrained model; None where it is not known

    @property
    def paths(self) -> tuple[tuple[int, ...], ...]:
        """All paths, the correct ones first."""
        return self.correct_paths + self.wrong_paths


def read_searched(file: FilePath, num_layers: int | None = None) -> list[Searched]:
    """Read the questions of PoLar's samples or Dr.LLM's results.

    Args:
      file: its format is recognised by its content.
      num_layers: of the model that the paths are for, which must fit; None takes any.

    Raises:
      InputError: for other files, with the entry and the rule.
    """
    text = read_text(file)
    with reading(file):
        searched = json_searched(parse_json(text), num_layers)
        if searched is None:
            raise InputError("it is in neither of the formats of PoLar and Dr.LLM.")
        return searched


def parse_json(text: str) -> Any:
    """Parse JSON, which may have NaN, without the fields that are null."""

    def without_nulls(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in pairs if value is not None}

    return json.loads(text, object_pairs_hook=without_nulls)


def json_searched(content: Any, num_layers: int | None) -> list[Searched] | None:
    """Return the questions of JSON, whose paths fit the model; None for other content."""
    values = content if isinstance(content, dict) else {}
    samples = values.get("samples", content)
    entries = list(samples.values()) if isinstance(samples, dict) else samples
    if {"questions", "best_path"} <= values.keys():
        searched = list(drllm_questions(Results.model_validate(content)))
    elif "samples" in values or any(isinstance(x, dict) and VALID in x for x in entries):
        searched = [sample.searched() for sample in SAMPLES.validate_python(entries)]
    else:
        return None
    recorded = values.get("num_layers")
    check_same_model(recorded, num_layers)
    if (layers := num_layers if recorded is None else recorded) is not None:
        for number, question in enumerate(searched, start=1):
            with reading(f"question {number}"):
                for path in question.paths:
                    validate(path, layers)
    return searched


def check_same_model(recorded: Any, num_layers: int | None) -> None:
    """Raise InputError where a file is of a model of other layers."""
    if recorded is not None and num_layers is not None and recorded != num_layers:
        raise InputError(
            f"its paths are of a model of {shown(recorded)} layers, but the model has {num_layers}."
        )


def transition(value: Any) -> Any:
    """Return the path of `{"path": [...]}`."""
    return value["path"] if isinstance(value, dict) and "path" in value else value


Transitions = list[Annotated[Path, BeforeValidator(transition)]]


def places(*names: str) -> Any:
    """Return the places where PoLar's loader looks, in order; a dot is a mapping."""
    return AliasChoices(*(AliasPath(*name.split(".")) for name in names))


class Sample(BaseModel):
    """A question of PoLar."""

    question: StrictStr = Field(validation_alias=places("question", "sample_info.question"))
    gold: Label = Field(
        validation_alias=places(
            *("gt_ans", "ground_truth", "answer", "sample_info.ground_truth", "sample_info.answer")
        )
    )
    score: Right | None = Field(
        None,
        validation_alias=places(
            *("initial_transition_metric", "initial_score", "evaluation_result.initial_score")
        ),
    )
    valid: Transitions = Field(validation_alias=VALID)
    invalid: Transitions = Field([], validation_alias=INVALID)

    def searched(self) -> Searched:
        """Return the question with each path once."""
        valid = dict.fromkeys(self.valid)
        wrong = tuple(path for path in dict.fromkeys(self.invalid) if path not in valid)
        right = None if self.score is None else bool(self.score)
        return Searched(self.question, str(self.gold), tuple(valid), wrong, right)


SAMPLES = TypeAdapter(list[Sample])


def polar_samples(searched: Sequence[Searched], num_layers: int) -> dict[str, Any]:
    """Make the content of `merged_mcts_samples.json`, for a model of `num_layers` layers.

    A baseline that is not known is left out, which their loader takes for wrong.
    """
    samples = []
    for question in searched:
        right = question.baseline_right
        samples.append(
            {
                "question": question.question,
                "gt_ans": question.gold,
                **({} if right is None else {"initial_score": float(right)}),
                VALID: [list(path) for path in question.correct_paths],
                INVALID: [list(path) for path in question.wrong_paths],
            }
        )
    return {"num_layers": num_layers, "samples": samples}


def squad_gold(value: Any) -> Any:
    """Return the first of the answers of SQuAD, `{"text": [answers]}`."""
    if isinstance(value, dict) and isinstance(answers := value.get("text"), list):
        return answers[0] if answers else UNANSWERABLE
    return value


class Results(BaseModel):
    """A result file of Dr.LLM: entry i of each list is about question i.

    Its paths are lists of layer ids; the vectors of 0, 1 and 2 of which its README speaks are made
    from `best_path` in training, as the number of runs of each layer.
    """

    questions: list[StrictStr]
    best_response: list[Annotated[Label, BeforeValidator(squad_gold)]]
    best_path: list[Path]
    good_paths: list[list[Path]]
    original_correct: list[Right]
    mcts_correct: list[Right]


def drllm_questions(results: Results) -> Iterator[Searched]:
    """Yield the questions; the only wrong path is the default one of those that stayed wrong."""
    for name, column in results:
        if len(column) != (count := len(results.questions)):
            raise InputError(f"{name} has {len(column)} entries for {count} questions.")
    for question, gold, best, good, before, solved in zip(*dict(results).values(), strict=True):
        if good and not solved:
            raise InputError(f"question {shown(question)} has good_paths, but mcts_correct is 0.")
        correct = tuple(dict.fromkeys([*good, best])) if solved else ()
        yield Searched(question, str(gold), correct, () if solved else (best,), bool(before))


def drllm_results(
    searched: Sequence[Searched], num_layers: int, model_name: str, dataset: str, simulations: int
) -> dict[str, Any]:
    """Make the content of a result file, such as `data/train/arc_easy_results_DATE.json`.

    Only questions that its labels can express are written, as training takes the label for the
    result: those with a right path that keeps the order of layers and runs none of them more
    than twice. The shortest such path is the best one.

    Args:
      searched: the questions.
      num_layers: of the model.
      model_name: as `train.py --model_id` will name it; other files are passed over.
      dataset: the name of the task.
      simulations: evaluations per question.
    """
    kept = [(question, best) for question in searched if (best := best_path(question)) is not None]
    return {
        "model_name": model_name,
        "num_layers": num_layers,
        "dataset": dataset,
        "num_simulations": simulations,
        "original_correct": [int(bool(question.baseline_right)) for question, _ in kept],
        "mcts_correct": [1] * len(kept),
        "best_path": [list(best) for _, best in kept],
        "good_paths": [[list(path) for path in question.correct_paths] for question, _ in kept],
        "best_response": [question.gold for question, _ in kept],
        "questions": [question.question for question, _ in kept],
    }


def best_path(question: Searched) -> tuple[int, ...] | None:
    """Return the shortest right path that the labels skip, execute and repeat express.

    Of the same length, the one with fewer different layers, as Dr.LLM does.
    """
    paths = filter(is_label, question.correct_paths)
    return min(paths, key=lambda path: (len(path), len(set(path))), default=None)


def is_label(path: tuple[int, ...]) -> bool:
    """Say whether counting the runs of each layer loses nothing."""
    return list(path) == sorted(path) and max(map(path.count, path)) <= MOST_RUNS
