"""Tokenizers of a few made-up tokens, and a format of nothing but a question and its answer."""

from types import SimpleNamespace

from cola_jax.question import Question
from cola_jax.scoring.format import Format

EOS = 1
STOPS = tuple(range(1, 40))  # many, so that a random model ends its answers
LINE_BREAKS = tuple(range(60, 80))  # of `letter_tokenizer`; more tokens than are read
BARE = Format("bare", 0, 6, ("\n",), "line", before="", after="", reply="<ANSWER>")


def question(text: str, *options: str) -> Question:
    """Make an open question with a gold answer and at most one decoy."""
    return Question(text, text, options, 0, open=True)


class CodePoints:
    """One token per character, its code point, after 1 if special tokens are added.

    `merge` maps a text to the text that is tokenized in its place.
    """

    chat_template = "yes"
    eos_token_id = 2

    def __init__(self, merge: tuple[str, str] = ("", ""), *, adds_eos: bool = False):
        self.merge, self.adds_eos = merge, adds_eos

    def __call__(self, text, add_special_tokens):
        ids = [1] * add_special_tokens + [ord(c) for c in text.replace(*self.merge)]
        return SimpleNamespace(input_ids=ids + [self.eos_token_id] * self.adds_eos)

    def decode(self, ids, **keywords):
        return "".join(map(chr, ids))

    def apply_chat_template(self, messages, tokenize, add_generation_prompt, **rest):
        assert not tokenize
        assert add_generation_prompt
        assert rest["enable_thinking"] is False
        return f"\2{messages[0]['content']}\3"


def letter_tokenizer(size: int, first: str = "\n") -> "GreedyTokenizer":
    """Make each token a letter of its own, so that every sequence of tokens is an answer.

    The tokens of LINE_BREAKS begin with `first`.
    """
    texts = [chr(0x4E00 + i) for i in range(size)]
    for i in LINE_BREAKS:
        texts[i] = first + texts[i]
    texts[LINE_BREAKS[0]] = first
    return GreedyTokenizer(texts)


class GreedyTokenizer:
    """Takes the longest of the given texts that matches; has what scorers use of a tokenizer."""

    chat_template = None

    def __init__(self, texts: list[str], adds_eos: bool = False):
        self.texts, self.eos_token_id, self.adds_eos = texts, EOS, adds_eos
        self.longest = sorted(range(len(texts)), key=lambda i: -len(texts[i]))

    def __len__(self):
        return len(self.texts)

    def __call__(self, text, add_special_tokens=True):
        ids = [0] if add_special_tokens else []
        while text:
            ids.append(next(i for i in self.longest if text.startswith(self.texts[i])))
            text = text[len(self.texts[ids[-1]]) :]
        return SimpleNamespace(input_ids=ids + [EOS] * (self.adds_eos and add_special_tokens))

    def decode(self, ids, **keywords):
        return "".join(self.texts[i] for i in ids)

    def batch_decode(self, rows):
        return [self.decode(row) for row in rows]
