"""`Summary` of a search run, and the results of each path of an evaluation run."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cola_jax.errors import InputError, shown
from cola_jax.report.columns import (
    TreeShape,
    count_distinct,
    is_false,
    is_null,
    is_true,
    list_lengths,
    tree_shape,
)
from cola_jax.report.controls import COLUMNS as ASKED
from cola_jax.report.controls import ONCE, ROBUST, AskedAgain, Ways, compare_controls
from cola_jax.report.controls import control_evaluations as evaluations_of_controls
from cola_jax.report.kept import Kept
from cola_jax.report.layers import CORRECTED, RETAINED, Depth, LayerUse, Reach, summarise_layers
from cola_jax.report.preference import Excess, Net, Preference
from cola_jax.runs.parts import join
from cola_jax.runs.run import PartFiles, Run
from cola_jax.scoring.statistics import Share, holm, mean

# The columns of questions that a summary is made of
COLUMNS = [*ASKED, "metadata", "evaluations", "confirmed", "answers"]


class LevelSummary(NamedTuple):
    """Results on the questions of one level."""

    name: str  # of the metadata, such as math_level
    value: str
    before: Share
    after: Share


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """The results of a search on the questions done so far; a mean of nothing is NaN.

    Questions whose baseline is ungraded are excluded from all shares of questions but `confirmed`.
    """

    directory: str
    open: bool  # questions without options offered
    decodes: bool  # answers were decoded
    done: int  # questions
    excluded: int  # of them: those whose baseline is ungraded
    planned: int
    num_layers: int  # L, the length of the identity path

    before: Share  # correct on the identity path
    after: Share  # correct on some path
    shortened: Share  # of those correct before: correct on fewer layers too
    corrected: Share  # of those wrong before (in all variants, of a search in all): W→C
    # The control: searches of the same questions for wrong answers other than the model's own.
    control: Share  # of those searches on the questions wrong before: reached their target
    without_control: int  # of the questions wrong before: have no wrong answer to search for
    unscored: int  # of those that have: without finite scores of the pretrained model
    preference: Preference | None  # of the model for gold among the targets; None for open ones
    # W→C beyond the control searches and that preference, by what counts as right: `once`, where
    # other variants were asked `asked again` (the best path in all) and `robust` (any path in all)
    nets: dict[str, Net]
    curves: dict[str, Excess]  # the same by how far targets are from the model's answer
    kept: dict[str, Kept]  # layers saved on right and on wrong answers that are kept
    confirmed: Share  # of the shortest correct paths: correct in float32, or decoded the same there
    levels: tuple[LevelSummary, ...]  # of all metadata that take more than one level

    again: AskedAgain | None  # None where no other variant was asked

    length: float  # of the shortest correct path, L where there is none

    evaluations: int  # of the searches for gold
    control_evaluations: int  # beyond those, of the control searches
    answers: float  # distinct options answered per question, or distinct answers decoded
    options: float  # options offered per question
    ungraded: Share  # evaluations on which the grader failed
    not_finite: Share
    completions: int  # decoded, those of control searches too
    truncated: Share  # evaluations ended by the token limit; 0 of 0 where nothing is decoded
    tokens: float  # decoded per evaluation
    duplicates: Share  # evaluations of a path that its question already had
    tree: TreeShape

    # Histograms, index is the length of a path
    best_lengths: dict[str, np.ndarray]  # by group
    correct_lengths: np.ndarray  # of all correct evaluations

    layers: dict[str, LayerUse]  # by group, control searches and all evaluations among them
    depths: dict[str, Depth]  # of the shortest correct paths, by group
    reach: dict[str, Reach]  # by group
    shortest: tuple[Depth, ...]  # of the shortest 5, 10, 20 and 100 % of all correct evaluations
    shortest_control: tuple[Depth, ...]  # of those of control searches, kept answers included
    unchanged: Share  # of all questions: correct before, and on no fewer layers
    unsolved: Share  # of all questions: correct on no path

    @property
    def net(self) -> Net:
        """W→C beyond its control; of a search in all variants at once, of what is right in all."""
        return self.nets[ONCE if ONCE in self.nets else ROBUST]

    @property
    def p_values(self) -> dict[str, tuple[float, float]]:
        """P-values of `nets` by name and of `kept` by `kept NAME`, as such and after Holm."""
        values = {name: math.nan if net.undecided else net.p for name, net in self.nets.items()}
        values |= {f"kept {name}": kept.p for name, kept in self.kept.items()}
        corrected = holm(list(values.values()))
        return {name: (values[name], p) for name, p in zip(values, corrected, strict=True)}

    @property
    def answer_noun(self) -> str:
        """What the questions' answers are called."""
        return "answer" if self.open else "option"

    @property
    def per_question(self) -> float:
        """Evaluations per question."""
        return self.evaluations / self.done


def summarise(run: Run, preference: Preference | None = None) -> Summary:
    """Summarises the results of a search run so far.

    Raises ValueError for a run that is not a search or has no question done yet.

    Args:
      run: the directory of a search.
      preference: of another run of the model; by default fitted to this one.
    """
    manifest = run.manifest()
    check_search(run, manifest["settings"])
    num_layers = manifest["starts"][-1]["num_layers"]
    questions = run.questions(COLUMNS)
    if not questions.num_rows:
        raise InputError(f"{run.directory} has no question done yet: let the search run first.")
    tree = ["question", "path", "length", "verdict", "finite", "node", "parent"]
    rows = read_evaluations(run, [*tree, "answer_text", "truncated", "control"])
    completions = rows.num_rows - rows["truncated"].null_count
    layers = summarise_layers(questions, rows, num_layers)
    rows = rows.filter(pa.array(~is_true(rows["control"])))
    decodes = scorer_flag(manifest, "decodes")
    results = summarise_questions(questions, num_layers) | layers
    results |= compare_controls(ways_of(run, questions), num_layers, preference)
    return Summary(
        directory=str(run.directory),
        open=scorer_flag(manifest, "open"),
        decodes=decodes,
        done=questions.num_rows,
        planned=manifest["settings"]["questions"],
        num_layers=num_layers,
        completions=completions,
        answers=distinct_answers(questions, rows, decodes),
        control_evaluations=evaluations_of_controls(questions),
        **results,
        **summarise_evaluations(rows),
    )


