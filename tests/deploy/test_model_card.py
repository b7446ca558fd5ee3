"""Model cards, and the measured effects that they state."""

import dataclasses
import math
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from markdown_it import MarkdownIt

from cola_jax import progress
from cola_jax.deploy.model_card import (
    ReportedEffect,
    literal,
    model_card,
    read_effects,
    write_eval_results,
)
from cola_jax.deploy.path_file import PathFile
from cola_jax.deploy.provenance import Provenance
from cola_jax.errors import InputError, escaped
from cola_jax.path import parse_path
from cola_jax.report.tables import markdown_table
from cola_jax.runs.chosen_on import ChosenOn
from cola_jax.runs.estimates import (
    CANDIDATES,
    CHANGE,
    CORRECT,
    LIKELIHOOD,
    LIMIT,
    MODEL,
    RECOMMENDED,
    TRIES,
    Estimate,
)
from cola_jax.runs.estimates import (
    CHOSEN as CHOSEN_BEFORE,
)
from cola_jax.runs.results import Results, write_results
from tests.report.hostile import TEXTS

HUB = {"kind": "hub", "name": "someone/tiny", "revision": "0123abc", "license": "apache-2.0"}
METADATA = {"origin": HUB, "config": {"num_layers": 6}, "digest": "feed", "dtype": "float32"}
LOCAL = {"kind": "directory", "name": "/home/someone/models/tiny", "revision": None}
PATH = (0, 1, 1, 2, 4, 3)


NAME = "0,1,1,2,4,3"


def measured(group, model=MODEL, note="", chosen=""):
    """The estimates of a path, as commands make them."""
    return [
        Estimate(CORRECT, model, 0.53, n=300),
        Estimate(CORRECT, group, 0.55, n=300, note=chosen),
        Estimate(CHANGE, group, 0.02, "points", -0.01, 0.05, 0.5, 0.5, 300, note=note),
    ]


def effect_of(text):
    before, after, change = measured(NAME, note=text)
    return ReportedEffect(text, 1, before, after, change, text, {text: text})


@pytest.fixture
def write(tmp_path):
    """Write results of a command on a model, and return their file."""

    def write_estimates(command, estimates, **run):
        facts = {"settings": {"command": command, "model": "ours"}, "start": {"task": "arc-easy"}}
        file = tmp_path / "results.json"
        write_results(Results(estimates, facts | run), file)
        return file

    return write_estimates


def test_card_states_path_effect_and_origin(write, tmp_path):
    effects = read_effects(write("evaluate", measured(NAME)), PATH, 6, "ours")
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
    assert "| arc-easy | 300 | 1 | 53.0 % | 55.0 % | +2.0 (−1.0 to +5.0) |\n" in card.text
    assert "does not differ from the model beyond chance" in card.text
    assert (
        "cola export --model someone/tiny@0123abc --path '0,1,1,2,4,3' --output THIS_FOLDER\n"
        in card.text
    )
    assert "[0, 1, 1, 2, 4, 3]" in card.text


def test_card_says_what_steps_are_and_that_zeros_save_nothing():
    path = parse_path("0-1,2a,2,4m", 6)
    card = model_card(METADATA, path).text
    assert "`9m` the MLP of layer 9 without its attention" in card
    assert "are zeros here, which is exact and saves neither time nor memory" in card
    for row in ("steps run | 5", "skipped | 3,4a,5", "once | 2a (2 times)", "earlier layer | 0"):
        assert f"{row} |" in card
    assert 'The path as JSON: `"0-1,2a,2,4m"`' in card
    served = model_card(METADATA, path, file=PathFile(path="0-1,2a,2,4m")).text
    assert "`9m` the MLP" in served
    assert "zeros" not in served
    split = model_card(METADATA, parse_path("0-2,3a,3m*0.5,4-5,5", 6)).text
    assert "skipped | none |" in split
    assert "once | 5 (2 times) |" in split


