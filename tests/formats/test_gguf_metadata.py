"""Damaged descriptions of tokenizers in GGUF files."""

import pytest

from cola_jax.formats.gguf_metadata import check_tokenizer

GOOD = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["a", "b", "ab", "</s>"],
    "tokenizer.ggml.token_type": [1, 1, 1, 3],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 3,
    "tokenizer.chat_template": "{{ messages }}",
}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ggml.model", ..., r"tokenizer\.ggml\.model: Field required"),
        ("ggml.model", "bert", "should be 'gpt2' or 'llama', got 'bert'"),
        ("ggml.tokens", [], "at least 1 item"),
        ("ggml.tokens", "abc", "should be a valid list, got 'abc'"),
        ("ggml.tokens", ["a", 1], r"tokens\.1: .*should be a valid string, got 1"),
        ("ggml.tokens", ["a", 10_001 * "b"], r"tokens\.1: .*at most 10000 characters"),
        ("ggml.tokens", ["a", "b", "ab", "a"], "token 'a' is listed twice"),
        ("ggml.tokens", list("abcdef"), "6 tokens, but the model embeds 5"),
        ("ggml.token_type", [1], "1 token_type for 4 tokens"),
        (
            "ggml.token_type",
            [1, 1, 1, 7],
            r"token_type\.3: Input should be less than or equal to 6",
        ),
        ("ggml.scores", [0.0, float("nan")], "finite number"),
        ("ggml.merges", ["a c"], "merge 'a c' needs 'c', which is not a token"),
        ("ggml.merges", ["b a"], "merge 'b a' needs 'ba', which is not a token"),
        ("ggml.merges", ["ab"], "merge 'ab' is not two tokens"),
        ("ggml.merges", ..., r"ggml\.merges is missing"),
        ("ggml.eos_token_id", 5, r"eos_token_id must be a token id, 0 to 4, got 5"),
        ("ggml.eot_token_id", -1, r"eot_token_id must be a token id, 0 to 4, got -1"),
        ("ggml.eos_token_id", True, "got True"),
        ("ggml.eos_token_id", "3", "got '3'"),
        ("ggml.add_bos_token", 1, "should be a valid boolean, got 1"),
        ("chat_template", ["a"], r"chat_template: Input should be a valid string"),
    ],
)
def test_check_tokenizer_refuses(tmp_path, key, value, message):
    check_tokenizer(tmp_path, GOOD, 5)
    changed = {k: v for k, v in {**GOOD, f"tokenizer.{key}": value}.items() if v is not ...}
    with pytest.raises(ValueError, match=message) as raised:
        check_tokenizer(tmp_path, changed, 5)
    assert str(tmp_path) in str(raised.value)


def test_check_tokenizer_accepts_a_file_without_one(tmp_path):
    check_tokenizer(tmp_path, {"tokenizer.ggml.eos_token_id": 4}, 5)
