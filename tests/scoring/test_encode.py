"""Prompts token by token: packing, tokenizers, lengths, and chat templates of our own."""

import pytest
from tokenizers import AddedToken

from cola_jax.question import Question
from cola_jax.scoring import Options
from cola_jax.scoring.encode import encode_answers, encode_prompt, pack, render_chat
from tests import tiny
from tests.tokenizers import CodePoints

QUESTION = Question("q1", "What melts?", ("ice", "iron ore", "wind"), 1)
PROMPT = "Question: What melts?\nAnswer:"
ANSWERS = [" ice", " iron ore", " wind"]


def test_pack_equals_arrays_by_hand():
    row, option = pack([10, 11, 12], [[20, 21], [30], [40, 41, 42]])
    assert row.ids.tolist() == [10, 11, 12, 20, 40, 41]
    assert row.positions.tolist() == [0, 1, 2, 3, 3, 4]
    assert row.branch.tolist() == [0, 0, 0, 1, 3, 3]
    assert row.read.tolist() == [2, 3, 2, 2, 4, 5]
    assert row.targets.tolist() == [20, 21, 30, 40, 41, 42]
    assert option.tolist() == [0, 0, 1, 2, 2, 2]


def test_encode_answers_splits_as_lm_evaluation_harness():
    """The prompt is tokenized alone; an option is what the whole text adds after that length."""
    merging = CodePoints((": i", "\4"))  # one token across the end of the prompt
    encoded = encode_answers(QUESTION, merging, PROMPT, ANSWERS)
    prompt = merging(PROMPT, add_special_tokens=True).input_ids
    assert encoded.prompts.ids[: len(prompt)].tolist() == prompt
    parts = ["".join(chr(t) for t in encoded.prompts.targets[encoded.option == j]) for j in (0, 2)]
    assert parts == ["ce", " wind"]


def test_encode_answers_with_real_tokenizer():
    words = tiny.tokenizer()
    encoded = encode_answers(QUESTION, words, PROMPT, ANSWERS)
    assert encoded.prompts.ids[0] == words.bos_token_id
    for j, option in enumerate(QUESTION.options):
        targets = encoded.prompts.targets[encoded.option == j].tolist()
        assert words.decode(targets) == f" {option}"
        assert words(PROMPT).input_ids + targets == words(f"{PROMPT} {option}").input_ids
    other = encode_answers(QUESTION, words, "What melts?", ANSWERS)
    assert encoded.prompt_hash != other.prompt_hash
    assert encoded.prompt_hash == encode_prompt(QUESTION, words, PROMPT).prompt_hash


def test_encode_answers_refuses_option_without_token():
    swallowing = CodePoints((" wind", ""))
    with pytest.raises(ValueError, match="question q1: the option ' wind' adds no token"):
        encode_answers(QUESTION, swallowing, PROMPT, ANSWERS)


def test_tokenize_prompt_refuses_tokenizer_that_adds_eos():
    appending = CodePoints(adds_eos=True)
    with pytest.raises(ValueError, match="ends every text with its EOS token"):
        encode_answers(QUESTION, appending, PROMPT, ANSWERS)
    with pytest.raises(ValueError, match="ends every text with its EOS token"):
        encode_prompt(QUESTION, appending, PROMPT)
    encode_answers(QUESTION, appending, PROMPT, ANSWERS, special=False)  # the template's own end


def test_check_length_counts_longest_continuation():
    longest = 1 + len(f"{PROMPT} iron or")
    encoded = Options(CodePoints(), context=longest).encode(QUESTION)
    assert encoded.prompts.positions.max() + 1 == longest < encoded.num_tokens
    with pytest.raises(ValueError, match=f"question q1 has {longest} tokens"):
        Options(CodePoints(), context=longest - 1).encode(QUESTION)


def test_chat_refuses_templates_that_fail():
    words = tiny.tokenizer()
    words.chat_template = (
        "{% if 'melts' in messages[0].content %}{{ raise_exception('no') }}{% endif %}"
    )
    with pytest.raises(ValueError, match=r"chat template cannot be read \(no\)"):
        Options(words, chat=True).encode(QUESTION)


# Each does what is special about the template of its family, in other words.
TEMPLATES = {
    "llama-3.2": (
        "{{ bos_token }}"
        "{% if not date_string is defined %}"
        "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "[system]As of {{ date_string }}[end]"
        "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}[end]{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    ),
    "qwen3": (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}"
        "{% if add_generation_prompt %}[assistant]"
        "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
        "{% endif %}"
    ),
}
RENDERED = {
    "llama-3.2": "<s>[system]As of 26 Jul 2024[end][user]Hi?[end][assistant]",
    "qwen3": "[user]Hi?[end][assistant]<think></think>",
}
HI = Question("q", "Hi?", ("sun", "moon"), 0)


@pytest.fixture(params=TEMPLATES)
def family(request):
    """The tiny tokenizer, which puts <s> in front of plain text, with a family's template."""
    words = tiny.tokenizer()
    words.chat_template = TEMPLATES[request.param]
    words.add_tokens([AddedToken(x, special=True) for x in ("[end]", "[user]")])
    return request.param, words


def test_chat_has_fixed_date_no_thinking_and_bos_only_where_template_does(family):
    name, words = family
    assert render_chat(words, "Hi?") == RENDERED[name]
    encoded = Options(words, chat=True).encode(HI)
    prompt = encoded.prompts.ids[: encoded.prompts.read[0] + 1].tolist()
    assert prompt.count(words.bos_token_id) == RENDERED[name].count("<s>")
    assert words.decode(prompt) == RENDERED[name]
