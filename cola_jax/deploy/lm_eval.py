"""The model `cola` of lm-evaluation-harness: any of its tasks, on a path or a menu.

Importing this module registers the model. Tokens, windows and the end of a completion are those of
the harness's own model `hf`, so that scores on the identity path are comparable.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Annotated, Any, NamedTuple

import jax
import lm_eval.models  # noqa: F401  registers the harness's own, which ours would keep it from
import numpy as np
from jinja2.exceptions import TemplateError
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook, TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import Collator
from lm_eval.utils import (
    get_rolling_token_windows,
    make_disjoint_window,
    simple_parse_args_string,
)
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt
from tqdm import tqdm

from cola_jax import checkpoint
from cola_jax.config import ModelConfig
from cola_jax.deploy.path_file import read_path
from cola_jax.deploy.rules import MenuFile, Signals, load_menu, signals
from cola_jax.dtypes import Dtype
from cola_jax.engine.devices import Devices, choose_dtype
from cola_jax.errors import InputError, check_belongs, reading
from cola_jax.execute.decoder import Stop
from cola_jax.execute.generate import Generated, generate
from cola_jax.execute.run_paths import run_paths
from cola_jax.execute.worker import WorkerOptions
from cola_jax.formats import cache
from cola_jax.formats.identity import Identity
from cola_jax.path import LayerPath, format_path, identity
from cola_jax.prompts import Prompts, Readings
from cola_jax.scoring.answer import GenerationSettings, read_gen_kwargs
from cola_jax.scoring.scorer import pack
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.steps import is_whole

TokenIds = Sequence[int]
TokenRequest = tuple[tuple[str, str] | None, list[int], list[int]]  # key, context, continuation
EVERY_DEVICE = 1 << 30  # questions; the mesh has at most as many copies of the model
ROWS = (1024, 64)  # of a call, after which answers are kept: elsewhere, and on a CPU
RECORD = "cola_jax"  # key of the harness's cache
# A row holds at most as many tokens of continuations as of its context, or these: each layer
# compares all tokens of a row, though those of other continuations are masked.
FEW_TOKENS = 256
MOST_CONTINUATIONS = 64  # the reads of one position are padded to a power of two
# the harness cuts its arguments at commas, which a path has as well
PATH = re.compile(r"""(?<![^,])path=["']? *[\d(][-\d,()xam*. ]*?["']?(?=,\s*[A-Za-z_]+=|,?$)""")
JOINED = re.compile(r"""(?:[\["' ]*[\d(][-+\d,()xam*. "'\[\]]*)?""")  # a path, no file's name


def join_path(argument: str) -> str:
    """Write the commas of a path in an argument as +, for the harness's own parser."""
    return PATH.sub(lambda match: match[0].replace(",", "+"), argument)


def path_text(path: Any) -> str:
    """Return a path as text, of one with + for commas, a list of steps, or a single layer.

    Other texts, such as names of files, stay as they are.
    """
    steps = path if isinstance(path, list | tuple) else [path]
    text = ",".join(map(step_text, steps))
    return text.replace("+", ",").strip("[]") if JOINED.fullmatch(text) else text


def step_text(step: Any) -> str:
    """Return a step as text, of its id or any other value."""
    if isinstance(step, Integral) and not is_whole(step):  # of Python or NumPy
        return format_path([int(step)])
    return str(step)


def chosen_size(value: Any) -> Any:
    """Return None for auto, and for 1, which the harness passes by default."""
    return None if str(value).split(":")[0] in ("auto", "1") else value


class ModelArguments(BaseModel):
    """The fields of `--model_args`, as values or as text."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True, extra="forbid")

    checkpoint: str = Field(validation_alias=AliasChoices("checkpoint", "pretrained"))
    path: Annotated[str | None, BeforeValidator(path_text)] = None
    menu: str | None = None
    dtype: Dtype | None = None
    batch_size: Annotated[PositiveInt | None, BeforeValidator(chosen_size)] = None
    max_length: PositiveInt | None = None
    max_gen_toks: PositiveInt = 256
    add_bos_token: bool | None = None
    memory_budget: str | None = None
    data: int | None = None
    tensor: int = 1
    device: str | None = None  # the harness passes it, and JAX chooses

    @classmethod
    def read(cls, values: dict[str, Any]) -> "ModelArguments":
        """Read arguments as the harness passes them; InputError for unknown or unfit ones."""
        values = {name: value for name, value in values.items() if value is not None}
        with reading("model_args"):
            arguments = cls.model_validate(values)
        if arguments.path is not None and arguments.menu is not None:
            raise InputError("path and menu both name the paths: give one.")
        return arguments


@register_model("cola")
class ColaLM(TemplateLM):
    """A model of the harness that runs each prompt along a path."""

    def __init__(self, **arguments: Any):
        """Load the model with the fields of `ModelArguments`.

        Raises InputError for unknown names and unfit values, and as `cola_jax.load`.
        """
        super().__init__()
        known = self.arguments = ModelArguments.read(arguments)
        devices = Devices(data=known.data, tensor=known.tensor, memory_budget=known.memory_budget)
        self.directory = cache.find(known.checkpoint, dtype=known.dtype)
        self.metadata = checkpoint.read_metadata(self.directory)
        self.menu, self.path = self.read_menu()
        context = self.metadata["config"]["context"]
        self.max_length = known.max_length or context  # tokens that go into the model
        if self.max_length > context:
            raise InputError(
                f"max_length is {self.max_length}, but the model's context is {context}."
            )
        self.tokenizer = checkpoint.read_tokenizer(self.directory)
        if known.add_bos_token is not None:
            self.tokenizer.add_bos_token = known.add_bos_token
        self.dtype = choose_dtype(known.dtype, checkpoint.stored_dtype(self.metadata))
        mesh = devices.mesh(EVERY_DEVICE)
        self.copies = 1 if mesh is None else mesh.shape["data"]
        self.model = cache.load(known.checkpoint, dtype=self.dtype, mesh=mesh)
        # the harness shows its own progress
        self.options: WorkerOptions = {"memory_budget": devices.budget, "progress": False}
        rows = known.batch_size or ROWS[jax.default_backend() == "cpu"]
        self.batch_size = max(self.copies, rows)

    def read_menu(self) -> tuple[MenuFile, str]:
        """Return the menu, of one path where no menu is given, and a name of the paths."""
        arguments = self.arguments
        num_layers = self.metadata["config"]["num_layers"]
        if arguments.menu is not None:
            menu = load_menu(arguments.menu, self.metadata["digest"], num_layers)
            return menu, f"menu {menu.digest}"
        path = identity(num_layers)
        if arguments.path is not None:
            path = read_path(arguments.path, num_layers, Identity.of(self.metadata))
            ModelConfig.from_json(self.metadata["config"]).check_keys(path)
        return MenuFile((path,)), format_path(path)

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Take the harness's cache of answers; InputError for those of another model or path."""
        answers: Any = cache_hook.dbdict
        ours = {
            "model": self.metadata["digest"],
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
        """Make the model from text, in which a path may have commas."""
        arguments = simple_parse_args_string(join_path(arg_string))
        return cls.create_from_arg_obj(arguments, additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "ColaLM":
        """Make the model; --model_args take precedence of the harness's own flags."""
        return cls(**((additional_config or {}) | arg_dict))

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
        """The tokenizer's name in the harness's cache of requests."""
        return str(checkpoint.absolute(self.directory)).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """Return the model's entries in the harness's results."""
        return {
            "model_sha": self.metadata["digest"],
            "model_dtype": self.dtype,
            "model_num_layers": self.metadata["config"]["num_layers"],
        }

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation; without its system messages where the template has no place."""
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
        """Tokenize a text; BOS is not put before one that begins with it."""
        return self.encode(string, self.tokenizer.decode(self.prefix_token_id), add_special_tokens)

    def encode(self, text: str, begin: str | None, special: bool | None = None) -> list[int]:
        """Tokenize a text that may begin with the text `begin` of a special token."""
        if special is None:
            special = self.arguments.add_bos_token
            if begin is not None and text.startswith(begin):
                special = False
        flags = {} if special is None else {"add_special_tokens": special}
        return self.tokenizer.encode(text, **flags)

    def _loglikelihood_tokens(
        self, requests: Sequence[TokenRequest], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Score continuations; those of one context are packed after it."""
        pairs = [(context, continuation) for _, context, continuation in requests]
        rows = pack_requests(pairs, self.max_length)
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        collator = Collator(rows, lambda row: -len(row.prompts.ids))
        batches = [*collator.get_batched(n=self.batch_size)]
        for batch in tqdm(batches, "Running loglikelihood requests", disable=disable_tqdm):
            for row, readings in zip(batch, self.read(batch), strict=True):
                for request, logprob, greedy in row.answers(readings):
                    answers[request] = logprob, greedy
                    if (key := requests[request][0]) is not None:
                        self.cache_hook.add_partial("loglikelihood", key, answers[request])
        return answers

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Score whole texts, in windows of the longest context each."""
        windows = [self.windows(request.args[0]) for request in requests]
        flat: list[TokenRequest] = [(None, *pair) for pairs in windows for pair in pairs]
        scores = iter(self._loglikelihood_tokens(flat, disable_tqdm=disable_tqdm))
        totals = []
        for request, pairs in zip(requests, windows, strict=True):
            totals.append(sum(next(scores)[0] for _ in pairs))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, totals[-1])
        return totals

    def windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        """Cut a text into windows of context and continuation; each token is scored once."""
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return [make_disjoint_window(window) for window in windows]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Decode completions greedily."""
        arguments: list[Any] = [request.args for request in requests]
        collator = Collator(arguments, lambda x: -len(x[0]), lambda x: x[1], "gen_kwargs")
        texts: list[str] = []
        batches = [*collator.get_batched(n=self.batch_size)]
        for batch in tqdm(batches, "Running generate_until requests", disable=disable_tqdm):
            settings = read_gen_kwargs(batch[0][1], self.arguments.max_gen_toks)
            prompts = [self.prompt(context, settings) for context, _ in batch]
            for args, text in zip(batch, self.complete(prompts, settings), strict=True):
                texts.append(text)
                self.cache_hook.add_partial("generate_until", args, text)
        return collator.get_original(texts)

    def prompt(self, text: str, settings: GenerationSettings) -> Prompts:
        """Encode a prompt, cut from the left so that the new tokens fit."""
        room = self.max_length - settings.max_gen_toks
        if room < 1:
            raise InputError(
                f"max_gen_toks {settings.max_gen_toks} leaves no room for a prompt in a length of "
                f"{self.max_length}: ask for fewer, or raise max_length."
            )
        if not (ids := self.encode(text, self.tokenizer.bos_token)):
            raise InputError("a prompt is empty: there is nothing to complete.")
        return pack(ids[-room:], [])[0].replace(read=None, targets=None)

    def read(self, rows: Sequence["PackedRow"]) -> list[Readings]:
        """Run rows along their paths; return the readings [Q] of each."""
        batch = self.fill([row.prompts for row in rows])
        readings = run_paths(self.model, Prompts.stack(batch), self.paths_of(batch), **self.options)
        return [
            choose_readings(self.menu, row, jax.tree.map(lambda x, b=b: x[b], readings))
            for b, row in enumerate(rows)
        ]

    def complete(self, prompts: Sequence[Prompts], settings: GenerationSettings) -> list[str]:
        """Decode after prompts; return the text of each."""
        batch = self.fill(prompts)
        limit = settings.max_gen_toks
        # the end of a text is a stop string, as in the model `hf`
        end = self.tokenizer.decode(self.eot_token_id)
        strings = tuple(dict.fromkeys([*settings.until, end]))
        tokens = checkpoint.stop_tokens(self.directory)
        stop = Stop(tokens, strings, tokenizer=self.tokenizer)
        paths = self.paths_of(batch)
        stacked = Prompts.stack(batch)
        decoded = generate(
            self.model, stacked, paths, max_new_tokens=limit, stop=stop, **self.options
        )
        texts = []
        for b in range(len(prompts)):
            of_paths = Generated(*(field[b] for field in decoded))
            each = [
                self.tokenizer.decode(tokens[:n], skip_special_tokens=True)
                for tokens, n in zip(of_paths.tokens, of_paths.length, strict=True)
            ]
            cut = [text[: stop.find_string(text)] for text in each]
            texts.append(choose_text(self.menu, of_paths, cut))
        return texts

    def paths_of(self, prompts: Sequence[Prompts]) -> Sequence[Sequence[LayerPath]]:
        """Return the path of each prompt, chosen without its continuations, or all of a menu."""
        if self.menu.selector is not None:
            return [[path] for path in self.menu.select(self.model, prompts)]
        return [self.menu.paths] * len(prompts)

    def fill(self, rows: Sequence[Any]) -> list[Any]:
        """Repeat the last row until there are as many as copies of the model, which need one."""
        return [*rows, *[rows[-1]] * (self.copies - len(rows))]


class PackedRow(NamedTuple):
    """A context with continuations packed after it, each of its own request."""

    prompts: Prompts  # fields [T], [Q]
    requests: list[int]  # of each continuation
    owner: np.ndarray  # [Q], the continuation that each read belongs to

    def answers(self, readings: Readings) -> Iterator[tuple[int, float, bool]]:
        """Yield the log-likelihood of each request, and whether it is decoded greedily.

        `readings` [Q'] have this row's reads first. A path that is not finite gives -inf.
        """
        count = len(self.owner)
        logprob = np.asarray(readings.logprob)[:count].astype(np.float64)
        greedy = np.asarray(readings.token)[:count] == np.asarray(self.prompts.targets)
        for j, request in enumerate(self.requests):
            reads = self.owner == j
            if readings.finite:
                yield request, float(logprob[reads].sum()), bool(greedy[reads].all())
            else:
                yield request, float("-inf"), False


def pack_requests(pairs: Sequence[tuple[TokenIds, TokenIds]], max_length: int) -> list[PackedRow]:
    """Pack pairs of context and continuation tokens; a context is cut from the left to fit.

    As lm-evaluation-harness does, up to `max_length` tokens go into the model, which the last of a
    continuation does not.

    Raises InputError for an empty context, and for a continuation that is empty or too long.
    """
    rows: dict[tuple[int, ...], list[list[int]]] = {}  # the requests of each row of a context
    for request, (context, continuation) in enumerate(pairs):
        size = len(continuation)
        if not context or not 0 < size <= max_length:
            raise InputError(
                f"a request has {len(context)} context tokens, and its continuation {size}, but "
                f"they must have at least 1, and 1 to {max_length}: look for an empty text in the "
                "task's rows, or raise max_length."
            )
        kept = tuple(context[-(max_length + 1 - size) :])
        row = (parts := rows.setdefault(kept, [[]]))[-1]
        tokens = sum(len(pairs[other][1]) for other in row)
        full = tokens + size > max(len(kept), FEW_TOKENS) or len(row) == MOST_CONTINUATIONS
        if row and full:
            parts.append(row := [])
        row.append(request)
    return [
        PackedRow(prompts, requests, owner)
        for context, parts in rows.items()
        for requests in parts
        for prompts, owner in [pack(context, [list(pairs[request][1]) for request in requests])]
    ]


def choose_readings(menu: MenuFile, row: PackedRow, readings: Readings) -> Readings:
    """Choose the readings [Q] of a path, of those [k, Q] of its only path or of all of a menu.

    The continuations of a row are its options; for one alone the path is the first.
    """
    each = [jax.tree.map(lambda x, c=c: x[c], readings) for c in range(len(readings.finite))]
    if len(each) == 1:
        return each[0]
    scores = np.array([[score for _, score, _ in row.answers(of_path)] for of_path in each])
    finite = np.asarray(readings.finite)[None]
    verdicts = Verdicts.of_scores(scores[None], 0, finite, log_likelihoods=True)
    return each[int(menu.choose(signals(verdicts))[0])]


def choose_text(menu: MenuFile, decoded: Generated, texts: Sequence[str]) -> str:
    """Choose among the texts that k paths decoded [k, N] after one prompt."""
    if len(texts) == 1:
        return texts[0]
    fine = (decoded.finish != "not finite") & (decoded.length > 0)
    mean = decoded.logprob.sum(axis=1, dtype=np.float64) / np.maximum(decoded.length, 1)
    answers = [text.strip() if ok else None for text, ok in zip(texts, fine, strict=True)]
    columns = Signals(np.array([answers], object), np.where(fine, mean, -np.inf)[None])
    return texts[int(menu.choose(columns)[0])]
