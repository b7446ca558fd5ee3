"""What the harness's tasks ask of a generation."""

import pytest

from cola_jax.scoring.gen_kwargs import GenerationSettings, cut_text, read_gen_kwargs


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ({}, ((), 256)),
        ({"until": "\n", "max_gen_toks": 4}, (("\n",), 4)),
        ({"until": ["a", "", "b"], "max_new_tokens": "5"}, (("a", "b"), 5)),
        ({"until": None, "max_tokens": 6, "max_gen_toks": 7}, ((), 7)),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9}, ((), 256)),
        ({"temperature": 0.0, "num_beams": 1}, ((), 256)),
    ],
)
def test_read_gen_kwargs(given, settings):
    assert read_gen_kwargs(given, 256) == GenerationSettings(*settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"do_sample": True}, "do_sample=True, but the model cola decodes greedily"),
        ({"temperature": 0.5}, "temperature=0.5, but the model cola decodes greedily"),
        ({"num_beams": 4}, "asks for num_beams=4"),
        ({"max_length": 40}, "asks for max_length=40"),
    ],
)
def test_read_gen_kwargs_refuses(given, message):
    with pytest.raises(ValueError, match=message):
        read_gen_kwargs(given, 256)


def test_cut_text_at_the_first_stop():
    assert cut_text("one two three", ("three", "two")) == "one "
    assert cut_text("one", ("two",)) == "one"
    assert cut_text("one", ()) == "one"
