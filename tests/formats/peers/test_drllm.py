"""Dr.LLM's results: which questions are written, what is read back, what is refused."""

import json

import pytest

from cola_jax.formats.peers import document
from cola_jax.formats.peers.drllm import best_path, drllm_results, read_drllm
from cola_jax.formats.peers.searched import Searched

SEARCHED = [
    Searched("1 + 1?", "2", ((0, 2), (0, 1, 1, 2)), ((0, 1, 2),), False),
    Searched("2 + 2?", "4", ((0, 1, 2), (0, 1, 0, 1, 2)), (), True),
    Searched("3 + 3?", "6", (), ((0,),), False),
    Searched("4 + 4?", "8", ((0, 0, 0, 2), (1, 0)), (), None),
]


def results():
    return drllm_results(SEARCHED, 3, "someone/model", "sums", 100)


def write(folder, content):
    (folder / "results.json").write_text(json.dumps(content))
    return folder / "results.json"


def test_best_path_is_the_shortest_that_labels_express():
    paths = ((2,), (1, 0), (0, 1, 2), (0, 1, 1), (0, 0, 1))
    assert best_path(Searched("", "", paths, (), None)) == (2,)
    assert best_path(Searched("", "", paths[1:], (), None)) == (0, 1, 1)  # of fewer layers
    for path in ((1, 0), (0, 1, 0, 1), (0, 0, 0)):
        assert best_path(Searched("", "", (path,), (), None)) is None


def test_results_are_read_back_without_wrong_paths(tmp_path):
    read = read_drllm(write(tmp_path, results()), 3)
    assert read == [
        Searched(one.question, one.gold, one.correct_paths, (), one.baseline_right)
        for one in SEARCHED[:2]
    ]


def test_results_are_those_of_the_questions_written():
    content = results()
    assert (content["num_samples"], content["visited_samples"]) == (2, 4)
    assert content["original_correct"] == [0, 1]
    assert content["improved_cases"] == [True, False]
    assert content["best_path"] == [[0, 2], [0, 1, 2]]
    assert (content["original_accuracy"], content["mcts_accuracy"]) == (50, 100)
    assert (content["average_path_length"], content["average_unique_layers"]) == (2.5, 2.5)
    empty = drllm_results(SEARCHED[2:3], 3, "someone/model", "sums", 100)
    assert (empty["questions"], empty["original_accuracy"]) == ([], 0)


def test_questions_that_stayed_wrong_are_read(tmp_path):
    content = {
        "questions": ["q", "r"],
        "best_response": [{"text": []}, {"text": ["Rome", "roma"]}],
        "best_path": [[0, 1, 2], [0, 2]],
        "good_paths": [[], []],
        "original_correct": [0, 0],
        "mcts_correct": [0, 1],
    }
    assert read_drllm(write(tmp_path, content)) == [
        Searched("q", "unanswerable", (), ((0, 1, 2),), False),
        Searched("r", "Rome", ((0, 2),), (), False),
    ]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("questions", None, "it has no 'questions'"),
        ("best_path", [[0]], "best_path is .*: it has 1 entries for 2 questions"),
        ("good_paths", [[[0, 1]], 3], r"good_paths\[1\] is 3: a list"),
        ("good_paths", [[[0, 1]], [[0], [0, "1"]]], r"good_paths\[1\]\[1\]\[1\] is '1'"),
        ("best_path", [[0], [False]], r"best_path\[1\]\[0\] is False: an integer"),
        ("original_correct", [0, 2], r"original_correct\[1\] is 2: a score"),
        ("mcts_correct", [0, 1], r"mcts_correct\[0\] is 0: the question has good paths"),
        ("best_response", [None, "x"], r"best_response\[0\] is None: text"),
        ("questions", [1, "x"], r"questions\[0\] is 1: text"),
        ("num_layers", 2, "largest id of the file, but the model has layers 0..1"),
        ("num_layers", "3", "num_layers is '3': an integer"),
    ],
)
def test_read_drllm_refuses(tmp_path, name, value, message):
    with pytest.raises(ValueError, match=message) as refused:
        read_drllm(write(tmp_path, results() | {name: value}))
    assert "results.json: " in str(refused.value)


def test_layers_that_do_not_fit_are_refused(tmp_path):
    file = write(tmp_path, results())
    with pytest.raises(ValueError, match="num_layers is 3: but the model has 30 layers"):
        read_drllm(file, 30)


def test_too_many_paths_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(document, "MOST_PATHS", 3)
    with pytest.raises(ValueError, match="more than 3 paths"):
        read_drllm(write(tmp_path, results()))
