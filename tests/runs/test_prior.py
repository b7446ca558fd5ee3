"""`Prior`: which edits of earlier searches are tried first, and on which questions they may be."""

import dataclasses

import pytest

import cola_jax
from cola_jax.errors import InputError
from cola_jax.runs.chosen_on import ChosenOn
from cola_jax.runs.prior import MOST, Prior, excess_of_edits
from cola_jax.runs.run import Run
from cola_jax.strategies.rules import PRESETS, TreeRules
from tests import tiny
from tests.small_runs import RIGHT, WHOLE, letters, make_run

RULES = TreeRules()
MOVES = TreeRules(max_skip=0, max_repeat=0, max_move=2)
SEARCH = {"scorer": "letter", "simulations": 12, "leaves": 4, "prompts": 0}


def controls(*targets):
    """The controls of a question of options a, b, c and d, of which the model gives b."""
    rows = [{"target": j, "best": None, "evaluations": 1, "shared": 0} for j in (*targets, 1)]
    return {"options": ["a", "b", "c", "d"], "controls": rows}


def tried(edit, answer, **columns):
    """A row of an edit of the identity path, with the answer that it gave."""
    return (0, 2), answer, answer == 0, {"edit": edit} | columns


def part(name, *rows, **fields):
    """A question that the model gets wrong, with the rows of its search."""
    return letters(name, [(WHOLE, 1, False), *rows], **controls(2, 3) | fields)


@pytest.fixture
def wrong(tmp_path):
    """Two questions that the model gets wrong, and one that it gets right."""
    return make_run(
        tmp_path,
        part(
            "q1",
            tried("skip 1 at 1", 0),
            tried("skip 2 at 1", 3),
            tried("skip 1 at 2", 0, parent=1),  # not of the identity path
            tried("repeat 1 at 2 x1", 1),  # the model's own answer
            tried("repeat 2 at 1 x1", 0),
            tried("skip 1 at 1", 0, control=True, target=2),  # the same in a control search
            tried("skip 1 at 3", 0, verdict=None),  # not graded
        ),
        part("q2", tried("skip 1 at 1", 2), tried("repeat 2 at 1 x1", 0), tried("skip 1 at 0", 0)),
        letters("q3", [(WHOLE, 0, True), tried("skip 2 at 1", 0)], **RIGHT),
        model="m" * 64,
    )


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return cola_jax.load(tiny_checkpoint)


def test_edits_gain_by_gold_and_lose_by_control_targets(wrong):
    excess = {edit: float(value) for edit, value in excess_of_edits([wrong]).items()}
    assert excess == {
        (0, 1, 1, 0): 0.5,  # gold, and then one of two control targets
        (0, 1, 2, 0): -0.5,
        (1, 2, 1, 1): 0.0,
        (1, 1, 2, 1): 2.0,
        (0, 0, 1, 0): 1.0,
    }
    assert excess_of_edits([wrong, wrong]) == excess  # a question counts once


def test_a_prior_has_edits_with_an_excess_that_the_rules_allow(wrong):
    prior = Prior.read([wrong.directory], "m" * 64, RULES, 4)
    assert prior.edits == ((1, 1, 2, 1), (0, 0, 1, 0), (0, 1, 1, 0))
    assert prior.excess == (2.0, 1.0, 0.5)
    assert prior.chosen_on == wrong.chosen_on()
    assert len(prior.edits) <= MOST
    skips = Prior.read([wrong.directory], "m" * 64, RULES.within("skip"), 4)
    assert skips.edits == prior.edits[1:]
    assert skips.digest != prior.digest
    with pytest.raises(InputError, match=r"no edit of .* that the rules allow made wrong answers"):
        Prior.read([wrong.directory], "m" * 64, MOVES, 4)


def test_runs_that_make_no_prior_are_refused(wrong, evaluated_run, tmp_path):
    for directory, message in (
        (wrong.directory, "its model is mmmmmmmmmmmm, here it is nnnnnnnnnnnn"),
        (evaluated_run.directory, "made by `cola evaluate`, but a prior is made of searches"),
        (tmp_path / "none", "is not a run directory"),
    ):
        with pytest.raises(InputError, match=message):
            Prior.read([directory], "n" * 64, RULES, 5)


