"""Mutations: bytes, JSON values and lines of text, each of which depends on a seed alone."""

import copy
import json
import random
from typing import Any

VALUES = (
    *(None, True, False, -1, 0, 1, 2, 7, 2**31, 10**6, 10**18, -(2**63), 0.5, 1e300, -0.0, 1e-300),
    *("", "x", "silu", "llama", "a\nb", "x" * 5000, "\0", "../a", "{{ x", "[PAD]", "3", "é"),
    *([], [None], [1], ["a", "a"], [[]], {}, {"a": {}}, [0] * 99),
)
PIECES = (
    b"",
    b"\0",
    b"\xff" * 8,
    b"\0" * 8,
    b"\xff\xff\xff\x7f",
    b"\n",
    b"[",
    b"{",
    b'"',
    b"1e999",
)


def mutate_bytes(whole: bytes, seed: int, most: int | None = None) -> bytes:
    """Changes a few places among the first `most` bytes: flips, cuts, inserts and copies."""
    draw = random.Random(seed)
    data = bytearray(whole)
    most = len(whole) if most is None else most
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(max(1, min(most, len(data))))
        kind = draw.randrange(5)
        if kind == 0 and data:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            piece = draw.choice(PIECES)
            data[at : at + len(piece)] = piece
        elif kind == 2:
            data[at:at] = draw.choice(PIECES)
        elif kind == 3:
            other = draw.randrange(max(1, min(most, len(data))))
            data[at : at + 8] = data[other : other + 8]
        else:
            del data[at : at + draw.choice((1, 8, 100, len(data)))]
    return bytes(data)


def mutate_json(value: Any, seed: int) -> Any:
    """Changes a few places of a JSON value: replaces, removes, adds and doubles."""
    draw = random.Random(seed)
    value = json.loads(json.dumps(value))
    for _ in range(draw.choice((1, 1, 2, 3))):
        node = value
        while isinstance(node, dict | list) and node:
            key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
            if isinstance(node[key], dict | list) and node[key] and draw.random() < 0.7:
                node = node[key]
                continue
            kind = draw.randrange(6)
            if kind == 0:
                del node[key]
            elif kind == 1 and isinstance(node, dict):
                node[draw.choice(("extra", "auto_map", "type", ""))] = copy.deepcopy(
                    draw.choice(VALUES)
                )
            elif kind == 1:
                node += [copy.deepcopy(node[key]) for _ in range(draw.choice((1, 99)))]
            else:
                node[key] = copy.deepcopy(draw.choice(VALUES))
            break
    return value


def mutate_json_text(value: Any, seed: int) -> bytes:
    """Writes a JSON value, with mutated values for two seeds of three, else with mutated bytes."""
    if seed % 3:
        return json.dumps(mutate_json(value, seed)).encode()
    return mutate_bytes(json.dumps(value).encode(), seed)


def mutate_lines(text: str, others: tuple[str, ...], seed: int) -> bytes:
    """Puts one of other lines among those of a text for two seeds of three, else mutates bytes."""
    if seed % 3 == 0:
        return mutate_bytes(text.encode(), seed)
    draw, lines = random.Random(seed), text.splitlines()
    for _ in range(draw.choice((1, 1, 2))):
        at = draw.randrange(len(lines) + 1)
        lines[at : at + draw.randrange(2)] = [draw.choice(others)]
    return "\n".join(lines).encode("utf-8", "surrogatepass")
