"""Rebuilds the tokenizer of a GGUF file from the file's metadata."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TOKENIZER_KEYS = {
    "ggml.model": "tokenizer_type",
    "ggml.pre": "pre_tokenizer_type",
    "ggml.tokens": "tokens",
    "ggml.scores": "scores",
    "ggml.token_type": "token_type",
    "ggml.merges": "merges",
    "ggml.bos_token_id": "bos_token_id",
    "ggml.eos_token_id": "eos_token_id",
    "ggml.unknown_token_id": "unk_token_id",
    "ggml.padding_token_id": "pad_token_id",
    "ggml.add_space_prefix": "add_prefix_space",
}


def write_tokenizer(metadata: Mapping[str, Any], target: Path) -> None:
    """Writes the tokenizer and its chat template in transformers' format, if the file has one.

    `convert_gguf_tokenizer` needs no torch, unlike `AutoTokenizer.from_pretrained(gguf_file=...)`;
    it is not a public interface, so a test compares the ids of the two.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

    fields = {k.removeprefix("tokenizer."): v for k, v in metadata.items()}
    if "ggml.tokens" not in fields:
        return
    vocabulary = {ours: fields[key] for key, ours in TOKENIZER_KEYS.items() if key in fields}
    backend, _ = convert_gguf_tokenizer(metadata["general.architecture"], vocabulary)
    special = {
        f"{name}_token": vocabulary["tokens"][vocabulary[f"{name}_token_id"]]
        for name in ("bos", "eos", "unk", "pad")
        if f"{name}_token_id" in vocabulary
    }
    # llama.cpp adds BOS to a sentencepiece vocabulary by default
    bos = fields.get("ggml.add_bos_token", vocabulary["tokenizer_type"] == "llama")
    eos = fields.get("ggml.add_eos_token", False)
    first = special.get("bos_token") if bos else None
    last = special.get("eos_token") if eos else None
    add_ends(backend, first, last)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    tokenizer.chat_template = fields.get("chat_template")
    tokenizer.save_pretrained(target)


def add_ends(backend: Any, first: str | None, last: str | None) -> None:
    """Makes the tokenizer put these tokens before and after every text."""
    from tokenizers.processors import TemplateProcessing

    ends = [token for token in (first, last) if token is not None]
    if ends:
        backend.post_processor = TemplateProcessing(
            single=[*ends[: first is not None], "$A", *ends[first is not None :]],
            special_tokens=[(token, backend.token_to_id(token)) for token in ends],
        )
