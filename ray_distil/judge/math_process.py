"""Compares formulas by math-verify in a process of its own, which can be killed.

math-verify's own time limit uses SIGALRM, which works only in a main thread, and not within long arithmetic. The limit
here works in threads and actors too. It counts processor time, so that a verdict does not depend on how busy the
machine is.
"""

import json
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Literal, cast, get_args

Verdict = Literal["equal", "different", "unclear", "timeout"]
# Not equal, and not certain either: one of two answers could not be read, or not in time.
NOT_CERTAIN: tuple[Verdict, ...] = ("unclear", "timeout")

PAIR_SECONDS = 5.0  # processor time for a pair
WAIT_SECONDS = 120.0  # wall clock; a child that writes nothing for so long is killed


class MathProcess:
    """One child process. It starts at the first comparison, and again when it has ended."""

    def __init__(self, seconds: float = PAIR_SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def compare(self, answer: str, reference: str) -> Verdict:
        """math-verify's verdict on two formulas; "timeout" for a pair that takes too long or too much memory."""
        line = json.dumps([answer, reference])
        with self._lock:
            for _ in range(2):  # another process may have killed the child while it was idle
                self._child = self._child or self._start()
                verdict = self._ask(self._child, line)
                if verdict in get_args(Verdict):
                    return cast(Verdict, verdict)
                if self._end() == -signal.SIGPROF:  # the kernel ended it, at its time limit
                    break
        return "timeout"

    @property
    def pid(self) -> int | None:
        """The process id of the child; None where there is no child."""
        return self._child.pid if self._child is not None else None

    def _start(self) -> "subprocess.Popen[str]":
        child = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("math_child.py")), str(self.seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        if self._read(child) != "ready":
            child.kill()
            child.wait()
            raise RuntimeError("the process that compares formulas does not start; is math-verify installed?")
        return child

    def _ask(self, child: "subprocess.Popen[str]", line: str) -> str:
        assert child.stdin is not None
        try:
            child.stdin.write(line + "\n")
            child.stdin.flush()
        except BrokenPipeError:
            return ""
        return self._read(child)

    def _read(self, child: "subprocess.Popen[str]") -> str:
        """The child's next line; "" where the child has ended, or writes nothing in WAIT_SECONDS."""
        assert child.stdout is not None
        ready, _, _ = select.select([child.stdout], [], [], WAIT_SECONDS)
        return child.stdout.readline().strip() if ready else ""

    def _end(self) -> int:
        """Kill the child; returns its exit code, which is negative for a signal."""
        assert self._child is not None
        child, self._child = self._child, None
        with suppress(subprocess.TimeoutExpired):
            child.wait(0.2)  # if the child ends by itself, its own exit code is returned
        child.kill()
        for pipe in (child.stdin, child.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        return child.wait()


_process = MathProcess()


def compare(answer: str, reference: str) -> Verdict:
    """`MathProcess.compare`, with the one child of this process."""
    return _process.compare(answer, reference)
