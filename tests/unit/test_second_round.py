"""A teacher that is asked by the other one's responses, and texts of other runs that are used again."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ray_distil.config import load
from ray_distil.errors import ConfigError, StageError
from ray_distil.runner.watchdog import FailureLimit
from ray_distil.stages import responses as responses_stage
from ray_distil.store.artifact import Artifact
from ray_distil.store.shards import table_of
from tests.unit.test_preflight import check
from tests.unit.test_reuse import Asked, Rows, asked, rows_of

__all__ = ["asked"]
ROUND = [
    "teachers.direct.num_samples=4", "teachers.direct.sampling_params.temperature=0.7", "teachers.slow.pass_rate=[0, 0.5]",
    "teachers.slow.fraction=1",
]  # fmt: skip


def rates(responses: Artifact) -> dict[str, float]:
    """Training problem -> share of the four direct responses that are right."""
    rows = [row for row in rows_of(responses).values() if row["teacher"] == "direct"]
    right = Counter(row["instruction_id"] for row in rows if row["verdict"] == "accepted")
    problems = {row["instruction_id"] for row in rows} | {row["instruction_id"] for row in responses.rejected()}
    return {problem: right[problem] / 4 for problem in problems}


def asked_slow(responses: Artifact) -> set[str]:
    """The problems that the slow teacher was asked, with or without success."""
    rows = [*rows_of(responses).values(), *responses.rejected()]
    return {row["instruction_id"] for row in rows if row["teacher"] == "slow"}


def test_a_teacher_is_asked_what_the_other_one_does_not_solve(asked: Asked) -> None:
    responses = asked.run(*ROUND)[0]
    share = rates(responses)
    assert len(share) == 30
    assert 3 < len(asked_slow(responses)) < 27  # else the test could not fail
    assert asked_slow(responses) == {problem for problem, rate in share.items() if rate <= 0.5}
    manifest = responses.manifest()
    assert manifest is not None
    assert manifest.rows_in == 4 * 30 + len(asked_slow(responses)) == manifest.rows_out + manifest.rows_rejected
    asked.run(*ROUND)
    assert asked.ids == []


@pytest.mark.parametrize(("lowest", "highest"), [(0, 0), (0.5, 0.75), (1, 1)])
def test_any_range_can_be_asked(lowest: float, highest: float, asked: Asked) -> None:
    responses = asked.run(*ROUND, f"teachers.slow.pass_rate=[{lowest}, {highest}]")[0]
    expected = {problem for problem, rate in rates(responses).items() if lowest <= rate <= highest}
    assert asked_slow(responses) == expected


def test_the_direct_teacher_can_wait_for_the_slow_one(asked: Asked) -> None:
    responses = asked.run("teachers.direct.pass_rate=[0, 0]", "teachers.slow.fraction=1")[0]
    slow = {row["instruction_id"] for row in rows_of(responses).values() if row["teacher"] == "slow" and row["verdict"] == "accepted"}  # fmt: skip
    direct = {row["instruction_id"] for row in rows_of(responses).values() if row["teacher"] == "direct"}
    direct |= {row["instruction_id"] for row in responses.rejected() if row["teacher"] == "direct"}
    assert slow
    assert direct
    assert direct.isdisjoint(slow)
    assert len(direct | slow) == 30


@pytest.mark.parametrize("num_before", [0, 5, 60, 119, 120, 121, 125])
def test_a_stopped_run_ends_as_an_undisturbed_one(
    num_before: int, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = asked.run(*ROUND, "run.name=whole")[0]
    done: list[str] = []

    def stopping(artifact: Artifact, parts: list[Rows], stage: str, *options: Any) -> Any:
        for part in parts:
            rows = part.rows[: num_before - len(done)]
            artifact.write_table(table_of(rows, artifact.schema), stage)
            done.extend(row["response_id"] for row in rows)
        if len(done) == num_before:
            raise StageError("stopped")
        return iter(())

    with monkeypatch.context() as patched:
        patched.setattr(Artifact, "written", stopping)
        with pytest.raises(StageError, match="stopped"):
            asked.run(*ROUND)
    again = asked.run(*ROUND)[0]
    assert rows_of(again) == rows_of(whole)
    assert again.manifest().rejects == whole.manifest().rejects  # type: ignore[union-attr]
    assert len(done) == num_before
    assert set(done).isdisjoint(asked.ids)


@pytest.mark.parametrize("num_before", [60, 119, 120, 125])
def test_rows_that_a_stopped_run_wrote_twice_count_once(
    num_before: int, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a lost task's rows are written again in other blocks."""
    whole = asked.run(*ROUND, "run.name=whole")[0]
    done: list[str] = []

    def doubling(artifact: Artifact, parts: list[Rows], stage: str, *options: Any) -> Any:
        for part in parts:
            rows = part.rows[: num_before - len(done)]
            for block in (rows, rows[::2], rows[:7]):
                artifact.write_table(table_of(block, artifact.schema), stage)
            done.extend(row["response_id"] for row in rows)
        if len(done) == num_before:
            raise StageError("stopped")
        return iter(())

    with monkeypatch.context() as patched:
        patched.setattr(Artifact, "written", doubling)
        with pytest.raises(StageError, match="stopped"):
            asked.run(*ROUND)
    again = asked.run(*ROUND)[0]
    assert rows_of(again) == rows_of(whole)
    assert asked_slow(again) == asked_slow(whole)
    manifests = again.manifest(), whole.manifest()
    assert manifests[0] is not None
    assert manifests[1] is not None
    assert (manifests[0].rows_in, manifests[0].rejects) == (manifests[1].rows_in, manifests[1].rejects)


