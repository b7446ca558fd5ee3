"""`cola verify`: a trial from claims to verdicts, resumed, and refused."""

import json
import re
import shlex

import pytest

from cola_jax.cli.main import main
from cola_jax.deploy.verify import trial
from cola_jax.deploy.verify.results import earlier_components
from cola_jax.errors import InputError
from cola_jax.execute.run_paths import PathEvaluator
from cola_jax.path import parse_path
from cola_jax.runs.chosen_on import question_key
from cola_jax.runs.estimates import (
    ABOVE_BREAK_EVEN,
    CHANGE,
    CORRECT,
    MODEL,
    PLACE,
    SHORTGPT,
    VOTE,
)
from cola_jax.runs.path_results import LAYERS
from cola_jax.runs.results import read_results
from cola_jax.runs.tries import read_tries
from cola_jax.steps import ATTENTION, WHOLE, part_of
from cola_jax.tasks.registry import load_questions


@pytest.fixture
def common(tiny_checkpoint, tmp_path):
    flags = ["--model", str(tiny_checkpoint), "--task", "arithmetic", "--level", "1"]
    costs = tmp_path / "costs.json"
    costs.write_text("[1, 2, 3, 4, 5.5]")
    flags += ["--layer-costs", str(costs)]
    flags += ["--margin", "90"]  # which 20 questions show
    flags += ["--limit", "20", "--prompts", "3", "--chosen-on", "unknown"]
    return [*flags, "--output", str(tmp_path / "trial")]


def test_verify_decides_on_claims_and_resumes_as_a_test_does(
    common, tmp_path, capsys, monkeypatch, refused
):
    out = tmp_path / "trial"
    main(["verify", "0-3", "0-2,2,3-4", *common, "--json"])
    printed = json.loads(capsys.readouterr().out)
    results = read_results(out / "results.json")
    assert results.to_json() == printed
    skip, repeat = "0-3", "0-1,2,2,3-4"
    assert results.groups == [MODEL, skip, repeat]
    assert [results.value(LAYERS, group) for group in results.groups] == [5, 4, 6]
    assert [results.value("time", group) for group in results.groups] == [15.5, 10, 18.5]
    change = results.find(CHANGE, skip)
    assert change is not None
    assert (change.n, results.run["prompts"]) == (20, 3)
    assert results.find("prompt 3", skip) is not None
    place = results.find(PLACE, skip)
    assert place is not None
    assert place.n == 5  # with all other single skips of five layers
    assert results.find(SHORTGPT, skip) is not None
    assert results.find(SHORTGPT, repeat) is None
    assert results.run["groups"][skip]["path"] == skip
    assert earlier_components(str(out)).residual_sd >= 0
    protocol = json.loads((out / "protocol.json").read_text())
    assert protocol["hash"] == results.run["settings"]["hash"]
    prompts = protocol["tasks"]["arithmetic"]["prompts"]
    assert len({json.dumps(prompt, sort_keys=True) for prompt in prompts}) == 3
    monkeypatch.setattr(PathEvaluator, "__call__", None)  # everything has been evaluated before
    with pytest.raises(SystemExit) as end:
        main(["verify", "0-3", "0-2,2,3-4", *common, "--fail-on", change.note])
    assert end.value.code == 1
    again = read_results(out / "results.json")
    assert again.to_json()["estimates"] == printed["estimates"]  # with its timings
    text, error = (" ".join(stream.split()) for stream in capsys.readouterr())
    assert f"called {change.note} (--fail-on)" in error
    assert "In each prompt" in text
    assert "in 3 prompts" in text
    main(["report", str(out), "--all"])
    assert " ".join(capsys.readouterr().out.split()) == text
    assert all(words in text for words in ("18.5 ms", "119.4 %"))
    for flags, message in (
        (["--margin", "95"], r"protocol in .* differs from it in margin \(margin: 90.* there, 95"),
        (["--prompts", "1"], r"tasks.arithmetic.prompts \(--prompts: 3 there, 1 here\)"),
        (["--num-fewshot", "1"], r"prompts \(--num-fewshot: 2 there, 1 here\)"),
    ):
        assert_match(message, refused("verify", "0-3", "0-2,2,3-4", *common, *flags))
    content = (out / "protocol.json").read_text()
    (out / "protocol.json").write_text(content.replace('"margin": 90.0', '"margin": 80.0'))
    edited = refused("verify", "0-3", "0-2,2,3-4", *common, "--margin", "80")
    assert "was edited after it was written" in edited


