"""How the harness's tasks ask for text: `generation_kwargs` and `--gen_kwargs`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cola_jax.errors import InputError

LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first wins
SAMPLING = ("top_p", "top_k", "min_p", "typical_p")  # without effect on the likeliest token
NEUTRAL = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
}


class GenerationSettings(NamedTuple):
    """What ends a completion, beside the model's own stop tokens."""

    until: tuple[str, ...]
    max_gen_toks: int


def read_gen_kwargs(given: Mapping[str, Any], max_gen_toks: int) -> GenerationSettings:
    """Read a request's keywords; `max_gen_toks` is the limit where they give none.

    Raises InputError for sampling, and for anything else that would change what is decoded.
    """
    given = {name: value for name, value in given.items() if value is not None}
    check_greedy(given)
    for name, value in given.items():
        if name in NEUTRAL and value == NEUTRAL[name]:
            continue
        if name not in ("until", "do_sample", "temperature", *LIMITS, *SAMPLING):
            raise InputError(
                f"generation asks for {name}={value!r}, but the model cola decodes the likeliest "
                f"token up to `until` or {LIMITS[0]}: leave it out of generation_kwargs."
            )
    until = given.get("until", ())
    until = [until] if isinstance(until, str) else until
    limit = next((given[name] for name in LIMITS if name in given), max_gen_toks)
    return GenerationSettings(tuple(text for text in until if text), int(limit))


def check_greedy(given: Mapping[str, Any]) -> None:
    """Raise InputError for keywords that ask for sampling."""
    sample, temperature = given.get("do_sample"), float(given.get("temperature", 0))
    if sample or (sample is None and temperature > 0):
        name = "do_sample" if sample else "temperature"
        raise InputError(
            f"generation asks for {name}={given[name]!r}, but the model cola decodes greedily: "
            "give --gen_kwargs do_sample=False,temperature=0, or another task."
        )


def cut_text(text: str, stops: Sequence[str]) -> str:
    """Cut a text before the first place where a stop string begins."""
    places = [text.find(stop) for stop in stops]
    return text[: min((place for place in places if place >= 0), default=None)]