@pytest.mark.parametrize("parts", [(), ([part("q1", tried("skip 1 at 1", 0), controls=[])])])
def test_runs_without_controls_or_finished_questions_make_no_prior(tmp_path, parts):
    run = make_run(tmp_path, *parts, model="m" * 64)
    with pytest.raises(InputError, match="give larger searches, with --control all"):
        Prior.read([run.directory], "m" * 64, RULES, 4)


@pytest.fixture(scope="module")
def earlier(model, tmp_path_factory):
    """A search of six questions, of which some are wrong."""
    output = tmp_path_factory.mktemp("earlier") / "run"
    cola_jax.search(model, tiny.questions(6), output=output, **SEARCH)
    return output


def others():
    """Questions that the earlier search did not have."""
    return tiny.questions(9)[6:]


def test_a_search_tries_its_prior_first_and_records_it(model, earlier, tmp_path):
    first = cola_jax.search(model, others(), prior=earlier, **SEARCH)
    prior = first.settings.prior
    assert (
        prior == Prior.read([earlier], Run(earlier).settings()["model"], PRESETS["best"], 5).edits
    )
    for outcome in first:
        for search in (outcome, *outcome.controls):
            tries = search.edits[1 : 1 + len(prior)].tolist()
            assert tries == [[*edit, 0] for edit in prior]  # the modifier of whole layers
    output = tmp_path / "run"
    options = {"output": output, **SEARCH}
    second = cola_jax.search(model, others(), prior=[earlier], **options)
    assert [each.paths for each in second] == [each.paths for each in first]
    settings = Run(output).settings()
    assert settings["prior"] == [list(edit) for edit in prior]
    assert len(settings["prior_digest"]) == 64
    results = Run(output).summary()
    assert results.value("edits of earlier searches, tried first") == len(prior)
    assert results.value("questions here that those searches had, too") == 0
    cola_jax.search(model, others(), prior=earlier, **options)  # it goes on with the same
    with pytest.raises(InputError, match=r"--prior: [0-9a-f]{12} there, not given here"):
        cola_jax.search(model, others(), **options)
    saved = cola_jax.save_run(first, tmp_path / "saved")
    assert saved.settings()["prior_digest"] == settings["prior_digest"]


def test_what_chose_a_prior_has_a_part_in_what_its_search_finds(model, earlier, tmp_path):
    cola_jax.search(model, others(), prior=earlier, output=tmp_path / "run", **SEARCH)
    both = Run(tmp_path / "run").chosen_on()
    assert both == Run(earlier).chosen_on() | ChosenOn.of(others(), Run(earlier).settings())
    with pytest.raises(InputError, match="6 of 6 questions are among those of"):
        cola_jax.search(model, tiny.questions(6), prior=tmp_path / "run", **SEARCH)


def test_questions_that_chose_a_prior_are_not_searched(model, earlier):
    """Whatever their ids."""
    renamed = [dataclasses.replace(each, id=f"new {each.id}") for each in tiny.questions(7)[4:]]
    message = r"2 of 3 questions are among those of .*\(new q4, new q5\).* leave out --prior"
    with pytest.raises(InputError, match=message):
        cola_jax.search(model, renamed, prior=earlier, **SEARCH)


def test_a_recorded_overlap_is_the_first_that_a_report_says(wrong, tmp_path):
    keys = ChosenOn(frozenset([wrong.question_keys()["q1"]]), frozenset()).to_json()
    prior = {"prior": [[0, 1, 1, 0]], "prior_chosen_on": keys}
    run = make_run(tmp_path / "other", part("q1"), part("q2"), model="m" * 64, **prior)
    (sentence,) = run.summary().sentences
    assert sentence == "Nothing shown: 1 question chose the edits that are tried first here."


def test_walks_take_no_prior(model, earlier):
    with pytest.raises(InputError, match="strategy beam has none"):
        cola_jax.search(model, others(), prior=earlier, preset="greedy", **SEARCH)
