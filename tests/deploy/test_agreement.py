"""Agreement with the model's own greedy text, and the break-even of drafts."""

import jax.numpy as jnp
import numpy as np
import pytest

import cola_jax
from cola_jax.deploy import agreement
from cola_jax.deploy.settings import StaticSettings
from cola_jax.deploy.static import find_path, static_estimates
from cola_jax.errors import InputError
from cola_jax.layer_costs import LayerCosts
from cola_jax.path import identity, parse_path
from cola_jax.prompts import Prompts
from cola_jax.runs.results import Results
from cola_jax.runs.session import Session, evaluate_prompts
from cola_jax.scoring.divergence import prompt_of
from cola_jax.tasks.task import TaskConfig
from tests import tiny

TOKENS = 12
PATHS = [parse_path(text, tiny.LAYERS) for text in ("0-4", "0-3", "0,1a,2-4", "0-3,4*0.5")]


@pytest.fixture(scope="module")
def session(tiny_checkpoint):
    return Session.prepare(str(tiny_checkpoint), TaskConfig("arithmetic", limit=4).prepare)


def test_agreement_is_the_share_of_tokens_that_a_path_says(session, tmp_path):
    """Teacher-forced: each token after the model's own text, whatever the path said before."""
    scored = agreement.agreement_session(session, TOKENS)
    (verdicts,) = evaluate_prompts([scored], str(tmp_path / "run"), PATHS)
    found = agreement.agreements(verdicts)
    model = session.model.load()
    for row, each in zip(found, scored.asked.encode(session.model), strict=True):
        text = each.prompts.targets
        assert 1 <= len(text) <= TOKENS
        assert not each.question.options
        ids = np.append(each.prompts.ids, text[-1])[None]
        for path, share in zip(PATHS, row, strict=True):
            said = jnp.argmax(cola_jax.run_path(model, ids, path)[0], axis=-1)
            expected = (np.asarray(said)[-len(text) - 1 : -1] == text).mean()
            assert share == pytest.approx(expected)
    assert (found[:, 0] == 1).all()  # the whole model says its own text
    assert found[:, 1:].min() < 1


def test_agreement_does_not_depend_on_options_or_gold(tiny_checkpoint, tmp_path):
    file = str(tiny.write_questions(tmp_path / "task.jsonl", 6))
    session = Session.prepare(str(tiny_checkpoint), TaskConfig(file).prepare)
    assert {question.answer for question in session.asked.questions} != {0}
    scored = agreement.agreement_session(session, TOKENS)
    (verdicts,) = evaluate_prompts([scored], str(tmp_path / "run"), PATHS[:1])
    assert (agreement.agreements(verdicts) == 1).all()


def test_own_texts_are_those_of_generate(session):
    texts = agreement.own_texts(session, session.asked, TOKENS)
    stop = session.asked.scorer.stop
    encoded = session.asked.encode(session.model)
    prompts = Prompts.stack([prompt_of(each) for each in encoded])
    made = cola_jax.generate(session.model.load(), prompts, max_new_tokens=TOKENS, stop=stop)
    for each, tokens, length in zip(encoded, made.tokens, made.length, strict=True):
        assert texts[each.question.id] == tuple(tokens[:length].tolist())


def test_texts_beyond_the_context_are_refused(session):
    with pytest.raises(InputError, match="tokens and 5000 new ones, but the model's context is"):
        agreement.own_texts(session, session.asked, 5000)


def test_static_searches_the_drafts_that_agree_most(tiny_checkpoint, tmp_path):
    task = TaskConfig("arithmetic", limit=6, held_out=3)
    session = Session.prepare(str(tiny_checkpoint), task.prepare)
    settings = StaticSettings(
        generations=2, offspring=4, finalists=2, parts=True, max_cost="85%", fitness="agreement"
    )
    costs = LayerCosts(tiny.LAYERS, parts=((0.25, 0.75),) * tiny.LAYERS)
    found = find_path(session, str(tmp_path / "run"), settings, costs=costs)
    assert costs.of(found.chosen.path) <= 0.85 * costs.total
    results = Results(static_estimates(found, "agreement"))
    assert results.value("training", "the model") == 1
    assert results.value("break-even", "the model") == 1
    group = next(each for each in results.groups if each != "the model")
    assert 0 < results.value("break-even", group) <= 0.85
    assert 0 <= results.value("validation", group) <= 1
    assert found.plain.path == identity(tiny.LAYERS)


def test_speedup_is_above_one_where_acceptance_is_above_the_cost():
    assert agreement.speedup(0.8, 0.5) == pytest.approx(1.8 / 1.5)
    geometric = (1 - 0.8**5) / ((1 - 0.8) * (4 * 0.5 + 1))
    assert agreement.speedup(0.8, 0.5, 4) == pytest.approx(geometric)
    assert agreement.best_draft(0.5, 0.5) == (0, 1)
    assert agreement.best_draft(0.499, 0.5) == (0, 1)
    length, speed = agreement.best_draft(0.9, 0.5)
    assert speed == max(agreement.speedup(0.9, 0.5, n) for n in range(20)) > 1.9 / 1.5
    assert length > 1
