"""The model `cola` of lm-evaluation-harness: any of its tasks, on a path, a menu or a router.

Importing this module registers the model. Tokens, windows and what ends a completion are those of
the harness's own model `hf`, so that scores on the identity path are comparable.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import lm_eval.models  # noqa: F401  registers the harness's own, which ours would keep it from
import numpy as np
from jinja2.exceptions import TemplateError
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook, TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from cola_jax import checkpoint
from cola_jax.deploy.menu_file import MenuFile, load_menu
from cola_jax.deploy.model_args import ModelArguments, read_arguments, split_arguments
from cola_jax.deploy.packing import PackedRow, pack_requests, plain_row
from cola_jax.deploy.router.checkpoint import router_digest
from cola_jax.deploy.router.routing import load_router
from cola_jax.deploy.rules import CONFIDENCE, Signals, signals
from cola_jax.errors import InputError
from cola_jax.execute.generate import Generated, generate
from cola_jax.execute.run_paths import run_paths
from cola_jax.execute.stop import Stop
from cola_jax.execute.worker import WorkerOptions
from cola_jax.formats import cache
from cola_jax.identity import check_belongs
from cola_jax.params import Model
from cola_jax.path import format_path, identity, parse_path, validate
from cola_jax.prompts import Prompts, Readings
from cola_jax.runs.devices import choose_dtype
from cola_jax.scoring.answer import GenerationSettings, cut_text, read_gen_kwargs
from cola_jax.scoring.verdicts import Verdicts

Path = tuple[int, ...]
Chooser = Callable[[Prompts], Sequence[Sequence[int]]]  # prompts [B, T] -> B paths
TokenRequest = tuple[tuple[str, str] | None, list[int], list[int]]  # key, context, continuation
EVERY_DEVICE = 1 << 30  # questions; the mesh has at most as many copies of the model
ROWS = (1024, 64)  # of a call, after which answers are kept: elsewhere, and on a CPU
RECORD = "cola_jax"  # key of the harness's cache


@register_model("cola")
class ColaLM(TemplateLM):
    """A model of the harness that runs each prompt along a path."""

    def __init__(self, **arguments: Any):
        """Loads the model.

        Args:
          arguments: checkpoint or pretrained (what `cola_jax.load` takes), and optionally path
            (text or layer ids), router or menu (a directory), dtype, batch_size (rows of a call),
            max_length, max_gen_toks, add_bos_token, memory_budget, data, tensor.

        Raises InputError for unknown names and unfit values, and as `cola_jax.load`.
        """
        super().__init__()
        given = read_arguments(arguments)
        given.check_device(jax.default_backend())
        directory = cache.find(given.checkpoint)
        metadata = checkpoint.read_metadata(directory)
        num_layers = metadata["config"]["num_layers"]
        path, menu = read_path(given.path, num_layers), None
        self.path = format_path(path)  # names what chooses paths
        if given.menu is not None:
            menu = load_menu(given.menu, checkpoint.identity(metadata), num_layers)
            self.path = f"menu {menu.digest}"
        if given.router is not None:
            self.path = f"router {router_digest(given.router)}"
        self.arguments, self.metadata, self.directory = given, metadata, directory
        self._max_length = read_length(given, metadata["config"]["context"])
        self.tokenizer = checkpoint.load_tokenizer(directory)
        if given.add_bos_token is not None:
            self.tokenizer.add_bos_token = given.add_bos_token
        self.dtype = choose_dtype(given.dtype, metadata["dtype"])
        mesh = given.devices.mesh(EVERY_DEVICE)
        self.copies = 1 if mesh is None else mesh.shape["data"]
        self.model = cache.load(given.checkpoint, dtype=self.dtype, mesh=mesh)
        self.options: WorkerOptions = {
            "memory_budget": given.devices.budget,
            "progress": False,  # the harness shows its own
        }
        self.choose_paths = path_chooser(self.model, path, menu, given.router)
        # a rule other than these compares what all paths of a menu make of a prompt
        before = menu is None or menu.rule in ("single", "selector")
        self.menu = None if before else menu

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Takes the harness's cache of answers.

        Raises InputError where its answers are those of another model or path.
        """
        answers: Any = cache_hook.dbdict
        ours = {
            "model": checkpoint.identity(self.metadata),
            "path": self.path,
            "dtype": self.dtype,
            "max_length": self.max_length,
            "max_gen_toks": self.arguments.max_gen_toks,
            "add_bos_token": str(self.arguments.add_bos_token),
        }
        action = "give another --use_cache, or remove the file"
        if RECORD in answers:
            check_belongs(answers.filename, answers[RECORD], "this command", ours, action)
        elif len(answers):
            raise InputError(
                f"{answers.filename} does not say which model and path its answers are of: {action}"
                "."
            )
        else:
            answers[RECORD] = ours
        super().set_cache_hook(cache_hook)

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
            "model_dtype": self.dtype,
            "model_num_layers": self.metadata["config"]["num_layers"],
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
        flags = {} if special is None else {"add_special_tokens": special}
        return self.tokenizer.encode(text, **flags)

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
        for some in self.calls([row.prompts for row in rows]):
            prompts = Prompts.stack([rows[i].prompts for i in some])
            paths = self.paths_of([rows[i].context for i in some])
            readings = run_paths(self.model, prompts, paths, **self.options)
            for b, i in enumerate(dict.fromkeys(some)):
                of_paths = jax.tree.map(lambda x, b=b: x[b], readings)
                yield rows[i], choose_readings(self.menu, rows[i], of_paths)

    def complete(
        self, prompts: Sequence[Prompts], settings: GenerationSettings
    ) -> Iterator[tuple[int, str]]:
        """Decodes after prompts; yields the place of each with its text, as they finish."""
        stop, stops = self.stop(settings)
        for some in self.calls(prompts):
            batch = [prompts[i] for i in some]
            decoded = generate(
                self.model,
                Prompts.stack(batch),
                self.paths_of(batch),
                max_new_tokens=settings.max_gen_toks,
                stop=stop,
                **self.options,
            )
            for b, i in enumerate(dict.fromkeys(some)):
                of_paths = Generated(*(field[b] for field in decoded))
                texts = [
                    cut_text(self.tokenizer.decode(tokens[:n], skip_special_tokens=True), stops)
                    for tokens, n in zip(of_paths.tokens, of_paths.length, strict=True)
                ]
                yield i, choose_text(self.menu, of_paths, texts)

    def stop(self, settings: GenerationSettings) -> tuple[Stop, tuple[str, ...]]:
        """Returns what ends decoding, and the strings before which the text is cut.

        The end of a text is a stop string as well, as in the model `hf`.
        """
        end = self.tokenizer.decode(self.eot_token_id)
        strings = tuple(dict.fromkeys([*settings.until, end]))
        tokens = checkpoint.stop_tokens(self.directory)
        return Stop(tokens, strings, tokenizer=self.tokenizer), strings

    def paths_of(self, prompts: Sequence[Prompts]) -> list[list[Path]]:
        """Returns the path of each prompt, chosen from the prompts alone, or all of a menu."""
        if self.menu is not None:
            return [list(self.menu.paths)] * len(prompts)
        return [[tuple(path)] for path in self.choose_paths(Prompts.stack(prompts))]

    def calls(self, rows: Sequence[Prompts]) -> Iterator[list[int]]:
        """Divides rows into those of a call of the executor, the longest first.

        A call with fewer rows than there are copies of the model has the last one several times.
        """
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
        size = max(self.copies, self.arguments.batch_size or ROWS[jax.default_backend() == "cpu"])
        for first in range(0, len(order), size):
            some = order[first : first + size]
            yield some + some[-1:] * (self.copies - len(some))


