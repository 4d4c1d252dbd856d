"""Stage 4: responses and rewrites that pass the gates become training examples; the others are rejected."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_distil.chat.reasoning_marks import split_reasoning, thinking_of
from ray_distil.errors import BadRecord
from ray_distil.judge.agreement import answers_agree
from ray_distil.judge.answers import extract_answer
from ray_distil.judge.gates import against_source, first_reason
from ray_distil.records.conversations import instruction_of
from ray_distil.stages.same_texts import Repeats, find, text_keys
from ray_distil.store.schemas import SFT_EXAMPLES, stable_id
from ray_distil.store.shards import reject, table_of

if TYPE_CHECKING:
    from ray.data import Dataset

VERSION = 3
STAGE = "curation"


def response_example(
    row: dict[str, Any], gates: list[str], suffix: str, direct_thoughts: str = "drop"
) -> dict[str, Any]:
    """A RESPONSES row as an SFT_EXAMPLES row, or rejected.

    If a direct teacher's response has a think block, only its conclusion is learnt; with `direct_thoughts` "reject" the
    response is rejected.
    """
    completion = row["response"].strip()
    thinks = row["teacher"] == "direct" and thinking_of(completion)
    example = _example(
        row, row["teacher"], row["response_id"], split_reasoning(completion)[1] if thinks else completion, gates, suffix
    )
    return reject(example, "thinks", "direct") if thinks and direct_thoughts == "reject" else example


def rewrite_example(row: dict[str, Any], gates: list[str], suffix: str) -> dict[str, Any]:
    """A REWRITES row as an SFT_EXAMPLES row, or rejected.

    The rewriter is asked for reasoning only. If a rewrite has the right result, but does not state it as the answer,
    the sentence "The final answer is ..." is added. Right: equal to the reference, or else to the source's answer.
    """
    completion, measured = row["reasoning"], against_source(row)
    is_right = answers_agree(row["answer"], measured["reference_answer"])
    if is_right and extract_answer(completion) is None:
        completion += f"\n\nThe final answer is \\boxed{{{row['answer']}}}."
    return _example(measured, "rewrite", row["rewrite_id"], completion, gates, suffix)


def imported_row(record: Any, example_id: str) -> dict[str, Any]:
    """A record of `instruction` and `output` as an SFT_EXAMPLES row, without a gate; or a reject."""
    known = {"example_id": example_id, "instruction_id": example_id, "origin": "imported", "origin_id": example_id}
    texts = dict(record) if isinstance(record, dict) else {}
    try:
        texts["instruction"] = instruction_of(texts)
    except BadRecord as error:
        return reject(known, error.reason, str(error))
    for key in ("instruction", "output"):
        if not isinstance(texts.get(key), str) or not texts[key].strip():
            return reject(known, "bad_record", f"the row has no text in {key!r}")
    return known | {"prompt": texts["instruction"], "completion": texts["output"]}


def _example(
    row: Mapping[str, Any], origin: str, origin_id: str, completion: str, gates: list[str], suffix: str
) -> dict[str, Any]:
    example = {
        "example_id": stable_id("example", origin_id),
        "instruction_id": row["instruction_id"],
        "prompt": row["instruction"] + suffix,
        "completion": completion,
        "origin": origin,
        "origin_id": origin_id,
        "num_tokens": row["rewritten_tokens" if origin == "rewrite" else "num_generated_tokens"],
    }
    reason = first_reason(row, gates)
    if reason is None and not completion:
        reason = "empty"
    return example if reason is None else reject(example, reason, origin)


def curate(
    responses: "Dataset",
    rewrites: "Dataset | None",
    candidates: list[str],
    gates: list[str],
    suffix: str,
    direct_thoughts: str = "drop",
) -> list["Dataset"]:
    """The examples, accepted and rejected. candidates: the kinds of texts that may be learnt, e.g. ["direct", "rewrite"].

    `rewrites` is None where no rewrite is a candidate.
    """
    options = {"gates": gates, "suffix": suffix}
    direct = options | {"direct_thoughts": direct_thoughts}
    responses = responses.filter(lambda row: row["teacher"] in candidates)
    made = [responses.map_batches(example_batch, batch_format="pyarrow", fn_kwargs={"kind": "response", **direct})]
    if rewrites is not None:
        made.append(
            rewrites.map_batches(example_batch, batch_format="pyarrow", fn_kwargs={"kind": "rewrite", **options})
        )
    return made


def repeats(examples: "Dataset") -> Repeats:
    """The examples that repeat the text of another one of the same problem. `examples` has `same_texts.COLUMNS`."""
    keys = examples.map_batches(text_keys, batch_size=None, batch_format="pyarrow")
    return find(keys.iter_batches(batch_size=None, batch_format="pyarrow"))


def example_batch(table: pa.Table, kind: str, **how: Any) -> pa.Table:
    make = {"response": response_example, "rewrite": rewrite_example}[kind]
    return table_of([make(row, **how) for row in table.to_pylist()], SFT_EXAMPLES)
