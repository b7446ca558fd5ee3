"""Open questions as tokens, and `exact` held against real greedy decoding."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from cola_jax.scoring.open import ENDS_READ, encode_open, end_tokens

import cola_jax
from cola_jax.edits import random_paths
from cola_jax.execute.decoder import STOPPED
from cola_jax.path import identity
from cola_jax.prompts import Prompts
from cola_jax.scoring.verdicts import DECOY, GOLD, NO_ANSWER, score
from cola_jax.tasks.arithmetic import arithmetic
from cola_jax.tasks.formats import ARITHMETIC, DIRECT, GSM8K, PROMPT
from tests import tiny
from tests.words import BARE, BREAKS, EOS, STOPS, Words, alphabet, question


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()


def continuations(encoded):
    """Reads back, of each option, the tokens of its body and the tokens asked about at its end."""
    row, out = encoded.prompts, []
    for j in range(len(encoded.question.options)):
        mine = encoded.option == j
        assert (
            row.branch[row.read[mine]] == np.where(row.read[mine] < prompt(row), 0, j + 1)
        ).all()
        body = row.targets[mine & ~encoded.end].tolist()
        fed = row.ids[row.branch == j + 1].tolist()
        ended = bool((mine & encoded.end).any())
        assert fed == (body if ended else body[:-1])
        assert len(set(row.read[mine & encoded.end].tolist())) == ended
        out.append((body, row.targets[mine & encoded.end].tolist()))
    return out


def prompt(row):
    return int((row.branch == 0).sum())


def test_exact_packs_gold_and_decoy_each_with_its_ends(words):
    for encoded in encode_open(arithmetic(3, 5), words, "exact", ARITHMETIC, stop_tokens=(EOS,)):
        text = f"{encoded.question.text} ="
        assert encoded.prompts.ids[: prompt(encoded.prompts)].tolist() == words(text).input_ids
        (newline,) = words("\n", add_special_tokens=False).input_ids
        assert set(encoded.ends) == {EOS, newline}
        for option, (body, ends) in zip(
            encoded.question.options, continuations(encoded), strict=True
        ):
            assert words.decode(body) == f" {option}"
            assert ends == [newline, EOS]  # what the text has behind the answer comes first


def test_generate_has_the_prompt_alone(words):
    shots = arithmetic(3, 2, purpose="shots")
    (encoded,) = encode_open(arithmetic(3, 1), words, "generate", ARITHMETIC, shots=shots)
    assert encoded.prompts.read is None
    assert encoded.prompts.targets is None
    text = words.decode(encoded.prompts.ids)
    assert text == "<s>" + "".join(f"{s.text} = {s.gold}\n" for s in shots) + "40 - 1 ="
    assert encoded.num_tokens == len(encoded.prompts.ids)
    assert encoded.reply.max_new_tokens == ARITHMETIC.max_new_tokens
    assert encoded.reply.stop.strings == ("\n",)


def test_a_box_ends_with_its_brace(words):
    (encoded,) = encode_open(arithmetic(1, 1), words, "exact", DIRECT, stop_tokens=(EOS,))
    (brace,) = words("}", add_special_tokens=False).input_ids
    assert encoded.ends == (brace,)
    for option, (body, ends) in zip(encoded.question.options, continuations(encoded), strict=True):
        assert (words.decode(body), ends) == (f" \\boxed{{{option}", [brace])


def test_a_chat_ends_with_a_stop_token(words):
    asked = arithmetic(2, 1)
    (encoded,) = encode_open(asked, words, "exact", ARITHMETIC, chat=True, stop_tokens=(EOS, 5, 6))
    ids = encoded.prompts.ids[: prompt(encoded.prompts)]
    assert words.decode(ids) == f"<s>user: {asked[0].text} =\nassistant:\n"
    for option, (body, ends) in zip(asked[0].options, continuations(encoded), strict=True):
        assert words.decode(body) == option  # no blank in front
        assert ends[:3] == [EOS, 5, 6]
        assert words.decode(ends[3:]) == "\n"


def test_a_question_without_a_decoy_has_one_answer(words):
    (encoded,) = encode_open([question("a", "x y")], words, "exact", PROMPT, stop_tokens=(EOS,))
    assert set(encoded.option.tolist()) == {0}
    assert set(encoded.prompts.branch.tolist()) == {0, 1}


LINES = ["\n", "\n\n", "\nx", *("\n" + chr(0x4E00 + i) for i in range(9))]


def test_any_token_that_begins_a_stop_string_is_an_end():
    words = Words(["<s>", "</s>", "a", "b", " ", "x\n", *LINES])
    (encoded,) = encode_open([question("a", "b")], words, "exact", BARE, stop_tokens=(EOS, 2))
    first = len(words) - len(LINES)
    # the stop tokens, then the shortest texts first; x\n is more than an end
    assert encoded.ends == (EOS, 2, *range(first, len(words)))
    ((body, ends),) = continuations(encoded)
    assert body == [3]
    assert len(ends) == ENDS_READ
    assert ends[:3] == [first, EOS, 2]
    assert end_tokens(encoded.reply.stop) == encoded.ends


def test_an_answer_that_joins_its_end_is_taken_with_it():
    words = Words(["<s>", "</s>", "a", "b", ".", ".\n", "\n"])
    (encoded,) = encode_open([question("a", "b.", "b")], words, "exact", BARE, stop_tokens=(EOS,))
    assert continuations(encoded) == [([3, 5], []), ([3], [6, EOS])]
    assert encoded.ends == (EOS, 6)


def test_what_cannot_be_asked(words):
    asked = arithmetic(1, 1)

    def refused(message, questions=asked, scorer="exact", format=ARITHMETIC, t=words, **more):
        with pytest.raises(ValueError, match=message):
            encode_open(questions, t, scorer, format, stop_tokens=(EOS,), **more)

    for scorer in ("exact", "generate"):
        refused("no chat template", t=tiny.tokenizer(chat=False), scorer=scorer, chat=True)
        refused("q0 is multiple choice", tiny.questions(1), scorer)
        refused("max_new_tokens must be at least 1, it is 0", scorer=scorer, max_new_tokens=0)
    refused("use the scorer `generation`", format=GSM8K)
    refused("adds no token to its prompt", [question("a", "")], format=BARE)
    (encoded,) = encode_open(asked, words, "exact", ARITHMETIC, stop_tokens=(EOS,))
    longest = int(encoded.prompts.positions.max()) + 1
    refused(f"{longest} tokens, but the model's context is", context=longest - 1)
    encode_open(asked, words, "exact", ARITHMETIC, stop_tokens=(EOS,), context=longest)
    behind = {"scorer": "generate", "max_new_tokens": 5}
    short = prompt(encoded.prompts)
    refused(f"{short} tokens and 5 new ones", context=short + 4, **behind)
    encode_open(asked, words, "generate", ARITHMETIC, max_new_tokens=5, context=short + 5)


def test_an_end_of_text_behind_every_prompt_is_told():
    words = Words(["<s>", "</s>", "a", "b", "\n"], eos_behind=True)
    for scorer in ("exact", "generate"):
        with pytest.raises(ValueError, match="add_eos_token"):
            encode_open([question("a", "b")], words, scorer, BARE)


def test_a_prompt_that_joins_its_answer_is_told():
    words = Words(["<s>", "</s>", "a", "b", " ", " b", "\n"])
    with pytest.raises(ValueError, match="joins the end of its prompt"):
        encode_open([question("a ", "bb")], words, "exact", BARE)  # else the answer would be b
    encode_open([question("a ", "bb")], words, "generate", BARE)


def test_an_answer_that_holds_a_stop_string_is_told(words):
    with pytest.raises(ValueError, match="has a stop string in it"):
        encode_open([question("a", "sun\nmoon")], words, "exact", PROMPT)


# held against decoding


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return cola_jax.load(tiny.make_checkpoint(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def letters(model):
    return alphabet(model.config.vocab_size)


@pytest.fixture(scope="module")
def decoded(model, letters):
    """What paths decode behind random prompts: the texts of those, the paths, and the tokens."""
    generator = np.random.default_rng(0)
    texts = [letters.decode(generator.integers(80, len(letters), 5)) for _ in range(10)]
    paths = [identity(tiny.LAYERS), *random_paths(tiny.LAYERS, 15, seed=1)]
    encoded = encode_open(
        [question(text, "x") for text in texts], letters, "generate", BARE, stop_tokens=STOPS
    )
    prompts = Prompts.stack([e.prompts for e in encoded])
    out = cola_jax.generate(
        model,
        prompts,
        [paths] * len(texts),
        max_new_tokens=BARE.max_new_tokens,
        stop=encoded[0].reply.stop,
    )
    return texts, paths, out


def spoken(out, b, c):
    """Returns the tokens decoded, and whether something ended them."""
    return out.tokens[b, c, : out.length[b, c]].tolist(), out.finish[b, c] == STOPPED


def answers(out, b):
    """Takes answers that some path gives, and others one token away from them."""
    generator = np.random.default_rng(b)
    golds = []
    for c in range(len(out.length[b])):
        tokens, ended = spoken(out, b, c)
        body = tokens[:-1] if ended else tokens[:-2]
        golds += [body, body[:-1], [*body, int(generator.integers(80, 300))]]
        golds += [[*body[:-1], 80 + (body[-1] + 1) % 200]] if body else []
    unique = [list(gold) for gold in dict.fromkeys(map(tuple, golds)) if gold]
    return [g for g in unique if not set(g) & {*STOPS, *BREAKS}]


def judged(model, letters, texts, golds, paths, format):
    """Scores golds with `exact`, the first answer of each question against the one behind it."""
    questions = [
        question(text, letters.decode(mine[i]), letters.decode(mine[(i + 1) % len(mine)]))
        for text, mine in zip(texts, golds, strict=True)
        for i in range(len(mine))
    ]
    encoded = encode_open(questions, letters, "exact", format, stop_tokens=STOPS)
    prompts = Prompts.stack([e.prompts for e in encoded])
    readings = cola_jax.run_paths(model, prompts, [paths] * len(questions))
    return [
        score(type(readings)(*(getattr(readings, n)[b] for n in FIELDS)), e)
        for b, e in enumerate(encoded)
    ]


FIELDS = ("logprob", "token", "rival", "finite")


BOXED = dataclasses.replace(BARE, extract="boxed", stop=())


@pytest.mark.parametrize(
    ("form", "format"),
    [
        ("ended", BARE),
        ("boxed", BOXED),
        ("closed", dataclasses.replace(BOXED, reply="<ANSWER>}")),
    ],
)
def test_exact_is_what_greedy_decoding_says(model, letters, decoded, form, format):
    texts, paths, out = decoded
    boxed = form == "boxed"
    golds = [answers(out, b) for b in range(len(texts))]
    if form == "closed":  # the same tokens decoded, with a brace where they had a line break
        letters = alphabet(len(letters), "}")
    verdicts = iter(judged(model, letters, texts, golds, paths, format))

    def says(b, c, gold):
        tokens, ended = spoken(out, b, c)
        if boxed:  # complete, whatever follows
            return tokens[: len(gold)] == gold
        if form == "closed" and tokens[-1] not in BREAKS:
            return False
        return ended and tokens[:-1] == gold

    right = wrong = decoys = 0
    for b, mine in enumerate(golds):
        for i, gold in enumerate(mine):
            one = next(verdicts)
            expected = np.array([says(b, c, gold) for c in range(len(paths))])
            decoy = np.array([says(b, c, mine[(i + 1) % len(mine)]) for c in range(len(paths))])
            np.testing.assert_array_equal(one.margin > 0, expected)
            if not boxed:  # of two boxes that are right, one begins with the other
                np.testing.assert_array_equal(one.verdict, expected)
                answer = np.where(expected, GOLD, np.where(decoy, DECOY, NO_ANSWER))
                np.testing.assert_array_equal(one.answer, answer)
            assert one.finite.all()
            right, wrong = right + expected.sum(), wrong + (~expected).sum()
            decoys += decoy.sum()
    assert min(right, decoys) > (30 if form == "closed" else 60)
    assert wrong > 1000
    ends = {spoken(out, b, c)[0][-1] for b, c in np.argwhere(out.finish == STOPPED)}
    assert len(ends & set(STOPS)) > 3
    assert len(ends & set(BREAKS)) > 3


def test_a_path_that_is_not_finite_is_wrong(model, letters, decoded):
    texts, paths, out = decoded
    model = model.replace(layers=model.layers.replace(up=model.layers.up.at[4].set(jnp.inf)))
    golds = [[spoken(out, b, 0)[0][:2]] for b in range(3)]
    golds = [[[100, 101]] if set(g[0]) & {*STOPS, *BREAKS} else g for g in golds]
    for one in judged(model, letters, texts[:3], golds, paths, BARE):
        broken = np.array([4 in path for path in paths])
        assert 0 < broken.sum() < len(paths)
        np.testing.assert_array_equal(one.finite, ~broken)
        assert not one.verdict[broken].any()
        assert (one.answer[broken] == NO_ANSWER).all()
        assert (one.margin[broken] == -np.inf).all()
        assert np.isfinite(one.margin[~broken]).all()
