"""The paper in one command: cells, commands, claims, figures and the page, from small runs."""

import dataclasses
import json
import math
import re
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

import cola_jax
from cola_jax.cli.commands import COMMANDS, parse
from cola_jax.errors import InputError
from cola_jax.runs.estimates import BEYOND, Estimate
from cola_jax.runs.run import Run
from experiments.paper import ceiling, latency, published
from experiments.paper.__main__ import Paper, main
from experiments.paper.cells import CELLS, DATA, Cell, Place, choose, finished_rows
from experiments.paper.claims import ceiling_rows, joint_row, latency_rows
from experiments.paper.figures import FIGURES
from experiments.paper.page import write_paper
from experiments.paper.results import Change, changes, read
from tests import tiny
from tests.small_runs import PARTS, START, make_run

FOLDER = Path(__file__).parents[2] / "experiments" / "paper"
CELLS_OF_FIGURES = {
    "Figure 2": {"3.5 (3.5)", "4.0 (3.5)"},
    "Figure 3": {"C→C", "50.0 %", "100.0 %"},
    "Figure 4": {"20.0 %", "40.0 %"},
    "Figure 5": {"all", "1.386"},
    "Figure 6": {"skipped, early / middle / late", "0.00 / 0.00 / 0.00"},
    "Figure 7": {"shortest 5 %", "correct", "control"},
}


@pytest.fixture
def place(tmp_path):
    """A folder with two searches: the joint space and skips on ARC-Easy."""
    place = Place(str(tmp_path), ("someone/model", None))
    start = START | {"model": "someone/model"}
    for cell in (CELLS[0], CELLS[1]):
        run = make_run(tmp_path / "made", *PARTS, start=start, scorer="letter", dtype="float32")
        directory = place.directory(cell)
        directory.parent.mkdir(parents=True, exist_ok=True)
        epath.Path(run.directory).rename(directory)
    return place


def searches(place):
    return read([(cell, Run(place.directory(cell))) for cell in (CELLS[0], CELLS[1])])


def test_figures_have_controls(place):
    for name, cells in CELLS_OF_FIGURES.items():
        head, rows = FIGURES[name](searches(place)[:1])
        assert rows
        assert all(len(row) == len(head) for row in rows)
        text = [*head, *(cell for row in rows for cell in row)]
        assert any("control" in cell for cell in text)
        assert cells <= set(text), name


def test_p_values_are_corrected_over_the_searches_of_the_page(place):
    results = searches(place)
    alone = read([(CELLS[0], Run(place.directory(CELLS[0])))])[0]
    tested = sum(not math.isnan(each.corrected) for result in results for each in result.results)
    assert tested == 2
    assert results[0].find(BEYOND).corrected >= alone.find(BEYOND).corrected
    assert results[0].find(BEYOND).p == alone.find(BEYOND).p


def test_changes_compare_the_joint_space_with_others_on_the_same_questions(place):
    (change,) = changes(searches(place))
    assert change.first.cell.space == "skip+repeat"
    assert change.other.cell.space == "skip"
    assert change.estimate.value == pytest.approx(0)  # equal searches


def test_a_difference_of_spaces_is_shown_by_its_corrected_p_value(place):
    first, other = searches(place)
    net = Estimate("net", value=9.0, unit="points", low=1.0, high=17.0, p=0.03, n=6)
    sentences = [
        joint_row(Change(first, other, dataclasses.replace(net, corrected=p))).cells[-1]
        for p in (0.03, 0.09)
    ]
    assert sentences == ["Shown: more beyond control.", "Not shown: no difference beyond control."]