def assert_match(pattern, text):
    assert re.search(pattern, text), text


@pytest.mark.slow  # decodes
def test_verify_compares_long_paths_with_a_vote_at_their_cost(common, capsys):
    flags = ["--scorer", "generation", "--max-new-tokens", "2", "--json", "--quiet"]
    main(["verify", "(0-4)x2", *common, *flags])
    estimates = json.loads(capsys.readouterr().out)["estimates"]
    by_name = {each["name"]: each for each in estimates if each.get("group") == "(0-4)x2"}
    assert by_name[VOTE]["note"] == "of 2"
    assert by_name["tokens"]["value"] > 0


@pytest.mark.parametrize(
    ("claims", "flags", "message"),
    [
        (["0-9"], [], "names layer 9, but the model has layers 0..4"),
        (["0-4"], [], "identity path"),
        (["0-3", "dropped:4"], [], "are one path"),
        (["0-3"], ["--margin", "0"], "margin must lie between 0 and 100"),
        (
            ["0-3"],
            ["--measure", "likelihood"],
            "arithmetic: .* needs the natural log-lik.* 'exact' are not",
        ),
        (["0-3"], ["--margin", "10"], "20 questions in 3 prompts would not show .* 10 points"),
        (["0-3"], ["--variances", "nowhere"], "nowhere"),
        (["0-3"], ["--choose-prompts", "2"], "a trial chooses nothing: leave out --choose-prompts"),
        (
            ["0-3"],
            ["--num-fewshot", "0"],
            "arithmetic has 1 other wording, but 3 are",
        ),
    ],
)
def test_verify_refuses_before_it_evaluates(common, claims, flags, message, refused, tmp_path):
    assert_match(message, refused("verify", *claims, *common, *flags))
    assert not list(tmp_path.rglob("*.parquet"))


def test_verify_refuses_the_file_of_a_path_that_its_questions_chose(common, hub, refused):
    keys = [question_key(each) for each in load_questions("arithmetic", limit=2, level=1)]
    chosen = {"questions": " ".join(keys), "wordings": "", "complete": True}
    file = json.dumps({"path": "0-3", "num_layers": 5, "chosen_on": chosen}).encode()
    hub.repositories["models/me/found"] = {"path.json": file}
    line = refused("verify", "me/found", *common)
    assert "me/found was chosen (me/found) on 2 questions, 0 prompts of" in line
    hub.repositories["models/me/broken"] = {"path.json": b'{"path": "0-'}
    assert "me/broken cannot be read" in refused("verify", "me/broken", *common)


def test_verify_refuses_the_directory_of_another_command(common, tmp_path, refused):
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "run.json").write_text("{}")
    assert "not empty and has no protocol.json" in refused("verify", "0-2,2,3-4", *common)


def test_verify_names_the_next_action_for_a_trial_of_an_earlier_version(common, tmp_path, refused):
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "verdicts.json").write_text("{}")
    line = refused("verify", "0-3", *common, "--variances", str(tmp_path / "trial"))
    assert "verdicts.json is of an earlier version: run the `cola verify` that made it" in line


