"""Responses and rewrites that pass the gates become training examples; the others are rejected.

Where there are rewrites, they take the place of the slow responses.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_distil.chat.reasoning_marks import split_reasoning, thinking_of
from ray_distil.config import StagesConfig
from ray_distil.judge.agreement import compare_answers
from ray_distil.judge.answers import extract_answer
from ray_distil.judge.gates import VERSION, against_source, compared, first_reason
from ray_distil.runner import choosing
from ray_distil.runner.rejecting import reject_rows
from ray_distil.runner.runs import Run
from ray_distil.runner.stage import Made, Row, Stage
from ray_distil.runner.stage_settings import StageSettings
from ray_distil.selection import same_texts
from ray_distil.selection.choice import LEFT_OUT
from ray_distil.selection.same_texts import Repeats, find, text_keys
from ray_distil.stages import imports
from ray_distil.store.artifact import Artifact
from ray_distil.store.manifest import Manifest, most_common
from ray_distil.store.schemas import SFT_EXAMPLES, stable_id
from ray_distil.store.shards import REASON, reject, table_of

if TYPE_CHECKING:
    from ray.data import Dataset

NAME = "curation"  # in fingerprints


class SftExamples(Stage):
    """The texts that pass the gates."""

    artifact, fingerprint_name, version = "sft_examples", NAME, VERSION
    schema, unit, tokens = SFT_EXAMPLES, "candidates", "num_tokens"

    def __init__(self, run: Run, responses: Artifact, rewrites: Artifact | None) -> None:
        self.run, self.responses, self.rewrites = run, responses, rewrites
        self.settings = settings_of(run.config)
        self.inputs = [responses.content()] + ([rewrites.content()] if rewrites else [])

    def make(self, artifact: Artifact) -> Made:
        self.run.start_ray()
        config = self.run.config
        candidates = written_kinds(config)
        teachers = [("slow" if kind == "conclusion" else kind) for kind in candidates if kind != "rewrite"]
        rows_in = sum(self.responses.count("teacher", teacher) for teacher in teachers)
        rows_in += self.rewrites.count("rewrite_id") if self.rewrites is not None else 0
        rewrites = self.rewrites.read() if self.rewrites is not None else None
        artifact.tell.expect(rows_in)
        options = {name: self.settings.values[name] for name in ("suffix", "direct_thoughts")}
        options |= {"gates": self.run.config.gates.enabled, "judge": self.run.config.answers.judge}
        artifact.write(curate(self.responses.read(), rewrites, candidates, **options), self.artifact)

        # Which texts repeat another one is known when all are there.
        repeated = repeats(artifact.read(same_texts.COLUMNS))
        if len(repeated):
            reject_rows(artifact, self.artifact, partial(same_texts.marked, repeats=repeated))
        if not config.has_choice:
            return rows_in, {}
        choice = choosing.chosen_examples(
            artifact.read(),
            self.responses.read(),
            choosing.rules_of(config.curation, config.candidates),
            config.curation.max_tokens,
            config.answers.judge,
        )
        if choice.by_reason:
            reject_rows(artifact, self.artifact, choosing.marking(choice))
        return rows_in, choice.summary

    def on_complete(self, artifact: Artifact) -> None:
        """Print a line where fewer than a tenth of the candidates, or of the rewrites, pass the gates."""
        manifest, rewrites = artifact.manifest(), self.rewrites.manifest() if self.rewrites is not None else None
        of_rewrites = (artifact.count("origin", "rewrite"), rewrites.rows_out) if rewrites is not None else (0, 0)
        if manifest is not None and (line := few_kept(manifest, *of_rewrites)):
            self.run.display.say(f"{self.artifact}: {line}")


class ImportedExamples(imports.ImportedRows):
    """Examples that another system has made, taken without a gate."""

    artifact, fingerprint_name, version = "sft_examples", NAME, VERSION
    schema, unit = SFT_EXAMPLES, "examples"

    def row(self, record: Any, row_id: str, number: int) -> Row:
        return imports.imported_example(record, row_id)


def settings_of(config: StagesConfig) -> StageSettings:
    thoughts = config.teachers.direct_thoughts if config.teachers is not None else "drop"
    values = {"gates": config.gates.marks, "suffix": config.instructions.suffix, "direct_thoughts": thoughts}
    values |= config.answers.marks
    if config.curation.candidates is not None:
        values["candidates"] = sorted(config.curation.candidates)
    values |= config.curation.chosen_by
    # In earlier versions equal texts of a problem were all learnt. What they have made stays valid.
    return StageSettings(values | {"equal_texts": "once"}, earlier=StageSettings(values))


def written_kinds(config: StagesConfig) -> list[str]:
    """The kinds of texts that go through the gates: the candidates, and slow ones that hard problems may need."""
    kinds = config.candidates
    return [*kinds, "slow"] if config.curation.slow_fraction and "slow" not in kinds else kinds


def few_kept(examples: Manifest, num_kept_rewrites: int, num_rewrites: int) -> str:
    """E.g. "kept 0 of 60 rewrites, less than a tenth; rejected candidates: not_shorter 60"; "" where enough are kept.

    Texts that pass the gates and are left out by the choice count as kept.
    """
    num_left_out = sum(examples.rejects.get(reason, 0) for reason in LEFT_OUT)
    counts = {"candidates": (examples.rows_out + num_left_out, examples.rows_in)}
    if num_left_out == examples.rejects.get(same_texts.SAME_TEXT, 0):  # a choice takes rewrites away, whatever they are
        counts["rewrites"] = (num_kept_rewrites, num_rewrites)
    for kind, (num_kept, total) in counts.items():
        if num_kept < total / 10:
            why = most_common(examples.rejects)
            return f"kept {num_kept:,} of {total:,} {kind}, less than a tenth; rejected candidates: {why}"
    return ""


def response_example(
    row: dict[str, Any], gates: list[str], suffix: str, direct_thoughts: str = "drop", judge: str | None = None
) -> dict[str, Any]:
    """A RESPONSES row as an SFT_EXAMPLES row, or rejected.

    If a direct teacher's response has a think block, only its conclusion is learnt; with `direct_thoughts` "reject" the
    response is rejected.
    """
    completion = row["response"].strip()
    thinks = row["teacher"] == "direct" and thinking_of(completion)
    learnt = split_reasoning(completion)[1] if thinks else completion
    example = _example(row, row["teacher"], row["response_id"], learnt, gates, suffix, judge)
    return reject(example, "thinks", "direct") if thinks and direct_thoughts == "reject" else example


def conclusion_example(row: dict[str, Any], gates: list[str], suffix: str, judge: str | None = None) -> dict[str, Any]:
    """A slow RESPONSES row as an example of its text behind the thinking, or rejected."""
    reasoning, conclusion = split_reasoning(row["response"].strip())
    origin_id = stable_id("conclusion", row["response_id"])
    example = _example(row, "conclusion", origin_id, conclusion.strip(), gates, suffix, judge)
    example |= {"origin_id": row["response_id"], "num_tokens": None}
    return example if reasoning or REASON in example else reject(example, "no_conclusion", "conclusion")


def rewrite_example(row: dict[str, Any], gates: list[str], suffix: str, judge: str | None = None) -> dict[str, Any]:
    """A REWRITES row as an SFT_EXAMPLES row, or rejected.

    The rewriter is asked for reasoning only. If a rewrite has the right result, but does not state it as the answer,
    the sentence "The final answer is ..." is added. Right: equal to the reference, or else to the source's answer.
    """
    completion, measured = row["reasoning"], against_source(row)
    verdict = compare_answers(row["answer"], measured["reference_answer"], row["instruction"], judge)
    if verdict == "equal" and extract_answer(completion) is None:
        completion += f"\n\nThe final answer is \\boxed{{{row['answer']}}}."
    return _example(measured, "rewrite", row["rewrite_id"], completion, gates, suffix, judge)


def _example(
    row: Mapping[str, Any],
    origin: str,
    origin_id: str,
    completion: str,
    gates: list[str],
    suffix: str,
    judge: str | None,
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
    reason = first_reason(row, gates, judge)
    if reason is None and not completion:
        reason = "empty"
    if reason is None:
        return example
    return reject(example, reason, ": ".join(filter(None, (origin, compared(row, reason)))))


def curate(
    responses: "Dataset",
    rewrites: "Dataset | None",
    candidates: list[str],
    gates: list[str],
    suffix: str,
    direct_thoughts: str = "drop",
    judge: str | None = None,
) -> list["Dataset"]:
    """The examples, accepted and rejected. candidates: the kinds of texts that may be learnt, e.g. ["direct", "rewrite"].

    `rewrites` is None where no rewrite is a candidate.
    """
    options = {"gates": gates, "suffix": suffix, "judge": judge}
    direct = options | {"direct_thoughts": direct_thoughts}
    of_kinds = responses.filter(lambda row: row["teacher"] in candidates)
    datasets = [of_kinds.map_batches(example_batch, batch_format="pyarrow", fn_kwargs={"kind": "response", **direct})]
    if "conclusion" in candidates:
        slow = responses.filter(lambda row: row["teacher"] == "slow")
        datasets.append(
            slow.map_batches(example_batch, batch_format="pyarrow", fn_kwargs={"kind": "conclusion", **options})
        )
    if rewrites is not None:
        datasets.append(
            rewrites.map_batches(example_batch, batch_format="pyarrow", fn_kwargs={"kind": "rewrite", **options})
        )
    return datasets


def repeats(examples: "Dataset") -> Repeats:
    """The examples that repeat the text of another one of the same problem. `examples` has `same_texts.COLUMNS`."""
    keys = examples.map_batches(text_keys, batch_size=None, batch_format="pyarrow")
    return find(keys.iter_batches(batch_size=None, batch_format="pyarrow"))


def example_batch(table: pa.Table, kind: str, **options: Any) -> pa.Table:
    return table_of([_EXAMPLES[kind](row, **options) for row in table.to_pylist()], SFT_EXAMPLES)


_EXAMPLES: dict[str, Callable[..., dict[str, Any]]] = {
    "response": response_example, "conclusion": conclusion_example, "rewrite": rewrite_example,
}  # fmt: skip