def test_page_has_claims_plots_and_the_commands_of_what_was_not_run(place):
    out = Path(place.out)
    known = {"random weights": {"first": [0, 3, None], "graded": [True, True, False]}}
    (out / "model" / "ceiling.json").write_text(json.dumps(known))
    write_paper(place)
    page = (out / "paper.html").read_text()
    text = (out / "paper.md").read_text()
    for number in range(2, 8):
        assert (out / "paper_files" / f"figure-{number}.svg").stat().st_size > 1000
        assert f'src="paper_files/figure-{number}.svg"' in page
        assert f"](paper_files/figure-{number}.svg)" in text
    assert "27.8 to 95.8 %" in page
    assert "](paper_files/ceiling.svg)" in text
    assert "| random weights; ARC-Easy, letters | 33.3 % to 66.7 %, after 3 paths" in text
    for cell in CELLS[2:]:
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {cell.name} |"))
        assert "not run here" in line
        assert f"--cells {shlex.quote(cell.name)} |" in line
    assert "nan" not in text.lower().split()
    groups = {
        each.get("group") for each in json.loads((out / "results.json").read_text())["estimates"]
    }
    assert groups == {CELLS[0].name, CELLS[1].name}


def test_page_without_a_search_lists_the_commands(tmp_path):
    write_paper(Place(str(tmp_path), ("smollm2", None)))
    text = (tmp_path / "paper.md").read_text()
    assert "Nothing to compare yet" in text
    assert text.count("not run here") == len(CELLS) + 2  # ceiling and latency
    assert "--second-model gemma-3-270m.gguf --out FOLDER --cells second/arc_easy" in text


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_commands_of_a_cell_parse(cell, tmp_path):
    place = Place(str(tmp_path), ("first", "second.gguf"), str(tmp_path), rows=7)
    *decoys, search = place.commands(cell, 30)
    command = parse(search)
    assert command.budget == (200 if cell.preset == "cola-appendix" else 100)
    assert (command.space, command.flags.task.limit) == (cell.space, min(7, cell.rows))
    assert command.flags.model == ("second.gguf" if cell.second else "first")
    assert command.flags.out.endswith(f"{cell.data.name}/{cell.preset}/{cell.space}")
    assert bool(decoys) == (command.decoys is not None) == cell.data.is_open
    for arguments in decoys:
        assert parse(arguments).flags.out == command.decoys


def test_a_run_keeps_its_questions_where_fewer_rows_are_asked(place):
    few = dataclasses.replace(place, rows=2)
    (command,) = few.commands(CELLS[0], 4)
    assert parse(command).flags.task.limit == 6
    assert finished_rows(few.directory(CELLS[0])) == 5


def test_data_are_local_files_where_there_are_some(tmp_path):
    (tmp_path / "arc_easy.jsonl").write_text("")
    assert DATA["arc_easy"].source(str(tmp_path)) == str(tmp_path / "arc_easy.jsonl")
    assert DATA["gsm8k"].source(str(tmp_path)) == DATA["gsm8k"].source(None) == "gsm8k"


def test_a_folder_of_data_that_is_none_is_refused(tmp_path):
    """Rather than asking the Hub."""
    settings = Paper(model="tiny", out=str(tmp_path), data=str(tmp_path / "none"))
    with pytest.raises(InputError, match="none is no folder: give one with files such as arc_easy"):
        main(settings)


def test_cells_are_chosen_by_patterns():
    cells, others = choose(["sums/*", "latency"])
    assert {cell.data.name for cell in cells} == {"sums"}
    assert len(cells) == 4
    assert others == {"latency"}
    assert choose([]) == ([*CELLS], {"ceiling", "latency"})
    with pytest.raises(InputError, match=r"sumz.*did you mean"):
        choose(["sumz/cola/skip"])


def test_published_table_has_the_headline():
    assert published.accuracy("ARC-Easy", "original") == 27.8
    assert published.accuracy("ARC-Easy", "skip+repeat") == 95.8
    assert published.accuracy("ARC-Easy", "skip+repeat+move") is None
    ends = {model: spaces[-1][0] for model, spaces in published.TABLE_1.items()}
    assert set(ends.values()) == {95.8}


