"""Chats: messages as the text of a tokenizer's own template."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cola_jax.errors import InputError, reading, shown
from cola_jax.question import PICTURE

# Llama's template prints today's date by default, and Qwen3's starts to think.
TEMPLATE_ARGUMENTS = {"date_string": "26 Jul 2024", "enable_thinking": False}
ACTION = "Repair its chat_template, or remove it: prompts are then plain text."

Message = Mapping[str, str]  # with role and content
Chat = Sequence[Message]


def render_chat(tokenizer: Any, messages: Chat) -> str:
    """Write messages in the tokenizer's own chat template, up to the model's turn.

    Templates of models with pictures may take messages in parts alone, and leave out others.
    """

    def render(chat: Sequence[Mapping[str, Any]]) -> str:
        return tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True, **TEMPLATE_ARGUMENTS
        )

    asked = [message["content"].strip() for message in messages if message["role"] == "user"]
    with reading("the tokenizer's chat template", ACTION):
        whole = render([dict(message) for message in messages])
        if all(text in whole for text in asked):
            return whole
        parts = ({**message, "content": message_parts(message["content"])} for message in messages)
        return render(list(parts))


def user_message(text: str) -> Chat:
    """Return the chat of a single message of the user."""
    return [{"role": "user", "content": text}]


def message_parts(text: str) -> list[dict[str, str]]:
    """Divide a message at the placeholder of its picture, where it has one."""
    parts = filter(None, re.split(f"({PICTURE})\n?", text))
    return [
        {"type": "image"} if part == PICTURE else {"type": "text", "text": part} for part in parts
    ]


def chats_of(prompts: Any) -> list[Chat] | None:
    """Return prompts that are chats, a single one or several; None for prompts of another kind.

    Raises InputError for messages that are not a role and a content in text.
    """
    if not isinstance(prompts, list | tuple) or not prompts:
        return None
    chats = [prompts] if isinstance(prompts[0], Mapping) else prompts
    if not is_chat(chats[0]):
        return None
    for number, chat in enumerate(chats):
        if not is_chat(chat):
            raise InputError(f"prompt {number} is not a list of messages, as prompt 0 is.")
        for message in chat:
            check_message(number, message)
    return list(chats)


def is_chat(prompt: Any) -> bool:
    """Return whether a prompt is a list that begins with a message."""
    return isinstance(prompt, list | tuple) and len(prompt) > 0 and isinstance(prompt[0], Mapping)


def check_message(number: int, message: Any) -> None:
    """Raise InputError for a message that is not a role and a content in text."""
    fields = message if isinstance(message, Mapping) else {}
    if not all(isinstance(fields.get(name), str) for name in ("role", "content")):
        raise InputError(
            f"prompt {number} has the message {shown(message)}: give each a role and a content, "
            "both texts, such as {'role': 'user', 'content': 'Hello'}."
        )
