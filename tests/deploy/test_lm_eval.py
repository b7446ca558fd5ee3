"""The harness's model `cola` against its own model `hf`, on the same weights."""

import contextlib
import importlib.metadata
import itertools
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("lm_eval")

import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from cola_jax.deploy.lm_eval import (
    FEW_TOKENS,
    MOST_CONTINUATIONS,
    ColaLM,
    ModelArguments,
    choose_readings,
    choose_text,
    join_path,
    pack_requests,
)
from cola_jax.deploy.rules import MenuFile
from cola_jax.errors import InputError
from cola_jax.execute.generate import Generated, empty
from cola_jax.extras.routed_lm import RoutedLM
from cola_jax.path import parse_path
from cola_jax.prompts import PROMPT, Readings
from cola_jax.scoring.answer import GenerationSettings
from tests import tiny
from tests.oracle import permuted

PATHS = (tuple(range(tiny.LAYERS)), (0, 2, 3, 3, 1, 4))
EIGHT = GenerationSettings((), 8)
LENGTH = 30  # most tokens that go into the models, so that all rows are of one bucket
TEXT = " ".join(tiny.WORDS)
CONTEXTS = ("the sun", "moon water ice ", "", f"{TEXT} and")  # the last is cut from the left


def instances(kind, *arguments):
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


ENDS = [f" {word} {word}"[: 4 + 3 * i] for i, word in enumerate(tiny.WORDS[3:6])]
SCORED = instances("loglikelihood", *itertools.product(CONTEXTS, ENDS))
WHOLE = instances("loglikelihood_rolling", (TEXT,), ("the sun",), (f"{TEXT} {TEXT}",))


def free(**settings):
    """Requests for completions, of at most eight tokens."""
    settings["max_gen_toks"] = 8
    return instances("generate_until", *[(text, settings) for text in CONTEXTS if text])


@pytest.fixture(scope="module")
def ours(tiny_checkpoint):
    return ColaLM(checkpoint=str(tiny_checkpoint), max_length=LENGTH, data=1)


@pytest.fixture(scope="module")
def theirs(tiny_checkpoint):
    return make_theirs(tiny_checkpoint)


def make_theirs(tiny_checkpoint, **arguments):
    """The model `hf` on the source of the checkpoint."""
    folder = str(tiny_checkpoint.parent / "theirs")
    defaults = {"dtype": "float32", "device": "cpu", "batch_size": 1, "max_length": LENGTH}
    return HFLM(pretrained=folder, **defaults, **arguments)


@contextlib.contextmanager
def on_path(model, path):
    """Lets a model run a path: the model `hf` with its layers rebuilt, each with its own cache."""
    if isinstance(model, ColaLM):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model, "menu", MenuFile((path,)))
            yield
        return
    with permuted(model.model, path):
        yield


@pytest.fixture(params=PATHS)
def both(request, ours, theirs):
    """Calls a function with both models on a path."""

    def call_both(call):
        with on_path(ours, request.param), on_path(theirs, request.param):
            return call(ours), call(theirs)

    return call_both


def test_loglikelihood_matches_hf(both):
    mine, wanted = both(lambda model: model.loglikelihood(SCORED))
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in wanted]
    assert [score for score, _ in mine] == pytest.approx([score for score, _ in wanted], rel=1e-5)


def test_loglikelihood_knows_what_is_greedy(ours, theirs):
    context = ours.tok_encode("the sun")
    decoded = theirs.model.generate(torch.tensor([context]), max_new_tokens=3, do_sample=False)
    first, second, third = decoded[0, len(context) :].tolist()
    continuations = [first, second, third], [first, third + 1], [first]
    pairs = [(None, context, tokens) for tokens in continuations]
    mine, wanted = ours._loglikelihood_tokens(pairs), theirs._loglikelihood_tokens(pairs)
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in wanted] == [True, False, True]


def test_rolling_matches_hf(both, ours):
    """The longer texts take several windows."""
    assert [len(ours.windows(request.args[0])) for request in WHOLE] == [2, 1, 3]
    mine, wanted = both(lambda model: model.loglikelihood_rolling(WHOLE))
    assert mine == pytest.approx(wanted, rel=1e-5)


