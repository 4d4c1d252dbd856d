"""Slow responses rewritten into short reasoning, and a verdict on each rewrite.

Only slow responses that pass the gates are rewritten, by the slow teacher or by long2short's own model.
"""

import json
from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.chat.prompts import long2short_messages
from ray_distil.chat.reasoning_marks import split_reasoning, thinking_is_open
from ray_distil.config import StagesConfig
from ray_distil.generate.generator import Generator
from ray_distil.generate.question import Question
from ray_distil.judge.gates import against_source, compared, first_reason, verdict
from ray_distil.judge.results import final_result
from ray_distil.runner.reuse import is_the_same
from ray_distil.runner.runs import Run
from ray_distil.runner.stage import GeneratingStage, Made, Row
from ray_distil.runner.stage_settings import StageSettings, of_one_generator, with_earlier
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import IdSet
from ray_distil.store.schemas import RESPONSES, REWRITES, stable_id
from ray_distil.store.shards import SOURCE, reject, reject_failed, table_of

if TYPE_CHECKING:
    from ray.data import Dataset

    from ray_distil.generate.generation import Generate

NAME = "long2short"  # in fingerprints
VERSION = 8
REQUEST_VERSION = 1  # of the requests: with another version all texts are generated again


class Rewrites(GeneratingStage):
    """One row for each slow response: its rewrite, or why there is none."""

    artifact, fingerprint_name, version = "rewrites", NAME, VERSION
    schema, unit, tokens = REWRITES, "slow responses", "original_tokens"
    source_key = "rewrite_id"

    def __init__(self, run: Run, responses: Artifact, rewriter: Generator) -> None:
        self.run, self.responses, self.rewriter = run, responses, rewriter
        self.gates, self.judge = run.config.gates.enabled, run.config.answers.judge
        self.question = rewriter.question()
        self.imports = rewriter.imports
        self.settings, self.inputs = settings_of(run.config, rewriter), [responses.content()]

    def make(self, artifact: Artifact) -> Made:
        rows_in = self.responses.count("teacher", "slow")
        self.run.generate(self, artifact, rows_in)
        return rows_in, {}

    def summarise(self, artifact: Artifact) -> dict[str, Any]:
        return shortened(artifact.tables(["original_tokens", "rewritten_tokens"]))

    def datasets(self, done: IdSet, num_missing: int) -> list["Dataset"]:
        slow = self.responses.read().filter(lambda row: row["teacher"] == "slow")
        generate = self.rewriter.generate(num_missing)
        return rewrites(slow, generate, self.rewriter.model, self.gates, self.question, done, self.judge)

    def sources(self) -> Iterable[pa.Table]:
        return sources_of(self.responses.tables(RESPONSES.names), self.gates, self.judge)

    def reread(self, row: Row, source: Row | None, has_same_limits: bool) -> Row | None:
        if source is None or source["source_reason"] or source["source_mark"] != row["source_mark"]:
            return None
        has_ended = row["finish_reason"] == "stop"
        if not is_the_same(row, has_ended, self.rewriter.sampling.max_tokens, has_same_limits):
            return None
        of_source = ("reference_answer", "source_answer", "original_characters")
        return _judged(row | {name: source[name] for name in of_source}, self.judge)


def settings_of(config: StagesConfig, rewriter: Generator) -> StageSettings:
    return with_earlier(lambda by_earlier_rules: _settings(config, rewriter, by_earlier_rules))


def _settings(config: StagesConfig, rewriter: Generator, by_earlier_rules: bool) -> StageSettings:
    # The whole prompt is in the mark, in place of its parts.
    texts = rewriter.texts(by_earlier_rules) | {"system_prompt": None}
    del texts["suffix"]
    texts["prompt"] = long2short_messages("PROBLEM", "ANSWER", "REASONING", rewriter.system_prompt)
    return of_one_generator(
        NAME, REQUEST_VERSION, rewriter, texts, {"gates": config.gates.marks} | config.answers.marks
    )


def request(row: dict[str, Any], gates: list[str], question: Question, judge: str | None = None) -> dict[str, Any]:
    """The rewrite request for a slow RESPONSES row. `source_reason`: why the row must not be rewritten; "": it may."""
    rewrite_id = stable_id("rewrite", row["response_id"])
    reason = first_reason(row, gates, judge)
    row_seed = int(stable_id(question.seed, rewrite_id), 16) % 2**31
    reasoning = row["reasoning"] or row["response"]
    return {
        "id": rewrite_id,
        "response_id": row["response_id"],
        "instruction_id": row["instruction_id"],
        "instruction": row["instruction"],
        "reference_answer": row["reference_answer"],
        "source_answer": row["answer"],
        "original_tokens": row["num_generated_tokens"],
        "original_characters": len(reasoning),
        "source_mark": stable_id(row["instruction"], row["answer"] or "", reasoning),
        "source_reason": SOURCE + reason if reason else "",
        "messages": long2short_messages(row["instruction"], row["answer"] or "", reasoning, question.system_prompt),
        "sampling_params": question.sampling_params | {"seed": row_seed},
        "seed": row_seed,
    }


