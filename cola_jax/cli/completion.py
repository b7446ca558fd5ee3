"""Scripts that let a shell complete commands, flags and values."""

import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from cola_jax.cli.flag_table import Flag, flags_of
from cola_jax.cli.help import GENERAL, summary
from cola_jax.errors import UsageError, did_you_mean

SHELLS = ("bash", "zsh", "fish")
BASH = """\
_cola() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} command=${{COMP_WORDS[1]}} flag= values= i
  COMPREPLY=()
  [ "$word" = "=" ] && word=
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '{commands} --help --version --print-completion' -- "$word"))
    return
  fi
  for ((i = COMP_CWORD - 1; i > 1; i--)); do
    case ${{COMP_WORDS[i]}} in -*) flag=${{COMP_WORDS[i]}}; break ;; esac
  done
  case "$word" in
  -*)
    case "$command" in
{flags}
    esac
    COMPREPLY=($(compgen -W "$values" -- "$word"))
    return ;;
  esac
  case "$command $flag" in
{values}
  '--print-completion '*) values='{shells}' ;;
  esac
  if [ -n "$values" ]; then
    COMPREPLY=($(compgen -W "$values" -- "$word"))
  else
    COMPREPLY=($(compgen -f -- "$word"))
  fi
}}
complete -o filenames -F _cola cola
"""
ZSH = """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
autoload -Uz bashcompinit && bashcompinit
"""


def print_completion(arguments: Sequence[str], commands: Mapping[str, type]) -> None:
    """Prints the script for a shell; raises UsageError for one that is not known."""
    shell, *rest = [*arguments, ""][:2]
    if shell not in SHELLS or any(rest):
        near = did_you_mean(shell, SHELLS)
        raise UsageError(f"--print-completion needs one of {', '.join(SHELLS)}{near}.")
    if shell == "fish":
        print("\n".join(fish(commands)))
    else:
        print((ZSH if shell == "zsh" else "") + bash(commands), end="")


def every_flag(command: type) -> list[Flag]:
    """Returns the flags of a command with those that all commands have."""
    return [flag for flag in (*flags_of(command), *GENERAL) if not flag.placed]


def values_of_flag(flag: Flag) -> tuple[str, ...]:
    """Returns the values of a flag that can be listed."""
    return flag.choices or tuple(one for one in flag.metavar.split("|") if one.islower())


def bash(commands: Mapping[str, type]) -> str:
    """Writes the script for bash."""
    flags, patterns = [], defaultdict(list)
    for name, command in commands.items():
        every = every_flag(command)
        spellings = " ".join(spelling for flag in every for spelling in flag.spellings)
        flags.append(f"    {name}) values='{spellings}' ;;")
        for flag in every:
            for spelling in (*flag.aliases, flag.name) if values_of_flag(flag) else ():
                patterns[values_of_flag(flag)].append(f"'{name} {spelling}'")
    values = (f"  {'|'.join(keys)}) values='{' '.join(v)}' ;;" for v, keys in patterns.items())
    return BASH.format(
        commands=" ".join(commands),
        flags="\n".join(flags),
        values="\n".join(values),
        shells=" ".join(SHELLS),
    )


def fish(commands: Mapping[str, type]) -> Iterator[str]:
    """Yields the lines of the script for fish."""
    for option in ("help", "version"):
        yield f"complete -c cola -n __fish_use_subcommand -l {option}"
    yield f"complete -c cola -n __fish_use_subcommand -l print-completion -xa '{' '.join(SHELLS)}'"
    for name, command in commands.items():
        said = shlex.quote(summary(command))
        yield f"complete -c cola -n __fish_use_subcommand -fa {name} -d {said}"
        for flag in every_flag(command):
            short = "".join(f" -s {alias.lstrip('-')}" for alias in flag.aliases)
            values = values_of_flag(flag)
            value = f" -xa '{' '.join(values)}'" if values else "" if flag.switch else " -r"
            long = flag.name.removeprefix("--")
            yield (
                f"complete -c cola -n '__fish_seen_subcommand_from {name}' -l {long}{short}{value} "
                f"-d {shlex.quote(re.split('[.;:] ', flag.describe())[0].rstrip('.'))}"
            )
