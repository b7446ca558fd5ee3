"""`Summary`: the numbers of a search run."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cola_jax.errors import InputError
from cola_jax.layer_costs import LayerCosts
from cola_jax.report.controls import check_search
from cola_jax.report.layers import (
    CONTROLS,
    RETAINED,
    Depth,
    LayerUse,
    Reach,
    is_false,
    is_null,
    is_true,
    list_lengths,
    summarise_layers,
)
from cola_jax.runs.counts import COUNTED, count_again, count_evaluations
from cola_jax.runs.run import Run
from cola_jax.runs.schema import EVALUATIONS, join
from cola_jax.runs.summary import COLUMNS as COMPARED
from cola_jax.runs.summary import scorer_flag, ways_of
from cola_jax.scoring.preference import Preference
from cola_jax.scoring.statistics import Share, mean
from cola_jax.strategies.summary import SearchSummary

COLUMNS = [*COMPARED, "confirmed", "evaluations"]  # of questions


@dataclasses.dataclass(frozen=True, eq=False)
class Summary(SearchSummary):
    """The results of a search on the questions done so far; a mean of nothing is NaN.

    Questions whose baseline is ungraded are excluded from all shares of questions but `confirmed`.
    """

    directory: str
    decodes: bool  # answers were decoded
    dtype: str | None  # that the search computed in
    done: int  # questions
    excluded: int  # of them: those whose baseline is ungraded
    planned: int
    num_layers: int  # L, the length of the identity path

    after: Share  # correct on some path
    shortened: Share  # of those correct before: correct on a shorter path too
    own_kept: Share  # of the model's own wrong answers searched for: given on a shorter path too
    unchanged: Share  # of all questions: correct before, and on no shorter path
    unsolved: Share  # of all questions: correct on no path
    confirmed: Share  # of the shortest correct paths: correct in float32, or decoded the same there
    length: float  # of the shortest correct path, L where there is none
    cost: float | None  # of the same paths, mean milliseconds; None where layers have no costs
    model_cost: float  # of the identity path

    # a path that is run on a question, in a prompt, is one evaluation, whatever searches share it
    evaluations: int  # in all
    gold_evaluations: int  # of them, those of the searches for gold
    again_evaluations: int  # of them, those in other wordings
    broken: Share  # of the edited paths tried on questions correct before: wrong
    fixed: Share  # of the edited paths tried on questions wrong before: correct
    ungraded: Share  # evaluations for gold on which the grader failed
    not_finite: Share
    truncated: Share  # evaluations ended by the token limit; 0 of 0 where nothing is decoded
    tokens: float  # decoded per evaluation

    layers: dict[str, LayerUse]  # by group, control searches and all paths tried among them
    depths: dict[str, Depth]  # of the shortest correct paths, by group
    reach: dict[str, Reach]  # by group

    @property
    def control_evaluations(self) -> int:
        """The evaluations that control searches add to those for gold."""
        return self.evaluations - self.gold_evaluations - self.again_evaluations


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
    costs = LayerCosts(num_layers, manifest["settings"].get("layer_costs"))
    robust = bool(manifest["settings"].get("robust"))
    counted = questions.select(COUNTED).to_pylist()
    alone = [row | {"controls": None, "again": None} for row in counted]
    layers = summarise_layers(questions, gold["path"], num_layers)
    own = layers["reach"][CONTROLS[RETAINED]]
    compared = SearchSummary.of(ways_of(manifest, questions), num_layers, preference)
    return Summary(
        **vars(compared),
        directory=str(run.directory),
        decodes=scorer_flag(manifest, "decodes"),
        dtype=manifest["settings"].get("dtype"),
        done=questions.num_rows,
        planned=manifest["settings"]["questions"],
        num_layers=num_layers,
        own_kept=Share(int(own.hits[num_layers - 1]), own.searches),
        evaluations=count_evaluations(counted, robust=robust),
        gold_evaluations=count_evaluations(alone, robust=robust),
        again_evaluations=0 if robust else sum(map(count_again, counted)),
        **summarise_questions(questions, num_layers),
        **summarise_cost(questions, costs),
        **summarise_evaluations(questions, gold),
        **layers,
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
        "after": Share.of(solved[graded]),
        "shortened": Share.of(lengths[correct] < num_layers),
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
        "broken": Share.of(~right[edited & is_true(questions["baseline"])[place]]),
        "fixed": Share.of(right[edited & is_false(questions["baseline"])[place]]),
        "ungraded": Share.of(is_null(rows["verdict"])),
        "not_finite": Share.of(~is_true(rows["finite"])),
        "truncated": Share.of(is_true(rows["truncated"].drop_null())),
        "tokens": mean(rows["num_tokens"].drop_null().to_numpy()),
    }
