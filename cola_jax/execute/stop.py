"""What ends a decoded text."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from cola_jax.errors import InputError

MARGIN = 8  # tokens decoded ahead of where a stop string may begin, for their neighbours' sake


@dataclasses.dataclass(frozen=True)
class Stop:
    """Token ids that end a text, strings that do, or a rule over the text so far.

    A text ends before the stop string or the stop token; the tokens that a row decoded hold both.
    Strings and rules need the tokenizer.
    """

    tokens: tuple[int, ...] = ()
    strings: tuple[str, ...] = ()
    rule: Callable[[str], bool] | None = None  # whether the text says all it has to say
    tokenizer: Any = None

    def __post_init__(self):
        if not all(isinstance(token, int) and token >= 0 for token in self.tokens):
            raise InputError(f"stop tokens are ids from 0 up, they are {list(self.tokens)}.")
        if "" in self.strings:
            raise InputError("an empty stop string would end every text at once: leave it out.")
        if (self.strings or self.rule) and self.tokenizer is None:
            raise InputError("stop strings and rules are about text: give the tokenizer as well.")

    def reached(self, ids: Sequence[int]) -> bool:
        """Says whether the last of the decoded tokens ends the text.

        Returns:
          True where it is a stop token, completes a stop string, or the rule says so.
        """
        if ids[-1] in self.tokens:
            return True
        if self.strings and self.found(self.tail(ids)) is not None:
            return True
        return self.rule is not None and self.rule(self.text(ids))

    def tail(self, ids: Sequence[int]) -> str:
        """Decodes as many tokens as a stop string may span: each adds at least a byte.

        Returns:
          The end of the text.
        """
        longest = max(len(string.encode()) for string in self.strings)
        return self.decode(ids[-longest - MARGIN :])

    def found(self, text: str) -> int | None:
        """Finds the first stop string.

        Returns:
          The index at which it begins; None where the text has none.
        """
        places = [text.find(string) for string in self.strings]
        return min((place for place in places if place >= 0), default=None)

    def text(self, ids: Sequence[int]) -> str:
        """Decodes tokens up to the first stop token or stop string.

        Returns:
          The text without what ended it.
        """
        ends = (i for i, token in enumerate(ids) if token in self.tokens)
        text = self.decode(ids[: next(ends, len(ids))])
        return text[: self.found(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes tokens as they are: nothing skipped, no spaces tidied.

        Returns:
          The text, special tokens included.
        """
        if self.tokenizer is None:
            raise InputError("the tokens of a text need the tokenizer: give it to Stop.")
        return self.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