def test_a_pilot_gives_the_variances_of_a_plan(common, tmp_path, capsys):
    pilot = str(tmp_path / "pilot")
    main(["verify", "0-3", *common, "--limit", "6", "--pilot", "--output", pilot])
    assert "Pilot of 0-3, no verdict" in " ".join(capsys.readouterr().out.split())
    plans = []
    for flags in ([], ["--variances", pilot]):
        main(["verify", "0-3", *common, "--power", "10", *flags, "--json"])
        plans.append(json.loads(capsys.readouterr().out)["8"])
    assert plans[0] != plans[1]


def test_verify_plans_questions_for_a_difference(common, capsys):
    main(["verify", "0-3", *common, "--power", "10", "--json"])
    plans = json.loads(capsys.readouterr().out)
    assert plans["8"]["questions"] > 20
    assert plans["32"]["questions"] < plans["8"]["questions"]
    main(["verify", "0-3", *common, "--power", "0.01"])
    assert "None" not in capsys.readouterr().out


class Accepted(Exception):
    """Ends a trial before it evaluates."""


def accept(*arguments):
    raise Accepted


def test_the_printed_command_is_accepted_and_the_scan_itself_judges_nothing(
    tiny_checkpoint, tmp_path, capsys, monkeypatch, refused
):
    out = str(tmp_path / "scan")
    task = ["--model", str(tiny_checkpoint), "--task", "arithmetic", "--limit", "20"]
    main(["scan", *task, "--longest-block", "1", "--output", out])
    lines = capsys.readouterr().out.splitlines()
    (command,) = (line for line in lines if line.startswith("cola verify "))
    assert command in (tmp_path / "scan" / "report.md").read_text()
    assert "<pre>cola verify " in (tmp_path / "scan" / "report.html").read_text()
    _, _, path, *flags = shlex.split(command)
    monkeypatch.setattr(trial, "make_comparators", accept)
    with pytest.raises(Accepted):
        main(["verify", path, *flags])
    same = ["--margin", "99", "--output", str(tmp_path / "trial")]
    trial_of = ["verify", path, *task, "--chosen-on", out, *same]
    assert "on 20 questions, 0 prompts of arithmetic: ask other questions" in refused(*trial_of)
    # the scan's own prompt judges nothing either
    own = ["--prompts", "1", "--other-questions", "--limit", "90"]
    line = refused(*trial_of, *own)
    assert "on 0 questions, 1 prompt of arithmetic" in line
    assert "none is left: raise --limit" in refused(*trial_of, "--other-questions")
    with pytest.raises(Accepted):
        main([*trial_of, "--allow-overlap"])
    assert "where was" in refused("verify", path, *task, *same)
    with pytest.raises(Accepted):
        main(["verify", path, *task, *same, "--pilot"])


def test_a_protocol_without_outcome_is_kept_and_a_verdict_given_once(
    common, tmp_path, capsys, monkeypatch, refused
):
    def verify(*flags):
        return ["verify", "0-3", *common, "--quiet", "--json", *flags]

    def stop(*arguments, **options):
        raise InputError("stopped before the first outcome")

    with monkeypatch.context() as patch:
        patch.setattr(trial, "evaluate_prompts", stop)
        assert "stopped before" in refused(*verify())
    content = (tmp_path / "trial" / "protocol.json").read_text()
    assert [(each.event, each.outcome) for each in read_tries()] == [("protocol", "")]
    assert_match(r"margin \(margin: 90.0 there, 80.0 here", refused(*verify("--margin", "80")))
    assert (tmp_path / "trial" / "protocol.json").read_text() == content
    main(verify())
    first = json.loads(capsys.readouterr().out)
    assert (tmp_path / "trial" / "protocol.json").read_text() == content
    assert [each.event for each in read_tries()] == ["protocol", "verdict"]
    file = tmp_path / "trial" / "results.json"
    file.write_text(file.read_text().replace('"done": 20', '"done": 21'))
    main(verify())  # writes them again from the rows
    out, error = capsys.readouterr()
    assert "as it was changed after it was written" in error
    again = read_results(file)
    assert again.run["rows"] == json.loads(out)["run"]["rows"] == first["run"]["rows"]
    assert len(read_tries()) == 2
    grown = [*verify(), "--limit", "40"]
    grown[grown.index("--output") + 1] = str(tmp_path / "grown")
    message = r"0-3 was tried before on (\d+) of these (\d+) questions of arithmetic"
    assert_match(message, refused(*grown))
    assert not (tmp_path / "grown").exists()
    main([*grown, "--allow-overlap"])
    (change,) = json.loads(capsys.readouterr().out)["sentences"]
    assert_match(r"1 earlier try: .* on arithmetic, \d+ questions in common", change)


