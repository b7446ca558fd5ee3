"""What functions take from notebooks: texts as prompts and as paths, and what they return there."""

import jax
import numpy as np
import pytest

import cola_jax
from cola_jax.execute import inputs
from cola_jax.execute.inputs import pad_paths
from cola_jax.model import unembed
from cola_jax.params import Origin
from tests import oracle, tiny

TEXTS = ["the sun and the moon", "the sun"]
PATH = (0, 1, 1, 2, 3, 4)


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return cola_jax.load(tiny_checkpoint)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return cola_jax.load_tokenizer(tiny_checkpoint)


def test_run_path_takes_texts(model, tokenizer):
    both = cola_jax.run_path(model, TEXTS, "0,1,1,2-4")
    for b, text in enumerate(TEXTS):
        alone = cola_jax.run_path(model, tokenizer([text], return_tensors="np"), PATH)[0]
        np.testing.assert_allclose(both[b, : len(alone)], alone, atol=1e-5)
        np.testing.assert_allclose(cola_jax.run_path(model, text, list(PATH))[0], alone, atol=1e-5)


def test_texts_need_a_tokenizer(model):
    with pytest.raises(ValueError, match="was not loaded from a checkpoint with a tokenizer"):
        cola_jax.run_path(model.replace(origin=Origin()), "the sun", "0-4")
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        tokenized_with(lambda texts: {"input_ids": [[1], []]}, model)
    with pytest.raises(ValueError, match=r"names layer 9, but the model has layers 0\.\.4"):
        cola_jax.run_path(model, "the sun", "0-9")


def tokenized_with(tokenizer, model):
    """Tokenizes two texts with another tokenizer than the model's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "tokenizer_of", lambda checkpoint: tokenizer)
        inputs.tokenized(model, TEXTS)


def test_run_path_returns_states(model):
    """The logit lens: each state through the unembedding."""
    padded = np.array([*PATH, -1, -1])
    logits, states = cola_jax.run_path(model, TEXTS[:1], padded, return_states=True)
    assert states.shape == (1 + len(PATH), *logits.shape[:2], model.config.width)
    np.testing.assert_allclose(unembed(model, states[-1]), logits, atol=1e-5)
    for end in (1, 3):
        shorter = cola_jax.run_path(model, TEXTS[:1], np.array([*PATH[:end], *[-1] * (8 - end)]))
        np.testing.assert_allclose(unembed(model, states[end]), shorter, atol=1e-5)


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        ("0-2", [[(0, 1, 2)]] * 2),
        (range(3), [[(0, 1, 2)]] * 2),
        (np.array([0, 1, 2]), [[(0, 1, 2)]] * 2),
        (["0-2", [0, 2]], [[(0, 1, 2), (0, 2)]] * 2),
        ([(0, 1), (0, 2)], [[(0, 1), (0, 2)]] * 2),
        ([["0-2"], [(0, 1), "0,2"]], [[(0, 1, 2)], [(0, 1), (0, 2)]]),
        ([[], ["0-2"]], [[], [(0, 1, 2)]]),
    ],
    ids=["text", "range", "array", "texts", "lists", "each", "none"],
)
def test_pad_paths_takes_paths_in_every_form(paths, wanted):
    padded = pad_paths(paths, 2, 5)
    found = [[tuple(c[c >= 0].tolist()) for c in row if (c >= 0).any()] for row in padded]
    assert found == wanted


def test_run_paths_asks_about_the_next_token(model, tokenizer):
    readings = cola_jax.run_paths(model, TEXTS, ["0-4", PATH])
    logits = cola_jax.run_path(model, TEXTS, PATH)
    ids = tokenizer(TEXTS)["input_ids"]
    for b, row in enumerate(ids):
        logprobs = jax.nn.log_softmax(logits[b, : len(row) - 1])
        wanted = [float(logprobs[t, row[t + 1]]) for t in range(len(row) - 1)]
        np.testing.assert_allclose(readings.logprob[b, 1, : len(wanted)], wanted, atol=1e-4)
    with pytest.raises(ValueError, match="a prompt of one token has none after it"):
        cola_jax.run_paths(model, np.array([[3]]), ["0-4"])


def test_generate_returns_texts(model, tokenizer):
    out = cola_jax.generate(model, TEXTS, max_new_tokens=3)
    tokens = out.tokens[0, : out.length[0]].tolist()
    assert out.text[0] == tokenizer.decode(tokens)
    frame = out.to_pandas()
    assert frame.text.tolist() == out.text.tolist()
    assert frame.tokens[0] == tokens
    bare = cola_jax.generate(model.replace(origin=Origin()), oracle.random_ids(1, 3), "0-4")
    assert bare.text.tolist() == [""]


def test_generate_has_no_axis_of_paths_for_one_path(model):
    one = cola_jax.generate(model, TEXTS, "0-1,3-4", max_new_tokens=3)
    ids = cola_jax.generate(model, TEXTS, [0, 1, 3, 4], max_new_tokens=3)
    several = cola_jax.generate(model, TEXTS, ["0-1,3-4"], max_new_tokens=3)
    assert isinstance(one.text[0], str)
    for field, same, every in zip(one, ids, several, strict=True):
        np.testing.assert_array_equal(field, same)
        np.testing.assert_array_equal(field, every[:, 0])
    assert one.to_pandas().equals(several.to_pandas())
    assert cola_jax.generate(model, TEXTS[0], max_new_tokens=3).text.shape == (1,)


def test_evaluate_and_search_become_tables(model, tmp_path):
    from cola_jax.tasks import load_questions

    questions = load_questions(str(tiny.write_questions(tmp_path / "task.jsonl", 2)))
    frame = cola_jax.evaluate(model, questions, ["0-4", "0-2,4"], scorer="options").to_pandas()
    assert frame.path.tolist() == ["0-4", "0-2,4"] * 2
    evaluate = cola_jax.evaluator(model, questions, "options")
    found = cola_jax.search(evaluate, questions, simulations=4, control="none")
    table = found.to_pandas()
    assert table.question.tolist() == [question.id for question in questions]
    assert table.evaluations.tolist() == [one.evaluations for one in found]
    assert table.baseline.tolist() == frame.correct[::2].tolist()
    with pytest.raises(ValueError, match="'exact' needs a format as well"):
        cola_jax.evaluator(model, questions, "exact")
    with pytest.raises(ValueError, match="not loaded from a checkpoint with a tokenizer"):
        cola_jax.evaluator(model.replace(origin=Origin()), questions, "options")


def test_a_model_describes_itself(model):
    text = repr(model)
    assert len(text.splitlines()) <= 5
    for part in ("5 layers", f"width {model.config.width}", "float32", model.checkpoint):
        assert part in text
    assert repr(jax.tree.map(lambda leaf: None, model)).startswith("Model(5 layers")
