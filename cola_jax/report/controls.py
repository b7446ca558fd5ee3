"""What searches find beyond their control searches, and what holds when they ask again."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cola_jax.report.statistics import Net, Share, is_false, is_null, is_true, list_lengths

AGAIN = ["again", "baseline", "baseline_answer", "variant_answers", "gold", "best", "robust"]
AGAIN += ["controls"]  # the columns of questions that say what was asked again
NONE = -1  # no option


def compare_controls(questions: pa.Table, lengths: np.ndarray, num_layers: int) -> dict[str, Any]:
    """Computes the fields of a summary that compare searches with their controls.

    `lengths` [n] are the layers of each question's shortest correct path, L where there is none.
    """
    correct, wrong = is_true(questions["baseline"]), is_false(questions["baseline"])
    found = ~is_null(questions["best"])
    controls = count_controls(questions, num_layers)
    searched, closest = wrong & (controls.targets > 0), wrong & controls.has_closest
    retained = correct & (controls.targets > 0)
    return {
        "control": Share(int(controls.hits[searched].sum()), int(controls.targets[searched].sum())),
        "without_control": int(np.count_nonzero(wrong & (controls.targets == 0))),
        "net": Net.of_hits(found[searched], controls.hits[searched], controls.targets[searched]),
        "net_closest": Net.of_hits(
            found[closest], controls.closest[closest], np.ones(np.count_nonzero(closest))
        ),
        "net_saved": Net.of(
            np.maximum(num_layers - lengths[retained], 0), controls.saved[retained]
        ),
        "control_evaluations": controls.evaluations,
    }


@dataclasses.dataclass(frozen=True)
class AskedAgain:
    """What the paths that searches found answered in the other variants of their questions.

    Robust is what is right in all variants. A control target counts where the pretrained model
    gives it in none of them.
    """

    agreement: Share  # answers of the pretrained model in another variant: as in the first
    held: Share  # best paths of W→C that are right in all variants
    held_control: Share  # best paths of their control searches that give the target in all
    before: Share  # right in all variants before
    corrected: Share  # wrong in all variants before: right in all on one path
    net: Net  # of `corrected`, beyond the control searches
    shortened: Share  # right in all variants before: also on fewer layers
    net_saved: Net  # layers saved on those beyond the control searches


def summarise_again(questions: pa.Table, num_layers: int) -> AskedAgain | None:
    """Summarises what was asked again, over the questions whose baseline is graded."""
    asked = questions.filter(pc.field("again").is_valid() & pc.field("baseline").is_valid())
    rows = [
        AgainRow.of(row, num_layers)
        for batch in asked.select(AGAIN).to_batches()
        for row in batch.to_pylist()
    ]
    if not rows:
        return None
    wrong = [row for row in rows if row.before == "wrong"]
    right = [row for row in rows if row.before == "right"]
    compared, kept = ([row for row in some if row.controls] for some in (wrong, right))
    hits = [sum(saved is not None for saved in row.controls) for row in compared]
    return AskedAgain(
        agreement=Share.of(np.array([same for row in rows for same in row.agrees], bool)),
        held=Share.of(np.array([row.held for row in rows if row.held is not None], bool)),
        held_control=Share.of(np.array([h for row in rows for h in row.controls_held], bool)),
        before=Share(len(right), len(rows)),
        corrected=Share.of(np.array([row.saved is not None for row in wrong], bool)),
        net=Net.of_hits(
            np.array([row.saved is not None for row in compared], bool),
            np.array(hits),
            np.array([len(row.controls) for row in compared]),
        ),
        shortened=Share.of(np.array([(row.saved or 0) > 0 for row in right], bool)),
        net_saved=Net.of(
            np.array([max(0, row.saved or 0) for row in kept]),
            np.array([np.mean([max(0, saved or 0) for saved in row.controls]) for row in kept]),
        ),
    )


class AgainRow(NamedTuple):
    """What was asked again of one question; layers saved are None where no path is robust."""

    before: str  # right or wrong in all variants, or mixed
    agrees: list[bool]  # the pretrained model's answers in the other variants: as in the first
    held: bool | None  # of W→C: whether the best path is right in all variants
    controls_held: list[bool]  # the same of each control search that found a path
    saved: int | None  # by the shortest robust path
    controls: list[int | None]  # the same of each control that the model gives in no variant

    @classmethod
    def of(cls, row: dict[str, Any], num_layers: int) -> "AgainRow":
        """Reads a question's row."""
        first, *others = row["baseline_answer"], *row["variant_answers"]
        plain = [first == row["gold"], *row["again"][0]["holds"]]
        wrong = not row["baseline"]

        def saved(one: dict[str, Any]) -> int | None:
            return None if one["robust"] is None else num_layers - len(one["robust"])

        def held(one: dict[str, Any]) -> list[bool]:
            again = [asked for asked in one["again"] if asked["path"] == one["best"]]
            return [all(asked["holds"]) for asked in again[:1]]

        return cls(
            before="right" if all(plain) else "mixed" if any(plain) else "wrong",
            agrees=[answer == first for answer in others],
            held=next(iter(held(row)), None) if wrong else None,
            controls_held=[h for one in row["controls"] for h in held(one)] if wrong else [],
            saved=saved(row),
            controls=[
                saved(one) for one in row["controls"] if one["target"] not in row["variant_answers"]
            ],
        )


class Controls(NamedTuple):
    """The control searches of n questions."""

    targets: np.ndarray  # [n], wrong answers searched for
    hits: np.ndarray  # [n], of them: reached
    saved: np.ndarray  # [n], layers saved by the shortest path to them, mean
    has_closest: np.ndarray  # [n], whether the one that the model scores as gold is among them
    closest: np.ndarray  # [n], whether that one was reached
    evaluations: int  # that no other search of a question had made


def count_controls(questions: pa.Table, num_layers: int) -> Controls:
    """Counts what the control searches of each question reached."""
    question, searches = control_searches(questions)
    found = ~is_null(searches["best"])
    saved = np.where(found, np.maximum(num_layers - list_lengths(searches["best"]), 0), 0)
    nearest = questions["closest"].fill_null(NONE).to_numpy()[question]
    near = searches["target"].to_numpy() == nearest

    def count(some: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(some, weights, minlength=questions.num_rows)

    targets = count(question)
    new = searches["evaluations"].to_numpy() - searches["shared"].to_numpy()
    with np.errstate(invalid="ignore"):  # NaN for a question without a search
        mean_saved = count(question, saved) / targets
    return Controls(
        targets=targets,
        hits=count(question[found]),
        saved=mean_saved,
        has_closest=count(question[near]) > 0,
        closest=count(question[near & found]) > 0,
        evaluations=int(new.sum()),
    )


def control_searches(questions: pa.Table) -> tuple[np.ndarray, pa.Table]:
    """Returns the control searches of all questions, and the question [S] of each."""
    lists = questions["controls"].combine_chunks()
    question = np.repeat(np.arange(len(lists)), list_lengths(questions["controls"]))
    return question, pa.Table.from_struct_array(lists.flatten())
