"""PoLar's `merged_mcts_samples.json`: questions with their valid and invalid paths.

The format is that of the README and `polar/data.py` of tianyi-lab/PoLar (commit 30d0efd): samples
with `question`, `gt_ans`, `initial_score`, `final_valid_transitions` and
`final_invalid_transitions`, under "samples", as a list, or as the values of a mapping.
"""

from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

from cola_jax.files import read_text
from cola_jax.formats.peers.document import Field, Path, check_count, parse_json
from cola_jax.formats.peers.searched import Searched, check_searched

VALID, INVALID = "final_valid_transitions", "final_invalid_transitions"
LAYERS = "num_layers"  # ours: readers of the format look at the samples alone

# Where their loader looks, in this order; a dot is a mapping in the sample.
QUESTION = ("question", "sample_info.question")
GOLD = ("gt_ans", "ground_truth", "answer", "sample_info.ground_truth", "sample_info.answer")
SCORE = ("initial_transition_metric", "initial_score", "evaluation_result.initial_score")


def polar_samples(searched: Sequence[Searched], num_layers: int) -> dict[str, Any]:
    """Makes the content of `merged_mcts_samples.json`, for a model of `num_layers` layers.

    A baseline that is not known is left out, which their loader takes for wrong.
    """
    return {LAYERS: num_layers, "samples": [sample(one) for one in searched]}


def sample(one: Searched) -> dict[str, Any]:
    """Makes one sample."""
    score = {} if one.baseline_right is None else {"initial_score": float(one.baseline_right)}
    return {
        "question": one.question,
        "gt_ans": one.gold,
        **score,
        VALID: [list(path) for path in one.correct_paths],
        INVALID: [list(path) for path in one.wrong_paths],
    }


def read_polar(file: FilePath, num_layers: int | None = None) -> list[Searched]:
    """Reads a file of samples; ValueError names what is wrong, and where.

    Args:
      num_layers: of the model that the paths are for, which must fit; None takes any.
    """
    return polar_searched(parse_json(file, read_text(file)), num_layers)


def polar_searched(content: Field, num_layers: int | None = None) -> list[Searched]:
    """Returns the questions of samples that were parsed."""
    fields, total = samples_of(content), 0
    for one in fields:
        total += sum(paths.size() for name in (VALID, INVALID) if (paths := one.get(name)))
        check_count(content.file, total)
    searched = [read_sample(one) for one in fields]
    recorded = content.get(LAYERS) if content.has("samples") else None
    check_searched(content.file, searched, recorded, num_layers)
    return searched


def samples_of(content: Field) -> list[Field]:
    """Returns the samples of any of the three layouts."""
    if content.has("samples"):
        content = content.child("samples")
    if isinstance(content.value, dict):
        return [content.child(name) for name in content.value]
    return list(content.items())


def is_polar(content: Field) -> bool:
    """Whether parsed JSON has PoLar's layout."""
    if content.has("samples"):
        return True
    values = content.value
    entries = list(values.values()) if isinstance(values, dict) else values
    return isinstance(entries, list) and any(isinstance(e, dict) and VALID in e for e in entries)


def read_sample(field: Field) -> Searched:
    """Reads one sample."""
    correct = read_transitions(field.require(VALID))
    invalid = field.get(INVALID)
    known = set(correct)
    score = first_of(field, SCORE)
    return Searched(
        question=needed(field, QUESTION).text(),
        gold=needed(field, GOLD).label(),
        correct_paths=tuple(correct),
        wrong_paths=tuple(
            path for path in (read_transitions(invalid) if invalid else ()) if path not in known
        ),
        baseline_right=None if score is None else score.right(),
    )


def read_transitions(field: Field) -> list[Path]:
    """Reads a list of paths, each once; a path may also be `{"path": [...]}`."""
    entries = (one.require("path") if one.has("path") else one for one in field.items())
    return list(dict.fromkeys(entry.path() for entry in entries))


def needed(field: Field, places: Sequence[str]) -> Field:
    """Returns the first value that a sample has of several places; ValueError for none."""
    found = first_of(field, places)
    if found is None:
        raise field.error(f"it has no {places[0]!r}.")
    return found


def first_of(field: Field, places: Sequence[str]) -> Field | None:
    """Returns the first value that a sample has of several places."""
    for place in places:
        found: Field | None = field
        for name in place.split("."):
            found = None if found is None else found.get(name)
        if found is not None:
            return found
    return None