def test_generate_until_matches_hf(both):
    """Prompts are cut from the left, and texts before the stop strings."""
    mine, wanted = both(lambda model: model.generate_until(free()))
    assert mine == wanted
    assert len(set(mine)) == len(mine)
    stop = mine[0][2:4]
    requests = free(until=[stop, "\n"], do_sample=False)
    mine_cut, wanted_cut = both(lambda model: model.generate_until(requests))
    assert mine_cut == wanted_cut
    assert mine_cut[0] == mine[0][: mine[0].find(stop)]


def test_generate_until_ends_at_stop_tokens(ours, theirs, monkeypatch):
    """The end of a text ends a completion and is not part of it."""
    (text, *_) = ours.generate_until(free())
    second = ours.tok_encode(text, add_special_tokens=False)[1]
    monkeypatch.setattr("cola_jax.checkpoint.stop_tokens", lambda directory: (second,))
    monkeypatch.setattr(theirs.model.generation_config, "eos_token_id", second)
    assert ours.generate_until(free()) == theirs.generate_until(free())


@pytest.mark.parametrize("flag", [True, False, None])
def test_bos_matches_hf(tiny_checkpoint, flag):
    """The tokenizer adds <s> by itself; texts that begin with it get no other."""
    flags = {} if flag is None else {"add_bos_token": flag}
    wanted = make_theirs(tiny_checkpoint, **flags)
    mine = ColaLM(checkpoint=str(tiny_checkpoint), data=1, **flags)
    for text in ("the sun", "<s>the sun", " moon"):
        assert mine.tok_encode(text) == wanted.tok_encode(text)
        (ids,), _ = wanted.tok_batch_encode([text])
        assert mine.prompt(text, EIGHT).ids.tolist() == ids.tolist()
        assert mine._encode_pair(text, " rock") == wanted._encode_pair(text, " rock")
    assert mine.tok_encode("the", True) == wanted.tok_encode("the", True)
    assert mine.prefix_token_id == wanted.prefix_token_id
    assert mine.eot_token_id == wanted.eot_token_id


def test_entry_points_are_the_models():
    """Releases of the harness after 0.4.13 find models by it."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["lm_eval.models"]
    for name, model in (("cola", ColaLM), ("cola-router", RoutedLM)):
        point = importlib.metadata.EntryPoint(name, points[name], "lm_eval.models")
        assert point.load() is model


def test_chat_template_matches_hf(ours, theirs, monkeypatch):
    turns = [{"role": "user", "content": "the sun"}, {"role": "assistant", "content": "moon"}]
    assert ours.apply_chat_template(turns[:1]) == theirs.apply_chat_template(turns[:1])
    assert ours.apply_chat_template(turns, False) == theirs.apply_chat_template(turns, False)
    assert ours.chat_template(True) == theirs.chat_template(True)
    assert "/" not in ours.tokenizer_name
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}hello"
    monkeypatch.setattr(ours.tokenizer, "chat_template", template)
    turns = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    assert ours.apply_chat_template(turns) == "hello"


def test_each_prompt_follows_its_own_path(ours, monkeypatch):
    asked = [request for request in SCORED if request.args[0]]

    def answer(model):
        scores = [score for score, _ in model.loglikelihood(asked)]
        return scores, model.generate_until(free())

    alone = {}
    for path in PATHS:
        with on_path(ours, path):
            alone[path] = answer(ours)

    def path_of(length):
        return PATHS[length % 2]

    def choose(prompts):
        return [[path_of((row.branch == PROMPT).sum())] for row in prompts]

    monkeypatch.setattr(ours, "paths_of", choose)
    pairs = [ours._encode_pair(*request.args) for request in asked]
    scored = [path_of(min(len(c), LENGTH + 1 - len(end))) for c, end in pairs]
    decoded = [path_of(len(ours.prompt(request.args[0], EIGHT).ids)) for request in free()]
    assert set(scored) == set(decoded) == set(PATHS)
    scores, texts = answer(ours)
    assert scores == pytest.approx([alone[p][0][i] for i, p in enumerate(scored)], rel=1e-5)
    assert texts == [alone[p][1][i] for i, p in enumerate(decoded)]


def test_copies_of_the_model_share_the_requests(tiny_checkpoint, ours):
    """On several devices, with the batch size of the harness's command line."""
    arguments = {"checkpoint": str(tiny_checkpoint), "max_length": LENGTH, "data": 2}
    several = ColaLM.create_from_arg_obj(arguments, {"batch_size": 2, "max_batch_size": None})
    assert several.copies == 2
    assert several.batch_size == 2
    scores = [score for score, _ in several.loglikelihood(SCORED)]
    assert scores == pytest.approx([s for s, _ in ours.loglikelihood(SCORED)], rel=1e-5)


