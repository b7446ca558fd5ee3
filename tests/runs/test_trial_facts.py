"""The facts of a trial, as a reviewer reads them."""

from typing import Any

import pytest

from cola_jax.report.document import Document, markdown_report, terminal_report
from cola_jax.runs.estimates import (
    ABOVE_CHANCE,
    BETTER,
    CHANGE,
    CHOSEN_BY,
    CORRECT,
    DETECTABLE,
    LOSS,
    MODEL,
    NOT_SHOWN,
    TRIES,
    Estimate,
)
from cola_jax.runs.results import RESULTS, Results, read_results, write_results
from cola_jax.runs.trial_facts import NOT_RECORDED, trial_facts
from tests.small_runs import START, printed

HASH = "0123456789abcdef" * 4
START = START | {"date": "2026-11-30T21:15:09+00:00", "versions": {"cola-jax": "0.3.0"}}
SETTINGS = {"command": "verify", "hash": HASH, "model": HASH[::-1], "dtype": "float32"}
SETTINGS |= {"questions": 20, "margin": 3.0, "measure": "accuracy"}
NEW = {"num_tests": 5, "protocol_date": "2026-11-29T08:00:00+00:00", "protocol_version": "0.2.9"}
WITHOUT = "half of the random paths lose no more than the margin"


def claim(group: str, outcome: str) -> list[Estimate]:
    change = Estimate(CHANGE, group, 0.05, "points", 0.01, 0.09, 0.01, 0.02, 20, note=outcome)
    return [Estimate(CORRECT, group, 0.5, n=20), change]


def results(**settings: Any) -> Results:
    """Make the results of a trial of two claims, of this version where it has settings."""
    estimates = [Estimate(CORRECT, MODEL, 0.45, n=20), *claim("a", BETTER), *claim("b", NOT_SHOWN)]
    groups = {name: {"path": name, "task": "arc", "model": MODEL, "prompts": 8} for name in "ab"}
    run = {"settings": SETTINGS | settings, "start": START, "groups": groups}
    run |= {"done": 20, "prompts": 8}
    if settings:
        run["rows"] = HASH
        estimates += [
            Estimate(ABOVE_CHANCE, MODEL, 0.2, "points", 0.1, 0.3),
            Estimate.count(TRIES, 0, group="a"),
            Estimate.count(TRIES, 2, group="b", note="2026-11-28 worse on arc, 2026-11-29 pilot"),
            Estimate(LOSS, "a", 0.03, "points apart", note=WITHOUT),
            *(Estimate(DETECTABLE, group, 0.061, "points apart") for group in "ab"),
            *(Estimate(CHOSEN_BY, group, unit="count", note="unknown") for group in "ab"),
        ]
    return Results(estimates, run)


def test_facts_of_a_trial_are_found_in_one_table():
    facts = trial_facts(results(**NEW))
    assert facts["written"] == "2026-11-29 08:00 UTC, cola-jax 0.2.9"
    assert facts["verdict"] == "2026-11-30 21:15 UTC, cola-jax 0.3.0"
    assert facts["hash"] == HASH[:16]
    assert facts["chosen on"] == "unknown"
    tries = "a: none;\nb: 2: 2026-11-28 worse on arc, 2026-11-29 pilot"
    assert facts["earlier tries"] == tries
    assert facts["error budget"].startswith("0.05 over 5 tests of 2 claims (Holm)")
    assert facts["margin"] == "3 points"
    assert facts["questions and prompts"] == "20 questions x 8 prompts"
    assert facts["above a guess"] == "+20.0 points (+10.0 to +30.0)"
    assert facts["could show"] == "6.1 points"
    assert facts["could show a loss"] == f"a: no: {WITHOUT};\nb: not tested"


def test_facts_that_an_earlier_version_lacks_are_said_to_be_so():
    facts = trial_facts(results())
    lacking = {name for name, text in facts.items() if NOT_RECORDED in text}
    unknown = {"written", "chosen on", "earlier tries", "error budget", "above a guess"}
    assert lacking == unknown | {"could show", "rows, results"}


def test_facts_are_those_of_trials_alone():
    assert trial_facts(Results([Estimate(CORRECT, MODEL, 0.5, n=20)], {"settings": {}})) == {}


def test_a_trial_measured_by_likelihood_has_its_margin_in_nats():
    facts = trial_facts(results(**NEW, measure="likelihood", pilot=True))
    assert facts["margin"] == "3 hundredths of a nat; a pilot, which gives no verdict"


@pytest.mark.parametrize("settings", [NEW, {}])
def test_reports_begin_with_the_protocol(settings, tmp_path):
    write_results(results(**settings), tmp_path / RESULTS)
    read = read_results(tmp_path / RESULTS)
    assert trial_facts(read) == trial_facts(results(**settings))
    document = Document.of(read)
    text = printed(terminal_report(document))
    assert text.index("error budget") < text.index("points more")
    assert HASH[:16] in text
    assert "| hash | 0123456789abcdef |" in markdown_report(document)
    assert TRIES not in document.tables[1].columns  # it is above already
