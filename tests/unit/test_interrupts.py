"""Ctrl-C and SIGTERM end a job soon and whole, even one that does not hear them, or that hangs in a library."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

JOB = """
import ctypes, subprocess, sys, time
from ray_distil.commands import cli

cli.GRACE_SECONDS = 1.0
library, mutex = ctypes.CDLL(None), (ctypes.c_char * 64)()

def job():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    while True:
        try:
            print(child.pid, flush=True)  # from here on a signal comes while this is tried
            {wait}
        except KeyboardInterrupt:
            {heard}

sys.exit(cli.guarded(job, lambda: None))
"""

WAIT = "time.sleep(600)"
# A mutex of C that this thread locks twice: no signal brings the thread back to Python.
HANG = (
    "import ctypes; c, mutex = ctypes.CDLL(None), (ctypes.c_char * 64)(); [c.pthread_mutex_lock(mutex) for _ in 'ab']"
)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # who is dead waits for its parent to notice
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("wait", "heard"), [(WAIT, "raise"), (WAIT, "pass"), (HANG, "raise")], ids=["heard", "swallowed", "hangs in C"]
)
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_job_ends_with_all_its_processes(sent: signal.Signals, code: int, wait: str, heard: str) -> None:
    job = subprocess.Popen(
        [sys.executable, "-c", JOB.format(wait=wait, heard=heard)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert job.stdout is not None
    child = int(job.stdout.readline())
    time.sleep(0.5 if wait == HANG else 0)  # until it hangs
    started = time.monotonic()
    job.send_signal(sent)
    _, errors = job.communicate(timeout=30)
    assert job.returncode == code
    assert errors.splitlines()[-1] == (
        "interrupted; finished shards and saved training states are kept: run the same command again to go on"
    )
    deadline = time.monotonic() + 5
    while lives(child):
        assert time.monotonic() < deadline, "a process of the job is left"
        time.sleep(0.05)
    if heard == "pass":
        assert time.monotonic() - started > 0.9