def test_models_of_the_harness_stay_registered():
    code = "import cola_jax.deploy.lm_eval, lm_eval.api.registry as r; print(*r.model_registry)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"hf", "cola"} <= set(done.stdout.split())


def test_create_from_arg_string_keeps_a_path_whole(tiny_checkpoint):
    text = f"checkpoint={tiny_checkpoint},path=0-1,3,3,4,max_length={LENGTH},data=1"
    model = ColaLM.create_from_arg_string(text, {"batch_size": 1, "device": "cuda:0"})
    assert model.paths_of([model.prompt("the sun", EIGHT)] * 2) == [((0, 1, 3, 3, 4),)] * 2
    assert model.max_length == LENGTH


def test_the_path_may_be_the_folder_of_its_file(tiny_checkpoint, tmp_path):
    (tmp_path / "path.json").write_text('{"path": "0-1,3-4", "model_name": "theirs"}')
    model = ColaLM.create_from_arg_string(f"checkpoint={tiny_checkpoint},path={tmp_path},data=1")
    assert model.path == "0-1,3-4"
    (tmp_path / "path.json").write_text(json.dumps({"path": "0", "model": "ab" * 32}))
    with pytest.raises(ValueError, match="has paths of another model"):
        ColaLM(checkpoint=str(tiny_checkpoint), path=str(tmp_path))


def test_lengths_that_do_not_fit_are_refused(tiny_checkpoint, ours):
    with pytest.raises(ValueError, match="max_length is 257, but the model's context is 256"):
        ColaLM(checkpoint=str(tiny_checkpoint), max_length=257)
    with pytest.raises(ValueError, match="max_gen_toks 30 leaves no room"):
        ours.generate_until(instances("generate_until", ("the sun", {"max_gen_toks": LENGTH})))


def test_paths_that_are_not_finite_score_nothing(ours, monkeypatch):
    broken = ours.model.replace(norm=ours.model.norm * np.float32(np.nan))
    monkeypatch.setattr(ours, "model", broken)
    assert ours.loglikelihood(SCORED[:1]) == [(-np.inf, False)]


def test_answers_are_cached_as_they_come(ours, monkeypatch):
    """Under the keys that the harness looks for, so that an interrupted run can go on."""
    seen = []
    hook = SimpleNamespace(add_partial=lambda *call: seen.append(call))
    monkeypatch.setattr(ours, "cache_hook", hook)
    calls = []
    for requests in (SCORED, WHOLE, free()):
        kind = requests[0].request_type
        answers = getattr(ours, kind)(requests)
        calls += [(kind, request.args, x) for request, x in zip(requests, answers, strict=True)]
    assert len(seen) == len(calls)
    assert all(call in seen for call in calls)


