"""Questions of PoLar and Dr.LLM: read, refused with the place, written."""

import dataclasses
import json

import pytest

from cola_jax.formats.searched import (
    Searched,
    best_path,
    drllm_results,
    polar_samples,
    read_searched,
)

SEARCHED = [
    Searched("1 + 1?", "2", ((0, 2), (0, 1, 1, 2)), ((0, 1, 2), (2,)), False),
    Searched("2 + 2?", "4", ((0, 1, 2),), ((1,),), True),
    Searched("3 + 3?", "6", (), ((0,),), None),
]
POLAR = polar_samples(SEARCHED, 3)
SAMPLE = {"question": "q", "gt_ans": "7", "initial_score": 1.0, "final_valid_transitions": [[0, 1]]}
DRLLM = drllm_results(SEARCHED, 3, "someone/model", "sums", 100)


def write(folder, content):
    (folder / "paths").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "paths"


def test_polar_samples_are_read_back(tmp_path):
    file = write(tmp_path, POLAR)
    assert read_searched(file) == read_searched(file, 3) == SEARCHED


def test_all_layouts_of_polar_are_read(tmp_path):
    alias = {
        "sample_info": {"question": "q", "ground_truth": 7},
        "evaluation_result": {"initial_score": 1},
        "final_valid_transitions": [{"path": [0, 1]}, [0, 1]],
        "final_invalid_transitions": [[0, 1], [1]],
    }
    plain = Searched("q", "7", ((0, 1),), (), True)
    assert read_searched(write(tmp_path, [SAMPLE])) == [plain]
    assert read_searched(write(tmp_path, {"samples": [SAMPLE]})) == [plain]
    assert read_searched(write(tmp_path, {"a": SAMPLE, "b": alias | {"question": None}})) == [
        plain,
        Searched("q", "7", ((0, 1),), ((1,),), True),
    ]
    unknown = SAMPLE | {"initial_score": None}
    assert read_searched(write(tmp_path, [unknown]))[0].baseline_right is None


def test_layers_that_do_not_fit_are_refused(tmp_path):
    content = {"samples": POLAR["samples"]}
    assert read_searched(write(tmp_path, content), 4) == SEARCHED  # no layer is missing
    with pytest.raises(ValueError, match=r"question 1: path has layer ids \[2\], .* 0..1"):
        read_searched(write(tmp_path, content), 2)
    with pytest.raises(ValueError, match="question 1: path has layer ids"):
        read_searched(write(tmp_path, content | {"num_layers": 2}))
    with pytest.raises(ValueError, match="of a model of 3 layers, but the model has 30"):
        read_searched(write(tmp_path, DRLLM), 30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, r"0.question: Field required"),
        ({"gt_ans": True}, "got True"),
        ({"initial_score": 2}, "less than or equal to 1, got 2"),
        ({"initial_score": float("nan")}, "initial_score"),
        ({"final_valid_transitions": [[0, 1], [0, True]]}, "transitions.1.1: .*got True"),
        ({"final_valid_transitions": [[]]}, "transitions.0: .*at least 1 item"),
        ({"final_valid_transitions": ["0,1"]}, "transitions.0: .*tuple, got '0,1'"),
    ],
)
def test_read_searched_refuses_samples(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as refused:
        read_searched(write(tmp_path, {"samples": [SAMPLE | change]}))
    assert str(refused.value).startswith(str(tmp_path / "paths"))


def test_best_path_is_the_shortest_that_labels_express():
    paths = ((2,), (1, 0), (0, 1, 2), (0, 1, 1), (0, 0, 1))
    assert best_path(Searched("", "", paths, (), None)) == (2,)
    assert best_path(Searched("", "", paths[1:], (), None)) == (0, 1, 1)  # of fewer layers
    for path in ((1, 0), (0, 1, 0, 1), (0, 0, 0)):
        assert best_path(Searched("", "", (path,), (), None)) is None


def test_drllm_results_are_those_of_the_questions_written(tmp_path):
    assert DRLLM["original_correct"] == [0, 1]
    assert DRLLM["best_path"] == [[0, 2], [0, 1, 2]]
    empty = drllm_results(SEARCHED[2:], 3, "someone/model", "sums", 100)
    assert empty["questions"] == []
    assert read_searched(write(tmp_path, DRLLM), 3) == [
        dataclasses.replace(question, wrong_paths=()) for question in SEARCHED[:2]
    ]


def test_drllm_questions_that_stayed_wrong_are_read(tmp_path):
    content = {
        "questions": ["q", "r"],
        "best_response": [{"text": []}, {"text": ["Rome", "roma"]}],
        "best_path": [[0, 1, 2], [0, 2]],
        "good_paths": [[], []],
        "original_correct": [0, 0],
        "mcts_correct": [0, 1],
    }
    assert read_searched(write(tmp_path, content)) == [
        Searched("q", "unanswerable", (), ((0, 1, 2),), False),
        Searched("r", "Rome", ((0, 2),), (), False),
    ]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("questions", None, "neither"),
        ("best_path", [[0]], "best_path has 1 entries for 2 questions"),
        ("good_paths", [[[0, 1]], [[0], [0, "1"]]], "1.good_paths.1.1: .*got '1'"),
        ("original_correct", [0, 2], "1.original_correct: .*got 2"),
        ("mcts_correct", [0, 1], "question '1 . 1.' has good_paths, but mcts_correct is 0"),
        ("questions", [1, "x"], "0.question: .*got 1"),
        ("num_layers", 2, "path has layer ids"),
    ],
)
def test_read_searched_refuses_results(tmp_path, name, value, message):
    with pytest.raises(ValueError, match=message) as refused:
        read_searched(write(tmp_path, DRLLM | {name: value}))
    assert str(refused.value).startswith(str(tmp_path / "paths"))
