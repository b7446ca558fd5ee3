"""Questions that PoLar and Dr.LLM searched, as their files hold them, in and out.

The layouts are those of tianyi-lab/PoLar 30d0efd (`polar/data.py`) and parameterlab/dr-llm 14e8837
(`data_generation.py`, `train.py`); peers.md lists the differences from ours.
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
# of Dr.LLM, a list each
COLUMNS = (
    *("questions", "best_response", "best_path", "good_paths"),
    *("original_correct", "mcts_correct"),
)
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
        entries = list(drllm_samples(values))
    elif not ("samples" in values or any(isinstance(x, dict) and VALID in x for x in entries)):
        return None
    searched = [sample.searched() for sample in SAMPLES.validate_python(entries)]
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
    """Return where PoLar's loader looks, in order, then Dr.LLM's name; a dot is a mapping."""
    return AliasChoices(*(AliasPath(*name.split(".")) for name in names))


class StoredSample(BaseModel):
    """A question of PoLar, or of `drllm_samples`."""

    question: StrictStr = Field(validation_alias=places("question", "sample_info.question"))
    gold: Label = Field(
        validation_alias=places(
            *("gt_ans", "ground_truth", "answer", "sample_info.ground_truth", "sample_info.answer"),
            "best_response",
        )
    )
    score: Right | None = Field(
        None,
        validation_alias=places(
            *("initial_transition_metric", "initial_score", "evaluation_result.initial_score"),
            "original_correct",
        ),
    )
    valid: Transitions = Field(validation_alias=places(VALID, "good_paths"))
    invalid: Transitions = Field([], validation_alias=places(INVALID, "best_path"))

    def searched(self) -> Searched:
        """Return the question with each path once."""
        valid = dict.fromkeys(self.valid)
        wrong = tuple(path for path in dict.fromkeys(self.invalid) if path not in valid)
        right = None if self.score is None else bool(self.score)
        return Searched(self.question, str(self.gold), tuple(valid), wrong, right)


SAMPLES = TypeAdapter(list[StoredSample])


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


def drllm_samples(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the questions of a result file of Dr.LLM, laid out as samples.

    Entry i of each list is about question i. Its paths are lists of layer ids; the vectors of 0, 1
    and 2 of which its README speaks are made from `best_path` in training, as the number of runs of
    each layer. The only wrong path is the default one of a question that stayed wrong.
    """
    columns = [results[name] for name in COLUMNS]
    for name, column in zip(COLUMNS, columns, strict=True):
        if len(column) != (count := len(columns[0])):
            raise InputError(f"{name} has {len(column)} entries for {count} questions.")
    for question, gold, best, good, before, solved in zip(*columns, strict=True):
        if good and not solved:
            raise InputError(f"question {shown(question)} has good_paths, but mcts_correct is 0.")
        if isinstance(gold, dict):  # of SQuAD
            gold = [*gold["text"], UNANSWERABLE][0]
        yield {
            "question": question,
            "best_response": gold,
            "original_correct": before,
            "good_paths": [*good, best] if solved else [],
            "best_path": [] if solved else [best],
        }


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
