"""`exact`: answers as tokens, and its verdicts against those of real greedy decoding."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cola_jax
from cola_jax.execute.decoder import STOPPED
from cola_jax.prompts import Readings
from cola_jax.scoring import Exact
from cola_jax.scoring.exact import ENDS_READ
from cola_jax.scoring.format import ARITHMETIC, DIRECT, GSM8K, PROMPT
from cola_jax.scoring.generation import DECOY, GOLD, TIE
from cola_jax.scoring.scorer import encode_prompt
from cola_jax.scoring.verdicts import NO_ANSWER
from cola_jax.tasks.arithmetic import arithmetic
from tests import tiny
from tests.tokenizers import (
    BARE,
    EOS,
    LINE_BREAKS,
    STOPS,
    GreedyTokenizer,
    letter_tokenizer,
    question,
)


def exact(tokenizer, format=BARE, stop_tokens=(EOS,), **options):
    return Exact(tokenizer, format, stop_tokens=stop_tokens, **options)


def continuations(encoded):
    """Reads back, of each option, the tokens of its body and the tokens asked about at its end."""
    row, out = encoded.prompts, []
    for j in range(len(encoded.question.options)):
        own = encoded.option == j
        body = row.targets[own & ~encoded.end].tolist()
        fed = row.ids[row.branch == j + 1].tolist()
        for n, place in enumerate(row.read[own]):  # of it, or of one that begins with the same
            until = row.branch[: place + 1]
            before = row.ids[: place + 1][(until == until[-1]) & (until > 0)].tolist()
            assert before == fed[: min(n, len(fed))]
        ended = bool((own & encoded.end).any())
        assert fed == (body if ended else body[:-1])
        assert len(set(row.read[own & encoded.end].tolist())) == ended
        out.append((body, row.targets[own & encoded.end].tolist()))
    return out


@pytest.mark.parametrize(
    ("format", "options", "prompt", "body", "ends"),
    [
        # the end that the text has after the answer comes first
        (ARITHMETIC, {}, "<s>{} =", " {}", ["\n", "</s>"]),
        (DIRECT, {}, None, " \\boxed{{{}", ["}"]),  # ended by its brace
        # no space before the answer
        (ARITHMETIC, {"chat": True}, "<s>user: {} =\nassistant:\n", "{}", ["</s>", "\n"]),
    ],
    ids=["plain", "boxed", "chat"],
)
def test_encode_packs_gold_and_decoy_each_with_its_ends(words, format, options, prompt, body, ends):
    for asked in arithmetic(3, 5):
        encoded = exact(words, format, **options).encode(asked)
        ids = encoded.prompts.ids[encoded.prompts.branch == 0]
        assert words.decode(ids) == encoded.prompt
        assert prompt is None or encoded.prompt == prompt.format(asked.text)
        assert set(words.batch_decode([[i] for i in encoded.ends])) == set(ends)
        for option, (tokens, read) in zip(asked.options, continuations(encoded), strict=True):
            assert words.decode(tokens) == body.format(option)
            assert words.batch_decode([[i] for i in read]) == ends


def test_end_tokens_are_all_that_begin_a_stop_string():
    lines = ["\n", "\n\n", "\nx", *("\n" + chr(0x4E00 + i) for i in range(9))]
    words = GreedyTokenizer(["<s>", "</s>", "a", "b", " ", "x\n", *lines])
    encoded = exact(words, stop_tokens=(EOS, 2)).encode(question("a", "b"))
    # the stop tokens, then the shortest texts first; x\n is more than an end
    assert encoded.ends == (EOS, 2, *range(6, len(words)))
    ((body, ends),) = continuations(encoded)
    assert (body, len(ends), ends[:3]) == ([3], ENDS_READ, [6, EOS, 2])


def test_encode_takes_answer_that_joins_its_end_with_it():
    words = GreedyTokenizer(["<s>", "</s>", "a", "b", ".", ".\n", "\n"])
    encoded = exact(words).encode(question("a", "b.", "b"))
    assert continuations(encoded) == [([3, 5], []), ([3], [6, EOS])]
    assert encoded.ends == (EOS, 6)


def test_encode_refuses_answers_that_cannot_be_decoded(words):
    (addition,) = arithmetic(1, 1)
    for format, refused, message in (
        (ARITHMETIC, tiny.questions(1)[0], "q0 is multiple choice"),
        (GSM8K, addition, "use the scorer `generation`"),
        (BARE, question("a", ""), "adds no token to its prompt"),
        (PROMPT, question("a", "sun\nmoon"), "contains a stop string"),
    ):
        with pytest.raises(ValueError, match=message):
            exact(words, format).encode(refused)
    longest = int(exact(words, ARITHMETIC).encode(addition).prompts.positions.max()) + 1
    with pytest.raises(ValueError, match=f"{longest} tokens, but the model's context is"):
        exact(words, ARITHMETIC, context=longest - 1).encode(addition)


def test_encode_refuses_prompt_that_joins_its_answer():
    words = GreedyTokenizer(["<s>", "</s>", "a", "b", " ", " b", "\n"])
    with pytest.raises(ValueError, match="joins the end of its prompt"):
        exact(words).encode(question("a ", "bb"))  # else the answer would be b
    assert encode_prompt(question("a "), words, "a ").num_tokens == 3  # fine to decode after


def test_verdicts_of_ties_follow_token_chosen():
    """Where two tokens are as likely, the first is decoded, whatever the difference says."""
    words = GreedyTokenizer(["<s>", "</s>", "a", "b", "\n"])
    encoded = exact(words).encode(question("a", "b"))
    assert encoded.prompts.targets.tolist() == [3, 4, EOS]
    token = np.array([[3, 4, 4], [2, 4, 4]], np.int32)
    tie = np.full((2, 3), -1.0, np.float32)
    verdicts = exact(words).verdicts(Readings(tie, token, tie, np.ones(2, bool)), encoded)
    assert verdicts.verdict.tolist() == [True, False]
    np.testing.assert_array_equal(verdicts.margin, np.float32([TIE, -TIE]))


logprobs = st.lists(st.integers(-8, 0), min_size=12, max_size=12)


@given(st.lists(logprobs, min_size=4, max_size=4), st.lists(logprobs, min_size=4, max_size=4))
def test_scores_can_be_read_with_decoy_as_gold(logprob, rival):
    """The scores of a question are those of the question in which gold and decoy are swapped."""
    words = GreedyTokenizer(["<s>", "</s>", "a", "b", "c", "\n"])
    scorer = exact(words)
    encoded = scorer.encode(question("a", "bb", "cbc"))
    swapped = scorer.encode(question("a", "cbc", "bb"))
    reads = len(encoded.option)
    logprob, rival = (np.float32(x)[:, :reads] / 2 for x in (logprob, rival))
    targets = encoded.prompts.targets
    # the likeliest token is the target where it beats its rival; of equal ones, the first
    token = np.where(logprob > rival, targets, 0).astype(np.int32)
    readings = Readings(logprob, token, rival, np.ones(4, bool))
    order = np.concatenate([np.flatnonzero(encoded.option == j) for j in (1, 0)])
    np.testing.assert_array_equal(targets[order], swapped.prompts.targets)
    verdicts = scorer.verdicts(readings, encoded)
    expected = scorer.verdicts(
        jax.tree.map(lambda x: x if x.ndim == 1 else x[:, order], readings), swapped
    )
    np.testing.assert_array_equal(verdicts.scores[:, ::-1], expected.scores)
    again = verdicts.of_target(DECOY)
    np.testing.assert_array_equal(again.margin, expected.margin)
    ties = verdicts.scores[:, 0] == verdicts.scores[:, 1]
    np.testing.assert_array_equal(again.verdict[~ties], expected.verdict[~ties])


def test_answer_logprobs_are_those_of_the_tokens_and_of_any_end():
    words = GreedyTokenizer(["<s>", "</s>", "a", "b", "c", "\n"])
    scorer = exact(words)
    encoded = scorer.encode(question("a", "bb", "c"))
    assert [len(ends) for _, ends in continuations(encoded)] == [2, 2]  # a line break, or </s>
    logprob = np.log(np.float32([[0.5, 0.25, 0.2, 0.4, 0.1, 0.5, 0.25]]))
    token = np.asarray(encoded.prompts.targets)[None]
    readings = Readings(logprob, token, logprob - 1, np.ones(1, bool))
    made = scorer.verdicts(readings, encoded).answer_logprobs
    np.testing.assert_allclose(np.exp(made), [[0.5 * 0.25 * 0.6, 0.1 * 0.75]], rtol=1e-6)
    lost = scorer.verdicts(Readings(logprob, token, logprob - 1, np.zeros(1, bool)), encoded)
    assert np.isnan(lost.answer_logprobs).all()


# against decoding

BOXED = dataclasses.replace(BARE, extract="boxed", stop=())
NEAR = 3  # paths of a prompt whose answers are also changed by one token


def row(out, b, c):
    """Return the tokens decoded, and whether something ended them."""
    return out.tokens[b, c, : out.length[b, c]].tolist(), out.finish[b, c] == STOPPED


def answers(out, b):
    """List answers that some path gives, and others one token away from them."""
    golds = []
    for c in range(len(out.length[b])):
        tokens, ended = row(out, b, c)
        body = tokens[:-1] if ended else tokens[:-2]
        golds += [body]
        if body and c < NEAR:
            other = 80 + (body[-1] + 1) % 200
            golds += [body[:-1], [*body, other], [*body[:-1], other]]
    unique = [list(gold) for gold in dict.fromkeys(map(tuple, golds)) if gold]
    return [gold for gold in unique if not set(gold) & {*STOPS, *LINE_BREAKS}]


@pytest.mark.parametrize(
    ("form", "format"),
    [
        ("ended", BARE),
        pytest.param("boxed", BOXED, marks=pytest.mark.slow),
        ("closed", dataclasses.replace(BOXED, reply="<ANSWER>}")),
    ],
)
def test_verdicts_match_greedy_decoding(model, letters, decoded, form, format):
    out = decoded.out
    golds = [answers(out, b) for b in range(len(decoded.texts))]
    if form == "closed":  # the same tokens decoded, with a brace where they had a line break
        letters = letter_tokenizer(len(letters), "}")
    # gold, and the answer after it as the decoy
    pairs = [(b, own[i - 1], own[i]) for b, own in enumerate(golds) for i in range(len(own))]
    questions = [
        dataclasses.replace(question(decoded.texts[b], *map(letters.decode, options)), id=str(i))
        for i, (b, *options) in enumerate(pairs)
    ]
    scorer = exact(letters, format, STOPS)
    verdicts = cola_jax.evaluate(model, questions, decoded.listed, scorer=scorer).verdicts

    def gives(b, c, answer):
        tokens, ended = row(out, b, c)
        if form == "boxed":  # complete, whatever follows
            return tokens[: len(answer)] == answer
        if form == "closed" and tokens[-1] not in LINE_BREAKS:
            return False
        return ended and tokens[:-1] == answer

    expected = np.array(
        [
            [[gives(b, c, option) for option in options] for c in range(len(decoded.listed))]
            for b, *options in pairs
        ]
    )
    right, decoy = expected[..., GOLD], expected[..., DECOY]
    np.testing.assert_array_equal(verdicts.margin > 0, right)
    np.testing.assert_array_equal(verdicts.scores > 0, expected)
    if form != "boxed":  # of two boxes that are right, one begins with the other
        np.testing.assert_array_equal(verdicts.verdict, right)
        answer = np.where(right, GOLD, np.where(decoy, DECOY, NO_ANSWER))
        np.testing.assert_array_equal(verdicts.answer, answer)
    assert verdicts.finite.all()
    assert min(right.sum(), decoy.sum()) > (30 if form == "closed" else 60)
    assert (~right).sum() > 1000
    ends = {row(out, b, c)[0][-1] for b, c in np.argwhere(out.finish == STOPPED)}
    assert len(ends & set(STOPS)) > 3
    assert len(ends & set(LINE_BREAKS)) > 3
