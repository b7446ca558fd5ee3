"""`Reuse`: the evaluations of other runs that a search takes for its own."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cola_jax.engine.question_set import QuestionSet
from cola_jax.errors import InputError, check_belongs
from cola_jax.runs.compare import deciding
from cola_jax.runs.run import Run
from cola_jax.runs.schema import asked_digest, by_question
from cola_jax.scoring.grader import Grade


class Reuse:
    """The evaluations of other runs with the same checkpoint, prompts and scorer."""

    def __init__(self, runs: Sequence[Run], settings: Mapping[str, Any], questions: QuestionSet):
        """Read runs; InputError for a run that cannot serve these questions.

        The sample of the questions tells whether a run asked in the same words.
        """
        self.tables: dict[str, list[pa.Table]] = defaultdict(list)  # by question
        asked = pa.array([question.id for question in questions.questions])
        ungraded = pc.field("grade").isin([Grade.UNGRADED.value])
        sampled = {each.question.id for each in questions.sample}
        ours_asked = {asked_digest(each) for each in questions.sample}
        ours = deciding(settings)
        action = "reuse runs of the same model and scorer"
        for run in runs:
            name = str(run.directory)
            check_belongs(name, deciding(run.settings()), "this command", ours, action)
            rows = run.evaluations().filter(pc.field("question").isin(asked) & ~ungraded)
            same = pc.field("asked").isin(pa.array(list(ours_asked)))
            known = rows.filter(pc.field("question").isin(pa.array(list(sampled))))
            if not rows.num_rows or (known.num_rows and not known.filter(same).num_rows):
                raise InputError(
                    f"{name} has none of these questions in the same words: its questions or "
                    "their prompts differ."
                )
            for question, table in by_question(rows).items():
                self.tables[question].append(table)
