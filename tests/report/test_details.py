import dataclasses

import pytest

from cola_jax.report.details import MAX_NAME, cut_middle, run_details, title
from cola_jax.strategies.rules import PRESETS
from tests.report.conftest import SETTINGS, START
from tests.report.hostile import LONG, TEXTS


def test_run_details_of_open_runs():
    prompt = {"format": {"name": "boxed"}, "shots": ["a"], "chat": True}
    more = {"prompt": prompt, "max_new_tokens": 64, "grader": "math-verify 0.9.0", "chat": None}
    details = dict(run_details(SETTINGS | more, START, 1))
    assert details["prompt"] == "boxed, 1 shot"
    assert details["chat template"] == "yes"
    assert (details["token limit"], details["grader"]) == ("64", "math-verify 0.9.0")
    assert not {"prompt", "token limit", "grader"} & set(dict(run_details(SETTINGS, START, 1)))


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ({"format": "plain", "shots": ["a", "b"]}, "plain, 2 shots"),
        ({"format": "harness", "shots": []}, "harness, 0 shots"),
        (
            {"format": "lm-evaluation-harness", "shots": [], "num_fewshot": 5},
            "lm-evaluation-harness, 5 shots",
        ),
        (
            {"format": "lm-evaluation-harness", "shots": [], "num_fewshot": None},
            "lm-evaluation-harness",
        ),
    ],
)
def test_run_details_of_prompts_whose_format_is_a_name(prompt, name):
    assert dict(run_details(SETTINGS | {"prompt": prompt}, START, 1))["prompt"] == name


def test_run_details_name_preset_and_versions():
    name, preset = next(iter(PRESETS.items()))
    start = START | {"versions": {"jax": "0.10.2"}, "python": "3.11.7"}
    details = dict(run_details(SETTINGS | {"preset": dataclasses.asdict(preset)}, start, 2))
    assert (details["preset"], details["starts"]) == (name, "2")
    assert details["versions"] == "jax 0.10.2, python 3.11.7"
    assert dict(run_details(SETTINGS, START, 1))["preset"] == "custom"
    values = dataclasses.asdict(PRESETS["enumerate"])
    recorded = SETTINGS | {"strategy": "enumerate", "preset": values}
    assert dict(run_details(recorded, START, 1))["preset"] == "enumerate"


def test_cut_middle_removes_the_middle():
    assert cut_middle("a" * 9, 9) == "a" * 9
    assert (
        cut_middle("abc" + "-" * 1000 + "defghi", 9) == "abc […1,000 characters left out…] defghi"
    )


@pytest.mark.parametrize("text", [*TEXTS.values(), *LONG.values()], ids=[*TEXTS, *LONG])
def test_title_is_short_and_shown_as_it_is(text: str):
    name = title(text)
    assert name.isprintable()
    assert len(name) <= MAX_NAME
    if text.isprintable() and len(text) <= MAX_NAME:
        assert name == text
    else:
        assert "\ufffd" in name or "…" in name