def test_card_omits_local_places_and_unknown_facts():
    card = model_card(METADATA | {"origin": LOCAL}, PATH, base="THIS_FOLDER/base")
    assert card.data.to_dict() == {"library_name": "peft", "tags": ["chain-of-layers"]}
    assert "Measured effect" not in card.text
    assert "# tiny, path" in card.text
    assert "/home/someone" not in card.text
    assert "license | that of the original, which is not recorded" in card.text
    assert (
        "cola export --model tiny --path '0,1,1,2,4,3' --format peft --output THIS_FOLDER\n"
        in card.text
    )


def test_card_names_a_model_as_who_copies_its_command_can():
    """A folder of the Hub's cache by its repository, and the demo's model by its short name."""
    commit = "c" * 40
    cached = LOCAL | {"name": f"/root/hub/models--someone--tiny/snapshots/{commit}"}
    card = model_card(METADATA | {"origin": cached}, PATH)
    assert f"cola export --model someone/tiny@{commit} --path" in card.text
    assert card.data.to_dict()["base_model"] == "someone/tiny"
    demo = LOCAL | {"kind": "gguf", "package": "a 1.0: b.gguf"}
    assert (
        "cola export --model smollm2 --path" in model_card(METADATA | {"origin": demo}, PATH).text
    )


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_text_is_markup(text):
    def kinds(text):
        effects = [effect_of(text)]
        origin = LOCAL | {"name": text, "license": text}
        reader = MarkdownIt("commonmark", {"html": True}).enable("table")
        tokens = reader.parse(model_card(METADATA | {"origin": origin}, PATH, effects=effects).text)
        inline = {child.type for token in tokens for child in token.children or ()}
        return [token.type for token in tokens], inline - {"text_special"}

    assert kinds(text) == kinds("plain")


def test_read_effects_refuses_what_was_chosen_on_the_same_questions(write):
    both = [*measured(NAME), *measured("0-1")[1:]]
    with pytest.raises(InputError, match="is that of one path, chosen before"):
        read_effects(write("evaluate", both), PATH, 6, "ours")
    with pytest.raises(InputError, match="its model is ours, here it is another"):
        read_effects(write("evaluate", measured(NAME)), PATH, 6, "another")
    chosen = [*measured("0-1"), *measured(NAME, chosen=CHOSEN_BEFORE)[1:]]
    file = write("static", chosen)
    (effect,) = read_effects(file, PATH, 6, "ours")
    assert effect.after.group == NAME
    with pytest.raises(InputError, match=f"has the effect of {NAME}, not of 0-1: export this one"):
        read_effects(file, (0, 1), 6, "ours")
    chosen.append(Estimate(RECOMMENDED, note="0-1"))
    chosen.append(Estimate(LIMIT, note="at most 5 layers"))
    chosen.append(Estimate.count(CANDIDATES, 2))
    file = write("static", chosen)
    assert [each.after.group for each in read_effects(file, (0, 1), 6, "ours")] == ["0-1"]
    assert [each.after.group for each in read_effects(file, PATH, 6, "ours")] == [NAME]


def test_a_path_for_a_budget_may_be_any_that_static_measured(write):
    """Also where the model is chosen; the card says the budget, and the verdict of that path."""
    budget = {"budget": "a cost of at most 80%", "cost": "4 layers"}
    estimates = [*measured(NAME), *measured("0-1")[1:]]
    estimates[0] = dataclasses.replace(estimates[0], note=CHOSEN_BEFORE)
    file = write("static", estimates)
    (effect,) = read_effects(file, PATH, 6, "ours", budget=budget)
    assert effect.after.group == NAME
    assert f"{NAME} does not differ from the model beyond chance" in effect.sentence
    text = model_card(METADATA, PATH, effects=[effect]).text
    assert "| budget | a cost of at most 80% |\n| cost | 4 layers |\n" in text


