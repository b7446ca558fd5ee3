"""The metadata of a GGUF file that describes its tokenizer, checked against what it has to be."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter

from cola_jax.errors import InputError, shown
from cola_jax.schema import validated

PREFIX = "tokenizer."
TOKENS = f"{PREFIX}ggml.tokens"
Id = Annotated[int, Field(ge=0)]
Kind = Annotated[int, Field(ge=0, le=6)]  # of a token: normal, control, byte and others
Text = Annotated[str, Field(max_length=10_000)]  # transformers tries every split of a token
Texts = Annotated[list[Text], FailFast()]  # one error, not one for each of 200,000 tokens
Numbers = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], FailFast()]


def key(name: str) -> Any:
    """Returns a field that is read from a key of the file, None where that is missing."""
    return Field(default=None, alias=f"{PREFIX}{name}")


class Vocabulary(BaseModel):
    """The tokenizer of a file; llama.cpp names the keys."""

    model_config = ConfigDict(strict=True, frozen=True)

    kind: Literal["gpt2", "llama"] = Field(alias=f"{PREFIX}ggml.model")
    tokens: Texts = Field(alias=TOKENS, min_length=1)
    pre: str = key("ggml.pre")
    scores: Numbers = key("ggml.scores")
    token_type: Annotated[list[Kind], FailFast()] = key("ggml.token_type")
    merges: Annotated[list[str], FailFast()] = key("ggml.merges")
    bos: Id = key("ggml.bos_token_id")
    eos: Id = key("ggml.eos_token_id")
    unknown: Id = key("ggml.unknown_token_id")
    padding: Id = key("ggml.padding_token_id")
    space: bool = key("ggml.add_space_prefix")
    add_bos: bool = key("ggml.add_bos_token")
    add_eos: bool = key("ggml.add_eos_token")
    chat_template: str = key("chat_template")


VOCABULARY = TypeAdapter(Vocabulary)


def check_tokenizer(file: Path, metadata: Mapping[str, Any], vocab_size: int) -> None:
    """Raises ValueError unless the metadata describe a tokenizer, or none, of a model of that size.

    What only transformers can tell is left to `cola_jax.tokenizer_trial`.
    """
    for name, value in metadata.items():
        if not (name.startswith(PREFIX) and name.endswith("_token_id")):
            continue
        if type(value) is not int or not 0 <= value < vocab_size:
            raise InputError(
                f"{file}: {name} must be a token id, 0 to {vocab_size - 1}, got {shown(value)}. "
                "Download it again, or convert the model from its safetensors."
            )
    if TOKENS not in metadata:
        return
    vocabulary = validated(VOCABULARY, dict(metadata), str(file))
    if problem := problem_of(vocabulary, vocab_size):
        raise InputError(
            f"{file} has a damaged tokenizer: {problem}. Download it again, or convert the model "
            "from its safetensors."
        )


def problem_of(vocabulary: Vocabulary, vocab_size: int) -> str | None:
    """Returns what its lists contradict each other or the model in, None for nothing."""
    tokens, known = vocabulary.tokens, set(vocabulary.tokens)
    if len(tokens) > vocab_size:
        return f"{len(tokens):,} tokens, but the model embeds {vocab_size:,}"
    if len(known) != len(tokens):
        seen: set[str] = set()
        twice = next(token for token in tokens if token in seen or seen.add(token))
        return f"token {shown(twice)} is listed twice"
    for name in ("scores", "token_type"):
        values = getattr(vocabulary, name)
        if values is not None and len(values) != len(tokens):
            return f"{len(values):,} {name} for {len(tokens):,} tokens"
    if vocabulary.merges is None:
        missing = "merges" if vocabulary.kind == "gpt2" else "scores"
        return None if vocabulary.scores is not None else f"{PREFIX}ggml.{missing} is missing"
    for merge in vocabulary.merges:
        parts = merge.split(" ")
        if len(parts) != 2:
            return f"merge {shown(merge)} is not two tokens with a space between them"
        for token in (*parts, "".join(parts)):
            if token not in known:
                return f"merge {shown(merge)} needs {shown(token)}, which is not a token"
    return None
