"""Prompts of multiple choice, token by token: options, letters, chat templates, tokenizers."""

import jax
import numpy as np
import pytest

from cola_jax.question import Question, open_question
from cola_jax.scoring.encode import encode, harness_prompt, letter_prompt, options_prompt, pack
from tests import tiny

QUESTION = Question("q1", "What melts?", ("ice", "iron ore", "wind"), 1)


class Toy:
    """One token per character, its code point, after 1 if special tokens are added."""

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


class Letters(Toy):
    """A toy whose spaces belong to the next character."""

    def __call__(self, text, add_special_tokens):
        return super().__call__(text.replace(" ", ""), add_special_tokens)


def test_pack_equals_arrays_by_hand():
    row, option = pack([10, 11, 12], [[20, 21], [30], [40, 41, 42]])
    assert row.ids.tolist() == [10, 11, 12, 20, 40, 41]
    assert row.positions.tolist() == [0, 1, 2, 3, 3, 4]
    assert row.branch.tolist() == [0, 0, 0, 1, 3, 3]
    assert row.read.tolist() == [2, 3, 2, 2, 4, 5]
    assert row.targets.tolist() == [20, 21, 30, 40, 41, 42]
    assert option.tolist() == [0, 0, 1, 2, 2, 2]


def test_encode_packs_options_after_prompt():
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


def test_encode_reads_one_letter_per_option():
    (encoded,) = encode([QUESTION], Letters(), "letter")
    assert letter_prompt(QUESTION, False) == (
        "Question: What melts?\nA. ice\nB. iron ore\nC. wind\nAnswer:"
    )
    assert [chr(t) for t in encoded.prompts.targets] == ["A", "B", "C"]
    assert set(encoded.prompts.read.tolist()) == {encoded.num_tokens - 1}
    assert encoded.option.tolist() == [0, 1, 2]


@pytest.mark.parametrize("scorer", ["options", "letter"])
def test_encode_chat_adds_no_special_tokens(scorer):
    (encoded,) = encode([QUESTION], Toy(), scorer, chat=True)
    ids = encoded.prompts.ids[: encoded.prompts.read[0] + 1].tolist()
    assert (ids[0], ids[-1]) == (2, 3)  # the template's own, and no 1
    message = "".join(map(chr, ids[1:-1]))
    if scorer == "options":
        assert message == options_prompt(QUESTION, True) == "What melts?"
        assert chr(encoded.prompts.targets[0]) == "i"  # no space after a template
    else:
        assert message.startswith("What melts?\nA. ice\n")
        assert "A, B or C" in message


def test_tokenize_splits_as_lm_evaluation_harness():
    """The prompt is tokenized alone; an option is what the whole text adds after that length."""

    class Merging(Toy):  # merges ": i" into one token, across the end of the prompt
        def __call__(self, text, add_special_tokens):
            return super().__call__(text.replace(": i", "\4"), add_special_tokens)

    (encoded,) = encode([QUESTION], Merging(), "options")
    prompt = Merging()("Question: What melts?\nAnswer:", add_special_tokens=True).input_ids
    assert encoded.prompts.ids[: len(prompt)].tolist() == prompt
    parts = ["".join(chr(t) for t in encoded.prompts.targets[encoded.option == j]) for j in (0, 2)]
    assert parts == ["ce", " wind"]


def test_encode_with_real_tokenizer():
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


def test_encode_refuses_what_cannot_be_scored():
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


def test_encode_refuses_tokenizer_that_appends_eos():
    class Appends(Toy):
        def __call__(self, text, add_special_tokens):
            encoding = super().__call__(text, add_special_tokens)
            encoding.input_ids.append(self.eos_token_id)
            return encoding

    question = Question("q", "sky?", ("blue", "red"), 0)
    with pytest.raises(ValueError, match="ends every text with its EOS token"):
        encode([question], Appends(), "options")


def test_harness_prompt_shows_shots_of_own_subject():
    subject = (("subject", "college_physics"),)
    asked = Question("q", "Which is heavy? ", ("4", "6", "7", "8"), 1, metadata=subject)
    shot = Question("s", "Which is heavy? ", ("a", "b", "0", "d"), 2, metadata=subject)
    other = Question("o", "Which is prime?", ("4", "6", "7", "8"), 2)
    start = "The following are multiple choice questions (with answers) about college physics.\n\n"
    text = start + "Which is heavy?\nA. 4\nB. 6\nC. 7\nD. 8\nAnswer:"
    assert harness_prompt(asked) == text
    shown = start + "Which is heavy?\nA. a\nB. b\nC. 0\nD. d\nAnswer: C\n\n" + text[len(start) :]
    assert harness_prompt(asked, [other, shot]) == shown
    (encoded,) = encode([asked], Letters(), "letter", format="harness", shots=[shot])
    assert "".join(map(chr, encoded.prompts.ids[1:])) == shown.replace(" ", "")
    assert harness_prompt(QUESTION).startswith(
        "The following are multiple choice questions (with answers).\n\nWhat melts?\nA. ice\n"
    )


def test_encode_refuses_format_of_other_scorer():
    with pytest.raises(ValueError, match="'options' has one prompt"):
        encode([QUESTION], Letters(), "options", format="harness")
    with pytest.raises(ValueError, match="'letter' has one prompt"):
        encode([QUESTION], Letters(), "letter", shots=[QUESTION])
    with pytest.raises(ValueError, match="plain or harness"):
        encode([QUESTION], Letters(), "letter", format="direct")
    with pytest.raises(ValueError, match=r"question q is open.*`exact` or `generate`"):
        encode([open_question("q", "7 + 5", "12")], Letters(), "letter")