def test_read_effects_reads_each_task_of_a_claim(write):
    tasks = {"arc-easy": "better", "arithmetic": "nothing shown"}
    estimates = []
    groups: dict[str, Any] = {}
    for task, outcome in tasks.items():
        model = f"{MODEL} on {task}"
        estimates += measured(f"y on {task}", model, outcome)
        groups[f"y on {task}"] = {"path": NAME, "task": task, "model": model}
    groups["y on arithmetic"]["prompts"] = 1
    file = write("verify", estimates, groups=groups, prompts=8)
    text = model_card(METADATA, PATH, effects=read_effects(file, PATH, 6, "ours")).text
    assert "| arc-easy | 300 | 8 | 53.0 % | 55.0 % | +2.0 (−1.0 to +5.0) | better |\n" in text
    assert "| arithmetic | 300 | 1 |" in text
    assert "The report: y on arc-easy is better, for" not in text
    assert "The report: y on arc-easy is better: +2.0 points" in text
    settings = {"command": "verify", "model": "ours", "measure": "likelihood"}
    likelihood = [Estimate(LIKELIHOOD, "y", 0.02, "nats/100 more", note="better")]
    other = write("verify", likelihood, settings=settings)
    with pytest.raises(InputError, match="measures likelihood, but a model card states accuracy"):
        read_effects(other, PATH, 6, "ours")


def test_read_effects_refuses_a_pilot(write):
    """A pilot may ask what chose the path."""
    settings = {"command": "verify", "model": "ours", "pilot": True}
    file = write("verify", measured(NAME, note="pilot"), settings=settings)
    with pytest.raises(InputError, match="of a pilot, which gives no verdict"):
        read_effects(file, PATH, 6, "ours")


def test_card_has_no_interval_where_no_answer_changed():
    before, after, change = measured(NAME)
    change = dataclasses.replace(change, value=0.0, low=math.nan, high=math.nan)
    effect = ReportedEffect("arc", 1, before, after, change, "", {})
    assert effect.size == "+0.0"


CHOSEN = ChosenOn(frozenset("ab"), frozenset("w"))


@pytest.mark.parametrize(
    ("command", "recorded", "chosen_on", "text"),
    [
        ("evaluate", {}, None, "not recorded"),
        ("evaluate", {"chosen_on": ChosenOn(frozenset("c"), frozenset("v"))}, None, "not recorded"),
        (
            "evaluate",
            {"chosen_on": ChosenOn(frozenset("c"), frozenset("v"))},
            Provenance(("/home/me/runs/scan",), CHOSEN),
            "2 questions of scan, none of which it was measured on",
        ),
        ("static", {"chosen_on": CHOSEN}, None, "not recorded"),
        (
            "static",
            {"chosen_on": CHOSEN, "measured_on": ChosenOn(frozenset("c"), frozenset("v"))},
            None,
            "2 questions of cola static, none of which it was measured on",
        ),
    ],
)
def test_card_says_where_a_path_was_chosen(write, command, recorded, chosen_on, text):
    fields = {name: keys.to_json() for name, keys in recorded.items()}
    estimates = [*measured(NAME, chosen=CHOSEN_BEFORE if command == "static" else "")]
    file = write(command, estimates, **fields)
    effects = read_effects(file, PATH, 6, "ours", provenance=chosen_on)
    card = model_card(METADATA, PATH, effects=effects).text
    assert f"| chosen on | {text} |\n" in card


def test_read_effects_refuses_or_names_what_was_chosen_on_what_measures_it(write):
    file = write("evaluate", measured(NAME), chosen_on=CHOSEN.to_json())
    facts: dict[str, Any] = {"provenance": Provenance(("runs/scan",), CHOSEN)}
    with pytest.raises(InputError, match=r"on 2 questions, 1 prompt of those that measure it: try"):
        read_effects(file, PATH, 6, "ours", **facts)
    (effect,) = read_effects(file, PATH, 6, "ours", **facts, allow_overlap=True)
    text = "2 questions of scan; overlap allowed: 2 questions, 1 prompt in common"
    assert effect.facts["chosen on"] == text


