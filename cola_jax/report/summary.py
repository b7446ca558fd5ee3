"""`Summary`: the numbers of a search run."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cola_jax.errors import InputError
from cola_jax.layer_costs import LayerCosts
from cola_jax.report.controls import COLUMNS as CONTROL_COLUMNS
from cola_jax.report.controls import (
    ONCE,
    ROBUST,
    AskedAgain,
    Ways,
    check_search,
    compare_controls,
    scorer_flag,
)
from cola_jax.report.layers import (
    Depth,
    LayerUse,
    Reach,
    control_searches,
    is_false,
    is_null,
    is_true,
    list_lengths,
    summarise_layers,
)
from cola_jax.runs.run import Run
from cola_jax.runs.schema import EVALUATIONS, join
from cola_jax.scoring.preference import Kept, Net, Preference
from cola_jax.scoring.statistics import Share, holm, mean

COLUMNS = [*CONTROL_COLUMNS, "confirmed"]  # of questions


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """The results of a search on the questions done so far; a mean of nothing is NaN.

    Questions whose baseline is ungraded are excluded from all shares of questions but `confirmed`.
    """

    directory: str
    open: bool  # questions without options offered
    decodes: bool  # answers were decoded
    dtype: str | None  # that the search computed in
    done: int  # questions
    excluded: int  # of them: those whose baseline is ungraded
    planned: int
    num_layers: int  # L, the length of the identity path

    before: Share  # correct on the identity path
    after: Share  # correct on some path
    shortened: Share  # of those correct before: correct on a shorter path too
    corrected: Share  # of those wrong before (in all variants, of a search in all): W→C
    unchanged: Share  # of all questions: correct before, and on no shorter path
    unsolved: Share  # of all questions: correct on no path
    # The control: searches of the same questions for wrong answers other than the model's own.
    control: Share  # of those searches on the questions wrong before: reached their target
    without_control: int  # of the questions wrong before: have no wrong answer to search for
    unscored: int  # of those that have: without finite scores of the pretrained model
    preference: Preference | None  # of the model for gold among the targets; None for open ones
    # W→C beyond the control searches and that preference, by what counts as right: `once`, where
    # other variants were asked `asked again` (the best path in all) and `robust` (any path in all)
    nets: dict[str, Net]
    kept: dict[str, Kept]  # layers saved on right and on wrong answers that are kept
    confirmed: Share  # of the shortest correct paths: correct in float32, or decoded the same there
    again: AskedAgain | None  # None where no other variant was asked
    length: float  # of the shortest correct path, L where there is none
    cost: float | None  # of the same paths, mean milliseconds; None where layers have no costs
    model_cost: float  # of the identity path

    evaluations: int  # of the searches for gold
    control_evaluations: int  # beyond those, of the control searches
    broken: Share  # of the edited paths tried on questions correct before: wrong
    fixed: Share  # of the edited paths tried on questions wrong before: correct
    ungraded: Share  # evaluations on which the grader failed
    not_finite: Share
    truncated: Share  # evaluations ended by the token limit; 0 of 0 where nothing is decoded
    tokens: float  # decoded per evaluation

    layers: dict[str, LayerUse]  # by group, control searches and all paths tried among them
    depths: dict[str, Depth]  # of the shortest correct paths, by group
    reach: dict[str, Reach]  # by group

    @property
    def counted(self) -> str:
        """The way of counting of `net`: once, or robust for a search in all variants at once."""
        return ONCE if ONCE in self.nets else ROBUST

    @property
    def net(self) -> Net:
        """W→C beyond its control; of a search in all variants at once, right in all."""
        return self.nets[self.counted]

    @property
    def p_values(self) -> dict[str, tuple[float, float]]:
        """P-values of `nets` by name and of `kept` by `kept NAME`, as such and after Holm."""
        values = {name: math.nan if net.undecided else net.p for name, net in self.nets.items()}
        values |= {f"kept {name}": kept.p for name, kept in self.kept.items()}
        corrected = holm(list(values.values()))
        return {name: (values[name], p) for name, p in zip(values, corrected, strict=True)}

    @property
    def answer_noun(self) -> str:
        """The name of the questions' answers: options, where they are offered."""
        return "answer" if self.open else "option"


