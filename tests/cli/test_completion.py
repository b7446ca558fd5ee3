"""Completion of commands, flags and values, as a shell asks for it."""

import shutil
import subprocess

import pytest

from cola_jax.cli.completion import SHELLS, bash, fish
from cola_jax.cli.main import COMMANDS, main

DRIVE = """
{script}
for line in "$@"; do
  IFS='|' read -ra COMP_WORDS <<< "$line"
  [ "${{line: -1}}" = "|" ] && COMP_WORDS+=("")
  COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
  _cola
  echo "${{COMPREPLY[*]}}"
done
"""
ASKED = {
    "cola|se": "search",
    "cola|eva": "evaluate",
    "cola|--ver": "--version",
    "cola|--print-completion|": "bash zsh fish",
    "cola|search|--dty": "--dtype",
    "cola|search|--dtype|": "auto float32 bfloat16 float16",
    "cola|search|--dtype|=|b": "bfloat16",
    "cola|search|-m|x|--scorer|l": "letter letter-strict",
    "cola|scan|--scorer|ex": "exact",
    "cola|search|--preset|sh": "shortgpt",
    "cola|search|--batch-size|": "auto",
    "cola|search|--rules.max-s": "--rules.max-skip",
    "cola|search|--no-rob": "--no-robust",
    "cola|cache|--con": "--config",
    "cola|export|--format|": "hf mergekit gguf",
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_flags_and_values(tmp_path):
    (tmp_path / "file.yaml").touch()
    asked = ASKED | {"cola|search|--config|fi": "file.yaml"}
    command = ["bash", "-c", DRIVE.format(script=bash(COMMANDS)), "bash", *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr == ""
    assert dict(zip(asked, done.stdout.splitlines(), strict=True)) == asked


@pytest.mark.parametrize("shell", SHELLS)
def test_print_completion(shell, capsys):
    main(["--print-completion", shell])
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)
    if shutil.which(shell):  # it parses
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes_values():
    script = "\n".join(fish(COMMANDS)) + "\ncomplete -C 'cola search --scorer l'\n"
    done = subprocess.run(["fish"], input=script, capture_output=True, text=True, check=True)
    assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == [
        "letter",
        "letter-strict",
    ]