def test_card_states_the_protocol_of_a_trial(write):
    """Also that there is none, or that an earlier version recorded less."""

    def card(command, estimates, **run):
        effects = read_effects(write(command, estimates, **run), PATH, 6, "ours")
        return model_card(METADATA, PATH, effects=effects).text

    claims = [*measured("y", note="better"), *measured("z", note="worse")[1:]]
    claims += [Estimate.count(TRIES, 1, group="y", note="2026-11-28 worse on arc-easy")]
    groups = {
        name: {"path": path, "task": "arc-easy", "model": MODEL}
        for name, path in (("y", NAME), ("z", "0-4"))
    }
    settings: dict[str, Any] = {"command": "verify", "model": "ours", "hash": "f" * 64}
    settings |= {"margin": 3.0, "num_tests": 5}
    size = {"done": 300, "prompts": 8}
    text = card("verify", claims, settings=settings, groups=groups, **size)
    for row in (
        "| hash | ffffffffffffffff |",
        "| earlier tries | 1: 2026-11-28 worse on arc-easy |",
        "| margin | 3 points |",
        "| questions and prompts | 300 questions x 8 prompts |",
        "| chosen on | not recorded |",
        "| rows, results | not recorded, not recorded |",
    ):
        assert row in text
    assert "over 5 tests of 2 claims" in text
    none = card("evaluate", measured(NAME))
    assert "| hash | none: cola evaluate measured it, and no claim was tried" in none


def test_read_effects_names_the_next_action_for_files_of_earlier_versions(tmp_path):
    file = tmp_path / "verdicts.json"
    file.write_text('{"claims": [], "model": "ours"}')
    with pytest.raises(InputError, match=r"verdicts.json cannot be read .* the results.json of"):
        read_effects(file, PATH, 6, "ours")


def test_the_model_itself_has_no_effect_to_state(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(progress.log, "propagate", True)  # after commands of other tests
    with caplog.at_level("WARNING", "cola_jax"):
        assert read_effects(tmp_path / "results.json", range(6), 6, "ours") == []
    assert "its card states no effect" in caplog.text


def test_eval_results_are_those_of_data_sets_on_the_hub(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(progress.log, "propagate", True)
    tasks = ("arc_easy", "mmlu_astronomy", "my/questions.jsonl", "arithmetic")
    with caplog.at_level("INFO", "cola_jax"):
        write_eval_results(tmp_path, PATH, list(map(effect_of, tasks)))
    files = sorted((tmp_path / ".eval_results").iterdir())
    assert [file.name for file in files] == ["arc_easy.yaml", "mmlu_astronomy.yaml"]
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[0].read_text()))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("allenai/ai2_arc", "arc_easy", 55.0)
    assert "path 0,1,1,2,4,3; questions 300, prompts 1; " in entry.notes
    assert "no .eval_results of my/questions.jsonl, which is not a data set" in caplog.text


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_literal_is_shown_as_it_is(text: str):
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    written = literal(text)
    table = markdown_table(("", ""), [(written, "x")])
    tokens = reader.parse("\n".join([f"# {written}", "", *table]))
    heading, *_, cell, _ = [token for token in tokens if token.type == "inline"]
    assert [token.type for token in tokens].count("tr_open") == 2
    for inline in (heading, cell):
        assert {child.type for child in inline.children or ()} <= {"text", "text_special"}
        shown = "".join(child.content for child in inline.children or ())
        assert shown == escaped(" ".join(text.split()))


def test_literal_shows_what_a_terminal_obeys_and_makes_no_links_of_addresses():
    """GitHub and the Hub link them without brackets."""
    assert literal("a\x1b[2J\u202eb") == "a\\\\x1b\\[2J\\\\u202eb"
    text = literal("see https://evil.example/x, WWW.evil.example or me@evil.example")
    assert text == r"see https\://evil.example/x, WWW\.evil.example or me\@evil.example"


def test_literal_leaves_names_as_they_are():
    name = "arc_easy, SmolLM2-135M 1.5 (5 shots)!"
    assert literal(name) == name


def test_read_effects_counts_the_blocks_of_a_scan_instead_of_listing_them(write):
    blocks = [each for i in range(900) for each in measured(f"skip {i}")[1:]]
    with pytest.raises(InputError, match=r"has the effect of skip 0, .* and 896 more, not of"):
        read_effects(write("scan", blocks), PATH, 6, "ours")
