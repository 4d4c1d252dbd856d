"""The rows of a run that its report shows: problems side by side, rewrites beside their source, what was rejected.

Which rows is decided by their ids, never by how they came out.
"""

import json
from typing import Any

from ray_distil.blocks import REJECTS_FOLDER
from ray_distil.manifest import read_manifest
from ray_distil.storage import Folder

NUM_SHOWN = 3
READ = ("instruction", "prompt", "response", "reasoning", "completion", "answer", "source_answer", "reference_answer")
EVAL_COLUMNS = ["model", "instruction_id", "sample_index", "instruction", "reference_answer", "response"]
EVAL_COLUMNS += ["correct", "complete", "num_generated_tokens"]


def rows(folder: Folder, columns: list[str], inside: str = "") -> list[dict[str, Any]]:
    """The rows of a finished artifact, or of its folder `inside`; none where it is not finished."""
    manifest = read_manifest(folder)
    start = f"{inside}/part-" if inside else "part-"
    shards = [name for name in manifest.files if name.startswith(start)] if manifest else []
    return [row for shard in shards for row in folder.read_table(shard, columns).to_pylist()]


def side_by_side(run: Folder, models: list[str]) -> list[dict[str, Any]]:
    """The first held-out problems that all `models` have answered: `problem`, and `answers` in the models' order."""
    by_problem: dict[str, dict[str, Any]] = {}
    for name in models:
        answers = rows(run / "eval" / name, EVAL_COLUMNS)
        for row in sorted(answers, key=lambda row: row["sample_index"]):
            by_problem.setdefault(row["instruction_id"], {}).setdefault(name, row)
    both = [by_problem[key] for key in sorted(by_problem) if len(by_problem[key]) == len(models)]
    return [{"problem": b[models[0]], "answers": [b[name] for name in models]} for b in both[:NUM_SHOWN]]


def rewritten(run: Folder) -> list[dict[str, Any]]:
    """The first rewrites: `instruction`, `before` and `after`, and the tokens of each."""
    columns = ["rewrite_id", "response_id", "instruction", "reasoning", "original_tokens", "rewritten_tokens"]
    first = sorted(rows(run / "rewrites", columns), key=lambda row: row["rewrite_id"])[:NUM_SHOWN]
    wanted = {row["response_id"] for row in first}
    sources = rows(run / "responses", ["response_id", "reasoning"]) if first else []
    before = {row["response_id"]: row["reasoning"] for row in sources if row["response_id"] in wanted}
    return [row | {"before": before.get(row["response_id"], ""), "after": row["reasoning"]} for row in first]


def rejected(run: Folder, artifacts: list[str]) -> list[dict[str, Any]]:
    """The first rejected row of each stage and reason: `stage`, `reason`, `detail`, `id`, and its `texts`."""
    found = []
    for artifact in artifacts:
        first: dict[tuple[str, str], dict[str, Any]] = {}
        all_rows = rows(run / artifact, ["id", "stage", "reason", "detail", "row"], REJECTS_FOLDER)
        for row in sorted(all_rows, key=lambda row: row["id"]):
            first.setdefault((row["stage"], row["reason"]), row)
        found += [first[key] for key in sorted(first)]
    return [{**row, "texts": {k: v for k, v in json.loads(row["row"]).items() if v and k in READ}} for row in found]
