"""`generate`: decoding, where every row follows its own path."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np

from cola_jax.chat import Chat, chats_of, render_chat
from cola_jax.checkpoint import stop_tokens, tokenizer_of
from cola_jax.errors import InputError, check_keywords, check_whole, shown
from cola_jax.execute.decoder import Decoder, Sampling, Stop, check_decode_memory
from cola_jax.execute.inputs import (
    NO_TOKENIZER,
    Paths,
    as_texts,
    check_keys,
    check_loaded,
    check_prompts,
    is_path,
    pad_paths,
    padded_right,
    prompts_for,
)
from cola_jax.execute.kv_cache import DecodeRow
from cola_jax.execute.plan import Workload, take
from cola_jax.execute.worker import Worker, WorkerOptions, make_workers, map_questions
from cola_jax.params import Model
from cola_jax.path import STOP, format_path
from cola_jax.prompts import PADDING, PROMPT, Prompts, PromptsLike

SHOWN = 8  # texts in a representation


class Generated(NamedTuple):
    """Decoded texts, as numpy; entries without a path are empty.

    There is no axis C where all prompts have the same single path: `text[0]` is then the completion
    of the first prompt.
    """

    tokens: np.ndarray  # [B, C, N] int32, the stop token included, -1 after the end
    logprob: np.ndarray  # [B, C, N] float32, natural, of each token; 0 after the end
    rival: np.ndarray  # [B, C, N] float32, of the next best token; 0 after the end
    length: np.ndarray  # [B, C] int32, tokens decoded
    finish: np.ndarray  # [B, C] "stop", "length" (cut by the limit), "not finite", or ""
    text: np.ndarray  # [B, C] str; "" where the model has no tokenizer
    path: np.ndarray  # [B, C] str, such as 0-5,7,7,8-29

    def __repr__(self) -> str:
        texts = self.text[self.finish != ""].tolist()
        lines = [f"Generated {len(texts)} texts, {int(self.length.sum())} tokens"]
        lines += [shown(text) for text in texts[:SHOWN]]
        if len(texts) > SHOWN:
            lines.append(f"... and {len(texts) - SHOWN} more: see to_pandas()")
        return "\n".join(lines)

    def to_pandas(self) -> Any:
        """Make a DataFrame with a row for each prompt and path; needs pandas.

        Its columns are prompt (its index), path (text), text, tokens, logprob (the sum over tokens)
        and finish.
        """
        import pandas

        single = self.finish.ndim == 1
        out = Generated(*(field[:, None] for field in self)) if single else self
        present = np.argwhere(out.finish != "").tolist()
        return pandas.DataFrame(
            {
                "prompt": [b for b, _ in present],
                "path": [out.path[b, c] for b, c in present],
                "text": [out.text[b, c] for b, c in present],
                "tokens": [out.tokens[b, c, : out.length[b, c]].tolist() for b, c in present],
                "logprob": [float(out.logprob[b, c].sum()) for b, c in present],
                "finish": [str(out.finish[b, c]) for b, c in present],
            }
        )


def generate(
    model: Model,
    prompts: PromptsLike | Chat | Sequence[Chat],
    paths: Paths | None = None,
    *,
    max_new_tokens: int = 64,
    stop: str | Sequence[str] | Stop = (),
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    **options: Unpack[WorkerOptions],
) -> Generated:
    """Decode after each prompt, along each of its candidate paths.

    Keys and values are cached for each position of a path, so that a layer that runs twice attends
    to its own: the tokens are those of `run_path` on the whole text.

    Rows of all prompts wait in one queue, for each worker and each prefix that prompts share; a row
    that ends leaves its place to the next. Keys and values take pages as texts grow: where memory
    has none left, the row with the fewest tokens is decoded anew later.

    Compiles once for each bucket of T, for tiles of few heights, and but on a CPU for each bucket
    of the tokens decoded so far.

    Args:
      model: prompts are divided over the `data` axis of its mesh.
      prompts: B prompts as `run_path` takes them, without continuations; or a chat, a list of
        messages {"role": ..., "content": ...}, or a list of chats, which the tokenizer's template
        turns into prompts up to the model's turn.
      paths: [B, C, P] padded with STOP, for each prompt a list of paths, or one path or list of
        paths for all; the whole model where None.
      max_new_tokens: N, the most tokens that a row decodes; `stop` ends it before that.
      stop: a string or strings that end a text, besides the model's own stop tokens; these end
        texts and chats in any case, but ids only where strings are given. Or a `Stop`, which alone
        counts.
      temperature: 0 decodes greedily; else each token is drawn from softmax(logits / temperature).
        The log-probabilities are those of the model, at temperature 1, in either case.
      top_p: draws are from the fewest of the likeliest tokens that hold this share of the
        probability at the temperature (nucleus sampling); 1 draws from all.
      seed: of the draws. Each depends on the seed, the prompt's row, the path and the token's index
        alone: a path that is given twice draws the same tokens, and a prompt in two rows others.
      options: dtype, memory_budget, tile_tokens, metrics; see `WorkerOptions`.

    Raises:
      InputError: as `run_paths`, where a prompt and the new tokens exceed the context, and for a
        temperature that is negative or not finite, a `top_p` out of range or without a temperature,
        and messages without role and content.
    """
    check_keywords(generate, options, WorkerOptions)
    check_loaded(model)
    sampling = Sampling(temperature, seed, top_p)
    stop = stop_of(model, prompts, stop)
    prompts = check_plain(model, chat_prompts(model, prompts), max_new_tokens, stop)
    if paths is None:
        paths = range(model.config.num_layers)
    single = is_path(paths)
    padded = pad_paths(paths, len(prompts.ids), model.config.num_layers)
    check_keys(model.config, padded)
    longest = int((padded != STOP).sum(axis=-1).max(initial=0))
    out = empty(padded.shape[:2], max_new_tokens)
    if not longest:
        return out
    settings: dict[str, Any] = dict(options)
    progress = settings.pop("progress", None)
    workers = make_workers(model, **settings)
    check_decode_memory(model.config, prompts, workers[0].memory, longest, max_new_tokens)

    def run(worker: Worker, questions: np.ndarray, workload: Workload) -> Generated:
        part = take(prompts, questions)
        decoder = Decoder(
            worker,
            part,
            workload,
            max_new_tokens=max_new_tokens,
            stop=stop,
            sampling=sampling,
            names=[str(b) for b in questions],
        )
        with contextlib.closing(decoder):
            return collect(decoder(padded[questions]), padded[questions], max_new_tokens)

    workload = Workload(padded.shape[1], longest)
    batches = map_questions(workers, run, prompts, padded, workload, progress, whole=True)
    for questions, generated in batches:
        for whole, part in zip(out, generated, strict=True):
            whole[questions] = part
    for b, c in np.argwhere(padded[:, :, 0] != STOP):
        out.path[b, c] = format_path(padded[b, c])
    if model.checkpoint is not None:
        out = with_texts(out, model.checkpoint, stop)
    return Generated(*(field[:, 0] for field in out)) if single else out


def stop_of(model: Model, prompts: Any, stop: Any) -> Stop:
    """Return the end of texts after prompts; InputError for anything but strings or a `Stop`."""
    if isinstance(stop, Stop):
        return stop
    strings = (stop,) if isinstance(stop, str) else stop
    if not isinstance(strings, list | tuple) or not all(isinstance(x, str) for x in strings):
        raise InputError(f"stop must be a string, a list of strings, or a Stop, not {shown(stop)}.")
    if not strings and as_texts(prompts) is None and chats_of(prompts) is None:
        return Stop()
    if model.checkpoint is None:
        raise InputError(NO_TOKENIZER)
    tokenizer = tokenizer_of(model.checkpoint)
    try:
        tokens = stop_tokens(model.checkpoint)
    except InputError:  # the model names none
        tokens = ()
    return Stop(tokens, tuple(strings), tokenizer=tokenizer)


def chat_prompts(model: Model, prompts: Any) -> PromptsLike:
    """Return the prompts of chats, and others as they are."""
    chats = chats_of(prompts)
    if chats is None:
        return prompts
    if model.checkpoint is None:
        raise InputError(NO_TOKENIZER)
    tokenizer = tokenizer_of(model.checkpoint)
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template: give texts in place of messages.")
    texts = [render_chat(tokenizer, chat) for chat in chats]
    # the template writes the special tokens itself
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return Prompts.stack([Prompts.plain(np.array(row, np.int32)) for row in rows])


def with_texts(out: Generated, checkpoint: str, stop: Stop) -> Generated:
    """Add the texts of the tokens, up to the stop token or the stop string."""
    try:
        tokenizer = tokenizer_of(checkpoint)
    except ValueError:  # the checkpoint has none
        return out
    stop = dataclasses.replace(stop, tokenizer=stop.tokenizer or tokenizer)
    text = np.full(out.length.shape, "", object)
    for b, c in np.ndindex(*text.shape):
        text[b, c] = stop.text(out.tokens[b, c, : out.length[b, c]].tolist())
    return out._replace(text=text)


def check_plain(model: Model, prompts: PromptsLike, max_new_tokens: int, stop: Stop) -> Prompts:
    """Check the prompts of `generate`, its limit and its stop; return the prompts as numpy."""
    plain = padded_right(prompts_for(model, prompts))
    check_prompts(model, plain)
    plain = plain.replace(read=None, targets=None)
    branch = np.asarray(plain.branch)
    context = model.config.context
    vocab = model.config.vocab_size
    of_prompt = branch == PROMPT
    if (~of_prompt & (branch != PADDING)).any():
        raise InputError("prompts have continuations packed after them: decode plain prompts.")
    lengths = of_prompt.sum(axis=1)
    if not lengths.all():
        raise InputError(f"prompt {int(np.argmin(lengths))} has no tokens: there is no last one.")
    moved = (of_prompt & (plain.positions != np.arange(branch.shape[1]))).any(axis=1)
    if moved.any():
        raise InputError(
            f"the positions of prompt {int(moved.argmax())} are not 0, 1, 2 and so on: decoding "
            "continues them, so give a prompt from its beginning, without padding before it."
        )
    longest = int(lengths.max())
    check_whole("max_new_tokens", max_new_tokens)
    if longest + max_new_tokens > context:
        raise InputError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed the model's "
            f"context of {context}: ask for at most {max(context - longest, 0)}, or shorten it."
        )
    if stop.tokens and max(stop.tokens) >= vocab:
        raise InputError(
            f"stop tokens are {list(stop.tokens)}, but the model's vocabulary is 0..{vocab - 1}."
        )
    return plain


def collect(rows: list[DecodeRow], paths: np.ndarray, limit: int) -> Generated:
    """Collect the results of rows, in the order of the paths [B, C, P]."""
    out = empty(paths.shape[:2], limit)
    for row, (b, c) in zip(rows, np.argwhere(paths[:, :, 0] != STOP), strict=True):
        count = len(row.tokens)
        out.tokens[b, c, :count] = row.tokens
        out.logprob[b, c, :count] = row.logprob
        out.rival[b, c, :count] = row.rival
        out.length[b, c] = count
        out.finish[b, c] = row.finish
    return out


def empty(shape: tuple[int, ...], limit: int) -> Generated:
    """Make the result of rows that have decoded nothing."""
    return Generated(
        tokens=np.full((*shape, limit), -1, np.int32),
        logprob=np.zeros((*shape, limit), np.float32),
        rival=np.zeros((*shape, limit), np.float32),
        length=np.zeros(shape, np.int32),
        finish=np.full(shape, "", "<U10"),
        text=np.full(shape, "", object),
        path=np.full(shape, "", object),
    )