def test_a_row_that_is_tried_again_and_right_takes_no_text_away(asked: Asked) -> None:
    asked.fails = lambda row: "http_503: away" if row.get("teacher") == "direct" and row["id"][0] in "0123456" else ""
    first = asked.run(*ROUND)[0]
    before = asked_slow(first)
    asked.fails = lambda row: ""
    again = asked.run(*ROUND, "run.retry_failed=true")[0]
    by_rate = {problem for problem, rate in rates(again).items() if rate <= 0.5}
    assert by_rate < before  # some are solved by now
    assert asked_slow(again) == before
    manifest = again.manifest()
    assert manifest is not None
    assert manifest.rows_in == 120 + len(before) == manifest.rows_out + manifest.rows_rejected


def test_texts_of_another_run_are_used_again(asked: Asked) -> None:
    first = asked.run("run.name=first", "teachers.slow.fraction=1")[0]
    paid = {i for i, row in rows_of(first).items() if row["teacher"] == "slow"}
    asked.ids.clear()
    reuse = f"run.reuse=[{asked.folder / 'first'}]"
    second = asked.run("run.name=second", reuse, *ROUND)[0]
    of_slow = {i for i, row in rows_of(second).items() if row["teacher"] == "slow"}
    assert of_slow
    assert of_slow <= paid  # none is asked for again, and none of a problem that is not asked came along
    assert paid.isdisjoint(asked.ids)
    assert asked_slow(second) == {problem for problem, rate in rates(second).items() if rate <= 0.5}
    assert rows_of(first) == rows_of(asked.run("run.name=first", "teachers.slow.fraction=1")[0])

    asked.run("run.name=third", reuse, "teachers.slow.fraction=1")
    assert not set(asked.ids) & set(rows_of(first))


def test_a_pass_rate_that_is_not_set_changes_no_setting() -> None:
    config = load(None, [])
    assert config.teachers is not None
    assert config.teachers.slow is not None
    values = responses_stage.settings_of(config, _generators(config)).values
    assert set(values["slow"]) == {"fraction", "num_samples", "asked"}


def _generators(config: Any) -> Any:
    from ray_distil.config.models import resolve_models
    from ray_distil.generate import generators

    return generators.teachers(config, resolve_models(config), "2026-01-01")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teachers.slow.pass_rate=[0.9, 0.1]"], "teachers.slow.pass_rate: [0.9, 0.1] is no range within [0, 1]"),
        (["teachers.slow.pass_rate=[0, 50]"], "teachers.slow.pass_rate: [0.0, 50.0] is no range"),
        (["teachers.slow.pass_rate=[0, 0]", "teachers.direct=null"], "teachers.slow.pass_rate: is of the other teacher's"),
        (["teachers.slow.pass_rate=[0, 0]", "teachers.direct.pass_rate=[0, 0]"], "teachers: both have a `pass_rate`"),
        (["teachers.slow.pass_rate=[0, 0]", "teachers.direct.engine=null", "teachers.direct.responses=a.jsonl"],
         "teachers.slow.pass_rate: the responses of direct are imported"),
    ],
)  # fmt: skip
def test_mistakes(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(None, overrides)
    assert message in str(error.value)


def test_a_run_that_is_not_there_is_refused_before_it_costs_anything(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run.reuse: '.*/nothing' cannot be used again: there is no run folder"):
        check(f"run.reuse=[{tmp_path}/nothing]")


def test_rows_of_another_run_s_problems_are_no_failures_of_this_one(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[int] = []
    monkeypatch.setattr(FailureLimit, "judge", lambda limit: known.append(limit.num_known))
    asked.run("run.name=first", "teachers.slow.fraction=1")
    asked.texts = [f"What is {k} + 1003?" for k in range(40)]
    asked.references = dict.fromkeys(asked.texts, "7")
    known.clear()
    asked.run("run.name=second", f"run.reuse=[{asked.folder / 'first'}]", "teachers.slow.fraction=1")
    assert known
    assert set(known) == {0}, "a run of which many rows fail would not be stopped"


def test_a_folder_without_texts_is_refused(asked: Asked) -> None:
    asked.run("run.name=first")
    (asked.folder / "none").mkdir()
    for place in ("none", "first/responses"):
        with pytest.raises(ConfigError, match=r"run.reuse: '.*' cannot be used again: it has no responses"):
            check(f"run.reuse=[{asked.folder / place}]")
    (asked.folder / "link").symlink_to("first")
    for place in ("first", "link"):
        with pytest.raises(ConfigError, match=r"run.reuse: '.*' is the folder of this run itself; leave it out"):
            check(f"run.storage_path={asked.folder}", "run.name=first", f"run.reuse=[{asked.folder / place}]")
    check(f"run.reuse=[{asked.folder / 'first'}]")
