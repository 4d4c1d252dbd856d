"""Rows that were paid for are used again: which, and what is read anew around their texts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_distil.config import DistillConfig, load
from ray_distil.config.models import resolve_models
from ray_distil.errors import UserError
from ray_distil.generate.generation import Generate
from ray_distil.generate.generator import Generator
from ray_distil.problems.collecting import instruction_row
from ray_distil.runner.reuse import RowsById, is_the_same
from ray_distil.runner.runs import Run
from ray_distil.stages import eval, make_responses, make_rewrites, timing
from ray_distil.stages import responses as responses_stage
from ray_distil.stages import rewrites as rewrites_stage
from ray_distil.stages.eval import Eval
from ray_distil.stages.responses import Responses
from ray_distil.store.artifact import Artifact
from ray_distil.store.manifest import model_fingerprint
from ray_distil.store.schemas import INSTRUCTIONS, stable_id
from ray_distil.store.shards import table_of
from tests.null_engine import answer

PROBLEMS = [f"What is {k} + 3?" for k in range(40)]


@pytest.mark.parametrize(
    ("finished", "generated", "max_tokens", "asked_with", "fits"),
    [
        (True, 10, 10, None, True),
        (True, 10, 9, None, False),
        (False, 10, 10, None, True),
        (False, 10, 20, None, False),
        (False, 7, 10, None, False),  # cut by the length of the context
        (True, None, 20, 10, True),
        (True, None, 9, 10, False),
        (False, None, 20, 10, False),
        (True, None, 20, None, False),
    ],
)
def test_a_text_is_the_same_under_another_limit_if_it_ended_in_time(
    finished: bool, generated: int | None, max_tokens: int, asked_with: int | None, fits: bool
) -> None:
    row = {
        "num_generated_tokens": generated,
        "sampling_params": f'{{"max_tokens": {asked_with}}}' if asked_with else None,
    }
    assert is_the_same(row, finished, max_tokens, has_same_limits=False) is fits
    assert is_the_same(row, finished, max_tokens, has_same_limits=True)


def test_rows_are_known_by_id() -> None:
    ids = [stable_id(k) for k in range(100)]
    tables = [pa.table({"id": ids[k::3], "number": [str(n) for n in range(100)[k::3]]}) for k in range(3)]
    known = RowsById(tables, "id")
    assert known.rows([ids[7], stable_id("none"), ids[99], ids[7]]) == [
        {"number": "7"}, None, {"number": "99"}, {"number": "7"}
    ]  # fmt: skip
    assert RowsById([], "id").rows(ids[:2]) == [None, None]


class Asked:
    """Stages without Ray: requests are answered at once, and remembered."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.ids = folder, list[str]()
        self.fails: Callable[[dict[str, Any]], str] = lambda row: ""
        monkeypatch.setattr(Generator, "generate", lambda generator, num_rows: self.generate)
        monkeypatch.setattr(Artifact, "read", lambda artifact, columns=None: Rows(artifact.read_table().to_pylist()))
        monkeypatch.setattr(Artifact, "written", written)
        monkeypatch.setattr(Run, "start_ray", lambda run, imports=(): None)

    @property
    def generate(self) -> Generate:
        def all_of(rows: "Rows") -> "Rows":
            self.ids += [row["id"] for row in rows.rows]
            made = [
                {
                    name: value
                    for name, value in (row | answer(row)).items()
                    if name not in ("messages", "sampling_params")
                }
                for row in rows.rows
            ]
            return Rows([row | {"error": self.fails(row) or row["error"]} for row in made])

        return all_of  # type: ignore[return-value]

    def run(self, *overrides: str) -> tuple[Artifact, Artifact, Artifact]:
        """Responses, rewrites and an evaluation; `ids` are those that were asked."""
        self.ids.clear()
        config: DistillConfig = load(None, [f"run.storage_path={self.folder}", *overrides])
        run = Run(config, resolve_models(config))
        problems = self.problems(run)
        responses = make_responses(run, problems)
        rewrites = make_rewrites(run, responses)
        assert rewrites is not None
        index, slow = next((k, model) for k, model in enumerate(config.evaluation.models) if model.name == "slow")
        (held_out,) = config.evaluation.benchmarks
        source = run.models[f"evaluation.models.{index}.model_source"]
        return responses, rewrites, run.make(Eval(run, problems, held_out, slow, source, model_fingerprint(source)))

    texts, references = PROBLEMS, dict.fromkeys(PROBLEMS, "7")

    def problems(self, run: Run) -> Artifact:
        records = [{"instruction": text, "answer": self.references[text]} for text in self.texts]
        rows = [instruction_row(one, "p", "eval" if k % 4 == 0 else "train", k) for k, one in enumerate(records)]
        mark = stable_id(*self.texts, *self.references.values())
        artifact = Artifact(run.folder, "instructions", INSTRUCTIONS, mark)
        artifact.start()
        artifact.write_table(table_of(rows, INSTRUCTIONS), "instructions")
        artifact.finish("instructions", "rows", len(rows), 1.0)
        return artifact