def test_tasks_score_as_with_hf(ours, theirs, tmp_path, monkeypatch):
    """A task of each kind; a second run takes every answer from the harness's cache."""
    tasks = json.loads(Path(__file__).with_name("harness_tasks.json").read_text())
    tiny.write_questions(tmp_path / "rows.jsonl", 4)
    monkeypatch.chdir(tmp_path)
    options = {"tasks": tasks, "bootstrap_iters": 0, "log_samples": False}
    options["task_manager"] = TaskManager(include_defaults=False)  # which takes seconds to list
    mine = simple_evaluate(model=ours, use_cache=str(tmp_path / "cache"), **options)["results"]
    wanted = simple_evaluate(model=theirs, **options)["results"]
    assert mine.keys() == wanted.keys() == {"choice", "words", "whole"}
    for task, metric in (("choice", "acc"), ("choice", "acc_norm"), ("words", "exact_match")):
        assert mine[task][f"{metric},none"] == wanted[task][f"{metric},none"]
    perplexity = "word_perplexity,none"
    assert mine["whole"][perplexity] == pytest.approx(wanted["whole"][perplexity], rel=1e-4)
    monkeypatch.setattr(ours, "model", None)
    again = simple_evaluate(model=ours, use_cache=str(tmp_path / "cache"), **options)["results"]
    assert json.dumps(again, default=str) == json.dumps(mine, default=str)


def test_cache_of_another_path_is_refused(tiny_checkpoint, ours, tmp_path):
    """A cache's answers are those of one model, on one path."""
    pytest.importorskip("sqlitedict")
    skipping = ColaLM(checkpoint=str(tiny_checkpoint), max_length=LENGTH, data=1, path="0,2-4")
    file, old = str(tmp_path / "cache.db"), str(tmp_path / "old.db")
    CachingLM(ours, file)
    with pytest.raises(InputError, match=r"its path is 0-4, here it is 0,2-4\. Give another --use"):
        CachingLM(skipping, file)
    CachingLM(ours, file)
    cached = CachingLM(skipping, old)
    del cached.dbdict["cola_jax"]
    cached.dbdict["an answer"] = 1.0  # as an older version left it
    with pytest.raises(InputError, match="does not say which model and path"):
        CachingLM(skipping, old)


def menu(rule, sign=1):
    return MenuFile(((0, 1), (0,), (1,)), rule, sign)


def readings(scores):
    """Makes readings [3, 2] of continuations of one token each."""
    logprob = np.array(scores, np.float32)
    zeros = np.zeros(logprob.shape, np.int32)
    return Readings(logprob, zeros, logprob, np.isfinite(logprob).all(axis=1))


def test_menu_chooses_among_the_continuations_of_a_context():
    (row,) = pack_requests([([5, 6], [7]), ([5, 6], [8])], 32)
    results = readings([[-1.0, -2.0], [-3.0, -0.1], [-2.0, -1.9]])
    for rule, sign, chosen in (("vote", 1, 1), ("logprob", 1, 1), ("logprob", -1, 2)):
        logprob = choose_readings(menu(rule, sign), row, results).logprob
        np.testing.assert_array_equal(logprob, results.logprob[chosen])
    (row,) = pack_requests([([5, 6], [7])], 32)  # one alone runs the first path
    results = readings([[-4.0], [-1.0], [-np.inf]])
    for rule in ("vote", "logprob"):
        assert choose_readings(menu(rule), row, results).logprob.tolist() == [-4.0]


def test_menu_chooses_among_completions():
    def decoded(finish):
        """Makes completions of one token each, of three paths."""
        rows = Generated(*(field[0] for field in empty((1, 3), 1)))
        logprob, finishes = np.array([[-2.0], [-1.0], [-3.0]]), np.array(["stop", finish, "stop"])
        return rows._replace(logprob=logprob, length=np.ones(3, int), finish=finishes)

    assert choose_text(menu("vote"), decoded("stop"), ["7", " 8", "8 "]) == " 8"
    assert choose_text(menu("logprob"), decoded("stop"), ["7", "8", "9"]) == "8"
    assert choose_text(menu("logprob", -1), decoded("stop"), ["7", "8", "9"]) == "9"
    assert choose_text(menu("logprob"), decoded("not finite"), ["7", "8", "9"]) == "7"


