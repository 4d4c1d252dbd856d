"""Near-duplicates and contamination: what is found of planted rows, what is rejected wrongly, and what it costs.

    python -m tests.benchmarks.curation                            100,000 planted problems, by kind
    python -m tests.benchmarks.curation --real FILE.jsonl ...      with real problems (question, answer) among them
    python -m tests.benchmarks.curation --pairs --real FILE ...    the near-duplicates of real problems, to be read
    python -m tests.benchmarks.curation --scale 1000000            seconds and peak memory of reading, with and without

Each measurement of `--scale` is a process of its own; a tenth of its rows are copies.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.benchmarks.planted_problems import CHANGES, Planted, planted, templates

NUM_TESTS = 2_000


def records(files: list[Path]) -> list[tuple[str, str | None]]:
    """(question, answer) of JSON lines: `instruction`, or `passage` and `question`; `answer` without its unit."""
    found = []
    for file in files:
        for line in file.read_text("utf-8").splitlines():
            row = json.loads(line)
            text = row.get("instruction") or f"{row.get('passage', '')} {row['question']}".strip()
            answer = row.get("answer")
            found.append((text, None if answer is None else str(answer)))
    return found


def write(rows: list[Planted], file: Path) -> None:
    lines = ({"instruction": row.text} | ({} if row.answer is None else {"answer": row.answer}) for row in rows)
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")


def shares(real: list[tuple[str, str | None]], number: int, each: int) -> None:
    from ray_distil.config import load
    from ray_distil.stages import read_problems

    dice = random.Random(1)
    dice.shuffle(real)
    tests = [text for text, _ in real[: NUM_TESTS // 2]]
    tests += [templates(dice) for _ in range(NUM_TESTS - len(tests))]
    rows = planted(real[NUM_TESTS // 2 :], tests, number, each)
    with tempfile.TemporaryDirectory() as folder:
        write(rows, Path(folder) / "problems.jsonl")
        write([Planted(text, None) for text in tests], Path(folder) / "tests.jsonl")
        config = load(None, [
            f"instructions.path={folder}/problems.jsonl", "instructions.num_eval=1",
            f"evaluation.benchmarks=[{{name: tests, path: {folder}/tests.jsonl}}]", f"run.storage_path={folder}",
        ])  # fmt: skip
        problems = read_problems(config).to_pylist()
    kinds = Counter(row.kind for row in rows)
    rejects: Counter[tuple[str, str]] = Counter()
    for row, problem in zip(rows, problems, strict=True):
        rejects[row.kind, problem["reject_reason"] or ""] += 1
    print(f"{len(rows):,} problems, {len(tests):,} test problems\n")
    reasons = ("duplicate", "near_duplicate", "contaminated")
    print(f"{'kind':<45} {'rows':>7}  " + "".join(f"{reason:>16}" for reason in reasons))
    for kind in sorted(kinds):
        of_kind = (f"{100 * rejects[kind, reason] / kinds[kind]:>14.1f} %" for reason in reasons)
        print(f"{kind or 'base':<45} {kinds[kind]:>7,}  " + "".join(of_kind))


def pairs(real: list[tuple[str, str | None]]) -> None:
    from ray_distil.config import load
    from ray_distil.stages import read_problems

    with tempfile.TemporaryDirectory() as folder:
        write([Planted(text, answer) for text, answer in real], Path(folder) / "problems.jsonl")
        config = load(None, [f"instructions.path={folder}/problems.jsonl", f"run.storage_path={folder}"])
        rows = read_problems(config).to_pylist()
    by_id = {row["instruction_id"]: row["instruction"] for row in rows}
    reasons = Counter(row["reject_reason"] or "accepted" for row in rows)
    print(dict(reasons))
    for row in rows:
        if row["reject_reason"] == "near_duplicate":
            like = row["reject_detail"].split()[1].rstrip(":")
            print(f"\n{row['reject_detail']}\n   {row['instruction']}\n   {by_id[like]}")


def scale(number: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "problems.jsonl"
        dice = random.Random(3)
        with file.open("w") as lines:
            recent: list[str] = []
            for k in range(number):
                text = CHANGES["one word"](dice, dice.choice(recent)) if k % 10 == 0 and recent else None
                text = text or templates(dice)
                recent = [*recent[-99:], text]
                lines.write(json.dumps({"instruction": text, "answer": str(len(text) % 7)}) + "\n")
        tests = Path(folder) / "tests.jsonl"
        write([Planted(templates(dice), None) for _ in range(NUM_TESTS)], tests)
        benchmark = f"evaluation.benchmarks=[{{name: tests, path: {tests}}}]"
        near_off, tests_off = "instructions.near_duplicates=null", "instructions.decontamination.coverage=null"
        for name, overrides in {
            "read": [near_off, tests_off], "near-duplicates": [tests_off], "test problems": [near_off, benchmark],
            "both": [benchmark],
        }.items():  # fmt: skip
            command = [sys.executable, "-m", "tests.benchmarks.curation", "--measure", str(file), *overrides]
            ended = subprocess.run(command, capture_output=True, text=True, check=True)
            figures = json.loads(ended.stdout)
            print(f"{name:<16} " + ", ".join(f"{key} {value}" for key, value in figures.items()), flush=True)


def measure(file: str, overrides: list[str]) -> None:
    from ray_distil.config import load
    from ray_distil.stages import read_problems

    with tempfile.TemporaryDirectory() as folder:
        config = load(None, [f"instructions.path={file}", f"run.storage_path={folder}", *overrides])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started, cpu = time.monotonic(), time.process_time()
        facts = read_problems(config).facts
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({
        "s": round(seconds, 1), "CPU s": round(cpu, 1), "us a row": round(1e6 * seconds / facts.num_rows, 1),
        "MiB": peak // 1024, "MiB before": before // 1024, "rejects": dict(facts.rejects),
    }))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, nargs="*", default=[])
    parser.add_argument("--number", type=int, default=80_000)
    parser.add_argument("--each", type=int, default=1_000)
    parser.add_argument("--scale", type=int)
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--measure", nargs="+")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], arguments.measure[1:])
    elif arguments.scale:
        scale(arguments.scale)
    elif arguments.pairs:
        pairs(records(arguments.real))
    else:
        shares(records(arguments.real), arguments.number, arguments.each)


if __name__ == "__main__":
    main()
