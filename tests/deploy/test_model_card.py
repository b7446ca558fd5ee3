"""Model cards, and the measured effects that they state."""

import json

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from markdown_it import MarkdownIt

from cola_jax.deploy.model_card import (
    ReportedEffect,
    literal,
    model_card,
    read_effects,
    write_eval_results,
)
from cola_jax.errors import InputError
from cola_jax.report.tables import markdown_table
from tests.report.hostile import TEXTS

EFFECT = {
    "task": "arc-easy, 300 held-out questions",
    **{"n": 300, "before": 0.53, "after": 0.55, "interval": (-0.01, 0.05)},
}
HUB = {"kind": "hub", "name": "someone/tiny", "revision": "0123abc", "license": "apache-2.0"}
METADATA = {"origin": HUB, "config": {"num_layers": 6}, "digest": "feed"}
LOCAL = {"kind": "directory", "name": "/home/someone/models/tiny", "revision": None}
PATH = (0, 1, 1, 2, 4, 3)


@pytest.fixture
def write(tmp_path):
    def write_effect(**changes):
        file = tmp_path / "effect.json"
        file.write_text(json.dumps(EFFECT | changes))
        return file

    return write_effect


def test_card_states_path_effect_and_origin(write, tmp_path):
    effects = read_effects(write(), PATH, 6)
    model_card(METADATA, PATH, effects=effects).save(tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.to_dict() == {
        "base_model": "someone/tiny",
        "library_name": "transformers",
        "license": "apache-2.0",
        "tags": ["chain-of-layers"],
    }
    assert "# someone/tiny, path 0,1,1,2,4,3" in card.text
    assert "at revision `0123abc`" in card.text
    for row in (
        *("layers of the original | 6", "layers run | 6", "skipped | 5", "1 (2 times)"),
        *("license | apache-2.0", "steps back to an earlier layer | 1"),
    ):
        assert f"{row} |" in card.text
    assert "| 300 | 1 | 53.0% | 55.0% | +2.0 (-1.0 to +5.0) |\n" in card.text
    assert "cola export --model someone/tiny@0123abc --path '0,1,1,2,4,3'\n" in card.text
    assert "[0, 1, 1, 2, 4, 3]" in card.text


def test_card_omits_local_places_and_unknown_facts():
    card = model_card(METADATA | {"origin": LOCAL}, PATH, base="THIS_FOLDER/base")
    assert card.data.to_dict() == {"library_name": "peft", "tags": ["chain-of-layers"]}
    assert "Measured effect" not in card.text
    assert "# tiny, path" in card.text
    assert "/home/someone" not in card.text
    assert "license | that of the original, which is not recorded" in card.text
    assert "cola export --model tiny --path '0,1,1,2,4,3' --share\n" in card.text


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_text_is_markup(text):
    def kinds(text):
        effects = [ReportedEffect(**EFFECT | {"task": text, "outcome": text, "sentence": text})]
        origin = LOCAL | {"name": text, "license": text}
        reader = MarkdownIt("commonmark", {"html": True}).enable("table")
        tokens = reader.parse(model_card(METADATA | {"origin": origin}, PATH, effects=effects).text)
        inline = {child.type for token in tokens for child in token.children or ()}
        return [token.type for token in tokens], inline - {"text_special"}

    assert kinds(text) == kinds("plain")


def test_read_effects_refuses_other_files(write):
    for changes, message in (
        ({"path": "0-5"}, "this export: its path is 0-5, here it is 0,1,1,2,4,3"),
        ({"model": "theirs"}, "this export: its model is theirs, here it is ours"),
        ({"before": 53.0}, "before: Input should be less than or equal to 1"),
        ({"interval": [-1.0, 5.0]}, "interval.1: Input should be less than or equal to 1"),
        ({"effect": {}}, "task: Field required"),
    ):
        with pytest.raises(InputError, match=message):
            read_effects(write(**changes), PATH, 6, "ours")


def test_read_effects_reads_the_results_of_an_evaluation(write):
    static = write(path="0,1,1-2,4,3", effect=EFFECT, task=None)
    assert read_effects(static, PATH, 6) == [ReportedEffect(**EFFECT)]
    known = {"0,1,1,2,4,3": {k: v for k, v in EFFECT.items() if k != "task"} | {"p": 0.5}}
    effects = {"sentence": "Nothing shown: no path differs.", "paths": known}
    theirs = {"settings": {"model": "theirs"}, "effects": effects}
    file = write(cola_jax=theirs, configs={"sums": {"task": "sums"}})
    (effect,) = read_effects(file, PATH, 6, "theirs")
    assert effect.task == "sums"
    card = model_card(METADATA, PATH, effects=[effect]).text
    assert "The report: Nothing shown: no path differs.\n" in card
    with pytest.raises(InputError, match="its model is theirs, here it is ours"):
        read_effects(file, PATH, 6, "ours")
    with pytest.raises(InputError, match="measures 0,1,1,2,4,3 against the identity path"):
        read_effects(file, (0, 1), 6, "theirs")
    known["0-1"] = known["0,1,1,2,4,3"]
    with pytest.raises(InputError, match="of one path, chosen before"):
        read_effects(write(cola_jax=theirs), PATH, 6, "theirs")


def verdict(task, outcome):
    effect = {name: value for name, value in EFFECT.items() if name != "task"}
    return {task: effect | {"prompts": 8, "outcome": outcome, "difference": 0.02}}


def test_read_effects_reads_each_task_of_a_verdict(write, tmp_path):
    tasks = verdict("arc-easy", "better") | verdict("arithmetic", "nothing shown")
    claims = [{"name": "x", "path": "0-5", "tasks": {}}]
    claims += [{"name": "y", "path": "0,1,1-2,4,3", "tasks": tasks}]
    file = write(model="ours", num_layers=6, claims=claims)
    effects = read_effects(file, PATH, 6, "ours")
    text = model_card(METADATA, PATH, effects=effects).text
    assert "| arc-easy | 300 | 8 | 53.0% | 55.0% | +2.0 (-1.0 to +5.0) | better |\n" in text
    assert "| arithmetic | 300 | 8 |" in text
    with pytest.raises(InputError, match="its model is ours, here it is another"):
        read_effects(file, PATH, 6, "another")
    other = write(model="ours", num_layers=6, claims=claims, measure="likelihood")
    with pytest.raises(InputError, match="measures likelihood, but a model card states accuracy"):
        read_effects(other, PATH, 6, "ours")
    write(model="ours", num_layers=6, claims=claims, measure="accuracy")
    with pytest.raises(InputError, match="tries 0-5, 0,1,1,2,4,3, not 0-1"):
        read_effects(file, (0, 1), 6, "ours")


def test_eval_results_are_those_of_data_sets_on_the_hub(tmp_path, caplog):
    tasks = ("arc_easy", "mmlu_astronomy", "my/questions.jsonl", "arithmetic")
    with caplog.at_level("INFO"):
        write_eval_results(tmp_path, PATH, [ReportedEffect(**EFFECT | {"task": t}) for t in tasks])
    files = sorted((tmp_path / ".eval_results").iterdir())
    assert [file.name for file in files] == ["arc_easy.yaml", "mmlu_astronomy.yaml"]
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[0].read_text()))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("allenai/ai2_arc", "arc_easy", 55.0)
    assert "path 0,1,1,2,4,3; questions 300, prompts 1; " in entry.notes
    assert "no .eval_results of my/questions.jsonl, which is not a data set" in caplog.text


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_literal_is_shown_as_it_is(text: str):
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    escaped = literal(text)
    table = markdown_table(("", ""), [(escaped, "x")])
    tokens = reader.parse("\n".join([f"# {escaped}", "", *table]))
    heading, *_, cell, _ = [token for token in tokens if token.type == "inline"]
    assert [token.type for token in tokens].count("tr_open") == 2
    for inline in (heading, cell):
        assert {child.type for child in inline.children or ()} <= {"text", "text_special"}
        shown = "".join(child.content for child in inline.children or ())
        assert shown == " ".join(text.split()).replace("\0", "\ufffd")


def test_literal_leaves_names_as_they_are():
    name = "arc_easy, SmolLM2-135M 1.5 (5 shots)!"
    assert literal(name) == name
