"""Files of paths and of searched questions, whose format is recognised by what is in them."""

import re
from pathlib import Path as FilePath

from cola_jax.errors import InputError
from cola_jax.files import read_text
from cola_jax.formats.peers.document import (
    Field,
    Path,
    check_count,
    check_layers,
    parse_json,
    parse_yaml,
)
from cola_jax.formats.peers.drllm import drllm_searched, is_drllm
from cola_jax.formats.peers.mergekit import merge_path
from cola_jax.formats.peers.polar import is_polar, polar_searched
from cola_jax.formats.peers.rys import BARE, MARK, is_rys, rys_lines, rys_paths
from cola_jax.formats.peers.searched import Searched
from cola_jax.path import parse_path

MERGE = re.compile(r"^(?:merge_method|slices|models|modules)\s*:", re.MULTILINE)
MOST_CHARACTERS = 100_000  # of a line
SHOWN = 250  # characters at each end of a long error
FORMATS = (
    "lines of paths such as 0-5,7,7,8-29; PoLar's samples; Dr.LLM's results; RYS's blocks, queue "
    "or manifest; a mergekit configuration"
)


def read_paths(file: FilePath, num_layers: int, max_length: int | None = None) -> list[Path]:
    """Reads the paths of a file of any format, each once, in order.

    Args:
      num_layers: of the model; a file of a model of other layers is refused where it shows.
      max_length: of a path, in layers; 2 * num_layers if None.

    Raises ValueError, with the file and the entry, for what cannot be read or is no path of the
    model, and for more than a million paths.
    """
    text = read_text(file)
    limit = 2 * num_layers if max_length is None else max_length
    if text.lstrip()[:1] in ("[", "{"):
        paths = json_paths(parse_json(file, text), num_layers)
    elif MERGE.search(text):
        paths = [merged_path(parse_yaml(file, text), num_layers)]
    else:
        paths = line_paths(file, text.splitlines(), num_layers, limit)
    if not paths:
        raise InputError(f"{file} has no path.")
    for number, path in enumerate(paths, start=1):
        if len(path) > limit:
            raise InputError(
                f"{file}: path {number} of {len(paths)} runs {len(path)} layers, but at most "
                f"{limit} are allowed: allow more with a larger maximum length."
            )
    return list(dict.fromkeys(paths))


def json_paths(content: Field, num_layers: int) -> list[Path]:
    """Returns the paths of JSON; of searched questions those found right first."""
    if content.has("merge_method"):
        # JSON is YAML
        return [merged_path(parse_yaml(content.file, read_text(content.file)), num_layers)]
    if is_polar(content) or is_drllm(content):
        searched = json_searched(content, num_layers)
        right = [path for one in searched for path in one.correct_paths]
        return list(dict.fromkeys(right + [p for one in searched for p in one.wrong_paths]))
    if is_rys(content):
        return rys_paths(content, num_layers)
    raise unknown(content.file)


def read_searched(file: FilePath, num_layers: int | None = None) -> list[Searched]:
    """Reads the questions of PoLar's samples or Dr.LLM's results.

    Args:
      num_layers: of the model that the paths are for, which must fit; None takes any.

    Raises ValueError for other files, and with the file and the entry for what is wrong.
    """
    return json_searched(parse_json(file, read_text(file)), num_layers)


def json_searched(content: Field, num_layers: int | None) -> list[Searched]:
    """Returns the questions of JSON."""
    if is_drllm(content):
        return drllm_searched(content, num_layers)
    if is_polar(content):
        return polar_searched(content, num_layers)
    raise unknown(content.file)


def unknown(file: FilePath) -> InputError:
    """Returns the error for JSON of no known format."""
    return InputError(f"{file} has no format that is known here: {FORMATS}.")


def merged_path(config: Field, num_layers: int) -> Path:
    """Returns the path of a merge, which the model must have the layers for."""
    path = merge_path(config)
    check_layers(config, max(path), num_layers)
    return path


def line_paths(file: FilePath, lines: list[str], num_layers: int, limit: int) -> list[Path]:
    """Reads paths or configurations of RYS, one on each line; # starts a comment."""
    bodies = [line.split("#")[0].strip() for line in lines]
    written = [body for body in bodies if body]
    check_count(file, len(written))
    longest = max(map(len, written), default=0)
    if longest > MOST_CHARACTERS:
        raise InputError(f"{file} has a line of {longest} characters, which is no path.")
    if any(MARK.fullmatch(body) for body in written):
        return rys_lines(file, bodies, num_layers)
    if written and all(BARE.fullmatch(body) for body in written):
        first, last = (number.strip() for number in written[0].split(","))
        raise InputError(
            f"{file} has only pairs such as {written[0]!r}, a path of two layers here but a block "
            f"that runs twice in RYS: write ({first},{last}) for the block, or "
            f"{first}-{first},{last} for the path."
        )
    paths = []
    for number, body in enumerate(bodies, start=1):
        if body:
            try:
                paths.append(parse_path(body, num_layers, limit))
            except ValueError as error:
                message = str(error)
                if len(message) > 2 * SHOWN:
                    message = f"{message[:SHOWN]} ... {message[-SHOWN:]}"
                raise InputError(f"{file}:{number}: {message}") from None
    return paths
