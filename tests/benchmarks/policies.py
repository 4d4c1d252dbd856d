"""Students by what they learn: the choice among the texts of a problem, on the tiny world, over several seeds.

    python -m tests.benchmarks.policies FOLDER [--problems 500] [--steps 200] [--seeds 3] [--policies all shortest ...]

Four samples of each teacher at a temperature are made once. Each policy is a run in FOLDER that uses their texts again, and
trains a student for each seed with the same number of steps on packed sequences of one length, so with equal compute. The
second round begins with the student of `all` of the same seed: it answers the training problems four times, and the
teachers are asked those of which at most half of its answers are right.

A command that is stopped goes on where it was. The table has means over all seeds, and intervals over problems, which do not
hold the spread between trainings: beside them stands the accuracy of each seed.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_distil import read_rows
from ray_distil.evaluation import scores
from ray_distil.store.manifest import read_manifest
from ray_distil.store.storage import Folder

ROOT = Path(__file__).resolve().parents[2]
SAMPLED = "temperature: 1.3}"
POLICIES: dict[str, list[str]] = {
    "all": [],
    "shortest": ["curation.choose=shortest"],
    "direct only": ["curation.candidates=[direct]", "curation.choose=shortest"],
    "rewrites only": ["curation.candidates=[rewrite]", "curation.choose=shortest"],
    "with conclusions": ["curation.candidates=[direct, rewrite, conclusion]", "curation.choose=shortest"],
    "conclusions, no floor": [
        "curation.candidates=[direct, rewrite, conclusion]", "curation.choose=shortest", "curation.min_length=0",
    ],
    "half of the easy": ["curation.choose=shortest", "curation.easy_fraction=0.5"],
    "hard ones at length": ["curation.choose=shortest", "curation.slow_fraction=0.5"],
    "second round": ["curation.choose=shortest"],
}  # fmt: skip


def distil(folder: Path, name: str, *overrides: str) -> None:
    """One command of the product, as a user gives it."""
    command = [sys.executable, str(ROOT / "jobs" / "distill.py"), f"run.storage_path={folder}", f"run.name={name}"]
    with (folder / f"{name}.log").open("a") as log:
        subprocess.run([*command, "run.remake=true", *overrides], check=True, stdout=log, stderr=log)


def texts(problems: int) -> list[str]:
    """The settings of the teachers' texts, which all runs share."""
    return [
        f"instructions.num_train={problems}",
        "teachers.slow.fraction=1",
        *(f"teachers.{name}.num_samples=4" for name in ("direct", "slow")),
        f"teachers.direct.sampling_params={{max_tokens: 120, {SAMPLED}",
        f"teachers.slow.sampling_params={{max_tokens: 600, {SAMPLED}",
    ]


def student(folder: Path, policy: str, seed: int, arguments: argparse.Namespace) -> tuple[pa.Table, dict[str, Any]]:
    """The answers of the student of a policy and a seed, and how many examples of how many problems it learnt."""
    name = policy.replace(" ", "-").replace(",", "")
    saved = folder / "students" / f"{name}-{seed}"
    if not (saved / "facts.json").exists():
        common = [
            *texts(arguments.problems),
            "evaluation.models=[{name: fast, model_source: student}]",
            "evaluation.baseline=fast",
        ]
        common += [f"run.reuse=[{folder / 'pool'}]", f"training.max_steps={arguments.steps}", f"training.seed={seed}"]
        if policy == "second round":
            model = folder / "students" / f"all-{seed}" / "student"
            common += [f"teachers.direct.engine.model_source={model}", "teachers.slow.pass_rate=[0, 0.5]"]
        distil(folder, name, *common, *POLICIES[policy])
        saved.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder / name / "checkpoint" / "student", saved / "student", dirs_exist_ok=True)
        read_rows(folder / name, "eval/fast/tiny").to_parquet(saved / "answers.parquet")
        examples = read_rows(folder / name, "sft_examples", ["instruction_id", "completion", "origin"])
        facts = {
            "examples": len(examples),
            "problems": int(examples["instruction_id"].nunique()),
            "characters": float(examples["completion"].str.len().mean()),
            "origins": {origin: int(number) for origin, number in examples["origin"].value_counts().items()},
        }
        (saved / "facts.json").write_text(json.dumps(facts))

    # The seed stands in place of the sample.
    rows = pq.read_table(saved / "answers.parquet")
    at = rows.schema.get_field_index("sample_index")
    rows = rows.set_column(at, "sample_index", pa.array([seed] * rows.num_rows, pa.int32()))
    return rows, json.loads((saved / "facts.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if read_manifest(Folder.at(str(folder / "pool")) / "rewrites") is None:
        distil(folder, "pool", *texts(arguments.problems), "training=null")

    print(
        "| policy | examples | of problems | characters | accuracy, % | 95 % | by seed | beside all | tokens | tokens beside all |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    first: pa.Table | None = None
    for policy in arguments.policies:
        of_seeds = [student(folder, policy, seed, arguments) for seed in range(arguments.seeds)]
        table = pa.concat_tables([rows for rows, _ in of_seeds])
        first = table if first is None else first
        print(_line(policy, table, first, [facts for _, facts in of_seeds]), flush=True)


def _line(policy: str, table: pa.Table, first: pa.Table, facts: list[dict[str, Any]]) -> str:
    summary = scores.summary(table)
    low, high = summary["accuracy_interval"]
    seeds = sorted(set(table["sample_index"].to_pylist()))
    by_seed = [scores.summary(table.filter(pc.equal(table["sample_index"], seed)))["accuracy"] for seed in seeds]
    cells = [
        policy,
        *("/".join(f"{of_seed[key]:,.0f}" for of_seed in facts) for key in ("examples", "problems", "characters")),
        f"{summary['accuracy']:.1%}",
        f"{low:.1%} to {high:.1%}",
        ", ".join(f"{accuracy:.1%}" for accuracy in by_seed),
        "",
        f"{summary['mean_tokens']:.1f}",
        "",
    ]
    if table is not first and (gap := scores.difference(table, first)) and (gain := scores.gain(table, first)):
        low, high = gap["interval"]
        cells[7] = f"{100 * gap['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) points"
        cells[9] = f"{1 / gain['gain']:.2f} times"
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
