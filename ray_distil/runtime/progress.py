"""The progress that a run shows: on a terminal a live view with one bar for each stage; elsewhere plain lines.

    responses       ━━━━━━━━━╸━━━━━━━━━━━   1,536 of 3,119 responses   1,204 tokens/s   0:41 left
    eval/slow/tiny  ━━╸━━━━━━━━━━━━━━━━━━      24 of 300 answers         730 tokens/s   2:10 left

Stages may work side by side and tell from any thread.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from math import inf
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TaskID as BarID

RATE_SECONDS = 60.0  # tokens/s and time left are those of the last minute
FIRST_SECONDS = 1.0  # before a rate is shown
LEFT_ROWS = 32  # least rows finished in that minute (or a tenth of all rows, if fewer) before the time left is shown
LINE_SECONDS = 20.0  # between two lines of a stage, at least, where there is no terminal
NAME_WIDTH = 15


@dataclass
class Stage:
    """The progress that one stage has reported so far. `total` is None until it is known."""

    name: str
    unit: str
    total: int | None = None
    done: int = 0
    note: str = "starting"
    history: deque[tuple[float, int, int]] = field(default_factory=deque)  # seconds, rows and tokens done by then
    tokens: int = 0

    def advance(self, now: float, rows: int, tokens: int, note: str = "") -> None:
        self.note = note
        self.done += rows
        self.tokens += tokens
        self.history.append((now, self.done, self.tokens))
        while len(self.history) > 2 and self.history[0][0] < now - RATE_SECONDS:
            self.history.popleft()

    def rates(self) -> tuple[float, float]:
        """Rows and tokens a second over the last minute; zeros until `history` spans a second: a first tick is no rate."""
        if len(self.history) < 2 or self.history[-1][0] - self.history[0][0] < FIRST_SECONDS:
            return 0.0, 0.0
        (start, rows, tokens), (end, rows_now, tokens_now) = self.history[0], self.history[-1]
        return (rows_now - rows) / (end - start), (tokens_now - tokens) / (end - start)

    def seconds_left(self) -> float | None:
        """Seconds until all rows are there, at the rate of the last minute; None with too few finished rows to know."""
        rows, total = self.rates()[0], self.total or 0
        is_known = rows > 0 and total and self.history[-1][1] - self.history[0][1] >= min(LEFT_ROWS, total / 10)
        return (total - self.done) / rows if is_known else None

    def texts(self) -> dict[str, str]:
        """Texts for the display: rows done, tokens a second, a note, and the time left; "" for what is not known."""
        tokens, seconds = self.rates()[1], self.seconds_left()
        count = f"{self.done:,}" if self.total is None else f"{self.done:,} of {self.total:,}"
        left = f"{clock(seconds)} left" if seconds is not None else ""
        rate = f"{tokens:,.0f} tokens/s" if tokens else ""
        return {"count": f"{count} {self.unit}", "rate": rate, "note": self.note, "left": left}


def clock(seconds: float) -> str:
    """4 -> 0:04, 3700 -> 1:01:40."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Teller:
    """Takes a stage's progress and drops it: for work without a console. `StageTeller` shows it."""

    def expect(self, total: int, done: int = 0, unit: str | None = None) -> None:
        """`total` rows (or `unit`, e.g. "steps") are to be made in all; `done` of them exist already."""

    def advance(self, rows: int, tokens: int = 0, note: str = "") -> None:
        """`rows` more rows are finished, and `tokens` more tokens generated or learnt."""

    def line(self, text: str) -> None:
        """A line that stays on the console."""

    def seconds_left(self) -> float | None:
        """Seconds until all rows are there; None where that is not known."""
        return None

    def idle_seconds(self) -> float:
        """Seconds since the last finished rows; infinite before the first. Here always 0: nothing is measured."""
        return 0.0


class StageTeller(Teller):
    """Shows a stage's progress on a display."""

    def __init__(self, display: "Display", stage: Stage) -> None:
        self._display, self._stage, self._moved = display, stage, -inf

    def expect(self, total: int, done: int = 0, unit: str | None = None) -> None:
        self._stage.total, self._stage.done = total, done
        self._stage.unit = unit or self._stage.unit
        self._display.refresh(self._stage)

    def advance(self, rows: int, tokens: int = 0, note: str = "") -> None:
        self._moved = time.monotonic()
        self._stage.advance(self._moved, rows, tokens, note)
        self._display.refresh(self._stage)

    def line(self, text: str) -> None:
        self._display.line(self._stage.name, text)

    def idle_seconds(self) -> float:
        return time.monotonic() - self._moved

    def seconds_left(self) -> float | None:
        return self._stage.seconds_left()


class Display:
    """The console of a run. Without a terminal it writes lines only."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self._bars: dict[str, BarID] = {}
        self._last_line: dict[str, float] = {}
        self._lock = threading.Lock()
        self._live = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", markup=False),
            TextColumn("{task.fields[rate]}", style="cyan", markup=False),
            TextColumn("{task.fields[note]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            redirect_stdout=False,  # `session.messages_to` decides where the messages of libraries go
            redirect_stderr=False,
            refresh_per_second=4,
        )

    def live(self) -> AbstractContextManager[Any]:
        """Around the work of a run: on a terminal, shows the bars, and removes them at the end."""
        return self._live if self.console.is_terminal else nullcontext()

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def tell(self, stage: str, text: str) -> None:
        """A line about a stage."""
        self.say(f"{stage:<{NAME_WIDTH}} {text}")

    def line(self, stage: str, text: str) -> None:
        """A line about a running stage. The stage's own next line comes LINE_SECONDS later at the earliest."""
        with self._lock:
            self._last_line[stage] = time.monotonic()
        self.tell(stage, text)

    @contextmanager
    def stage(self, name: str, unit: str) -> Iterator[Teller]:
        """Around the work of a stage, which reports to the Teller."""
        stage = Stage(name, unit)
        texts: dict[str, Any] = stage.texts()
        with self._lock:
            self._last_line[name] = time.monotonic()
            if self.console.is_terminal:
                self._bars[name] = self._live.add_task(f"{name:<{NAME_WIDTH}}", total=None, **texts)
        if not self.console.is_terminal:
            self.tell(name, "started")
        try:
            yield StageTeller(self, stage)
        finally:
            with self._lock:
                if name in self._bars:
                    self._live.remove_task(self._bars.pop(name))

    def refresh(self, stage: Stage) -> None:
        """Show the progress of a stage: in its bar, or without a terminal as a line when it is time for one."""
        line: dict[str, Any] = stage.texts()
        with self._lock:
            if stage.name in self._bars:
                self._live.update(self._bars[stage.name], total=stage.total, completed=stage.done, **line)
                return
            now = time.monotonic()
            if self.console.is_terminal or now < self._last_line.get(stage.name, now) + LINE_SECONDS:
                return
            self._last_line[stage.name] = now
        self.tell(stage.name, ", ".join(filter(None, line.values())))
