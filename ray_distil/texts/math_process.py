"""Formulas compared by math-verify in a process of its own, which can be ended.

math-verify keeps its time limit by SIGALRM: it holds in a main thread only, and not within long arithmetic. Here the
limit holds in threads and actors alike. Its unit is processor time, so that a verdict does not depend on how busy the
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

Verdict = Literal["equal", "different", "unreadable", "timeout"]

PAIR_SECONDS = 5.0  # processor time for a pair
WAIT_SECONDS = 120.0  # wall clock until a process that says nothing is given up


class MathProcess:
    """One child process, started when it is first asked, and again after it was ended."""

    def __init__(self, seconds: float = PAIR_SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def compare(self, answer: str, reference: str) -> Verdict:
        """What math-verify makes of two formulas; "timeout" for a pair that takes too long or too much memory."""
        line = json.dumps([answer, reference])
        with self._lock:
            for _ in range(2):  # another process may have killed the child while it was idle
                self._child = self._child or self._start()
                told = self._ask(self._child, line)
                if told in get_args(Verdict):
                    return cast(Verdict, told)
                if self._end() == -signal.SIGPROF:  # by the kernel, at its limit
                    break
        return "timeout"

    @property
    def pid(self) -> int | None:
        """Of the child; None where there is none."""
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
        """The child's next line; "" where it has ended or says nothing."""
        assert child.stdout is not None
        there, _, _ = select.select([child.stdout], [], [], WAIT_SECONDS)
        return child.stdout.readline().strip() if there else ""

    def _end(self) -> int:
        """Give the child up; returns its exit code, negative for a signal."""
        assert self._child is not None
        child, self._child = self._child, None
        with suppress(subprocess.TimeoutExpired):
            child.wait(0.2)  # where it has ended, its own exit code counts
        child.kill()
        for pipe in (child.stdin, child.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        return child.wait()


_process = MathProcess()


def compare(answer: str, reference: str) -> Verdict:
    """`MathProcess.compare` of the one child that this process has."""
    return _process.compare(answer, reference)
