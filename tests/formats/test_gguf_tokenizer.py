"""The tokenizers of GGUF files, compared with those that transformers rebuilds."""

import pytest
from transformers import AutoTokenizer

import cola_jax
from cola_jax import checkpoint
from cola_jax.formats.conversion import convert
from cola_jax.formats.gguf import open_gguf
from tests.formats.gguf_writer import TEXTS, add_byte_level, add_sentencepiece, tiny_llama, write


@pytest.fixture(scope="module")
def llama():
    """A tiny Llama that no test changes, with an embedding for each token below."""
    return tiny_llama(vocab_size=300)


@pytest.mark.parametrize(
    ("flags", "expected"), [({}, (2,)), ({"eot_token_id": 7}, (2, 7)), ({"eot_token_id": 2}, (2,))]
)
def test_open_gguf_reads_stop_tokens(tmp_path, llama, flags, expected):
    write(tmp_path / "tiny.gguf", llama, metadata=[lambda w: add_byte_level(w, **flags)])
    assert open_gguf(tmp_path / "tiny.gguf").stop_tokens == expected


def test_convert_records_stop_and_padding_tokens(tmp_path, llama):
    write(tmp_path / "tiny.gguf", llama, metadata=[lambda w: add_byte_level(w, eot_token_id=7)])
    convert(str(tmp_path / "tiny.gguf"), tmp_path / "made")
    assert checkpoint.stop_tokens(tmp_path / "made") == (2, 7)
    assert cola_jax.load(tmp_path / "made").pad_token == 2


def test_write_tokenizer_refuses_an_unknown_split(tmp_path, llama):
    def add(writer):
        add_byte_level(writer)
        writer.kv_data[0]["tokenizer.ggml.pre"].value = "someones"

    write(tmp_path / "tiny.gguf", llama, metadata=[add])
    with pytest.raises(ValueError, match=r"tiny\.gguf splits texts as 'someones'"):
        open_gguf(tmp_path / "tiny.gguf").write_tokenizer(tmp_path / "made")


@pytest.mark.parametrize(
    ("add", "flags"),
    [
        (add_byte_level, {}),
        (add_byte_level, {"add_bos_token": True}),
        (add_byte_level, {"add_bos_token": False}),
        (add_byte_level, {"add_bos_token": True, "add_eos_token": True}),
        (add_sentencepiece, {}),
        (add_sentencepiece, {"add_bos_token": False}),
        (add_sentencepiece, {"add_eos_token": True}),
    ],
)
def test_write_tokenizer_matches_transformers(tmp_path, llama, add, flags):
    write(tmp_path / "tiny.gguf", llama, metadata=[lambda w: add(w, **flags)])
    (tmp_path / "made").mkdir()
    open_gguf(tmp_path / "tiny.gguf").write_tokenizer(tmp_path / "made")
    ours = checkpoint.load_folder(tmp_path / "made", "tiny")
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="tiny.gguf")
    for text in TEXTS:
        assert ours(text).input_ids == theirs(text).input_ids, text
        assert ours.decode(ours(text).input_ids) == theirs.decode(theirs(text).input_ids), text
    assert ours.eos_token_id == theirs.eos_token_id
    assert ours.chat_template == theirs.chat_template
    if theirs.chat_template:
        chat = [{"role": "user", "content": "Hello"}]
        assert (
            ours.apply_chat_template(chat, tokenize=False) == "<|im_start|>user\nHello<|im_end|>\n"
        )