class Rows:
    """As much of a Ray dataset as the stages use."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def flat_map(self, made: Any, fn_kwargs: dict[str, Any]) -> "Rows":
        return Rows([new for row in self.rows for new in made(row, **fn_kwargs)])

    def map(self, made: Any, fn_kwargs: dict[str, Any]) -> "Rows":
        return Rows([made(row, **fn_kwargs) for row in self.rows])

    def filter(self, kept: Any) -> "Rows":
        return Rows([row for row in self.rows if kept(row)])

    def map_batches(self, made: Any, fn_kwargs: dict[str, Any] | None = None, **_: Any) -> "Rows":
        if made is responses_stage.response_batch:
            return Rows([responses_stage.response_row(row, **fn_kwargs or {}) for row in self.rows])
        if made is rewrites_stage.rewrite_batch:
            return Rows([rewrites_stage.rewrite_row(row, **fn_kwargs or {}) for row in self.rows])
        if made is rewrites_stage.unfit_batch:
            return Rows(made(pa.Table.from_pylist(self.rows)).to_pylist() if self.rows else [])
        if made is timing.timed_batch:
            return Rows([timing.timed_row(row) for row in self.rows])
        assert made is eval.answer_batch
        return Rows([eval.answer_row(row, **fn_kwargs or {}) for row in self.rows])


def written(artifact: Artifact, parts: list[Rows], stage: str, *options: Any) -> Any:
    for part in parts:
        artifact.write_table(table_of(part.rows, artifact.schema), stage)
    return iter(())


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(tmp_path, monkeypatch)


def rows_of(artifact: Artifact) -> dict[str, dict[str, Any]]:
    rows = artifact.read_table().to_pylist()
    return {row[artifact.schema.names[0]]: row for row in rows}


def test_the_same_configuration_asks_nothing_and_another_one_asks_for_all(asked: Asked) -> None:
    made = asked.run()
    num_asked = len(asked.ids)
    assert num_asked == len(set(asked.ids)) > 40
    manifests = [artifact.manifest() for artifact in made]
    assert all(m is not None and m.rows_in == m.rows_out + m.rows_rejected > 0 for m in manifests)
    asked.run()
    assert asked.ids == []
    sections = ("teachers.direct", "teachers.slow", "long2short", "evaluation")
    others = [f"{section}.sampling_params.temperature=0.5" for section in sections]
    with pytest.raises(UserError, match="--remake"):
        asked.run(*others)
    assert asked.ids == []
    asked.run(*others, "run.remake=true")
    assert len(asked.ids) == num_asked
    asked.run()  # the settings of before: their artifacts come back
    assert asked.ids == []


def test_one_problem_more_is_asked_for_itself(asked: Asked) -> None:
    before = [rows_of(artifact) for artifact in asked.run()]
    rejected = sum(artifact.manifest().rows_rejected for artifact in asked.run())  # type: ignore[union-attr]
    asked.texts = [*PROBLEMS, "What is 99 + 3?"]
    asked.references = asked.references | {"What is 99 + 3?": "7"}
    made = asked.run()
    after = [rows_of(artifact) for artifact in made]
    assert all(new.items() >= old.items() for old, new in zip(before, after, strict=True))
    assert len(asked.ids) <= rejected + 3  # what failed is asked again, with the new one
    assert all((m := artifact.manifest()) and m.rows_in == m.rows_out + m.rows_rejected for artifact in made)


def test_a_problem_that_is_gone_leaves_no_row(asked: Asked) -> None:
    asked.run()
    asked.texts = PROBLEMS[:20]
    responses, rewrites, answers = asked.run()
    assert {row["instruction"] for row in rows_of(responses).values()} <= set(PROBLEMS[:20])
    assert {row["instruction"] for row in rows_of(rewrites).values()} <= set(PROBLEMS[:20])
    assert {row["instruction"] for row in rows_of(answers).values()} <= set(PROBLEMS[:20])
    asked.texts = PROBLEMS
    asked.run()  # and back: nothing that was answered is asked for again
    refused = {i for i in asked.ids if answer({"id": i, "sampling_params": {"max_tokens": 99}})["error"]}
    assert set(asked.ids) == refused


def test_one_teachers_settings_leave_the_others_rows(asked: Asked) -> None:
    before = rows_of(asked.run()[0])
    direct = {i for i, row in before.items() if row["teacher"] == "direct"}
    for change in ("sampling_params.temperature=0.5", "system_prompt=Think."):
        responses = asked.run(f"teachers.slow.{change}", "run.remake=true")[0]
        assert direct.isdisjoint(asked.ids)
        assert {i: row for i, row in rows_of(responses).items() if i in direct} == {i: before[i] for i in direct}
        assert {i for i, row in before.items() if row["teacher"] == "slow"} <= set(asked.ids)


def test_a_larger_max_tokens_asks_again_for_what_was_cut(asked: Asked) -> None:
    before = rows_of(asked.run("teachers.slow.sampling_params.max_tokens=10")[0])
    cut = {i for i, row in before.items() if row["finish_reason"] == "length" and row["teacher"] == "slow"}
    assert cut
    after = rows_of(asked.run()[0])
    finished = {i for i, row in before.items() if row["finish_reason"] == "stop"}
    assert finished.isdisjoint(asked.ids)
    assert cut <= set(asked.ids)
    assert {i: before[i] for i in finished} == {i: after[i] for i in finished}


def test_another_reference_is_read_into_the_rows_that_stay(asked: Asked) -> None:
    before = asked.run()
    asked.references = dict.fromkeys(PROBLEMS, "8")
    responses, rewrites, answers = asked.run()
    assert {row["reference_answer"] for row in rows_of(responses).values()} == {"8"}
    assert [row["response"] for row in rows_of(responses).values()] == [
        row["response"] for row in rows_of(before[0]).values()
    ]
    stated = [row for row in rows_of(answers).values() if row["complete"] and row["answer"] == "7"]
    assert stated
    assert not any(row["correct"] for row in stated)
    # A rewrite of a response that is wrong by now is none: it is rejected as its source.
    assert not [row for row in rows_of(rewrites).values() if row["source_answer"] == "7"]
    reasons = rewrites.manifest().rejects  # type: ignore[union-attr]
    assert reasons["source_wrong_answer"] > 3


def test_what_is_read_from_a_text_is_read_anew(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A better extraction of answers buys no text again."""
    before = rows_of(asked.run()[0])
    monkeypatch.setattr(Responses, "version", Responses.version + 1)
    monkeypatch.setattr(responses_stage, "extract_answer", lambda text: "read anew")
    after = rows_of(asked.run()[0])
    assert not before.keys() & set(asked.ids)
    assert {row["answer"] for row in after.values()} == {"read anew"}


