"""The rows of a run that its report shows: answers side by side, rewrites beside their source, rejected rows.

Rows are chosen by their ids, never by their results.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_distil.config.evaluation_config import folder_of
from ray_distil.evaluation.scores import with_rejected
from ray_distil.store.manifest import read_manifest
from ray_distil.store.schemas import EVAL, conformed
from ray_distil.store.shards import REJECTS_FOLDER, SOURCE
from ray_distil.store.storage import Folder

NUM_SHOWN = 3
READ = ("instruction", "prompt", "response", "reasoning", "completion", "answer", "source_answer", "reference_answer")
EVAL_COLUMNS = ["model", "instruction_id", "sample_index", "instruction", "reference_answer", "response"]
EVAL_COLUMNS += ["correct", "complete", "num_generated_tokens"]


def rows(folder: Folder, columns: list[str]) -> list[dict[str, Any]]:
    """The rows of a finished artifact; [] for an artifact that is not finished."""
    return [row for table in _tables(folder, columns) for row in table.to_pylist()]


def numbers(folder: Folder, columns: list[str]) -> tuple[int, list[npt.NDArray[np.int64]]]:
    """The number of rows of a finished artifact, and its integer columns, [rows], without rows that hold a null."""
    num_rows, columns_of = 0, [[np.zeros(0, np.int64)] for _ in columns]
    for table in _tables(folder, columns):
        num_rows += table.num_rows
        for name, parts in zip(columns, columns_of, strict=True):
            parts.append(table.drop_null()[name].to_numpy())
    return num_rows, [np.concatenate(parts) for parts in columns_of]


def _tables(folder: Folder, columns: list[str], inside: str = "") -> Iterator[pa.Table]:
    manifest = read_manifest(folder)
    for shard in manifest.files if manifest else ():
        if shard.startswith(f"{inside}part-"):
            yield folder.read_table(shard, columns)


def answers(folder: Folder, columns: list[str]) -> pa.Table:
    """These columns of a model's answers. Each rejected row counts as a wrong answer."""
    return with_rejected(*answers_and_rejects(folder, columns))


def answers_and_rejects(folder: Folder, columns: list[str]) -> tuple[pa.Table, list[dict[str, Any]]]:
    """(these columns of a model's answers, the rows that were rejected)."""
    schema = pa.schema([EVAL.field(name) for name in columns])
    tables = (conformed(table, schema) for table in _tables(folder, columns))
    answers = pa.concat_tables([schema.empty_table(), *tables])
    rejects = _tables(folder, ["row"], f"{REJECTS_FOLDER}/")
    return answers, [json.loads(text) for table in rejects for text in table["row"].to_pylist()]


