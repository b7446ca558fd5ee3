"""Whether a run survives kills: `python -m experiments.kills --out FOLDER -- cola search ...`.

Runs a command twice, with --out FOLDER/whole and FOLDER/killed. The second is killed (SIGKILL, with
all its processes) at random moments and started again until it ends by itself; then the rows of
both are compared to the bit.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

from experiments.same_rows import SameRows
from experiments.same_rows import main as compare


def main(arguments: list[str]) -> None:
    (_, out, _), command = arguments[:3], arguments[3:]
    shutil.rmtree(out, ignore_errors=True)
    begun = time.monotonic()
    run([*command, "--out", f"{out}/whole"]).communicate()
    whole, kills, drawn = time.monotonic() - begun, 0, random.Random(0)
    while True:
        process = run([*command, "--out", f"{out}/killed"])
        try:
            # a start takes seconds, and a run that never gets further would never end
            process.communicate(timeout=drawn.uniform(0, 1.2 * whole))
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
    print(f"{kills} kills of a run that takes {whole:.0f} s; it ended with {process.returncode}")
    compare(SameRows(f"{out}/whole", f"{out}/killed", bits=True))


def run(command: list[str]) -> subprocess.Popen:
    """Starts a command in a process group of its own."""
    return subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


if __name__ == "__main__":
    main(sys.argv[1:])
