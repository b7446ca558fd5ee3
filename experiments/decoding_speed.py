"""Tokens per second of decoding along paths: `python -m experiments.decoding_speed --help`.

Decodes one row per path, in one process and in turns: with this library, with transformers one row
and path at a time (its layers permuted, each position with a KV cache of its own), and with
transformers' batched generation, which can only run the identity path.

Rows are prompts of random tokens, which all decode as many; with `--questions`, those of a file,
which end where the model ends them, and whose texts are compared.
"""

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
import tyro

import cola_jax
from cola_jax.chat import render_chat, user_message
from cola_jax.checkpoint import stop_tokens, tokenizer_of
from cola_jax.deploy.export import export
from cola_jax.path import identity, random_paths
from experiments.shapes import SHAPES, random_model
from experiments.torch_baselines import random_theirs
from tests.oracle import generate_exactly, permuted

Texts = list[list[int]]  # the tokens that each row decodes


@dataclasses.dataclass(frozen=True)
class DecodingSpeed:
    """Time the decoding of the same rows."""

    model: str = "smollm2-135m"
    """Named shape with random weights, on which speed does not depend; a model with questions."""
    questions: Path | None = None
    """JSONL file with a field `question` in each row, such as GSM8K; random tokens by default."""
    rows: int = 64
    """Number of rows, each a prompt on a path."""
    tokens: int = 96
    """Tokens of each random prompt."""
    new_tokens: int = 32
    """Tokens decoded after each prompt; the most of them after a question."""
    edits: int = 3
    """Most edits of a path."""
    rounds: int = 3
    """Number of times each program is timed, in turns."""
    alone: int = 8
    """Number of rows that transformers decodes one by one, which takes equally long for each."""
    together: int = 64
    """Number of rows of a batch of transformers."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Prompts on paths, a model of each library with the same weights, and the tokens that end."""

    ours: Any
    theirs: Any
    prompts: list[list[int]]
    paths: Sequence[tuple[int, ...]]
    new_tokens: int
    stop: tuple[int, ...]  # none where all rows decode as many tokens

    @property
    def plain(self) -> list[tuple[int, ...]]:
        """The identity path for each row."""
        return [identity(self.ours.config.num_layers)] * len(self.prompts)

    def generate(self, paths: Sequence[tuple[int, ...]]) -> Texts:
        """Decode all rows with this library."""
        rows = [cola_jax.Prompts.plain(np.array(ids, np.int32)) for ids in self.prompts]
        out = cola_jax.generate(
            self.ours,
            cola_jax.Prompts.stack(rows),
            [[path] for path in paths],
            max_new_tokens=self.new_tokens,
            stop=cola_jax.Stop(self.stop),
            progress=False,
        )
        lengths = out.length[:, 0].tolist()
        return [row[:n].tolist() for row, n in zip(out.tokens[:, 0], lengths, strict=True)]

    def one_by_one(self, count: int) -> Texts:
        """Decode the first rows with transformers, each alone on its path."""
        texts = []
        for ids, path in zip(self.prompts[:count], self.paths[:count], strict=True):
            with permuted(self.theirs, path):
                texts += self.batch([ids])
        return texts

    def in_batches(self, size: int) -> Texts:
        """Decode all rows with transformers on the identity path, padded on the left."""
        starts = range(0, len(self.prompts), size)
        return [text for i in starts for text in self.batch(self.prompts[i : i + size])]

    def batch(self, prompts: Sequence[list[int]]) -> Texts:
        """Decode a batch with transformers."""
        longest = max(map(len, prompts))
        padded = [[0] * (longest - len(ids)) + ids for ids in prompts]
        batch = torch.as_tensor(padded, device=self.theirs.device)
        mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
        with torch.inference_mode():
            if not self.stop:
                out = generate_exactly(self.theirs, batch, self.new_tokens)
            else:
                out = self.theirs.generate(
                    batch,
                    attention_mask=torch.as_tensor(mask, device=self.theirs.device),
                    max_new_tokens=self.new_tokens,
                    do_sample=False,
                    pad_token_id=0,
                    eos_token_id=list(self.stop),
                )
        texts = out[:, longest:].tolist()
        return [cut_after(text, self.stop) for text in texts]