def ways_of(run: Run, questions: pa.Table | None = None) -> Ways:
    """Reads what the searches of a run reached, from its questions if they are at hand."""
    manifest = run.manifest()
    questions = run.questions(ASKED) if questions is None else questions
    robust = bool(manifest["settings"].get("robust"))
    return Ways.of(questions, open=scorer_flag(manifest, "open"), robust=robust)


def scorer_flag(manifest: dict[str, Any], name: str) -> bool:
    """Returns a flag of the scorer (`open`, `decodes`), False where it was not recorded."""
    return bool((manifest["starts"][-1].get("scorer") or {}).get(name))


def check_search(run: Run, settings: dict[str, Any]) -> None:
    """Raises ValueError for a run that is not a search."""
    command = settings.get("command")
    if command == "evaluate":
        raise InputError(
            f"{run.directory} holds an evaluation of given paths, not a search: use paths_table "
            "for it, or give a directory that `cola search` made."
        )
    if command != "search":
        raise InputError(
            f"{run.directory} was made by {shown(command)}, not by a search: give a directory that "
            "`cola search` made."
        )


def read_evaluations(run: Run, columns: Sequence[str]) -> pa.Table:
    """Reads columns of the evaluations, with `num_tokens`, the number of tokens decoded.

    Reads one part at a time, as the token ids of a whole run may exceed the memory.
    """

    def counted(parts: list[PartFiles]) -> pa.Table:
        part = run.evaluations([*columns, "tokens"], parts)
        counts = pc.call_function("list_value_length", [part["tokens"]])
        return part.drop_columns("tokens").append_column("num_tokens", counts)

    return join([counted([])], (counted([part]) for part in run.parts()))


def summarise_questions(questions: pa.Table, num_layers: int) -> dict[str, Any]:
    """Computes the fields that depend on the questions' rows alone."""
    correct, wrong = is_true(questions["baseline"]), is_false(questions["baseline"])
    graded = correct | wrong
    best = questions["best"]
    found = ~is_null(best)
    lengths = np.where(found, list_lengths(best), num_layers)
    groups = {RETAINED: correct & found, CORRECTED: wrong & found}
    return {
        "excluded": int(np.count_nonzero(~graded)),
        "before": Share.of(correct[graded]),
        "after": Share.of(found[graded]),
        "shortened": Share.of(lengths[correct] < num_layers),
        "corrected": Share.of(found[wrong]),
        "confirmed": Share.of(is_true(questions["confirmed"].drop_null())),
        "levels": tuple(count_levels(questions["metadata"], correct, found, graded)),
        "length": mean(lengths[graded]),
        "options": mean(list_lengths(questions["options"])),
        "best_lengths": {name: np.bincount(lengths[mask]) for name, mask in groups.items()},
        "unchanged": Share.of((correct & (lengths >= num_layers))[graded]),
        "unsolved": Share.of(~found[graded]),
    }


def count_levels(
    metadata: pa.ChunkedArray, correct: np.ndarray, found: np.ndarray, graded: np.ndarray
) -> Iterator[LevelSummary]:
    """Counts the questions of each level, for all metadata that take more than one level."""
    rows = [{one["name"]: one["value"] for one in row or ()} for row in metadata.to_pylist()]
    for name in sorted({name for row in rows for name in row if name.endswith("_level")}):
        levels = [row.get(name) for row in rows]
        present = {level for level in levels if level is not None}
        if len(present) < 2:
            continue
        for level in sorted(present, key=lambda x: (float(x) if x.isdecimal() else math.inf, x)):
            mask = graded & np.array([x == level for x in levels])
            yield LevelSummary(name, level, Share.of(correct[mask]), Share.of(found[mask]))


def summarise_evaluations(rows: pa.Table) -> dict[str, Any]:
    """Computes the fields that depend on the evaluations' rows alone."""
    question = rows["question"].combine_chunks().dictionary_encode().indices.to_numpy()
    parent = rows["parent"].fill_null(-1).to_numpy()
    distinct = count_distinct(rows["question"], rows["path"])
    return {
        "evaluations": rows.num_rows,
        "ungraded": Share.of(is_null(rows["verdict"])),
        "not_finite": Share.of(~is_true(rows["finite"])),
        "truncated": Share.of(is_true(rows["truncated"].drop_null())),
        "tokens": mean(rows["num_tokens"].drop_null().to_numpy()),
        "duplicates": Share(rows.num_rows - distinct, rows.num_rows),
        "tree": tree_shape(question, rows["node"].to_numpy(), parent),
        "correct_lengths": np.bincount(rows["length"].to_numpy()[is_true(rows["verdict"])]),
    }


def distinct_answers(questions: pa.Table, rows: pa.Table, decodes: bool) -> float:
    """Returns the mean number of distinct answers per question."""
    if not decodes:
        return mean(questions["answers"].drop_null().to_numpy())
    answers = rows.select(["question", "answer_text"]).filter(pc.field("answer_text").is_valid())
    distinct = answers.group_by(["question", "answer_text"]).aggregate([])
    return distinct.num_rows / questions.num_rows