def test_a_transient_error_is_tried_once_more_and_when_the_user_asks_for_it(asked: Asked) -> None:
    asked.fails = lambda row: "http_503: away" if row["id"][0] in "01" and asked.ids.count(row["id"]) < 3 else ""
    responses = asked.run()[0]
    left = {i for i in asked.ids if i[0] in "01"} & {row["response_id"] for row in responses.rejected()}
    assert left
    assert {asked.ids.count(i) for i in left} == {2}
    manifest = responses.manifest()
    assert manifest is not None
    assert manifest.rejects["http_503"] == len(left)
    asked.fails = lambda row: ""
    asked.run()
    assert left.isdisjoint(asked.ids)  # rewrites are made of the others already
    responses, rewrites, _ = asked.run("run.retry_failed=true")
    assert left <= set(asked.ids)
    assert "http_503" not in responses.manifest().rejects  # type: ignore[union-attr]
    of_them = {row["response_id"] for row in rows_of(rewrites).values()} | {
        r["response_id"] for r in rewrites.rejected()
    }
    slow = {row["response_id"] for row in rows_of(responses).values() if row["teacher"] == "slow"}
    assert slow == of_them  # what is made of the responses has them too


def test_a_carry_that_was_stopped_goes_on(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows_of(asked.run()[0])
    reread = Responses.reread
    monkeypatch.setattr(Responses, "reread", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        asked.run("teachers.slow.fraction=0.1")
    monkeypatch.setattr(Responses, "reread", reread)
    after = rows_of(asked.run("teachers.slow.fraction=0.1")[0])
    assert not before.keys() & set(asked.ids)
    assert after.items() <= before.items()


def test_what_failed_in_an_earlier_making_may_fail_again(asked: Asked) -> None:
    """The rows that are left are those that failed; that all of them fail again must not end the stage."""
    before = asked.run()[0]
    num_rejected = before.manifest().rows_rejected  # type: ignore[union-attr]
    asked.texts, asked.references = [*PROBLEMS, "What is 99 + 3?"], asked.references | {"What is 99 + 3?": "7"}
    responses = asked.run()[0]
    assert responses.num_failed_before == num_rejected > 0
    assert asked.run()[0].num_failed_before == 0  # whole, it is not made again