def test_networks_of_random_weights_keep_shapes_and_norms(tiny_checkpoint):
    model = cola_jax.load(str(tiny_checkpoint))
    network = ceiling.Network("few", "letter", 3, 0).make(model)
    assert network.config.num_layers == 3
    kept, drawn = model.layers[0], network.layers[0]
    assert drawn.q.shape == (3, *kept.q.shape[1:])
    np.testing.assert_array_equal(drawn.attention_norm, kept.attention_norm[:3])
    assert not np.allclose(drawn.q, kept.q[:3])
    scale = np.sqrt(np.mean(np.square(kept.q[:3])))
    assert np.std(drawn.q) == pytest.approx(scale, rel=0.1)
    again = ceiling.Network("few", "letter", 3, 0).make(model)
    assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(network)))
    same = ceiling.first_layers(model, 3)
    logits = cola_jax.run_path(same, "the sun", (0, 1, 2))
    expected = cola_jax.run_path(model, "the sun", (0, 1, 2))
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_the_ceiling_counts_labels_that_a_grader_of_letters_knows(tiny_checkpoint, tmp_path):
    model = cola_jax.load(str(tiny_checkpoint))
    asked = tiny.questions(3)
    labels = {"q0": "A", "q1": "2", "q2": "C"}
    network = ceiling.Network("random", "letter", None, 0)
    reached = ceiling.search_network(network, model, asked, labels)
    assert reached.graded == [True, False, True]
    assert reached.most.hits == 2
    hits = [first is not None for first in reached.first]
    assert reached.as_graded.hits == hits[0] + hits[2]
    known = ceiling.Reached([0, 3, None, 5], [True, True, True, False])
    assert (known.before.hits, known.reached.hits, known.as_graded.hits) == (1, 3, 2)
    assert known.median == 4
    (row,) = ceiling_rows({"random": known})
    assert "75.0 % of labels are letters" in row.cells[3]
    assert "ends 25.0 points below the ceiling" in row.cells[-1]


def test_cost_of_paths_is_measured_beside_the_identity_path(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(latency, "TOKENS", (1, 2))
    monkeypatch.setattr(latency, "ROUNDS", 1)
    model = cola_jax.load(str(tiny_checkpoint))
    (times,) = latency.time_paths(model, "tiny", "the sun", [(0, 1, 4)])
    assert (times.path, times.layers, times.identity_layers) == ("0-1,4", 3, 5)
    assert times.cache_bytes * 5 == times.identity_cache_bytes * 3
    assert times.weight_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    busy = times._replace(load=9, milliseconds=1.0, identity_milliseconds=2.0)
    (row,) = latency_rows([busy])
    assert row.cells[2] == "1.0 ms a token, 0.50x the model's"
    assert row.cells[-2] == "1 round, on a busy machine (load 9 a core)"


def rows_of_readme():
    table = (FOLDER / "README.md").read_text().split("## Everything in the paper", 1)[1]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines[1:]]


def test_each_row_of_the_readme_has_a_file_a_command_and_a_result_or_a_reason():
    rows = rows_of_readme()
    assert len(rows) > 35
    for row in rows:
        text = " | ".join(row)
        result = row[-1]
        assert "not done, because" in result or "](" in result, text
        if "not done, because" not in result:
            assert "](" in row[1], text
            assert "`" in row[2], text
        for command in re.findall(r"`([^`]+)`", row[2] if len(row) > 2 else ""):
            name, *words = shlex.split(command)
            if name == "cola":
                assert words[0] in COMMANDS, command
            elif name == "paper" and "--cells" in words:
                assert choose(words[words.index("--cells") + 1 :])


def test_readme_says_which_cells_were_not_run():
    written = json.loads((FOLDER / "results" / "results.json").read_text())
    done = {each.get("group") for each in written["estimates"]}
    for row in rows_of_readme():
        for patterns in re.findall(r"`paper --cells ([^`]+)`", row[2]):
            cells, _ = choose(shlex.split(patterns))
            if cells:
                missing = not any(cell.name in done for cell in cells)
                assert ("not run here" in row[3]) == missing, row


def test_cell_names_say_data_setting_and_space():
    assert Cell(DATA["sums"]).name == "sums/cola/skip+repeat"
    assert len({cell.name for cell in CELLS}) == len(CELLS)