def test_pack_requests_packs_continuations_after_their_context():
    """Up to `max_length` tokens go in; contexts are cut from the left."""
    first, second = pack_requests([([1, 2], [3, 4]), ([1, 5], [3]), ([1, 2], [6])], 10)
    assert (first.requests, second.requests) == ([0, 2], [1])
    assert np.asarray(first.prompts.ids).tolist() == [1, 2, 3]
    assert np.asarray(first.prompts.read).tolist() == [1, 2, 1]
    assert np.asarray(first.prompts.targets).tolist() == [3, 4, 6]
    pairs = [([1, 2, 3, 4], [5, 6]), ([9, 2, 3, 4], [5, 6]), ([7], [1, 2, 3, 4])]
    first, second = pack_requests(pairs, 4)
    assert np.asarray(first.prompts.ids)[:3].tolist() == [2, 3, 4]
    assert first.requests == [0, 1]
    assert len(second.prompts.ids) == 4
    for pair, message in (
        (([], [1]), "has 0 context tokens"),
        (([1], []), "its continuation 0, "),
        (([1], [2] * 5), "its continuation 5, but they must have at least 1, and 1 to 4"),
    ):
        with pytest.raises(ValueError, match=message):
            pack_requests([pair], 4)


@pytest.mark.parametrize(
    ("context", "length", "rows"),
    [
        (2, 1, [MOST_CONTINUATIONS, 1]),
        (2, FEW_TOKENS // 2, [2, 1]),
        (2 * FEW_TOKENS, FEW_TOKENS // 2, [3]),
        (2, FEW_TOKENS + 9, [1, 1]),
    ],
)
def test_pack_requests_bounds_rows(context, length, rows):
    packed = pack_requests([([1] * context, [i] * length) for i in range(sum(rows))], 4096)
    assert [len(row.requests) for row in packed] == rows
    assert [i for row in packed for i in row.requests] == list(range(sum(rows)))


def test_arguments_takes_values_and_text():
    """The harness passes numbers and flags, where text alone was given."""
    values = {"checkpoint": "m", "path": 7, "max_length": 64, "add_bos_token": True, "tensor": 2}
    text = {name: str(value) for name, value in values.items()}
    wanted = ModelArguments(checkpoint="m", path="7", max_length=64, add_bos_token=True, tensor=2)
    assert ModelArguments.read(values) == ModelArguments.read(text) == wanted
    assert ModelArguments.read({"checkpoint": "m", "path": [0, 1]}).path == "0,1"
    path = parse_path("0,1*0.5,2m", 3)
    assert ModelArguments.read({"checkpoint": "m", "path": path}).path == "0,1*0.5,2m"
    for size, read in ((1, None), ("auto", None), ("auto:4", None), (3, 3)):  # 1 is its default
        assert ModelArguments.read({"checkpoint": "m", "batch_size": size}).batch_size == read
    for changed, message in (
        ({"max_lenght": 4}, "max_lenght: Extra inputs are not permitted, got 4"),
        ({"checkpoint": None}, "checkpoint: Field required"),
        ({"path": "0-3", "menu": "m"}, "both name the paths"),
        ({"max_gen_toks": "many"}, "max_gen_toks: .*valid integer.*got 'many'"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelArguments.read({"checkpoint": "m"} | changed)


def test_names_of_files_of_a_path_keep_their_characters():
    for given, path in (
        ("0-5+7", "0-5,7"),
        ("0+7*0.5+8a", "0,7*0.5,8a"),
        ([0, 7], "0,7"),
        (list(np.array(parse_path("0,8a", 9))), "0,8a"),
        ("runs/a+b[1]", "runs/a+b[1]"),
    ):
        assert ModelArguments.read({"checkpoint": "m", "path": given}).path == path


def test_join_path():
    for argument, joined in (
        ("checkpoint=m,path=0-5,7,7,8-29", "checkpoint=m,path=0-5+7+7+8-29"),
        ("path=0-5,(6-7)x2,dtype=float32,data=1", "path=0-5+(6-7)x2,dtype=float32,data=1"),
        ("path=0-5,7*0.5,8a,max_length=9", "path=0-5+7*0.5+8a,max_length=9"),
        ("path=max,9m,data=1", "path=max,9m,data=1"),
        ("path='0-5,7',data=1", "path='0-5+7',data=1"),
        ('{"path": "0-5,7"}', '{"path": "0-5,7"}'),
        ("--include_path=0-5,7", "--include_path=0-5,7"),
    ):
        assert join_path(argument) == joined
