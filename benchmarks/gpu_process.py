"""Commands that gpu.py runs: with a limit of time, and ended with all that they started."""

import os
import signal
import subprocess
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 4  # seconds to say what it did, for what was interrupted


def run_command(command, seconds, see=lambda line: None, tick=lambda: None):
    """Run a command from the repository's root: its exit status, None if it was cut off.

    After its time it is interrupted, so that it can say what it did, and then killed with all that
    it started.

    Args:
        see: called with every line of its output. tick: called every few seconds.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, errors="replace", start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip

    def read():
        for line in process.stdout:
            see(line.rstrip("\n"))

    reader, deadline = Thread(target=read, daemon=True), monotonic() + seconds
    reader.start()
    cut = False
    try:
        while process.poll() is None:
            if monotonic() > deadline:
                cut = True
                _stop(process)
                break
            sleep(0.1)
            tick()
    except BaseException:
        _stop(process)
        raise
    reader.join(5)
    if not reader.is_alive():  # a process that left the group may hold the other end
        process.stdout.close()
    return None if cut else process.returncode


def _stop(process):
    for how, patience in ((signal.SIGINT, PATIENCE), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, how)  # the group that this command began
            process.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
        return


class Log:
    """The output of a command: shown as it comes, its end kept."""

    def __init__(self, show=True, keep=40):
        self.lines, self.show, self.keep = [], show, keep

    def __call__(self, line):
        self.lines = [*self.lines[1 - self.keep :], line]
        if self.show:
            print(f"    {line}", flush=True)

    def last(self):
        """The last line that says something."""
        return next((line.strip() for line in reversed(self.lines) if line.strip()), "no output")
