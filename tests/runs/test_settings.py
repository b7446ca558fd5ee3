"""Settings that continue a run, and the flags by which others differ."""

import pytest

from cola_jax.errors import InputError
from cola_jax.runs.settings import check_digests, continues

OLD = {
    **{
        "command": "search",
        "scorer": "options",
        "strategy": "best",
        "questions": 4,
        "simulations": 8,
        "seed": 2,
    },
    **{"preset": {"max_times": 1}, "prompt": {"format": "plain", "hash": "a"}, "task": "a"},
    **{"paths": [[0, 1], [1]], "prompts": 4, "prompts_digest": "a"},
}
MORE = {"questions": 5, "task": "b", "prompt": {"format": "plain", "hash": "b"}}


def prompt(**changes):
    return {"format": "plain", "hash": "b", "shots": []} | changes


SCORER = {"scorer": "letter", "task": "b", "grader": "exact match", "prompt": prompt()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questions": 2}, "--limit: 4 there, 2 here"),
        ({"seed": 3}, "--seed: 2 there, 3 here"),
        ({"preset": {"max_times": 4}}, "--rules.max-times: 1 there, 4 here"),
        ({"max_new_tokens": 4}, "--max-new-tokens: not given there, 4 here"),
        ({"temperature": 0.5}, "--temperature: not given there, 0.5 here"),
        (MORE | {"prompts": 2, "prompts_digest": "b"}, r"\(--prompts: 4 there, 2 here\)"),
        ({"paths": [[0, 1]]}, "--paths: 0-1, 1 there, 0-1 here"),
        # neither digests nor what follows from a setting that is told
        (SCORER, r"\(--scorer: options there, letter here\)"),
        ({"prompt": prompt(format="direct")}, r"\(--format: plain there, direct here\)"),
        ({"prompt": prompt(format={"name": "direct", "stop": []})}, r"\(--format: plain there, d"),
        ({"prompt": prompt(shots=["q"])}, r"\(--num-fewshot: 0 there, 1 here\)"),
        ({"prompt": None, "chat": {"date_string": "26"}}, r"\(--chat: off there, on here\)"),
        ({"choose_prompts": [{}, {}]}, r"\(--choose-prompts: not given there, 2 here\)"),
        ({"dtype": "bfloat16"}, r"\(--dtype: not given there, bfloat16 here\)"),
        ({"command": "evaluate"}, "was made by `cola search`, not by `cola evaluate`"),
    ],
)
def test_changes_that_do_not_continue_a_run_are_named_by_their_flags(change, message):
    with pytest.raises(InputError, match=f"run .*{message}"):
        continues("run", OLD, OLD | change)


def test_a_missing_setting_is_its_default():
    for change in (
        {"early_stop": False},
        {"layer_costs": None},
        {"preset": {"max_times": 1, "x": 0}},
    ):
        assert continues("run", OLD, OLD | change) is False
        assert continues("run", OLD | change, OLD) is False
    with pytest.raises(InputError, match=r"\(--early-stop: not given there, on here\)"):
        continues("run", OLD, OLD | {"early_stop": True})


def test_a_run_of_an_earlier_stream_continues_in_a_later_one():
    later = OLD | {"stream": 2}
    assert continues("run", OLD, later) is False
    assert continues("run", OLD | {"stream": 1}, OLD) is False
    with pytest.raises(InputError, match=r"\(--stream: 2 there, 1 here\)"):
        continues("run", later, OLD)
    with pytest.raises(InputError, match=r"\(--preset: best there, random here\)"):
        continues("run", later, OLD | {"strategy": "random"})


def test_runs_with_variants_are_not_resumed():
    for earlier in ({"variants": ["chat"]}, {"robust": True}):
        with pytest.raises(
            InputError, match=r"`cola report` reads it, .* --prompts other wordings"
        ):
            continues("run", OLD | earlier, OLD)


def test_runs_with_early_exits_first_are_not_resumed():
    """A rule of earlier versions; where it was off, nothing has changed."""
    none = OLD | {"preset": OLD["preset"] | {"exits": 0}}
    assert continues("run", none, OLD) is False
    some = OLD | {"preset": OLD["preset"] | {"exits": 8}}
    for new in (OLD, some):
        with pytest.raises(
            InputError, match=r"with --rules.exits 8: `cola report` reads it, .*--reuse run"
        ):
            continues("run", some, new)


def test_continues_says_whether_questions_are_evaluated_further():
    for change in ({}, MORE | {"prompts_digest": "b"}):
        assert continues("run", OLD, OLD | change) is False
    for change in ({"simulations": 9}, {"paths": [[1], [0, 1], [2]]}):
        assert continues("run", OLD, OLD | change) is True


def test_models_are_told_by_their_names_or_else_their_digests():
    old, new = OLD | {"model": "1" * 64}, OLD | {"model": "2" * 64}
    for models, message in (
        (("smollm2", "qwen"), r"\(--model: smollm2 there, qwen here\)"),
        (("qwen", "qwen"), r"\(--model: 111111111111 there, 222222222222 here\)"),
    ):
        with pytest.raises(InputError, match=message):
            continues("run", old, new, models)


def test_digests_of_earlier_versions_are_not_compared_with_those_of_this():
    drawn = [{"prompt_set": "choose 0"}, {"prompt_set": "choose 1"}]
    old = OLD | {"choose_prompts": drawn}
    del old["prompts_digest"]
    new = {name: value for name, value in old.items() if name != "task"} | {
        "prompt": {"format": "plain"},
        "shots_digest": "s",
        "questions_digest": "q",
        "prompts_digest": "v",
        "choose_prompts": [record | {"shots_digest": "s"} for record in drawn],
    }
    assert continues("run", old, new) is False
    check_digests("run", old, new)
    others = [record | {"shots_digest": "t"} for record in drawn]
    for change in (
        {"questions_digest": "r"},
        {"shots_digest": "t"},
        {"prompts_digest": "w"},
        {"choose_prompts": others},
    ):
        assert continues("run", new, new | change) is False
        with pytest.raises(InputError, match="--task: other questions or prompts"):
            check_digests("run", new, new | change)


def test_check_digests_refuses_other_questions_where_no_setting_differs():
    for change in ({"task": "b"}, {"prompts_digest": "b"}):
        assert continues("run", OLD, OLD | change) is False
        with pytest.raises(InputError, match="--task: other questions or prompts"):
            check_digests("run", OLD, OLD | change)
    check_digests("run", OLD, OLD | MORE)  # they are compared one by one
    with pytest.raises(InputError, match="--prompts: other wordings there than here"):
        check_digests("run", OLD, OLD | MORE | {"prompts_digest": "b"})
    check_digests("run", OLD, OLD | {"simulations": 9})
