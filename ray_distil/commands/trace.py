"""Follow a problem through a run: its texts, what became of each, and why.

ray-distil trace runs/tiny "Olga has 49"     words of the problem
ray-distil trace runs/tiny 890639d0          the first digits of an id: of a problem, a response, a rewrite or an example

A problem that was left out is found too; a near-duplicate with the problem that it is like.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.commands import cli
from ray_distil.errors import UserError
from ray_distil.report.provenance import check_run
from ray_distil.store.ahead import ahead
from ray_distil.store.manifest import read_manifest
from ray_distil.store.shards import REJECTS_FOLDER
from ray_distil.store.storage import Folder

MOST = 5  # problems that are shown
COLUMNS = {  # artifact -> its columns that are read; the first is the row's id
    "instructions": ["instruction_id", "instruction", "reference_answer", "source", "split"],
    "responses": [
        "response_id", "instruction_id", "teacher", "sample_index", "finish_reason", "num_generated_tokens", "answer",
        "verdict",
    ],
    "rewrites": ["rewrite_id", "instruction_id", "response_id", "rewritten_tokens", "answer", "verdict"],
    "sft_examples": ["example_id", "instruction_id", "origin", "origin_id"],
}  # fmt: skip
IDS = ("instruction_id", "response_id", "rewrite_id", "example_id", "origin_id")
_ID = re.compile(r"[0-9a-f]{4,16}")
_LIKE = re.compile(r"(?:like|same text as) ([0-9a-f]{16})")
Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.CommandParser("trace", __doc__)
    parser.add_argument("run", metavar="RUN_FOLDER")
    parser.add_argument("text", metavar="TEXT", help="words of a problem, or the first four or more digits of an id")
    arguments = parser.parse_args(argv)

    def job() -> None:
        for line in traced(Folder.at(arguments.run), arguments.text):
            print(line)

    return cli.guarded(job)


def traced(run: Folder, text: str) -> Iterator[str]:
    """The lines of the problems that a text or an id means. Raises UserError where there is none."""
    check_run(run)
    ids = list(dict.fromkeys(_meant(run, text)))
    if not ids:
        raise UserError(f"{text!r} is in no problem of {run}, and no id begins so; give words that stand in its text")
    for problem in ids[:MOST]:
        yield from _of_problem(run, problem)
    if ids[MOST:]:
        yield f"{len(ids) - MOST:,} more problems; give more words"


def _meant(run: Folder, text: str) -> Iterator[str]:
    """The ids of problems whose text holds `text`, or that have a row whose id begins with it."""
    has_text = lambda table: pc.match_substring(table["instruction"], text, ignore_case=True)  # noqa: E731
    yield from (row["instruction_id"] for row in _rows(run, "instructions", has_text))
    rejects = _rejects(run, "instructions")
    yield from (row["instruction_id"] for row in rejects if text.lower() in str(row["instruction"] or "").lower())
    if not _ID.fullmatch(text):
        return

    for artifact, columns in COLUMNS.items():
        names = [name for name in columns if name in IDS]
        begins = lambda table, names=names: _any([pc.starts_with(table[name], text) for name in names])  # noqa: E731
        yield from (row["instruction_id"] for row in _rows(run, artifact, begins))
        yield from (row["instruction_id"] for row in _rejects(run, artifact) if row["id"].startswith(text))


def _of_problem(run: Folder, problem: str) -> Iterator[str]:
    is_of = lambda table: pc.equal(table["instruction_id"], problem)  # noqa: E731
    rows = {
        artifact: [
            *_rows(run, artifact, is_of),
            *(r for r in _rejects(run, artifact) if r["instruction_id"] == problem),
        ]
        for artifact in COLUMNS
    }
    for row in rows["instructions"]:
        yield f"problem {problem}  {row['source']}, {row['split']}{_rejected(row)}"
        yield f"  {' '.join(str(row['instruction'] or '').split())[:200]}"
        yield f"  reference {row['reference_answer']}"
        if like := _LIKE.search(row.get("detail") or ""):
            yield from (f"  like it: {line.strip()}" for line in list(_of_problem(run, like[1]))[:2])

    # Each text, and where it ends.
    ends = {row["origin_id"]: _end(row) for row in rows["sft_examples"] if row["origin"] != "conclusion"}
    conclusions = {row["origin_id"]: _end(row) for row in rows["sft_examples"] if row["origin"] == "conclusion"}
    sequences = _sequences(run, [row["example_id"] for row in rows["sft_examples"] if "reason" not in row])
    for response in sorted(rows["responses"], key=lambda row: (row["teacher"] or "", row["sample_index"] or 0)):
        response_id = response["response_id"]
        facts = f"{response['finish_reason']}, {response['num_generated_tokens']} tokens, answer {response['answer']}"
        verdict = f", {response['verdict']}" if response["verdict"] else ""
        state = _rejected(response) or f"  {facts}{verdict}"
        yield f"  {response['teacher']} {response['sample_index']}  {response_id}{state}{_place(ends.get(response_id), sequences)}"
        if response_id in conclusions:
            yield f"    conclusion{_place(conclusions[response_id], sequences)}"
        for rewrite in (row for row in rows["rewrites"] if row["response_id"] == response_id):
            facts = f"  {rewrite['rewritten_tokens']} tokens, answer {rewrite['answer']}, {rewrite['verdict']}"
            end = _place(ends.get(rewrite["rewrite_id"]), sequences)
            yield f"    rewrite  {rewrite['rewrite_id']}{_rejected(rewrite) or facts}{end}"


def _rows(run: Folder, artifact: str, mask: Any) -> Iterator[Row]:
    """The accepted rows that `mask(table)` takes; a column that an earlier version lacks is null."""
    folder, columns = run / artifact, COLUMNS[artifact]
    manifest = read_manifest(folder)
    listed = manifest.files if manifest is not None else folder.files("part-", ".parquet")
    files = [file for file in listed if file.startswith("part-")]
    for table in ahead(lambda file: _table(folder, file, columns), files):
        yield from table.filter(mask(table)).to_pylist()


def _table(folder: Folder, file: str, columns: list[str]) -> pa.Table:
    table = folder.read_table(file, columns)
    for name in columns:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
    return table


def _rejects(run: Folder, artifact: str) -> Iterator[Row]:
    """Rejects with `reason` and `detail`, and the columns of COLUMNS that were saved of each."""
    folder = run / artifact / REJECTS_FOLDER
    for table in ahead(folder.read_table, folder.files("part-", ".parquet")):
        for row in table.to_pylist():
            saved = json.loads(row["row"])
            values = {name: saved.get(name) for name in COLUMNS[artifact]} | row
            key = COLUMNS[artifact][0]
            yield values | {
                key: saved.get(key) or row["id"],
                "instruction_id": saved.get("instruction_id") or row["id"],
            }


def _sequences(run: Folder, examples: list[str]) -> dict[str, str]:
    """Example -> the packed sequence that holds it, or why none does."""
    folder, places = run / "packed", dict[str, str]()
    for table in ahead(
        lambda file: folder.read_table(file, ["sequence_id", "example_ids"]), folder.files("part-", ".parquet")
    ):
        is_in = pc.is_in(pc.list_flatten(table["example_ids"]), pa.array(examples, pa.string()))
        parents = pc.list_parent_indices(table["example_ids"]).filter(is_in).to_pylist()
        for parent, example in zip(
            parents, pc.list_flatten(table["example_ids"]).filter(is_in).to_pylist(), strict=True
        ):
            places[example] = f"sequence {table['sequence_id'][parent].as_py()}"
    rejects = folder / REJECTS_FOLDER
    for table in ahead(rejects.read_table, rejects.files("part-", ".parquet")):
        for row in table.to_pylist():  # their ids are those of examples
            places.setdefault(row["id"], f"not packed: {row['reason']}")
    return places


def _end(example: Row) -> tuple[str, str]:
    """(id of the example, why it is not learnt or "")."""
    return example["example_id"], f"{example['reason']} ({example['detail']})" if "reason" in example else ""


def _place(end: tuple[str, str] | None, sequences: dict[str, str]) -> str:
    if end is None:
        return ""
    example, reason = end
    return f"  -> not learnt: {reason}" if reason else f"  -> example {example}, {sequences.get(example, 'not packed')}"


def _rejected(row: Row) -> str:
    return f"  REJECTED {row['reason']}: {row['detail']}" if "reason" in row else ""


def _any(masks: list[Any]) -> Any:
    first, *rest = masks
    for mask in rest:
        first = pc.or_kleene(first, mask)
    return pc.fill_null(first, False)