def summarise(run: Run, preference: Preference | None = None) -> Summary:
    """Summarise the results of a search run so far.

    The preference is of another run of the model; by default fitted to this one. Raises InputError
    for a run that is not a search or has no question done yet.
    """
    check_search(run)
    manifest = run.manifest()
    num_layers = manifest["starts"][-1]["num_layers"]
    questions = run.questions(COLUMNS)
    if not questions.num_rows:
        raise InputError(f"{run.directory} has no question done yet: let the search run first.")
    columns = ["question", "path", "verdict", "finite", "node", "truncated", "control"]
    rows = read_evaluations(run, columns)
    gold = rows.filter(pa.array(~is_true(rows["control"])))
    _, controls = control_searches(questions)
    costs = LayerCosts(num_layers, manifest["settings"].get("layer_costs"))
    fields = summarise_questions(questions, num_layers) | summarise_cost(questions, costs)
    fields |= compare_controls(Ways.of(run, questions), num_layers, preference)
    return Summary(
        directory=str(run.directory),
        open=scorer_flag(manifest, "open"),
        decodes=scorer_flag(manifest, "decodes"),
        dtype=manifest["settings"].get("dtype"),
        done=questions.num_rows,
        planned=manifest["settings"]["questions"],
        num_layers=num_layers,
        # evaluations that no other search of a question had made
        control_evaluations=sum(controls["evaluations"].to_pylist())
        - sum(controls["shared"].to_pylist()),
        **fields,
        **summarise_evaluations(questions, gold),
        **summarise_layers(questions, gold["path"], num_layers),
    )


def read_evaluations(run: Run, columns: Sequence[str]) -> pa.Table:
    """Read columns of the evaluations, with `num_tokens`, the number of tokens decoded.

    Reads one part at a time, as the token ids of a whole run may exceed the memory.
    """

    def counted(part: pa.Table) -> pa.Table:
        counts = pc.call_function("list_value_length", [part["tokens"]])
        return part.drop_columns("tokens").append_column("num_tokens", counts)

    names = [*columns, "tokens"]
    empty = EVALUATIONS.empty_table().select(names)
    return join([counted(empty)], map(counted, run.tables("evaluations", names)))


def index_in(names: pa.ChunkedArray, among: pa.ChunkedArray) -> np.ndarray:
    """Return the place of each name among others, -1 where it is none of them."""
    others = pc.SetLookupOptions(among.combine_chunks())
    return pc.call_function("index_in", [names], others).fill_null(-1).to_numpy()


def summarise_questions(questions: pa.Table, num_layers: int) -> dict[str, Any]:
    """Compute the fields that depend on the questions' rows alone."""
    correct, wrong = is_true(questions["baseline"]), is_false(questions["baseline"])
    graded, solved = correct | wrong, ~is_null(questions["best"])
    lengths = np.where(solved, list_lengths(questions["best"]), num_layers)
    return {
        "excluded": int(np.count_nonzero(~graded)),
        "before": Share.of(correct[graded]),
        "after": Share.of(solved[graded]),
        "shortened": Share.of(lengths[correct] < num_layers),
        "corrected": Share.of(solved[wrong]),
        "unchanged": Share.of((correct & (lengths >= num_layers))[graded]),
        "unsolved": Share.of(~solved[graded]),
        "confirmed": Share.of(is_true(questions["confirmed"].drop_null())),
        "length": mean(lengths[graded]),
    }


def summarise_cost(questions: pa.Table, costs: LayerCosts) -> dict[str, Any]:
    """Compute the mean cost of the paths of `length`, and that of the model."""
    if costs.milliseconds is None:
        return {"cost": None, "model_cost": costs.total}
    graded = questions.filter(pc.field("baseline").is_valid())
    each = [costs.of(path or range(costs.num_layers)) for path in graded["best"].to_pylist()]
    return {"cost": mean(np.array(each)), "model_cost": costs.total}


def summarise_evaluations(questions: pa.Table, rows: pa.Table) -> dict[str, Any]:
    """Compute the fields that depend on the evaluations of the searches for gold."""
    place = index_in(rows["question"], questions["question"])
    edited = (rows["node"].to_numpy() > 0) & ~is_null(rows["verdict"]) & (place >= 0)
    right = is_true(rows["verdict"])
    return {
        "evaluations": rows.num_rows,
        "broken": Share.of(~right[edited & is_true(questions["baseline"])[place]]),
        "fixed": Share.of(right[edited & is_false(questions["baseline"])[place]]),
        "ungraded": Share.of(is_null(rows["verdict"])),
        "not_finite": Share.of(~is_true(rows["finite"])),
        "truncated": Share.of(is_true(rows["truncated"].drop_null())),
        "tokens": mean(rows["num_tokens"].drop_null().to_numpy()),
    }