def first_rows(
    folder: Folder, columns: list[str], number: int, inside: str = "", by: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """The first `number` rows of each kind, by the first column. Rows of a kind have equal values in the columns `by`.

    All shards are read for the first column and `by`; the other columns only from shards with a chosen row, one at a
    time.
    """
    key, place = columns[0], folder / inside if inside else folder
    manifest = read_manifest(folder)
    start = f"{inside}/" if inside else ""
    smallest: dict[tuple[Any, ...], list[tuple[str, str, int]]] = {}  # kind -> (key, shard, row), the smallest keys
    for shard in manifest.files if manifest else ():
        if not shard.startswith(f"{start}part-"):
            continue
        table = place.read_table(shard.removeprefix(start), [key, *by])
        kinds = zip(*(table[name].to_pylist() for name in by), strict=True) if by else [()] * table.num_rows
        for position, (value, kind) in enumerate(zip(table[key].to_pylist(), kinds, strict=True)):
            of_kind = smallest.setdefault(kind, [])
            if len(of_kind) < number or value < of_kind[-1][0]:
                smallest[kind] = sorted([*of_kind, (value, shard.removeprefix(start), position)])[:number]
    rows = []
    for kind in sorted(smallest, key=repr):
        for _, shard, position in smallest[kind]:
            rows += place.read_table(shard, columns).slice(position, 1).to_pylist()
    return rows


def side_by_side(run: Folder, models: list[str], benchmark: str) -> list[dict[str, Any]]:
    """The first problems that all `models` have answered: `problem`, and `answers` in the order of the models.

    benchmark: the name of its folder. Of several samples the first is shown.
    """
    by_problem: dict[str, dict[str, Any]] = {}
    for name in models:
        answers = rows(run / "eval" / name / benchmark, EVAL_COLUMNS)
        for row in sorted(answers, key=lambda row: row["sample_index"]):
            by_problem.setdefault(row["instruction_id"], {}).setdefault(name, row)
    both = [by_problem[key] for key in sorted(by_problem) if len(by_problem[key]) == len(models)]
    return [{"problem": b[models[0]], "answers": [b[name] for name in models]} for b in both[:NUM_SHOWN]]


def rewritten(run: Folder) -> list[dict[str, Any]]:
    """The first rewrites: `instruction`, `before` and `after`, and the tokens of each."""
    columns = ["rewrite_id", "response_id", "instruction", "reasoning", "original_tokens", "rewritten_tokens"]
    first = first_rows(run / "rewrites", columns, NUM_SHOWN)
    originals = _by_id(run / "responses", ["response_id", "reasoning"], {row["response_id"] for row in first})
    reasonings = {key: row["reasoning"] for key, row in originals.items()}
    return [row | {"before": reasonings.get(row["response_id"], ""), "after": row["reasoning"]} for row in first]


def _by_id(folder: Folder, columns: list[str], ids_wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Id -> these columns of the wanted rows; no other row is kept in memory. The first column is the id."""
    manifest = read_manifest(folder)
    found_rows: dict[str, dict[str, Any]] = {}
    for shard in manifest.files if manifest and ids_wanted else ():
        if shard.startswith("part-"):
            ids = folder.read_table(shard, columns[:1])[columns[0]].to_pylist()
            positions = [position for position, row_id in enumerate(ids) if row_id in ids_wanted]
            table = folder.read_table(shard, columns).take(positions) if positions else pa.table({})
            found_rows |= {row[columns[0]]: row for row in table.to_pylist()}
    return found_rows


def unclear(run: Folder, models: list[dict[str, Any]]) -> list[list[str]]:
    """The first answers of each model and stage that the judge could not read: where, the stated answer, the reference."""
    unread: list[tuple[str, dict[str, Any]]] = []
    for model in (model for model in models if model.get("num_unclear")):
        folder = run / "eval" / model["name"] / folder_of(model["benchmark"])
        first = first_rows(folder, ["eval_id", "answer", "reference_answer", "unclear"], NUM_SHOWN, by=("unclear",))
        where = f"{model['name']} on {model['benchmark']}: {model['num_unclear']:,} of {model['num_wrong']:,} wrong"
        unread += [(where, row) for row in first if row["unclear"]]

    # Texts that are not learnt. A candidate has its answer in the row of which it is made.
    answers = ["answer", "source_answer", "reference_answer"]
    for artifact, start in (("rewrites", SOURCE), ("sft_examples", "")):
        first = first_rows(run / artifact, ["id", "reason", "row"], NUM_SHOWN, REJECTS_FOLDER, ("reason",))
        rejects = [json.loads(row["row"]) for row in first if row["reason"] == f"{start}unclear_answer"]
        ids = {row.get("origin_id", "") for row in rejects}
        for origin, key in (("responses", "response_id"), ("rewrites", "rewrite_id")):
            rejects += _by_id(run / origin, [key, *answers], ids).values()
        unread += [(f"{artifact}: not learnt", row) for row in rejects if "reference_answer" in row]
    return [
        [where, row.get("answer") or row["source_answer"], row["reference_answer"] or row["source_answer"]]
        for where, row in unread
    ]


def rejected(run: Folder, artifacts: list[str]) -> list[dict[str, Any]]:
    """The first rejected row of each stage and reason: `stage`, `reason`, `detail`, `id`, and its `texts`.

    A candidate has its answer in the row of which it is made, and an unfit source its text.
    """
    rows = []
    for artifact in artifacts:
        columns = ["id", "reason", "detail", "row"]  # the stage's name in them may be that of an earlier version
        rows += [
            row | {"stage": artifact, "row": json.loads(row["row"])}
            for row in first_rows(run / artifact, columns, 1, REJECTS_FOLDER, ("reason",))
        ]

    compared = ["answer", "reference_answer"]
    sources = (
        ("origin_id", "", "responses", ["response_id", *compared]),
        ("origin_id", "", "rewrites", ["rewrite_id", *compared]),
        ("response_id", SOURCE, "responses", ["response_id", "response"]),
    )
    for column, start, artifact, columns in sources:
        of_source = [row["row"] for row in rows if row["row"].get(column) and row["reason"].startswith(start)]
        by_id = _by_id(run / artifact, columns, {row[column] for row in of_source})
        for row in of_source:
            row |= by_id.get(row[column], {})
    return [{**row, "texts": {k: v for k, v in row["row"].items() if v and k in READ}} for row in rows]
