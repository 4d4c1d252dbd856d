"""The display: a terminal shows bars that go, anything else gets plain lines."""

import io
import re

import pytest
from rich.console import Console

from ray_distil.runtime import progress
from ray_distil.runtime.progress import Display, Stage, clock


def display(terminal: bool) -> tuple[Display, io.StringIO]:
    stream = io.StringIO()
    return Display(Console(file=stream, force_terminal=terminal, width=120, color_system=None)), stream


@pytest.mark.parametrize(("seconds", "shown"), [(4, "0:04"), (61, "1:01"), (3700, "1:01:40")])
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_rates_are_those_of_the_last_minute() -> None:
    stage = Stage("responses", "responses", total=1000)
    for second in range(0, 200, 10):  # 1 row and 100 tokens a second, then twice as many
        fast = second >= 100
        stage.advance(second, 20 if fast else 10, 2000 if fast else 1000)
    rows, tokens = stage.rates()
    assert rows == pytest.approx(2)
    assert tokens == pytest.approx(200)
    assert list(stage.texts().values()) == ["300 of 1,000 responses", "200 tokens/s", "", "5:50 left"]


def test_a_stage_without_a_finished_row_says_that_it_starts() -> None:
    shown = Stage("responses", "responses", total=3119).texts()
    assert list(shown.values()) == ["0 of 3,119 responses", "", "starting", ""]


def test_a_few_rows_say_nothing_of_the_time_left() -> None:
    stage = Stage("rewrites", "slow responses", total=619)
    stage.advance(0, 20, 0)  # rejected before they are asked
    stage.advance(17, 1, 0)
    assert stage.texts()["left"] == ""
    stage.advance(40, 128, 6400)
    assert stage.texts()["left"] == "2:26 left"


def test_rows_of_a_stopped_run_count_as_done_but_not_as_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    shown, stream = display(terminal=False)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with shown.stage("responses", "responses") as tell:
        tell.expect(100, done=70)
        tell.advance(1, 10)
        tell.advance(10, 100)  # in 10 s
        stage = tell._stage  # type: ignore[attr-defined]
    assert stage.texts()["count"] == "81 of 100 responses"
    assert stage.rates()[0] < 2
    assert "left" in stream.getvalue().splitlines()[-1]


def test_without_a_terminal_there_are_plain_lines_only() -> None:
    shown, stream = display(terminal=False)
    with shown.live(), shown.stage("rewrites", "slow responses") as tell:
        tell.expect(619)
        for _ in range(50):  # many events within a moment: one line of start, no flood
            tell.advance(1, 54)
        shown.say("rewrites  69.2 s: [619] in")
    assert stream.getvalue() == "rewrites        started\nrewrites  69.2 s: [619] in\n"


def test_a_line_comes_each_twenty_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, *(x for t in range(5, 65, 5) for x in (t, t))])
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    shown, stream = display(terminal=False)
    with shown.stage("responses", "responses") as tell:
        tell.expect(120)
        for _ in range(12):
            tell.advance(10, 500)
    lines = stream.getvalue().splitlines()
    assert [re.findall(r"(\d+) of", line) for line in lines] == [[], ["40"], ["80"], ["120"]]
    assert "100 tokens/s" in lines[-1]


def test_a_terminal_shows_a_bar_a_stage_and_keeps_what_is_said() -> None:
    shown, stream = display(terminal=True)
    with shown.live():
        with shown.stage("checkpoint", "steps") as train, shown.stage("eval/slow", "answers") as evaluate:
            train.expect(582)
            train.advance(100, 30_000, note="loss 0.1234")
            evaluate.expect(300)
            shown._live.refresh()
            screen = stream.getvalue()
        shown.say("checkpoint  150.5 s")
    assert "100 of 582 steps" in screen
    assert "loss 0.1234" in screen
    assert "0 of 300 answers" in screen
    assert "checkpoint  150.5 s" in stream.getvalue()


def test_a_stage_that_fails_leaves_no_bar() -> None:
    shown, _ = display(terminal=True)
    with shown.live(), pytest.raises(RuntimeError), shown.stage("checkpoint", "steps"):
        raise RuntimeError
    assert not shown._live.tasks


def test_a_first_tick_is_no_rate() -> None:
    stage = Stage("responses", "responses", 100)
    stage.advance(0.0, 1, 10)
    stage.advance(0.001, 40, 900)
    assert (stage.rates(), stage.seconds_left()) == ((0.0, 0.0), None)
    stage.advance(2.0, 40, 1100)
    assert stage.rates() == (40.0, 1000.0)
