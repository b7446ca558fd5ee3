"""`Results` as a file, a DataFrame and text."""

import json
import re

import pytest

from cola_jax.errors import InputError
from cola_jax.runs.estimates import BEFORE, ELSEWHERE, PREFERENCE, PREFERENCES, Estimate
from cola_jax.runs.results import (
    RESULTS,
    EditedError,
    Results,
    read_preference,
    read_results,
    write_results,
)
from cola_jax.runs.run import Run
from tests.small_runs import make_run, part


def test_results_are_read_as_they_were_written(run: Run, tmp_path):
    results = run.summary()
    write_results(results, tmp_path / RESULTS)
    read = read_results(tmp_path / RESULTS)
    assert repr(read) == repr(results)
    assert [each.to_json() for each in read] == [each.to_json() for each in results]
    assert read.run["done"] == 5
    content = json.loads((tmp_path / RESULTS).read_text())
    assert content["sentences"] == results.sentences
    before = {"name": BEFORE, "unit": "share", "value": 0.4, "n": 5}
    assert before.items() <= content["estimates"][0].items()


def test_read_results_refuses_other_files(tmp_path):
    for content in ({"results": {}}, {"run": {}, "estimates": [{"name": "x", "size": 1}]}):
        (tmp_path / RESULTS).write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"results\.json cannot be read .*Give the results"):
            read_results(tmp_path / RESULTS)


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        ({"name": "x", "unit": "miles"}, "'miles' is no known unit"),
        ({"name": "x", "unit": "place", "value": 1}, "a place lacks n"),
        ({"name": BEFORE, "value": 0.5, "n": 2}, "wrong before"),
        ({"name": ELSEWHERE, "value": 0.5, "n": 2}, "empty"),
    ],
)
def test_read_results_refuses_estimates_that_cannot_be_shown(tmp_path, estimate, words):
    (tmp_path / RESULTS).write_text(json.dumps({"run": {}, "estimates": [estimate]}))
    with pytest.raises(InputError, match=rf"results\.json cannot be read \(.*{words}"):
        read_results(tmp_path / RESULTS)


def test_read_preference_is_that_of_the_same_model(tmp_path):
    run = make_run(tmp_path, part("q1"), part("q2"), model="one")
    results = run.summary()
    file = tmp_path / RESULTS
    write_results(results, file)
    preference = read_preference(file, run.settings())
    tau, *others = preference.coefficients
    assert tau == pytest.approx(results.value(PREFERENCE))
    assert any(others)
    assert preference.errors[0] > 0
    earlier = [each for each in results if each.name not in [*PREFERENCES][1:]]
    known = Results(earlier).preference()
    assert known is not None
    assert known.coefficients == (tau, 0, 0, 0, 0)
    with pytest.raises(InputError, match="its model is one, here it is another"):
        read_preference(file, {"model": "another"})
    write_results(Results([]), file)
    with pytest.raises(InputError, match="has no preference"):
        read_preference(file, {})
    write_results(Results([Estimate(PREFERENCE, value=1.0, unit="per score")]), file)
    with pytest.raises(InputError, match="cannot be read"):
        read_preference(file, {})


def test_to_pandas_has_a_row_for_each_estimate(run: Run):
    results = run.summary()
    table = results.to_pandas()
    assert len(table) == len(results)
    assert table.set_index("name").loc[BEFORE, "n"] == 5


def test_html_is_escaped():
    html = Results([Estimate(BEFORE, group="<b>", value=0.5, n=2)])._repr_html_()
    assert "<b>" not in html.replace("<p><b>", "")
    assert "&lt;b&gt;" in html


def test_read_results_tells_a_file_that_was_changed(run: Run, tmp_path):
    write_results(run.summary(), tmp_path / RESULTS)
    content = (tmp_path / RESULTS).read_text()
    for old, new in (('"value": 0.4', '"value": 0.5'), ('"done": 5', '"done": 6')):
        assert old in content
        (tmp_path / RESULTS).write_text(content.replace(old, new, 1))
        with pytest.raises(EditedError, match=r"does not say what was measured.*`cola report "):
            read_results(tmp_path / RESULTS)
    (tmp_path / RESULTS).write_text(re.sub(r',\n *"digest": "[0-9a-f]{64}"', "", content))
    assert "digest" not in read_results(tmp_path / RESULTS).run  # as of earlier versions


def test_to_json_has_the_same_digest_wherever_it_is_made(run: Run, tmp_path):
    results = Results(run.summary(), {"settings": {"command": "verify", "where": tmp_path}})
    write_results(results, tmp_path / RESULTS)
    read = read_results(tmp_path / RESULTS)
    assert read.to_json()["run"]["digest"] == results.to_json()["run"]["digest"]