def test_verify_of_parts_counts_layers_and_compares_with_as_many_parts(common, tmp_path, capsys):
    """Shorter by the weights of a part; ShortGPT keeps as many attentions and MLPs."""
    flags = [*common, "--limit", "4", "--prompts", "1", "--pilot"]
    main(["verify", "0,1a,2-4", "0-4,(3-4)*0.5", *flags, "--json"])
    capsys.readouterr()
    results = read_results(tmp_path / "trial" / "results.json")
    protocol = json.loads((tmp_path / "trial" / "protocol.json").read_text())
    part, damped = "0,1a,2-4", "0-4,(3-4)*0.5"
    attention, mlp = protocol["part_costs"][1]
    assert results.value(LAYERS, part) == pytest.approx(5 - mlp)
    assert results.value(LAYERS, damped) == 7
    assert results.value("time", part) == pytest.approx(15.5 - 2 * mlp)
    assert attention + mlp == pytest.approx(1)
    (size,) = protocol["comparators"]["shortgpt"]
    assert size == "5a 4m"
    shortgpt = parse_path(protocol["comparators"]["shortgpt"][size], 5)
    assert sorted(map(part_of, shortgpt)) == [WHOLE] * 4 + [ATTENTION]
    random = [parse_path(each, 5) for each in protocol["comparators"]["random"][part]]
    assert len(random) == 4  # the other layers
    assert all(sorted(map(part_of, each)) == [WHOLE] * 4 + [ATTENTION] for each in random)
    assert results.find(SHORTGPT, part) is not None
    assert protocol["num_tests"] == 3  # a loss of the shorter path as well


def test_verify_of_drafts_compares_acceptance_with_the_cost(common, tmp_path, capsys, monkeypatch):
    flags = [*common, "--limit", "4", "--prompts", "1", "--pilot", "--measure", "agreement"]
    main(["verify", "0-3", "0,1a,2-4", *flags])
    text = " ".join(capsys.readouterr().out.split())
    out = tmp_path / "trial"
    results = read_results(out / "results.json")
    assert results.value("acceptance", MODEL) == results.value("break-even", MODEL) == 1
    for path, cost in (("0-3", 10 / 15.5), ("0,1a,2-4", None)):
        break_even = results.value("break-even", path)
        if cost is not None:
            assert break_even == pytest.approx(cost)
        above = results.find(ABOVE_BREAK_EVEN, path)
        assert above is not None
        assert above.value == pytest.approx(results.value("acceptance", path) - break_even)
        assert results.value("its speed", path) >= 1
        assert results.find(CORRECT, path) is None
    assert "points above break-even" in text
    protocol = json.loads((out / "protocol.json").read_text())
    assert protocol["layer_costs"] == [1, 2, 3, 4, 5.5]
    assert protocol["tasks"]["arithmetic"]["prompts"][0]["scorer"] == "agreement"
    assert protocol["num_tests"] == 2  # effects alone
    monkeypatch.setattr(PathEvaluator, "__call__", None)  # everything has been evaluated before
    main(["verify", "0-3", "0,1a,2-4", *flags])
    assert (
        read_results(out / "results.json").to_json()["estimates"] == results.to_json()["estimates"]
    )
