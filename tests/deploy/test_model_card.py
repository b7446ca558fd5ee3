"""Model cards, and the measured effects that they state."""

import dataclasses
import json

import pytest
import yaml
from markdown_it import MarkdownIt

from cola_jax.deploy.model_card import Card, ReportedEffect, literal, read_effect
from cola_jax.errors import InputError
from cola_jax.report.markdown import table
from tests.report.hostile import TEXTS

EFFECT = {
    "task": "arc-easy, 300 held-out questions",
    "n": 300,
    "before": 0.53,
    "after": 0.55,
    "difference": 0.02,
    "interval": [-0.01, 0.05],
}
HUB = {"kind": "hub", "name": "someone/tiny", "revision": "0123abc"}
CARD = Card((0, 1, 1, 2, 4, 3), 6, HUB, "cola export --path 0,1,1-2,4,3")


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        file = tmp_path / "effect.json"
        file.write_text(json.dumps(EFFECT | changes))
        return file

    return write


def test_card_states_path_effect_and_command(write):
    effect = read_effect(write(), CARD.path, 6)
    text = dataclasses.replace(CARD, effect=effect).markdown()
    _, front, body = text.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["base_model"] == "someone/tiny"
    assert front["library_name"] == "transformers"
    assert "# someone/tiny, path 0,1,1,2,4,3" in body
    assert "at revision `0123abc`" in body
    for row in ("layers of the original | 6", "layers run | 6", "skipped | 5", "1 (2 times)"):
        assert f"{row} |" in body
    assert "steps back to an earlier layer | 1 |" in body
    assert "| 300 | 53.0% | 55.0% | +2.0 | -1.0 to +5.0 |" in body
    assert f"```\n{CARD.command}\n```" in body
    assert "[0, 1, 1, 2, 4, 3]" in body


def test_card_omits_what_is_not_known():
    local = {"kind": "directory", "name": "/home/someone/models/tiny", "revision": None}
    text = dataclasses.replace(CARD, origin=local).markdown()
    assert "Measured effect" not in text
    assert "base_model" not in text
    assert "# tiny, path" in text
    assert "/home/someone" not in text


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_text_is_markup(text):
    def kinds(text):
        effect = dataclasses.replace(ReportedEffect(**EFFECT), task=text)
        card = dataclasses.replace(CARD, origin={"kind": "directory", "name": text}, effect=effect)
        reader = MarkdownIt("commonmark", {"html": True}).enable("table")
        tokens = reader.parse(card.markdown())
        inline = {one.type for token in tokens for one in token.children or ()}
        return [token.type for token in tokens], inline - {"text_special"}

    assert kinds(text) == kinds("plain")


def test_read_effect_reads_the_field_of_a_results_file(write):
    file = write(path="0,1,1-2,4,3", effect=EFFECT, task=None)
    assert read_effect(file, CARD.path, 6) == ReportedEffect(**EFFECT | {"interval": (-0.01, 0.05)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "0-5"}, "this export: its path is 0-5, here it is 0,1,1,2,4,3"),
        (
            {"interval": None},
            "interval: Input should be a valid .* A measured effect has the fields task, n, bef",
        ),
        ({"task": 3}, "task: Input should be a valid string, got 3"),
        ({"after": 0.6}, r"the difference 0\.02 \[-0\.01, 0\.05\] does not fit 0\.53 before"),
        ({"before": 53.0, "after": 55.0, "difference": 2.0}, "accuracies are shares"),
        ({"n": 0}, "shares of at least one question"),
        ({"interval": [0.05, -0.01]}, "does not fit"),
    ],
)
def test_read_effect_refuses_other_files(write, changes, message):
    with pytest.raises(ValueError, match=message):
        read_effect(write(**changes), CARD.path, 6)


def test_read_effect_refuses_that_of_another_model(write):
    with pytest.raises(InputError, match="this export: its model is theirs, here it is ours"):
        read_effect(write(model="theirs"), CARD.path, 6, "ours")


def test_read_effect_reads_the_results_of_an_evaluation(write):
    known = {"0,1,1,2,4,3": {k: v for k, v in EFFECT.items() if k != "task"} | {"p": 0.5}}
    there = {"settings": {"model": "theirs"}, "effects": {"paths": known}}
    file = write(cola_jax=there, configs={"sums": {"task": "sums"}})
    assert read_effect(file, CARD.path, 6, "theirs").task == "sums"
    with pytest.raises(InputError, match="its model is theirs, here it is ours"):
        read_effect(file, CARD.path, 6, "ours")
    with pytest.raises(InputError, match="measures 0,1,1,2,4,3 against the identity path"):
        read_effect(file, (0, 1), 6, "theirs")
    there["effects"]["paths"]["0-1"] = known["0,1,1,2,4,3"]
    with pytest.raises(InputError, match="of one path, chosen before"):
        read_effect(write(cola_jax=there), CARD.path, 6, "theirs")


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_literal_is_shown_as_it_is(text: str):
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    escaped = literal(text)
    tokens = reader.parse("\n".join([f"# {escaped}", "", *table(("", ""), [(escaped, "x")])]))
    heading, *_, cell, _ = [token for token in tokens if token.type == "inline"]
    assert [token.type for token in tokens].count("tr_open") == 2
    for inline in (heading, cell):
        assert {child.type for child in inline.children or ()} <= {"text", "text_special"}
        shown = "".join(child.content for child in inline.children or ())
        assert shown == " ".join(text.split()).replace("\0", "\ufffd")


def test_literal_leaves_names_as_they_are():
    name = "arc_easy, SmolLM2-135M 1.5 (5 shots)!"
    assert literal(name) == name
    assert literal("<0.1 %") == "\\<0.1 %"
