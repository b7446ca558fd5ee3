"""`cola verify`: a trial from claims to verdicts, resumed, and refused."""

import json
import re

import pytest

from cola_jax.cli.main import main
from cola_jax.execute.run_paths import PathEvaluator


@pytest.fixture
def common(tiny_checkpoint, tmp_path):
    flags = ["--model", str(tiny_checkpoint), "--task", "arithmetic", "--level", "1"]
    costs = tmp_path / "costs.json"
    costs.write_text("[1, 2, 3, 4, 5.5]")
    flags += ["--layer-costs", str(costs)]
    return [*flags, "--limit", "20", "--prompts", "3", "--output", str(tmp_path / "trial")]


def test_verify_decides_on_claims_and_resumes_as_a_test_does(
    common, tmp_path, capsys, monkeypatch, refused
):
    out = tmp_path / "trial"
    main(["verify", "0-3", "0-2,2,3-4", *common, "--json"])
    verdicts = json.loads(capsys.readouterr().out)
    assert json.loads((out / "verdicts.json").read_text()) == verdicts
    skip, repeat = verdicts["claims"]
    assert (skip["path"], skip["layers"], repeat["layers"]) == ("0-3", 4, 6)
    assert (skip["milliseconds"], repeat["milliseconds"]) == ([15.5, 10], [15.5, 18.5])
    figures = skip["tasks"]["arithmetic"]
    assert (figures["n"], figures["prompts"], len(figures["by_prompt"])) == (20, 3, 3)
    assert figures["random"]["paths"] == 4  # all other single skips of five layers
    assert repeat["tasks"]["arithmetic"]["shortgpt"] is None
    protocol = json.loads((out / "protocol.json").read_text())
    assert protocol["hash"] == verdicts["protocol"]
    prompts = protocol["tasks"]["arithmetic"]["prompts"]
    assert len({json.dumps(prompt, sort_keys=True) for prompt in prompts}) == 3
    monkeypatch.setattr(PathEvaluator, "__call__", None)  # everything has been evaluated before
    with pytest.raises(SystemExit) as end:
        main(["verify", "0-3", "0-2,2,3-4", *common, "--fail-on", figures["outcome"]])
    assert end.value.code == 1
    assert json.loads((out / "verdicts.json").read_text()) == verdicts  # with its timings
    text, error = (" ".join(stream.split()) for stream in capsys.readouterr())
    assert f"called {figures['outcome']} (--fail-on)" in error
    assert "points more in each prompt" in text
    assert "in 3 prompts" in text
    assert all(words in text for words in ("18.5 ms", "119.4 %"))
    for flags, message in (
        (["--margin", "5"], r"protocol in .* differs from it in margin \(margin: 3.0 there, 5.0"),
        (["--prompts", "1"], r"tasks.arithmetic.prompts \(--prompts: 3 there, 1 here\)"),
        (["--num-fewshot", "1"], r"prompts \(--num-fewshot: 2 there, 1 here\)"),
    ):
        assert_match(message, refused("verify", "0-3", "0-2,2,3-4", *common, *flags))
    content = (out / "protocol.json").read_text()
    (out / "protocol.json").write_text(content.replace('"margin": 3.0', '"margin": 9.0'))
    edited = refused("verify", "0-3", "0-2,2,3-4", *common, "--margin", "9")
    assert "was edited after it was written" in edited


def assert_match(pattern, text):
    assert re.search(pattern, text), text


@pytest.mark.slow  # decodes
def test_verify_compares_long_paths_with_a_vote_at_their_cost(common, capsys):
    flags = ["--scorer", "generation", "--max-new-tokens", "2", "--json", "--quiet"]
    main(["verify", "(0-4)x2", *common, *flags])
    (claim,) = json.loads(capsys.readouterr().out)["claims"]
    figures = claim["tasks"]["arithmetic"]
    assert figures["self_consistency"]["samples"] == 2
    assert figures["tokens"][0] > 0


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
        (["0-3"], ["--limit", "19"], "19 questions are fewer than a test needs: .* 20"),
        (["0-3"], ["--prompts", "2"], "2 prompts are fewer than a test needs: .* 3"),
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


def test_verify_refuses_the_directory_of_another_command(common, tmp_path, refused):
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "run.json").write_text("{}")
    assert "not empty and has no protocol.json" in refused("verify", "0-2,2,3-4", *common)


def test_verify_plans_questions_for_a_difference(common, capsys):
    main(["verify", "0-3", *common, "--power", "10", "--json"])
    plans = json.loads(capsys.readouterr().out)
    assert plans["8"]["questions"] > 20
    assert plans["32"]["questions"] < plans["8"]["questions"]
    main(["verify", "0-3", *common, "--power", "0.01"])
    assert "None" not in capsys.readouterr().out