def cut_after(text: list[int], stop: Sequence[int]) -> list[int]:
    """Return a text up to its first stop token."""
    ends = [i + 1 for i, token in enumerate(text) if token in stop]
    return text[: min(ends, default=len(text))]


def random_rows(settings: DecodingSpeed) -> Rows:
    """Make rows of random tokens and models of random weights, which are not the same."""
    config = SHAPES[settings.model]
    shape = settings.rows, settings.tokens
    ids = np.random.default_rng(0).integers(3, config.vocab_size, shape)
    return Rows(
        ours=random_model(config, "float32"),
        theirs=random_theirs(config, "float32"),
        prompts=ids.tolist(),
        paths=random_paths(config.num_layers, settings.rows, 0, edits=settings.edits),
        new_tokens=settings.new_tokens,
        stop=(),
    )


def rows_of_questions(settings: DecodingSpeed) -> Rows:
    """Make a row of each question of a file, in the model's chat template."""
    assert settings.questions is not None
    model = cola_jax.load(settings.model, dtype="float32")
    directory = str(model.checkpoint)
    tokenizer = tokenizer_of(directory)
    lines = settings.questions.read_text().splitlines()[: settings.rows]
    chats = [user_message(json.loads(line)["question"]) for line in lines]
    texts = [render_chat(tokenizer, chat) for chat in chats]
    with tempfile.TemporaryDirectory(prefix="cola-decoding-") as folder:
        place = Path(folder) / "model"
        export(directory, identity(model.config.num_layers), place)
        theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    return Rows(
        ours=model,
        theirs=theirs.eval(),
        prompts=tokenizer(texts, add_special_tokens=False)["input_ids"],
        paths=random_paths(model.config.num_layers, len(lines), 0, edits=settings.edits),
        new_tokens=settings.new_tokens,
        stop=tuple(stop_tokens(directory)),
    )


def timed(decode: Callable[[], Texts]) -> tuple[Texts, float, float]:
    """Decode; return the texts, the seconds, and the seconds of the processors."""
    begun = time.perf_counter(), time.process_time()
    texts = decode()
    return texts, time.perf_counter() - begun[0], time.process_time() - begun[1]


def count_equal(texts: Texts, others: Texts) -> str:
    """Say how many texts are equal, of those that both have."""
    pairs = list(zip(texts, others, strict=False))
    return f"{sum(a == b for a, b in pairs)} of {len(pairs)} texts are equal"


def main(settings: DecodingSpeed) -> None:
    rows = random_rows(settings) if settings.questions is None else rows_of_questions(settings)
    mean = np.mean([len(path) for path in rows.paths])
    print(f"jax {jax.__version__}, torch {torch.__version__}; mean path length {mean:.1f} layers")
    ours = "cola-jax, one path per row"
    plain = "cola-jax, identity path"
    alone = "transformers, one row and path at a time"
    batched = "transformers, one batch, identity path"
    programs: Mapping[str, Callable[[], Texts]] = {
        ours: lambda: rows.generate(rows.paths),
        plain: lambda: rows.generate(rows.plain),
        alone: lambda: rows.one_by_one(settings.alone),
        batched: lambda: rows.in_batches(settings.together),
    }
    if settings.questions is None:  # what compiles is no part of the time
        for decode in programs.values():
            decode()
    speeds: dict[str, list[float]] = {name: [] for name in programs}
    texts: dict[str, Texts] = {}
    for _ in range(settings.rounds):
        for name, decode in programs.items():
            texts[name], wall, cpu = timed(decode)
            tokens = sum(map(len, texts[name]))
            speeds[name].append(tokens / wall)
            print(
                f"{name}: {tokens} tokens in {wall:.1f} s, {cpu:.1f} CPU s: {tokens / wall:.1f} "
                f"tokens/s, {tokens / cpu:.1f} a CPU second",
                flush=True,
            )
    first = speeds[ours]
    for name, each in speeds.items():
        ratios = [a / b for a, b in zip(first, each, strict=True)]
        print(
            f"{name}: {statistics.median(each):.1f} tokens/s, time per token over the first "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    if settings.questions is not None:  # the same weights
        print(f"on own paths, {count_equal(texts[ours], texts[alone])}")
        print(f"on the identity path, {count_equal(texts[plain], texts[batched])}")


if __name__ == "__main__":
    main(tyro.cli(DecodingSpeed))
