"""Stage 3: slow responses rewritten into short reasoning, and a verdict on each rewrite."""

import json
from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.chat.prompts import long2short_messages
from ray_distil.chat.reasoning_marks import split_reasoning, thinking_is_open
from ray_distil.judge.gates import GATES, against_source, first_reason
from ray_distil.judge.results import final_result
from ray_distil.stages.question import Question
from ray_distil.store.reuse import is_the_same
from ray_distil.store.schemas import REWRITES, stable_id
from ray_distil.store.shards import SOURCE, reject, table_of

if TYPE_CHECKING:
    from ray.data import Dataset

    from ray_distil.generate.generation import Generate

VERSION = 5
ASKING_VERSION = 1  # of the requests: with another version all texts are generated again
STAGE = "long2short"
ACCEPTED = "accepted"


def request(row: dict[str, Any], gates: list[str], question: Question) -> dict[str, Any]:
    """The rewrite request for a slow RESPONSES row. `source_reason`: why the row must not be rewritten; "": it may."""
    rewrite_id = stable_id("rewrite", row["response_id"])
    reason = first_reason(row, gates)
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
    row: dict[str, Any], gates: list[str], question: Question, done: Container[str], fit: bool
) -> list[dict[str, Any]]:
    """The request for a slow response in a list; [] where its id is in `done`, or where it is not `fit` (or is, for False)."""
    made = request(row, gates, question)
    return [made] if made["id"] not in done and (made["source_reason"] == "") == fit else []


def rewrite_row(row: dict[str, Any], model: str, sampling_params: dict[str, Any]) -> dict[str, Any]:
    """A generated row as a REWRITES row with its verdict.

    Without a reference answer, the result of the rewrite is compared with the answer of the source.
    """
    known = row | {"rewrite_id": row["id"], "model": model}
    if row["error"]:
        code, _, detail = row["error"].partition(": ")
        return reject(known, code, detail)
    text = row["generated_text"]
    if not thinking_is_open(text):  # the rewriter's own think block is no part of the rewrite
        text = split_reasoning(text)[1]
    generated, before = row["num_generated_tokens"] or None, row["original_tokens"]  # 0: not counted
    length = None if generated is None else generated - row["num_thinking_tokens"]
    rewrite = known | {
        "reasoning": text,
        "num_prompt_tokens": row["num_prompt_tokens"] or None,
        "num_generated_tokens": generated,
        "rewritten_tokens": length,
        "compression_ratio": length / before if before and length is not None else None,
        "sampling_params": json.dumps(sampling_params | {"seed": row["seed"]}, sort_keys=True),
    }
    return _judged(rewrite)


def renewed(
    row: dict[str, Any], source: dict[str, Any], max_tokens: int, has_same_limits: bool
) -> dict[str, Any] | None:
    """A REWRITES row of an earlier making, judged again; None where the rewriter would give another text.

    `source`: the row of `sources` for the same slow response in this making.
    """
    if source["source_reason"] or source["source_mark"] != row["source_mark"]:
        return None
    if is_the_same(row, row["finish_reason"] == "stop", max_tokens, has_same_limits):
        return _judged(
            row | {name: source[name] for name in ("reference_answer", "source_answer", "original_characters")}
        )
    return None


def _judged(rewrite: dict[str, Any]) -> dict[str, Any]:
    """A rewrite with its result as `answer`, and its `verdict` by all gates.

    Which gates are on is no matter here, so that switching one off remakes no rewrite; curation applies those that are on.
    """
    rewrite = rewrite | {"answer": final_result(rewrite["reasoning"])}
    return rewrite | {"verdict": first_reason(against_source(rewrite), GATES) or ACCEPTED}


def rewrites(
    responses: "Dataset",
    generate: "Generate",
    model: str,
    gates: list[str],
    question: Question,
    done: Container[str],
) -> list["Dataset"]:
    """`[unfit, rewritten]`: rejects for slow responses that may not be rewritten, and rewrites of the others.

    responses: slow responses only. Rows whose ids are in `done` are left out. The rejects are a dataset of their own:
    they need not wait for an engine.
    """
    # Each dataset makes its own requests: stored for both, each reasoning would be in the object store twice.
    how = {"gates": gates, "question": question, "done": done}
    fit, unfit = (responses.flat_map(requests, fn_kwargs=how | {"fit": fit}) for fit in (True, False))
    rewritten = generate(fit).map_batches(
        rewrite_batch,
        batch_size=None,
        batch_format="pyarrow",
        fn_kwargs={"model": model, "sampling_params": question.sampling_params},
    )
    return [unfit.map_batches(unfit_batch, batch_format="pyarrow"), rewritten]


def sources(responses: Iterable[pa.Table], gates: list[str]) -> Iterator[pa.Table]:
    """For each slow response the columns that `renewed` needs, with its rewrite_id; one table for each given table."""
    columns = ["reference_answer", "source_answer", "source_mark", "source_reason", "original_characters"]
    types = {"original_characters": pa.int32()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in ("rewrite_id", *columns)])
    for table in responses:
        asked = [request(row, gates, Question({})) for row in table.to_pylist() if row["teacher"] == "slow"]
        rows = [{"rewrite_id": row["id"], **{name: row[name] for name in columns}} for row in asked]
        yield pa.Table.from_pylist(rows, schema=schema)


def shortened(rewrites: Iterable[pa.Table]) -> dict[str, Any]:
    """`tokens_before` and `tokens_after`: sums over the slow responses and over their rewrites, where both are counted.

    rewrites: tables with the columns original_tokens and rewritten_tokens.
    """
    before = after = 0
    for table in rewrites:
        counted = table.drop_null()
        before += pc.sum(counted["original_tokens"]).as_py() or 0
        after += pc.sum(counted["rewritten_tokens"]).as_py() or 0
    return {"tokens_before": before, "tokens_after": after}


def unfit_batch(table: pa.Table) -> pa.Table:
    rows = [
        reject({**row, "rewrite_id": row["id"], "sampling_params": None}, row["source_reason"])
        for row in table.to_pylist()
    ]
    return table_of(rows, REWRITES)


def rewrite_batch(table: pa.Table, model: str, sampling_params: dict[str, Any]) -> pa.Table:
    return table_of([rewrite_row(row, model, sampling_params) for row in table.to_pylist()], REWRITES)
