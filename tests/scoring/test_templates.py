"""Chat templates: what those of the supported families do, in templates of our own."""

import os
from pathlib import Path

import pytest
from tokenizers import AddedToken

from cola_jax.scoring.encode import render_chat
from cola_jax.tasks import Question, encode
from tests import tiny

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
    "qwen2.5": (
        "{% if messages[0].role != 'system' %}[system]By nobody.[end]{% endif %}"
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    ),
    "qwen3": (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}"
        "{% if add_generation_prompt %}[assistant]"
        "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
        "{% endif %}"
    ),
    "gemma-3": (
        "{{ bos_token }}"
        "{% if messages[0].role == 'system' %}{{ raise_exception('no such role') }}{% endif %}"
        "{% for m in messages %}"
        "[{{ 'model' if m.role == 'assistant' else m.role }}]{{ m.content | trim }}[end]"
        "{% endfor %}{% if add_generation_prompt %}[model]{% endif %}"
    ),
    "smollm2": (
        "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
        "[system]Be of use.[end]{% endif %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    ),
}
RENDERED = {
    "llama-3.2": "<s>[system]As of 26 Jul 2024[end][user]Hi?[end][assistant]",
    "qwen2.5": "[system]By nobody.[end][user]Hi?[end][assistant]",
    "qwen3": "[user]Hi?[end][assistant]<think></think>",
    "gemma-3": "<s>[user]Hi?[end][model]",
    "smollm2": "[system]Be of use.[end][user]Hi?[end][assistant]",
}
QUESTION = Question("q", "Hi?", ("sun", "moon"), 0)


@pytest.fixture(params=TEMPLATES)
def family(request):
    """The tiny tokenizer, which puts <s> in front of plain text, with a family's template."""
    words = tiny.tokenizer()
    words.chat_template = TEMPLATES[request.param]
    words.add_tokens([AddedToken(x, special=True) for x in ("[end]", "[user]")])
    return request.param, words


def test_a_prompt_is_the_same_on_every_day_and_does_not_think(family):
    name, words = family
    assert render_chat(words, "Hi?") == RENDERED[name]


def test_one_bos_where_the_template_has_one_and_none_where_it_has_none(family):
    name, words = family
    (encoded,) = encode([QUESTION], words, "options", chat=True)
    prompt = encoded.prompts.ids[: encoded.prompts.read[0] + 1].tolist()
    assert prompt.count(words.bos_token_id) == RENDERED[name].count("<s>")
    assert words.decode(prompt) == RENDERED[name]


@pytest.mark.slow
def test_the_template_of_smollm2():
    from transformers import AutoTokenizer

    folder = os.environ.get("COLA_TEST_MODELS")
    if not folder:
        pytest.skip("COLA_TEST_MODELS names no folder of models")
    (file,) = Path(folder).glob("SmolLM2-135M-Instruct*.gguf")
    words = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    text = render_chat(words, "Hi?")
    assert text.count("<|im_start|>") == 3  # its own system message, the user's, the reply's
    assert text.startswith("<|im_start|>system\nYou are")
    assert text.endswith("<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n")
    (encoded,) = encode([QUESTION], words, "options", chat=True)
    prompt = encoded.prompts.ids[: encoded.prompts.read[0] + 1].tolist()
    assert words.decode(prompt) == text
