"""The rows of evaluations and questions, from made-up verdicts, and the files that hold them."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath

from cola_jax.errors import InputError
from cola_jax.layer_costs import LayerCosts
from cola_jax.path import format_path, parse_path
from cola_jax.question import Question
from cola_jax.runs import schema
from cola_jax.scoring import Completion, Grade, Options, Verdicts
from cola_jax.strategies.outcome import Again, Outcome
from tests.runs.conftest import encode

QUESTION = Question("q", "which?", ("a", "b", "c", "d"), 1, metadata=(("math_level", "3"),))
PATHS = [(0, 1, 2), (0, 2), (0, 1, 1, 2), (1, 2)]
SCORES = np.array([[0, -1, -3, -4], [-2, -1, -3, -4], [-5, -1, -2, -3], [-2, 0, -3, -4.0]])


def outcome_of(verdicts, question=QUESTION, **fields):
    count = len(verdicts.verdict)
    return Outcome(
        question=question,
        target=fields.pop("target", question.answer),
        paths=PATHS[:count],
        verdicts=verdicts,
        wave=np.arange(count),
        parent=np.arange(count) - 1,
        # skip one layer, from layer 1
        edits=np.tile(np.array([0, 1, 1, 0]), (count, 1)),
        reused=np.arange(count) % 2 == 0,
        **fields,
    )


def stored(rows, columns=schema.EVALUATIONS):
    """Rows as a part file holds them."""
    return pa.Table.from_pylist(rows, schema=columns).to_pylist()


def test_evaluation_rows_store_every_score():
    verdicts = Verdicts.of_scores(SCORES, 1, np.array([True, True, True, False]))
    # a batch has as many scores as its question with most options
    scores = np.pad(verdicts.scores, ((0, 0), (0, 2)), constant_values=np.nan)
    verdicts = verdicts._replace(scores=scores)
    rows = stored(schema.evaluation_rows(encode(QUESTION), PATHS, verdicts))
    assert [tuple(row["path"]) for row in rows] == PATHS
    assert [(row["length"], row["node"]) for row in rows] == [(3, 0), (2, 1), (4, 2), (2, 3)]
    assert {row["text"] for row in rows} == {row["tokens"] for row in rows} == {None}
    *rows, wrong = rows
    assert [row["scores"] for row in rows] == SCORES[:3].tolist()
    assert [row["margin"] for row in rows] == [-1, 1, 1]
    assert [row["answer"] for row in rows] == [0, 1, 1]
    assert [row["verdict"] for row in rows] == [False, True, True]
    assert (wrong["finite"], wrong["verdict"], wrong["answer"]) == (False, False, -1)
    assert wrong["margin"] == -np.inf
    np.testing.assert_array_equal(wrong["scores"], [np.nan] * 4)


def test_evaluation_rows_of_completions():
    grades = (Grade.RIGHT, Grade.UNGRADED, Grade.WRONG, None)
    completions = [
        Completion(f"{i}\n", str(i), "stop", i == 2, grade, (i, 7), -0.5)
        for i, grade in enumerate(grades)
    ]
    question = dataclasses.replace(QUESTION, options=("1", "2"), answer=0, open=True)
    verdicts = Verdicts.of_scores(SCORES[:, :2], 0, answer=np.array([0, -1, 1, -1]))
    verdicts = verdicts._replace(completion=np.array(completions, object))
    rows = stored(schema.evaluation_rows(encode(question), PATHS, verdicts))
    columns = ("grade", "verdict", "text", "answer_text", "truncated", "tokens")
    values = [tuple(row[column] for column in columns) for row in rows]
    assert values[0] == ("right", True, "0\n", "0", False, [0, 7])
    assert values[1] == ("ungraded", None, "1\n", "1", False, [1, 7])
    assert values[2] == ("wrong", False, "2\n", "2", True, [2, 7])
    assert values[3][:2] == (None, None)
    # a row becomes the same verdict again
    tables = [pa.Table.from_pylist(rows, schema=schema.EVALUATIONS)]
    again = schema.known_verdicts(tables, encode(question), Options(None))
    for i, path in enumerate(PATHS):
        stored_again = again[path].completion[0]
        assert (stored_again.text, stored_again.grade) == (f"{i}\n", grades[i])
        assert again[path].margin[0] == verdicts.margin[i]
        assert again[path].log_likelihoods.tolist() == [True]


def test_identity_path_without_log_probabilities_is_not_known():
    """Rows of earlier versions lack those of whole answers, which the null of searches needs."""
    question = dataclasses.replace(QUESTION, options=("1", "2"), answer=0, open=True)
    logprobs = np.array([[-1.0, -2], [-3, -4], [-5, -6], [-7, -8]])
    verdicts = Verdicts.of_scores(SCORES[:, :2], 0, outside=np.nan, answer_logprobs=logprobs)
    asked = encode(question)
    rows = stored(schema.evaluation_rows(asked, PATHS, verdicts))

    def known(rows, scorer):
        tables = [pa.Table.from_pylist(rows, schema=schema.EVALUATIONS)]
        return schema.known_verdicts(tables, asked, scorer)

    of_exact = Options(None)
    of_exact.answer_logprobs = True
    again = known(rows, of_exact)
    np.testing.assert_array_equal(again[PATHS[0]].answer_logprobs, logprobs[:1])
    earlier = [row | {"answer_logprobs": None} for row in rows]
    assert known(earlier, of_exact).keys() == set(PATHS) - {(0, 1, 2)}
    assert known(earlier, Options(None)).keys() == set(PATHS)


def test_question_row():
    (row,) = stored([schema.question_row(encode(QUESTION), 9)], schema.QUESTIONS)
    assert row["metadata"] == [{"name": "math_level", "value": "3"}]
    assert (row["question"], row["gold"], row["evaluations"]) == ("q", 1, 9)
    assert (row["num_tokens"], row["prompt"], row["prompt_hash"]) == (5, "0 0 0 0 0", "abc")
    assert row["best"] is row["baseline"] is row["controls"] is None
    prompt = dataclasses.replace(QUESTION, options=(), answer=0)
    assert schema.question_row(encode(prompt), 1)["gold"] is None


def test_search_rows():
    outcome = outcome_of(Verdicts.of_scores(SCORES, 1), confirmed=True)
    rows = stored(schema.search_evaluation_rows(encode(QUESTION), outcome))
    edits = [(row["parent"], row["wave"], row["edit"]) for row in rows]
    assert edits == [(None, 0, None), *((i, i + 1, "skip 1 at 1") for i in range(3))]
    (row,) = stored([schema.search_question_row(encode(QUESTION), outcome)], schema.QUESTIONS)
    assert (row["baseline"], row["baseline_answer"], row["evaluations"]) == (False, 0, 4)
    assert row["best"] == [1, 2]  # of the larger margin than the other of that length
    assert (row["confirmed"], row["front"], row["answers"]) == (True, [[1, 2]], 2)


def test_rows_of_control_searches():
    verdicts = Verdicts.of_scores(SCORES, 1)
    hit, missed = (
        outcome_of(verdicts.of_target(target).take(slice(n)), target=target)
        for target, n in ((0, 4), (3, 3))
    )
    outcome = outcome_of(verdicts, controls=(hit, missed))
    rows = stored(schema.search_evaluation_rows(encode(QUESTION), outcome))
    assert [row["target"] for row in rows] == [1] * 4 + [0] * 4 + [3] * 3
    assert [row["control"] for row in rows] == [False] * 4 + [True] * 7
    assert [row["reused"] for row in rows[4:8]] == [True, False, True, False]
    assert [row["verdict"] for row in rows[4:8]] == [True, False, False, False]
    assert [row["margin"] for row in rows[4:8]] == [1, -1, -4, -2]
    (row,) = stored([schema.search_question_row(encode(QUESTION), outcome)], schema.QUESTIONS)
    assert row["controls"] == [
        {"target": 0, "best": [0, 1, 2], "again": None, "evaluations": 4, "shared": 4},
        {"target": 3, "best": None, "again": None, "evaluations": 3, "shared": 3},
    ]
    assert row["baseline_scores"] == [SCORES[0].tolist()]
    assert row["evaluations"] == 4


def test_page_lists_every_column():
    page = (Path(__file__).parents[2] / "cola_jax" / "runs" / "README.md").read_text()
    tables = page.partition("## Evaluations")[2].partition("## Recipes")[0]
    for table, text in zip(
        (schema.EVALUATIONS, schema.QUESTIONS), tables.split("## Questions"), strict=True
    ):
        cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
        named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
        assert sorted(named) == sorted(OF_STEPS.stored(table).names)


PLAIN = schema.RowLayout("mark")
OF_STEPS = schema.RowLayout("mark", has_steps=True, costs=LayerCosts(3, None, ((0.25, 0.75),) * 3))
STEPS = [(0, 1, 2), parse_path("0,1a,2", 3), parse_path("0,2*0.5,2", 3), parse_path("1m", 3)]


def test_runs_of_steps_hold_texts_beside_paths(tmp_path):
    """Read as ids of steps; the paths of whole layers are lists too, and lengths have fractions."""
    verdicts = Verdicts.of_scores(SCORES, 1)
    outcome = dataclasses.replace(
        outcome_of(verdicts, confirmed=True), paths=STEPS, costs=OF_STEPS.costs
    )
    again = Again([0, 1], np.ones((2, 1), bool), [1], SCORES[:2], SCORES[:2])
    outcome = dataclasses.replace(outcome, again=again, controls=(outcome,))
    made = schema.search_part([encode(QUESTION)], [outcome])
    encoded = made.encode(OF_STEPS)
    tables = {}
    for kind, content, columns in (
        ("evaluations", encoded.evaluations, schema.EVALUATIONS),
        ("questions", encoded.content, schema.QUESTIONS),
    ):
        file = epath.Path(tmp_path / schema.part_name("part-00000", content))
        file.write_bytes(content)
        table = schema.read_part(file, columns, OF_STEPS)
        assert table.schema == OF_STEPS.loaded(columns)
        expected = pa.Table.from_pylist(getattr(made, kind), schema=table.schema)
        assert table.to_pylist() == expected.to_pylist()
        assert schema.read_part(file, columns, OF_STEPS, ["question"]).num_columns == 1
        tables[kind] = pq.read_table(file).to_pylist()
    rows = tables["evaluations"][:4]
    assert [row["path"] for row in rows] == [[0, 1, 2], None, None, None]
    assert [row["steps"] for row in rows] == ["0-2", "0,1a,2", "0,2*0.5,2", "1m"]
    assert [row["length"] for row in rows] == [3, 2.25, 3, 0.75]
    (row,) = tables["questions"]
    best, length = outcome.best, outcome.lengths[outcome.shortest_correct]
    assert (row["best"], row["best_steps"]) == (None, format_path(best))
    assert length == outcome.lengths[outcome.verdicts.verdict].min()
    assert row["front_steps"] == [format_path(outcome.paths[i]) for i in outcome.front]
    assert [each["steps"] for each in row["again"]] == ["0-2", "0,1a,2"]
    assert [each["path"] for each in row["again"]] == [[0, 1, 2], None]
    assert row["controls"][0]["best_steps"] == format_path(best)


def test_a_run_of_whole_layers_holds_no_steps():
    with pytest.raises(pa.ArrowInvalid):
        PLAIN.encode(schema.EVALUATIONS, [{"question": "q", "path": STEPS[1]}])


def part(**changes):
    row = {"question": "q", "path": [0, 1, 2], "length": 3, "verdict": True, "margin": 1.0}
    return schema.encode_part(schema.EVALUATIONS, [row | changes] * 2, "mark")


def test_read_part_refuses_changed_files(tmp_path):
    whole = part()
    file = epath.Path(tmp_path / schema.part_name("part-00000", whole))
    file.write_bytes(whole)
    table = schema.read_part(file, schema.EVALUATIONS, PLAIN)
    assert table.schema == schema.EVALUATIONS
    assert table["path"].to_pylist() == [[0, 1, 2]] * 2
    assert schema.read_part(file, schema.EVALUATIONS, PLAIN, ["margin", "path"]).num_columns == 2
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 1
    for content in (part(margin=2.0), bytes(flipped), whole[:-1], b""):
        file.write_bytes(content)
        message = rf"{re.escape(str(file))}: it is damaged, .* Remove it, and its questions"
        with pytest.raises(InputError, match=message):
            schema.read_part(file, schema.EVALUATIONS, PLAIN)


def test_read_part_of_an_earlier_version_has_no_prompts(tmp_path, monkeypatch):
    earlier = schema.QUESTIONS.remove(schema.QUESTIONS.get_field_index("prompt"))
    content = schema.encode_part(earlier, [schema.question_row(encode(QUESTION), 9)], "mark")
    file = epath.Path(tmp_path / schema.part_name("part-00000", content))
    file.write_bytes(content)
    table = schema.read_part(file, schema.QUESTIONS, PLAIN)
    assert table.schema == schema.QUESTIONS
    assert table["prompt"].to_pylist() == [None]
    assert table["prompt_hash"].to_pylist() == ["abc"]
    assert schema.read_part(file, schema.QUESTIONS, PLAIN, ["question"]).num_columns == 1


def test_an_encoded_part_keeps_what_the_driver_reads(tmp_path):
    verdicts = Verdicts.of_scores(SCORES, 1)
    made = schema.search_part([encode(QUESTION)], [outcome_of(verdicts, confirmed=True)])
    encoded = made.encode(PLAIN)
    assert encoded.questions == [{"question": "q", "baseline": False, "best": (1, 2)}]
    contents = {"evaluations": encoded.evaluations, "questions": encoded.content}
    for (kind, content), columns in zip(
        contents.items(), (schema.EVALUATIONS, schema.QUESTIONS), strict=True
    ):
        file = epath.Path(tmp_path / schema.part_name("part-00000", content))
        file.write_bytes(content)
        table = schema.read_part(file, columns, PLAIN)
        assert table.to_pylist() == stored(getattr(made, kind), columns)
    waves = made._replace(questions=[]).encode(PLAIN)
    assert (waves.content, schema.questions_of(waves.evaluations)) == (None, {"q"})


def test_encode_part_keeps_prompts_small():
    shots = "Question: which of the words is it?\nAnswer: iron\n\n" * 40
    asked = [dataclasses.replace(encode(QUESTION), prompt=f"{shots}{i}") for i in range(100)]
    rows = [schema.question_row(encoded, 1) for encoded in asked]
    content = schema.encode_part(schema.QUESTIONS, rows, "mark")
    bare = schema.encode_part(schema.QUESTIONS, [row | {"prompt": None} for row in rows], "mark")
    assert len(content) - len(bare) < len(shots)  # of 100 prompts, the shots once


def test_join_keeps_the_order_and_has_few_chunks():
    tables = [pa.table({"n": [i], "path": [[i, i]]}) for i in range(3 * schema.JOINED + 1)]
    joined = schema.join(tables[:1], iter(tables[1:]))
    assert joined.to_pylist() == [{"n": i, "path": [i, i]} for i in range(len(tables))]
    assert joined["n"].num_chunks == 4


def test_by_question_keeps_the_order_of_rows():
    table = pa.table({"question": ["b", "a", "b", "c", "a"], "path": [[0], [1], [2], [3], [4]]})
    tables = {name: rows["path"].to_pylist() for name, rows in schema.by_question(table).items()}
    assert tables == {"b": [[0], [2]], "a": [[1], [4]], "c": [[3]]}
    assert schema.by_question(table.slice(0, 0)) == {}
