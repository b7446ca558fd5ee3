"""Reading questions, what a broken file is told, and prompts token by token."""

import json

import jax
import numpy as np
import pytest

from cola_jax.scoring.encode import letter_prompt, options_prompt, pack
from cola_jax.tasks import Question, encode, load_questions
from tests import tiny

GOOD = {
    "id": "q1",
    "question": "What melts?",
    "choices": {"text": ["ice", "iron ore", "wind"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}


def changed(**fields):
    """The good row with other fields; None removes one."""
    return {name: value for name, value in (GOOD | fields).items() if value is not None}


def labelled(text, label):
    return changed(choices={"text": text, "label": label})


@pytest.fixture
def load(tmp_path):
    """Loads questions from rows, or from lines as they are."""

    def read(*rows, **arguments):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / "task.jsonl").write_text("\n".join(lines) + "\n")
        return load_questions(str(tmp_path / "task.jsonl"), **arguments)

    return read


@pytest.mark.parametrize("labels", ["ABCD", "1234", "ABC", "ABCDE", "12345", "DCBA"])
def test_labels_are_mapped_by_position(load, labels):
    texts = [f"option {i}" for i in range(len(labels))]
    row = changed(choices={"text": texts, "label": list(labels)}, answerKey=labels[2])
    assert load(row) == [Question("q1", "What melts?", tuple(texts), 2)]
    assert load(row)[0].letters == "ABCDE"[: len(labels)]


BROKEN = {
    "not JSON": ("{'id': 1}", "not JSON"),
    "cut short": (json.dumps(GOOD)[:40], "not JSON"),
    "nested too deep": ("[" * 100_000, "not JSON"),
    "not an object": ("[1, 2]", "must be a JSON object"),
    "a bare text": ('"text"', "must be a JSON object"),
    **{f"no {name}": (changed(**{name: None}), f"'{name}' is missing") for name in GOOD},
    "choices a list": (changed(choices=["ice"]), "'choices' must hold"),
    "choices without labels": (changed(choices={"text": ["a", "b"]}), "'choices' must hold"),
    "answer elsewhere": (changed(answerKey="D"), "'D' is not among the labels"),
    "answer a number": (changed(answerKey=1), "'answerKey' must be a text"),
    "empty question": (changed(question=" "), "'question' must be a text"),
    "fewer labels": (labelled(["a", "b"], ["A"]), "2 options, but their labels"),
    "same labels": (labelled(["a", "b"], ["A", "A"]), "2 options, but their labels"),
    "empty option": (labelled(["a", ""], ["A", "B"]), "'choices.text' must be a list of texts"),
    "number option": (labelled(["a", 2], ["A", "B"]), "'choices.text' must be a list of texts"),
    "one option": (labelled(["a"], ["A"]), "a question has 2 to 26"),
    "27 options": (labelled(["a"] * 27, [str(i) for i in range(27)]), "a question has 2 to 26"),
    "id again": (GOOD, "the row asks what that of line 1 asks"),
}


@pytest.mark.parametrize(("row", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_row_is_named_by_file_and_line(load, row, message):
    with pytest.raises(ValueError, match=r"task\.jsonl:3: ") as error:
        load(GOOD, "", row)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_limit_blank_lines_and_no_questions(load):
    rows = [changed(id=f"q{i}") for i in range(3)]
    assert [q.id for q in load("", rows[0], "   ", rows[1], rows[2])] == ["q0", "q1", "q2"]
    assert [q.id for q in load(*rows, "broken", limit=2)] == ["q0", "q1"]
    for arguments in ({"limit": 0}, {"limit": -1}):
        with pytest.raises(ValueError, match="no questions"):
            load(*rows, **arguments)
    with pytest.raises(ValueError, match="no questions"):
        load("", "  ")


def test_other_files_and_names(tmp_path):
    for task in ("arc", str(tmp_path / "nothing.jsonl"), str(tmp_path)):
        with pytest.raises(ValueError, match="neither one of arc-easy, arc-challenge"):
            load_questions(task)
    (tmp_path / "latin.jsonl").write_bytes(json.dumps(GOOD).encode() + b"\n\xff\xfe\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        load_questions(str(tmp_path / "latin.jsonl"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A directory laid out as the ARC data set is on the Hub."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    header = ["---", "configs:"]
    for config in ("ARC-Easy", "ARC-Challenge"):
        folder = tmp_path / "hub" / config
        folder.mkdir(parents=True)
        rows = [changed(id=f"{config} {i}") for i in range(3)]
        pq.write_table(pa.Table.from_pylist(rows), folder / "test-00000-of-00001.parquet")
        header += [f"- config_name: {config}", "  data_files:", "  - split: test"]
        header += [f"    path: {config}/test-*"]
    (tmp_path / "hub" / "README.md").write_text("\n".join([*header, "---", ""]))
    return str(tmp_path / "hub")


def test_tasks_load_from_the_layout_of_the_hub(hub):
    easy = load_questions("arc-easy", hub=hub)
    assert [q.id for q in easy] == [f"ARC-Easy {i}" for i in range(3)]
    assert easy[0].options == ("ice", "iron ore", "wind")
    assert easy[0].answer == 1
    assert [q.id for q in load_questions("arc-challenge", hub=hub, limit=1)] == ["ARC-Challenge 0"]
    with pytest.raises(ValueError, match=r"split nowhere.*JSONL"):
        load_questions("arc-easy", hub=hub, split="nowhere")
    with pytest.raises(ValueError, match=r"could not be loaded.*JSONL"):
        load_questions("arc-easy", hub=hub + "/missing")


# Prompts

QUESTION = Question("q1", "What melts?", ("ice", "iron ore", "wind"), 1)


class Toy:
    """One token for each character: its code point, behind 1 when special tokens are asked for."""

    chat_template = "yes"
    eos_token_id = 2

    def __call__(self, text, add_special_tokens):
        ids = [1] * add_special_tokens + [ord(c) for c in text]
        return type("Encoding", (), {"input_ids": ids})

    def apply_chat_template(self, messages, tokenize, add_generation_prompt, **rest):
        assert not tokenize
        assert add_generation_prompt
        assert rest["enable_thinking"] is False
        return f"\2{messages[0]['content']}\3"


def test_pack_equals_arrays_by_hand():
    row, option = pack([10, 11, 12], [[20, 21], [30], [40, 41, 42]])
    assert row.ids.tolist() == [10, 11, 12, 20, 40, 41]
    assert row.positions.tolist() == [0, 1, 2, 3, 3, 4]
    assert row.branch.tolist() == [0, 0, 0, 1, 3, 3]
    assert row.read.tolist() == [2, 3, 2, 2, 4, 5]
    assert row.targets.tolist() == [20, 21, 30, 40, 41, 42]
    assert option.tolist() == [0, 0, 1, 2, 2, 2]


def test_options_are_packed_behind_the_prompt():
    (encoded,) = encode([QUESTION], Toy(), "options")
    text = "Question: What melts?\nAnswer:"
    expected, option = pack(
        [1, *map(ord, text)], [[*map(ord, f" {option}")] for option in QUESTION.options]
    )
    for ours, theirs in zip(
        jax.tree.leaves(encoded.prompts), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(encoded.option, option)
    assert encoded.num_tokens == 1 + len(text) + len("iceiron orewind")


def test_letters_are_as_many_as_options():
    (encoded,) = encode([QUESTION], Letters(), "letter")
    assert letter_prompt(QUESTION, False) == (
        "Question: What melts?\nA. ice\nB. iron ore\nC. wind\nAnswer:"
    )
    assert [chr(t) for t in encoded.prompts.targets] == ["A", "B", "C"]
    assert set(encoded.prompts.read.tolist()) == {encoded.num_tokens - 1}
    assert encoded.option.tolist() == [0, 1, 2]


class Letters(Toy):
    """A toy whose spaces belong to the next character."""

    def __call__(self, text, add_special_tokens):
        return super().__call__(text.replace(" ", ""), add_special_tokens)


@pytest.mark.parametrize("scorer", ["options", "letter"])
def test_a_chat_prompt_has_no_special_tokens_but_the_templates(scorer):
    (encoded,) = encode([QUESTION], Toy(), scorer, chat=True)
    ids = encoded.prompts.ids[: encoded.prompts.read[0] + 1].tolist()
    assert (ids[0], ids[-1]) == (2, 3)  # the template's own, and no 1
    said = "".join(map(chr, ids[1:-1]))
    if scorer == "options":
        assert said == options_prompt(QUESTION, True) == "What melts?"
        assert chr(encoded.prompts.targets[0]) == "i"  # no space behind a template
    else:
        assert said.startswith("What melts?\nA. ice\n")
        assert "A, B or C" in said


def test_the_split_is_that_of_lm_evaluation_harness():
    """Prompt alone, then whatever the whole text adds behind as many tokens."""

    class Merging(Toy):  # writes ": i" as one token, across the border of the prompt
        def __call__(self, text, add_special_tokens):
            return super().__call__(text.replace(": i", "\4"), add_special_tokens)

    (encoded,) = encode([QUESTION], Merging(), "options")
    prompt = Merging()("Question: What melts?\nAnswer:", add_special_tokens=True).input_ids
    assert encoded.prompts.ids[: len(prompt)].tolist() == prompt
    parts = ["".join(chr(t) for t in encoded.prompts.targets[encoded.option == j]) for j in (0, 2)]
    assert parts == ["ce", " wind"]


def test_a_real_tokenizer():
    words = tiny.tokenizer()
    (encoded,) = encode([QUESTION], words, "options")
    text = "Question: What melts?\nAnswer:"
    assert encoded.prompts.ids[0] == words.bos_token_id
    for j, option in enumerate(QUESTION.options):
        targets = encoded.prompts.targets[encoded.option == j].tolist()
        assert words.decode(targets) == f" {option}"
        assert words(text).input_ids + targets == words(f"{text} {option}").input_ids
    (chat,) = encode([QUESTION], words, "letter", chat=True)
    assert chat.prompts.ids.tolist().count(words.bos_token_id) == 1
    assert words.convert_ids_to_tokens(chat.prompts.targets.tolist()) == ["A", "B", "C"]
    assert encoded.prompt_hash != chat.prompt_hash


def test_prompts_that_cannot_be_scored_are_refused():
    with pytest.raises(ValueError, match="no chat template"):
        encode([QUESTION], tiny.tokenizer(chat=False), "options", chat=True)
    with pytest.raises(ValueError, match="question q1: letters are"):
        encode([QUESTION], Toy(), "letter")  # " A" is two tokens
    (encoded,) = encode([QUESTION], Toy(), "options")
    longest = 1 + len("Question: What melts?\nAnswer: iron or")
    assert encoded.prompts.positions.max() + 1 == longest
    encode([QUESTION], Toy(), "options", context=longest)
    with pytest.raises(ValueError, match=f"question q1 has {longest} tokens"):
        encode([QUESTION], Toy(), "options", context=longest - 1)

    class Swallowing(Toy):
        def __call__(self, text, add_special_tokens):
            return super().__call__(text.replace(" wind", ""), add_special_tokens)

    with pytest.raises(ValueError, match="question q1: the option ' wind' adds no token"):
        encode([QUESTION], Swallowing(), "options")


def test_a_tokenizer_that_appends_eos_is_refused():
    class Appends(Toy):
        def __call__(self, text, add_special_tokens):
            found = super().__call__(text, add_special_tokens)
            found.input_ids.append(self.eos_token_id)
            return found

    question = Question("q", "sky?", ("blue", "red"), 0)
    with pytest.raises(ValueError, match="ends every text with its EOS token"):
        encode([question], Appends(), "options")
