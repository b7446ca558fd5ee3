"""Dr.LLM's result JSON: parallel lists of questions, their right paths and their best path.

The format is what `data_generation.py` of parameterlab/dr-llm (commit 14e8837) writes and
`train.py` reads. Its paths are lists of layer ids; the vectors of 0, 1 and 2 of which its README
speaks are made from `best_path` in training, as the number of runs of each layer.
"""

from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

from cola_jax.files import read_text
from cola_jax.formats.peers.document import Field, Path, check_count, parse_json
from cola_jax.formats.peers.searched import Searched, check_searched, shortest_first

# The lists read; entry i of each is about question i.
LISTS = (
    *("questions", "best_response", "best_path", "good_paths"),
    *("original_correct", "mcts_correct"),
)
LAYERS = "num_layers"  # ours: its readers pick the fields that they know
RUNS = 2  # of a layer at most, in its labels
UNANSWERABLE = "unanswerable"  # gold of a question of SQuAD 2 without answers


def drllm_results(
    searched: Sequence[Searched], num_layers: int, model_name: str, dataset: str, simulations: int
) -> dict[str, Any]:
    """Makes the content of a result file, such as `data/train/arc_easy_results_DATE.json`.

    Only questions that its labels can express are written, as training takes the label for what
    was found: those with a right path that keeps the order of layers and runs none of them more
    than twice. The shortest such path is the best one.

    Args:
      num_layers: of the model.
      model_name: as `train.py --model_id` will name it; other files are passed over.
      dataset: the name of the task.
      simulations: evaluations per question.
    """
    kept = [(one, best) for one in searched if (best := best_path(one)) is not None]
    before = [int(bool(one.baseline_right)) for one, _ in kept]
    lengths = [len(best) for _, best in kept]
    unique = [len(set(best)) for _, best in kept]
    return {
        "exp": "cola-jax",
        "model_name": model_name,
        LAYERS: num_layers,
        "dataset": dataset,
        "num_simulations": simulations,
        "num_samples": len(kept),
        "visited_samples": len(searched),
        "original_accuracy": 100 * mean(before),
        "mcts_accuracy": 100 * mean([1] * len(kept)),
        "improved_cases_accuracy": 100 * mean([1 - right for right in before]),
        "average_path_length": mean(lengths),
        "average_unique_layers": mean(unique),
        "original_correct": before,
        "mcts_correct": [1] * len(kept),
        "improved_cases": [not right for right in before],
        "path_lengths": lengths,
        "unique_layers": unique,
        "best_path": [list(best) for _, best in kept],
        "good_paths": [[list(path) for path in one.correct_paths] for one, _ in kept],
        "best_response": [one.gold for one, _ in kept],
        "questions": [one.question for one, _ in kept],
    }


def mean(values: Sequence[int]) -> float:
    """Returns the mean, 0 of nothing."""
    return sum(values) / max(1, len(values))


def best_path(one: Searched) -> Path | None:
    """Returns the shortest right path that the labels skip, execute and repeat express."""
    paths = shortest_first(filter(is_label, one.correct_paths))
    return paths[0] if paths else None


def is_label(path: Path) -> bool:
    """Whether counting the runs of each layer loses nothing: in order, none more than twice."""
    return list(path) == sorted(path) and max(map(path.count, path)) <= RUNS


def is_drllm(content: Field) -> bool:
    """Whether parsed JSON has Dr.LLM's layout."""
    return content.has("questions") and content.has("best_path")


def read_drllm(file: FilePath, num_layers: int | None = None) -> list[Searched]:
    """Reads a result file; ValueError names what is wrong, and where.

    Its files hold no wrong paths, but for the default path of a question that stayed wrong.

    Args:
      num_layers: of the model that the paths are for, which must fit; None takes any.
    """
    return drllm_searched(parse_json(file, read_text(file)), num_layers)


def drllm_searched(content: Field, num_layers: int | None = None) -> list[Searched]:
    """Returns the questions of results that were parsed."""
    columns = [content.require(name) for name in LISTS]
    count = columns[0].size()
    for column in columns:
        if column.size() != count:
            raise column.error(f"it has {column.size()} entries for {count} questions.")
    check_count(content.file, sum(paths.size() for paths in content.child("good_paths").items()))
    searched = [read_question(row) for row in zip(*(c.items() for c in columns), strict=True)]
    check_searched(content.file, searched, content.get(LAYERS), num_layers)
    return searched


def read_question(row: Sequence[Field]) -> Searched:
    """Reads what the lists hold of one question."""
    question, gold, best, good, before, after = row
    correct, solved = good.paths(), after.right()
    if solved:
        correct = list(dict.fromkeys([*correct, best.path()]))
    elif correct:
        raise after.error("the question has good paths all the same.")
    return Searched(
        question=question.text(),
        gold=read_gold(gold),
        correct_paths=tuple(correct),
        wrong_paths=() if solved else (best.path(),),
        baseline_right=before.right(),
    )


def read_gold(field: Field) -> str:
    """Reads a gold answer; that of SQuAD is `{"text": [answers]}`."""
    answers = field.get("text") if isinstance(field.value, dict) else None
    if answers is None:
        return field.label()
    return answers.child(0).label() if answers.size() else UNANSWERABLE