def path_chooser(
    model: Model, path: Path, menu: MenuFile | None = None, router: str | None = None
) -> Chooser:
    """Returns what chooses the path of each prompt before any has run.

    That is the router of a directory, the selector of a menu, or one path for all.
    """
    if router is not None:
        loaded = load_router(router, model)
        return lambda prompts: [best for best, *_ in loaded.paths(prompts, beams=1)]
    if menu is not None and menu.selector is not None:
        return functools.partial(menu.select, model)
    if menu is not None:
        path = menu.paths[0]
    return lambda prompts: [path] * len(prompts.ids)


def choose_readings(menu: MenuFile | None, row: PackedRow, readings: Readings) -> Readings:
    """Chooses the readings [Q] of a path, of those [k, Q] of all paths of a menu.

    The continuations of a row are its options; one alone says nothing, so its path is the first.
    """
    each = [jax.tree.map(lambda x, c=c: x[c], readings) for c in range(len(readings.finite))]
    if menu is None:
        return each[0]
    scores = np.array([[score for _, score, _ in row.answers(of_path)] for of_path in each])
    verdicts = Verdicts.of_scores(scores[None], 0, np.asarray(readings.finite)[None])
    return each[int(menu.choose(signals(verdicts))[0])]


def choose_text(menu: MenuFile | None, decoded: Generated, texts: Sequence[str]) -> str:
    """Chooses among the texts that the paths of a menu decoded [k, N] after one prompt."""
    if menu is None:
        return texts[0]
    fine = (decoded.finish != "not finite") & (decoded.length > 0)
    count = np.maximum(decoded.length, 1)
    sums = (getattr(decoded, name).sum(axis=1, dtype=np.float64) for name in CONFIDENCE)
    means = [np.where(fine, total / count, -np.inf)[None] for total in sums]
    answers = [text.strip() if ok else None for text, ok in zip(texts, fine, strict=True)]
    return texts[int(menu.choose(Signals(np.array([answers], object), *means))[0])]


def read_path(path: str | Sequence[int] | None, num_layers: int) -> Path:
    """Reads a path, that of the pretrained model where there is none."""
    if path is None:
        return identity(num_layers)
    if isinstance(path, str):
        return parse_path(path.strip("[]"), num_layers)
    return validate(path, num_layers, max_length=2 * num_layers)


def read_length(given: ModelArguments, context: int) -> int:
    """Reads the most tokens that go into the model; ValueError where its context is shorter."""
    if given.max_length is not None and given.max_length > context:
        raise InputError(f"max_length is {given.max_length}, but the model's context is {context}.")
    return given.max_length or context


def progress(what: str, total: int, disable: bool) -> tqdm:
    """Shows how many requests are done, as the harness's own models do."""
    return tqdm(total=total, desc=what, disable=disable)
