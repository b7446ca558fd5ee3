"""Batches of prompts, what tokenizers return, and readings against a plain definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.prompts import NO_READ, PADDING, Prompts, readings
from tests import tiny

PAD = 9
LEFT = {  # the rows are 3 1 4 and 5
    "input_ids": [[3, 1, 4], [PAD, PAD, 5]],
    "attention_mask": [[1, 1, 1], [0, 0, 1]],
}


def test_stack_pads_each_field_with_its_own_filler():
    ids, positions, branch = [7, 8, 9, 9], [0, 1, 2, 2], [0, 0, 1, 2]
    long = Prompts(ids=ids, positions=positions, branch=branch, read=[1], targets=[9])
    short = Prompts(ids=[5], positions=[0], branch=[0], read=[0, 0], targets=[3, 4])
    batch = Prompts.stack([long, short])
    assert batch.ids.tolist() == [[7, 8, 9, 9], [5, 0, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 2], [0, 0, 0, 0]]
    assert batch.branch.tolist() == [[0, 0, 1, 2], [0, PADDING, PADDING, PADDING]]
    assert batch.read.tolist() == [[1, NO_READ], [0, 0]]
    assert batch.targets.tolist() == [[9, 0], [3, 4]]
    for field in (batch.ids, batch.positions, batch.branch, batch.read, batch.targets):
        assert isinstance(field, np.ndarray)
        assert field.dtype == np.int32


def test_stack_pads_embeddings_of_some_rows():
    row = Prompts.plain([7, 8])
    with_two = row.replace(embeddings=np.ones((2, 4), np.float32), places=[0, 1])
    batch = Prompts.stack([row, with_two])
    assert batch.places.tolist() == [[NO_READ, NO_READ], [0, 1]]
    assert batch.embeddings.dtype == np.float32
    assert batch.embeddings.sum(axis=(1, 2)).tolist() == [0, 8]


def test_stack_needs_reads_in_all_rows_or_none():
    row = Prompts(ids=[5], positions=[0], branch=[0])
    batch = Prompts.stack([row, row])
    assert batch.ids.shape == (2, 1)
    assert batch.read is batch.targets is None
    with pytest.raises(ValueError, match="either all rows have read positions"):
        Prompts.stack([row, row.replace(read=[0], targets=[1])])


@pytest.mark.parametrize(("side", "kind"), [("left", None), ("right", "np"), ("left", "pt")])
def test_from_encoding_takes_what_a_tokenizer_returns(side, kind):
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token, tokenizer.padding_side = "</s>", side
    texts = ["the sun", "moon", "water ice rock"]
    encoding = tokenizer(
        texts, padding=True, return_tensors=kind, return_token_type_ids=True, return_length=True
    )
    prompts = Prompts.from_encoding(encoding)
    assert prompts.ids.tolist() == np.asarray(encoding.input_ids).tolist()
    assert prompts.read is None
    assert all(x.dtype == np.int32 for x in jax.tree.leaves(prompts))
    for b, text in enumerate(texts):
        tokens = prompts.branch[b] != PADDING
        assert prompts.ids[b, tokens].tolist() == tokenizer(text).input_ids
        assert prompts.positions[b, tokens].tolist() == list(range(tokens.sum()))
        assert not prompts.positions[b, ~tokens].any()
        assert tokens[-1 if side == "left" else 0]


def test_from_encoding_under_jit_equals_numpy():
    arrays = {name: np.array(value) for name, value in LEFT.items()}
    traced = jax.jit(lambda encoding: Prompts.from_encoding(encoding, PAD))(arrays)
    jax.tree.map(np.testing.assert_array_equal, traced, Prompts.from_encoding(LEFT))


def test_from_encoding_without_a_mask_is_plain():
    encoding = {"input_ids": [[3, 1, 4]], "attention_mask": None}
    prompts = Prompts.from_encoding(encoding, PAD)
    assert prompts.ids.tolist() == [[3, 1, 4]]
    assert prompts.positions.tolist() == [[0, 1, 2]]
    assert prompts.branch.tolist() == [[0, 0, 0]]
    plain = Prompts.plain(np.array([[3, 1, 4]]))
    jax.tree.map(np.testing.assert_array_equal, prompts, plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_mask": [[1, 0, 1], [1, 1, 1]]}, r"row 0 of attention_mask is \[1, 0, 1\]"),
        ({"attention_mask": [[1, 1, 1], [0, 0, 0]]}, r"row 1 of attention_mask is \[0, 0, 0\]"),
        ({"attention_mask": [[1, 1], [0, 1]]}, r"shape \(2, 2\), but input_ids have"),
        ({"attention_mask": [[1, 1, 2], [0, 1, 1]]}, r"row 0 .* is \[1, 1, 2\], but must be 1"),
        ({"attention_mask": [[1.0, 1, 1], [0, 1, 0.5]]}, "attention_mask is float64 of shape"),
        ({"position_ids": [[0, 1, 2], [0, 1, 2]]}, r"has \['position_ids'\], which would be lost"),
        ({"input_ids": None}, r"has input_ids, this one has"),
        ({"input_ids": [[1, 2], [3]]}, "rows of input_ids differ in length"),
        ({"input_ids": [1, 2], "attention_mask": [1, 1]}, "tokenize a list of texts"),
        ({"attention_mask": None}, f"row 1 begins with the pad token {PAD}, but has no attention"),
    ],
)
def test_from_encoding_refuses_what_it_cannot_honour(changes, message):
    with pytest.raises(ValueError, match=message):
        Prompts.from_encoding({**LEFT, **changes}, PAD)


@pytest.mark.parametrize(("dtype", "lead"), [("float32", ()), ("bfloat16", (2, 3))])
def test_readings_follow_their_definition(dtype, lead):
    generator = np.random.default_rng(0)
    logits = np.asarray(jnp.asarray(10 * generator.normal(size=(*lead, 4, 11)), dtype))
    targets = generator.integers(0, 11, (*lead, 4))
    targets[..., 0] = logits.argmax(-1)[..., 0]  # the target is also the best
    out = jax.device_get(jax.jit(readings)(logits, targets))
    assert out.logprob.dtype == out.rival.dtype == np.float32
    assert out.token.dtype == np.int32
    assert out.finite.shape == lead
    assert out.finite.all()
    for place in np.ndindex(targets.shape):
        exact, target = logits[place].astype(np.float64), targets[place]
        logprobs = exact - np.log(np.exp(exact).sum())
        np.testing.assert_allclose(out.logprob[place], logprobs[target], atol=1e-5)
        np.testing.assert_allclose(out.rival[place], np.delete(logprobs, target).max(), atol=1e-5)
        assert out.token[place] == exact.argmax()


def test_readings_give_ties_to_the_first_token():
    out = readings(jnp.array([[0.0, 2.0, 2.0]]), jnp.array([2]))
    assert out.token.tolist() == [1]
    assert out.logprob[0] == out.rival[0]


def test_readings_flag_only_paths_with_logits_that_are_not_finite():
    logits = np.zeros((5, 2, 5), np.float32)
    logits[1:4, 0, 4] = np.nan, np.inf, -np.inf
    out = jax.jit(readings)(logits, np.zeros((5, 2), np.int32))
    assert out.finite.tolist() == [True, False, False, False, True]
    large = readings(jnp.array([[3e38, -3e38, 0.0]]), jnp.array([0]))
    assert large.logprob.tolist() == [0.0]
    assert large.rival[0] < -1e38
    assert bool(large.finite)


def test_prompts_and_readings_show_their_shapes():
    prompts = Prompts.plain(np.zeros((2, 57), int))
    assert repr(prompts) == "Prompts(ids [2, 57], positions [2, 57], branch [2, 57])"
    out = readings(jnp.zeros((3, 4, 5)), jnp.zeros((3, 4), int))
    assert repr(out) == "Readings(logprob [3, 4], token [3, 4], rival [3, 4], finite [3])"
