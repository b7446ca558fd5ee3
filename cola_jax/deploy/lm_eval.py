"""The model `cola` of lm-evaluation-harness: any of its tasks, on a path, a menu or a router.

Importing this module registers the model. Tokens, windows and what ends a completion are those of
the harness's own model `hf`, so that scores on the identity path are comparable.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import lm_eval.models  # noqa: F401  registers the harness's own, which ours would keep it from
import numpy as np
from jinja2.exceptions import TemplateError
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from cola_jax import checkpoint
from cola_jax.deploy.chooser import Path, choose_readings, choose_row, path_chooser, read_path
from cola_jax.deploy.menu_file import load_menu
from cola_jax.deploy.model_args import ModelArguments, read_arguments, split_arguments
from cola_jax.deploy.packing import PackedRow, pack_requests, plain_row
from cola_jax.errors import InputError
from cola_jax.execute.allocator import Row
from cola_jax.execute.common_prefix import FRESH, Batches
from cola_jax.execute.decoder import Decoder, rows_of
from cola_jax.execute.evaluator import Workload
from cola_jax.execute.inputs import buckets, check_prompts, pad_paths
from cola_jax.execute.memory import MOST_DECODE_SLOTS, choose_sizes
from cola_jax.execute.shared_prefix import path_evaluator
from cola_jax.execute.stop import Stop
from cola_jax.execute.worker import Worker, Workers
from cola_jax.formats import cache
from cola_jax.prompts import Prompts, Readings
from cola_jax.runs.devices import choose_dtype
from cola_jax.scoring.batches import default_batch_size
from cola_jax.scoring.evaluator import THREADS
from cola_jax.scoring.gen_kwargs import GenerationSettings, cut_text, read_gen_kwargs

TokenRequest = tuple[tuple[str, str] | None, list[int], list[int]]  # key, context, continuation
Result = TypeVar("Result")
EVERY_DEVICE = 1 << 30  # questions; the mesh has at most as many copies of the model


@register_model("cola")
class ColaLM(TemplateLM):
    """A model of the harness that runs each prompt along a path."""

    def __init__(self, **arguments: Any):
        """Loads the model.

        Args:
          arguments: checkpoint or pretrained (what `cola_jax.load` takes), and optionally path
            (text or layer ids), router or menu (a directory), dtype, batch_size, max_length,
            max_gen_toks, add_bos_token, memory_budget, data, tensor.

        Raises ValueError for unknown names and unfit values, and as `cola_jax.load`.
        """
        super().__init__()
        given = read_arguments(arguments)
        given.check_device(jax.default_backend())
        directory = cache.find(given.checkpoint)
        metadata = checkpoint.read_metadata(directory)
        path = read_path(given, metadata["config"]["num_layers"])
        menu = None
        if given.menu is not None:
            identity = checkpoint.identity(metadata)
            menu = load_menu(given.menu, identity, metadata["config"]["num_layers"])
            if menu.rule == "single":
                path, menu = menu.paths[0], None
        self.arguments, self.metadata, self.directory = given, metadata, directory
        self._max_length = read_length(given, metadata["config"]["context"])
        self.tokenizer = checkpoint.load_tokenizer(directory)
        if given.add_bos_token is not None:
            self.tokenizer.add_bos_token = given.add_bos_token
        dtype = choose_dtype(given.dtype, metadata["dtype"])
        mesh = given.devices.mesh(EVERY_DEVICE)
        self.model = cache.load(given.checkpoint, dtype=dtype, mesh=mesh)
        self.workers = Workers(
            self.model,
            threads=THREADS,
            memory_budget=given.devices.budget,
            dtype=dtype,
            progress=False,  # the harness shows its own
        )
        # whether each prompt is run along the same paths
        self.same = given.router is None and (menu is None or menu.selector is None)
        self.choose_paths = path_chooser(given, path, self.model, menu)
        # a rule other than the selector compares what all paths of a menu make of a prompt
        self.menu = None if menu is None or menu.selector is not None else menu

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> "ColaLM":
        """Makes the model from text, in which a path may have commas."""
        return cls.create_from_arg_obj(split_arguments(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "ColaLM":
        """Makes the model; what --model_args say goes before the harness's own flags."""
        flags = {k: v for k, v in (additional_config or {}).items() if v is not None}
        return cls(**(flags | arg_dict))

    def paths_of(self, prompts: Prompts) -> list[Path]:
        """Returns the path of each prompt [B, T], chosen from the prompts alone."""
        return [tuple(int(layer) for layer in path) for path in self.choose_paths(prompts)]

    @property
    def max_length(self) -> int:
        """The most tokens that go into the model."""
        return self._max_length

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token after which a text without a context is scored."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else begin

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in the harness's cache of requests."""
        return str(checkpoint.absolute(self.directory)).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """Returns what the harness records in its results."""
        return {
            "model_sha": checkpoint.identity(self.metadata),
            "model_dtype": str(self.model.embedding.dtype),
            "model_num_layers": self.model.config.num_layers,
        }

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Renders a conversation; without its system messages where the template has no place."""
        render = functools.partial(
            self.tokenizer.apply_chat_template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        try:
            return render(chat_history)
        except TemplateError:
            return render([turn for turn in chat_history if turn["role"] != "system"])

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Tokenizes a text; BOS is not put before one that begins with it."""
        return self.encode(string, self.tokenizer.decode(self.prefix_token_id), add_special_tokens)

    def encode(self, text: str, begin: str | None, special: bool | None = None) -> list[int]:
        """Tokenizes a text that may begin with the text `begin` of a special token."""
        if special is None:
            special = self.arguments.add_bos_token
            if begin is not None and text.startswith(begin):
                special = False
        given = {} if special is None else {"add_special_tokens": special}
        return self.tokenizer.encode(text, **given)

    def _loglikelihood_tokens(
        self, requests: Sequence[TokenRequest], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Scores continuations; those of one context are packed after it."""
        pairs = [(context, continuation) for _, context, continuation in requests]
        rows = pack_requests(pairs, self.max_length)
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with progress("Running loglikelihood requests", len(requests), disable_tqdm) as bar:
            for row, readings in self.read(rows):
                for request, logprob, greedy in row.answers(readings):
                    answers[request] = logprob, greedy
                    if (key := requests[request][0]) is not None:
                        self.cache_hook.add_partial("loglikelihood", key, answers[request])
                bar.update(len(row.requests))
        return answers

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Scores whole texts, in windows of the longest context each."""
        windows = [self.windows(request.args[0]) for request in requests]
        flat: list[TokenRequest] = [(None, *pair) for pairs in windows for pair in pairs]
        scores = iter(self._loglikelihood_tokens(flat, disable_tqdm=disable_tqdm))
        totals = []
        for request, pairs in zip(requests, windows, strict=True):
            totals.append(sum(next(scores)[0] for _ in pairs))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, totals[-1])
        return totals

    def windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        """Cuts a text into windows of context and continuation; each token is scored once."""
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return [make_disjoint_window(window) for window in windows]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Decodes completions greedily."""
        limit = self.arguments.max_gen_toks
        groups: dict[GenerationSettings, list[int]] = {}
        for i, request in enumerate(requests):
            arguments: Any = request.args  # context and settings
            groups.setdefault(read_gen_kwargs(arguments[1], limit), []).append(i)
        texts = [""] * len(requests)
        with progress("Running generate_until requests", len(requests), disable_tqdm) as bar:
            for settings, members in groups.items():
                prompts = [self.prompt(requests[i].args[0], settings) for i in members]
                for j, text in self.complete(prompts, settings):
                    i = members[j]
                    texts[i] = text
                    self.cache_hook.add_partial("generate_until", requests[i].args, text)
                    bar.update()
        return texts

    def prompt(self, text: str, settings: GenerationSettings) -> Prompts:
        """Encodes a prompt, cut from the left so that the new tokens fit.

        Raises ValueError where nothing is left of it.
        """
        room = self.max_length - settings.max_gen_toks
        if room < 1:
            raise InputError(
                f"max_gen_toks {settings.max_gen_toks} leaves no room for a prompt in a length of "
                f"{self.max_length}: ask for fewer, or raise max_length."
            )
        if not (ids := self.encode(text, self.tokenizer.bos_token)):
            raise InputError("a prompt is empty: there is nothing to complete.")
        return plain_row(ids[-room:])

    def read(self, rows: Sequence[PackedRow]) -> Iterator[tuple[PackedRow, Readings]]:
        """Runs rows along their paths; yields the readings [Q] of each, as they finish."""
        asked = [row.prompts for row in rows]
        for tokens, reads in sorted(set(row_buckets(asked)), reverse=True):
            choose_sizes(self.model.config, tokens, reads, self.workers.memory)
        size = self.arguments.batch_size or default_batch_size()
        found = self.batches(asked, size)

        def run(worker: Worker, batch: np.ndarray) -> Readings:
            prompts = Prompts.stack([rows[i].prompts for i in batch])
            check_prompts(self.model, prompts)
            paths = self.padded_paths([rows[i].context for i in batch])
            workload = Workload(*paths.shape[1:], same=self.same, prefix=found.prefixes[batch[0]])
            evaluate = path_evaluator(worker, prompts, workload)
            readings = evaluate(paths)
            evaluate.close()
            return readings

        for batch, readings in self.map(run, found, size):
            for b, i in enumerate(batch):
                own = jax.tree.map(lambda x, b=b: x[b], readings)
                yield rows[i], self.chosen(rows[i], own)

    def chosen(self, row: PackedRow, readings: Readings) -> Readings:
        """Takes the readings [Q] of a row's path, or of that which a menu's rule chooses of k."""
        if self.menu is None:
            return jax.tree.map(lambda x: x[0], readings)
        return choose_readings(self.menu, row, readings)

    def complete(
        self, prompts: Sequence[Prompts], settings: GenerationSettings
    ) -> Iterator[tuple[int, str]]:
        """Decodes after prompts; yields the place of each with its text, as they finish."""
        stop, stops = self.stop(settings)
        cpu = jax.default_backend() == "cpu"
        size = self.arguments.batch_size or MOST_DECODE_SLOTS[cpu]
        found = self.batches(prompts, size)

        def run(worker: Worker, batch: np.ndarray) -> list[list[Row]]:
            some = [prompts[i] for i in batch]
            stacked = Prompts.stack(some)
            check_prompts(self.model, stacked)
            paths = self.padded_paths(some)
            workload = Workload(*paths.shape[1:], same=self.same, prefix=found.prefixes[batch[0]])
            decoder = Decoder(
                worker, stacked, workload, max_new_tokens=settings.max_gen_toks, stop=stop
            )
            rows = rows_of(paths)
            decoder.decode(rows)
            decoder.close()
            each = paths.shape[1]
            return [rows[first : first + each] for first in range(0, len(rows), each)]

        for batch, decoded in self.map(run, found, size):
            for i, rows in zip(batch, decoded, strict=True):
                texts = [
                    cut_text(self.tokenizer.decode(row.tokens, skip_special_tokens=True), stops)
                    for row in rows
                ]
                yield int(i), texts[0 if self.menu is None else choose_row(self.menu, rows, texts)]

    def stop(self, settings: GenerationSettings) -> tuple[Stop, tuple[str, ...]]:
        """Returns what ends decoding, and the strings before which the text is cut.

        The end of a text is a stop string as well, as in the model `hf`.
        """
        end = self.tokenizer.decode(self.eot_token_id)
        strings = (*settings.until, *([] if end in settings.until else [end]))
        tokens = checkpoint.stop_tokens(self.directory)
        return Stop(tokens, strings, tokenizer=self.tokenizer), strings

    def padded_paths(self, prompts: Sequence[Prompts]) -> np.ndarray:
        """Returns the path of each prompt, [B, 1, P], or all paths of a menu, [B, k, P]."""
        if self.menu is not None:
            paths = [list(self.menu.paths)] * len(prompts)
        else:
            paths = [[path] for path in self.paths_of(Prompts.stack(prompts))]
        return pad_paths(paths, len(prompts), self.model.config.num_layers)

    def batches(self, rows: Sequence[Prompts], size: int) -> Batches:
        """Finds which rows, of batches of `size`, share buckets and what they begin with."""
        keys = row_buckets(rows)
        return Batches.of(Prompts.stack(rows), keys, 1 / size if self.same else FRESH)

    def map(
        self,
        run: Callable[[Worker, np.ndarray], Result],
        found: Batches,
        size: int,
    ) -> Iterator[tuple[np.ndarray, Result]]:
        """Maps a function over batches of rows of one key, the longest first."""
        every = range(len(found.keys))
        yield from self.workers.map(run, found.cut(every, self.workers.batches_at_once, size))


def row_buckets(rows: Sequence[Prompts]) -> list[tuple[int, int]]:
    """Returns T and Q of rows, without padding all of them to the longest."""
    return [key for row in rows for key in buckets(Prompts.stack([row]))]


def read_length(given: ModelArguments, context: int) -> int:
    """Reads the most tokens that go into the model; ValueError where its context is shorter."""
    if given.max_length is not None and given.max_length > context:
        raise InputError(f"max_length is {given.max_length}, but the model's context is {context}.")
    return given.max_length or context


def progress(what: str, total: int, disable: bool) -> tqdm:
    """Shows how many requests are done, as the harness's own models do."""
    return tqdm(total=total, desc=what, disable=disable)