def requests(
    row: dict[str, Any], gates: list[str], question: Question, done: Container[str], fit: bool, judge: str | None = None
) -> list[dict[str, Any]]:
    """The request for a slow response in a list; [] where its id is in `done`, or where it is not `fit` (or is, for False)."""
    candidate = request(row, gates, question, judge)
    return [candidate] if candidate["id"] not in done and (candidate["source_reason"] == "") == fit else []


def rewrite_row(
    row: dict[str, Any], model: str, sampling_params: dict[str, Any], judge: str | None = None
) -> dict[str, Any]:
    """A generated row as a REWRITES row with its verdict.

    Without a reference answer, the result of the rewrite is compared with the answer of the source.
    """
    columns = row | {"rewrite_id": row["id"], "model": model}
    if row["error"]:
        return reject_failed(columns, row["error"])
    text = row["generated_text"]
    if not thinking_is_open(text):  # the rewriter's own think block is no part of the rewrite
        text = split_reasoning(text)[1]
    generated, original_tokens = row["num_generated_tokens"] or None, row["original_tokens"]  # 0: not counted
    length = None if generated is None else generated - row["num_thinking_tokens"]
    rewrite = columns | {
        "reasoning": text,
        "num_prompt_tokens": row["num_prompt_tokens"] or None,
        "num_generated_tokens": generated,
        "rewritten_tokens": length,
        "compression_ratio": length / original_tokens if original_tokens and length is not None else None,
        "sampling_params": json.dumps(sampling_params | {"seed": row["seed"]}, sort_keys=True),
    }
    return _judged(rewrite, judge)


def _judged(rewrite: dict[str, Any], judge: str | None) -> dict[str, Any]:
    """A rewrite with its result as `answer`, and its `verdict` by all gates.

    Which gates are on is no matter here, so that switching one off remakes no rewrite; `sft_examples` applies those that are on.
    """
    rewrite = rewrite | {"answer": final_result(rewrite["reasoning"])}
    return rewrite | {"verdict": verdict(against_source(rewrite), judge)["verdict"]}


def rewrites(
    responses: "Dataset",
    generate: "Generate",
    model: str,
    gates: list[str],
    question: Question,
    done: Container[str],
    judge: str | None = None,
) -> list["Dataset"]:
    """`[unfit, rewritten]`: rejects for slow responses that may not be rewritten, and rewrites of the others.

    responses: slow responses only. Rows whose ids are in `done` are left out. The rejects are a dataset of their own:
    they need not wait for an engine.
    """
    # Each dataset makes its own requests: stored for both, each reasoning would be in the object store twice.
    options = {"gates": gates, "question": question, "done": done, "judge": judge}
    fit, unfit = (responses.flat_map(requests, fn_kwargs=options | {"fit": fit}) for fit in (True, False))
    rewritten = generate(fit).map_batches(
        rewrite_batch,
        batch_size=None,
        batch_format="pyarrow",
        fn_kwargs={"model": model, "sampling_params": question.sampling_params, "judge": judge},
    )
    return [unfit.map_batches(unfit_batch, batch_format="pyarrow"), rewritten]


def sources_of(responses: Iterable[pa.Table], gates: list[str], judge: str | None = None) -> Iterator[pa.Table]:
    """For each slow response the columns that `Rewrites.reread` needs, with its rewrite_id; one table for each of responses."""
    columns = ["reference_answer", "source_answer", "source_mark", "source_reason", "original_characters"]
    types = {"original_characters": pa.int32()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in ("rewrite_id", *columns)])
    for table in responses:
        requests = [request(row, gates, Question({}), judge) for row in table.to_pylist() if row["teacher"] == "slow"]
        rows = [{"rewrite_id": row["id"], **{name: row[name] for name in columns}} for row in requests]
        yield pa.Table.from_pylist(rows, schema=schema)


def shortened(rewrites: Iterable[pa.Table]) -> dict[str, Any]:
    """`tokens_before` and `tokens_after`: sums over the slow responses and over their rewrites, where both are counted.

    rewrites: tables with the columns original_tokens and rewritten_tokens.
    """
    tokens_before = tokens_after = 0
    for table in rewrites:
        counted = table.drop_null()
        tokens_before += pc.sum(counted["original_tokens"]).as_py() or 0
        tokens_after += pc.sum(counted["rewritten_tokens"]).as_py() or 0
    return {"tokens_before": tokens_before, "tokens_after": tokens_after}


def unfit_batch(table: pa.Table) -> pa.Table:
    rows = [
        reject({**row, "rewrite_id": row["id"], "sampling_params": None}, row["source_reason"], _of_source(row))
        for row in table.to_pylist()
    ]
    return table_of(rows, REWRITES)


def _of_source(row: Row) -> str:
    """The answer of an unfit source beside its reference, where that is why."""
    return compared(row | {"answer": row["source_answer"]}, row["source_reason"].removeprefix(SOURCE))


def rewrite_batch(table: pa.Table, **options: Any) -> pa.Table:
    return table_of([rewrite_row(row, **options) for row in table.to_pylist()], REWRITES)
