"""Loads a tokenizer and tries it, so that a broken one fails where it is converted."""

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cola_jax.errors import InputError, first_line, shown
from cola_jax.json_text import parse_json
from cola_jax.template_worker import EXCEEDED

LARGEST = {"tokenizer.json": 2**28}  # bytes; that of Gemma 3 has 33 million
LARGEST_OTHER = 10 * 2**20
TEMPLATE_WORKER = Path(__file__).with_name("template_worker.py")
TEMPLATE_MEMORY, TEMPLATE_SECONDS = 500_000_000, 2  # bytes of a process, and of the processor
TEMPLATE_WAIT = 60.0  # seconds, where the system has no limit of the processor's
SENTENCE = "Which planet is the largest? Jupiter, 11 times as wide as the Earth."
REPAIR = (
    "Repair it or download it again; without tokenizer files a local model converts, and then runs "
    "on token ids alone."
)


def load_folder(folder: Path, name: str) -> Any:
    """Loads the tokenizer of a local folder with transformers; `name` says which in errors.

    Raises ValueError, whatever transformers and the tokenizers package raise.
    """
    check_files(folder, name)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # also PanicException, which is no Exception
        raise InputError(
            f"{name} has a tokenizer that cannot be loaded ({first_line(error)}). {REPAIR}"
        ) from None


def check_files(folder: Path, name: str) -> None:
    """Raises ValueError for files too large to be read, settings of wrong types, and for code."""
    for file in folder.iterdir():
        limit, size = LARGEST.get(file.name, LARGEST_OTHER), file.stat().st_size
        if file.suffix == ".json" and size > limit:
            raise InputError(
                f"{name}: {file.name} has {size:,} bytes, and {limit:,} are the most that it may "
                f"have. {REPAIR}"
            )
    for file in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if not (folder / file).is_file():
            continue
        # not finite: transformers writes 10**30 for a length without limit
        settings = parse_json((folder / file).read_bytes(), f"{name}: {file}", finite=False)
        if not isinstance(settings, dict):
            raise InputError(f"{name}: {file} must be an object, got {shown(settings)}. {REPAIR}")
        check_settings(settings, name, file)


def check_settings(settings: dict[str, Any], name: str, file: str) -> None:
    """Raises ValueError for settings that transformers would run as code or fail on late."""
    if settings.get("auto_map"):
        raise InputError(
            f"{name}: {file} has auto_map, which asks to run the code of the model's author. "
            "No such code is run: save the tokenizer in the format of transformers' own classes "
            "(tokenizer.json), and remove auto_map."
        )
    for key, kinds in {"tokenizer_class": str, "model_max_length": (int, float)}.items():
        value = settings.get(key)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise InputError(
                f"{name}: {key} of {file} must be a {'text' if kinds is str else 'number'}, got "
                f"{shown(value)}. {REPAIR}"
            )


def try_tokenizer(tokenizer: Any, name: str, vocab_size: int) -> None:
    """Encodes and decodes a sentence, and applies the chat template where there is one.

    Raises ValueError for what fails, and for a tokenizer whose ids the model does not embed.
    """
    try:
        ids = tokenizer(SENTENCE).input_ids
        decoded = tokenizer.decode(ids)
        special = [tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id]
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise InputError(
            f"{name} has a tokenizer that cannot encode a sentence and decode it "
            f"({first_line(error)}). {REPAIR}"
        ) from None
    if not isinstance(decoded, str) or any(type(i) is not int for i in (*ids, *special) if i):
        raise InputError(f"{name} has a tokenizer that makes no token ids of a sentence. {REPAIR}")
    if too_large := [i for i in ids if i >= vocab_size]:
        raise InputError(
            f"{name} has the tokenizer of another model: it encodes a sentence with token id "
            f"{max(too_large)}, but the model embeds {vocab_size}. {REPAIR}"
        )
    try_chat_template(tokenizer, name)


def try_chat_template(tokenizer: Any, name: str) -> None:
    """Raises ValueError unless the chat template, where there is one, can write one message."""
    if tokenizer.chat_template:
        check_template(tokenizer, name)
        write_chat(tokenizer, SENTENCE, name)


def write_chat(tokenizer: Any, text: str, name: str, **arguments: Any) -> str:
    """Writes a user's message with the chat template, up to the model's turn.

    Raises ValueError, whatever the template raises; `name` says which in errors.
    """
    try:
        written = tokenizer.apply_chat_template(
            message(text), tokenize=False, add_generation_prompt=True, **arguments
        )
        if not isinstance(written, str):
            raise TypeError(f"it writes {shown(written)}")
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # jinja raises many types, and templates their own
        raise InputError(
            f"{name} has a chat template that cannot write one user message "
            f"({first_line(error)}). Repair chat_template, or remove it: prompts are then plain "
            "text."
        ) from None
    return written


def message(text: str) -> list[dict[str, str]]:
    """Makes the conversation of one message by the user."""
    return [{"role": "user", "content": text}]


def check_template(tokenizer: Any, name: str) -> None:
    """Raises ValueError for a chat template that takes too long for a message, or fills memory.

    A template is a program: what it does with other messages is not bounded.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    tokens = getattr(tokenizer, "special_tokens_map", {})
    if isinstance(template, str) and exceeds(template, json.dumps(tokens, default=str)):
        raise InputError(
            f"{name} has a chat template that takes more than {TEMPLATE_SECONDS} s or "
            f"{TEMPLATE_MEMORY / 1e6:,.0f} MB to write one user message. Repair chat_template, or "
            "remove it: prompts are then plain text."
        )


@functools.lru_cache
def exceeds(template: str, tokens: str) -> bool:
    """Whether a template, with the special tokens as JSON, exceeds time or memory in a process."""
    given = {"messages": message(SENTENCE), "add_generation_prompt": True, "template": template}
    try:
        done = subprocess.run(
            # -P: modules in the script's folder must not shadow those that it imports
            [sys.executable, "-P", TEMPLATE_WORKER, str(TEMPLATE_MEMORY), str(TEMPLATE_SECONDS)],
            input=json.dumps(json.loads(tokens) | given).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TEMPLATE_WAIT,
        )
    except subprocess.TimeoutExpired:
        return True
    except OSError:  # no process can be started here
        return False
    return done.returncode < 0 or done.returncode == EXCEEDED
