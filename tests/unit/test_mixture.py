"""Several sources of training problems: how many of each are trained on, and what is told of them."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ray_distil.config import load
from ray_distil.config.models import resolve_models
from ray_distil.errors import ConfigError, UserError
from ray_distil.problems import collecting
from ray_distil.problems.problem_sources import source_fingerprints
from ray_distil.records.mixture import Mixture, Part
from ray_distil.records.problems import Problems
from ray_distil.report import kept_out
from ray_distil.runner.runs import Run
from ray_distil.stages import instructions, make_instructions, read_problems
from ray_distil.store.manifest import fingerprint
from ray_distil.store.shards import DETAIL, REASON


def file_of(folder: Path, name: str, number: int, first: int = 0, **more: Any) -> Path:
    """Problems that no other file has, but for equal `first`."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"instruction": f"What is {k} and {k * k} plus {k % 7}?", "answer": str(k)} | more
        for k in range(first, first + number)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def problems_of(sources: list[Any], *overrides: str) -> Problems:
    config = load(None, ["training=null", f"instructions.sources={json.dumps(sources)}", *overrides])
    return collecting.collect(config.instructions, config.run.seed)


def counts(problems: Problems) -> tuple[dict[str, int], Counter[str]]:
    """Label -> training problems; (reason of a reject) -> rows."""
    rows = problems.to_pylist()
    training = Counter(row["source"] for row in rows if row[REASON] is None and row["split"] == "train")
    return dict(training), Counter(row[REASON] for row in rows if row[REASON] is not None)


@pytest.mark.parametrize(
    ("parts", "num_train", "available", "numbers"),
    [
        ([(3, None), (1, None)], None, [5000, 1000], [3000, 1000]),
        ([(0.75, None), (0.25, None)], 2000, [5000, 1000], [1500, 500]),
        ([(None, None), (None, None)], 3000, [5000, 1000], [2500, 500]),
        ([(None, None), (None, None)], None, [5000, 1000], [5000, 1000]),
        ([(None, 70), (None, None)], None, [5000, 1000], [70, 1000]),
        ([(1, 100), (2, None)], None, [5000, 1000], [100, 200]),  # a cap sets the sum too
        ([(1, None), (1, None), (1, None)], 10, [9, 9, 9], [4, 3, 3]),
        ([(0.1, None), (0.2, None), (0.7, None)], 1000, [1000, 1000, 1000], [100, 200, 700]),
        ([(1, None), (1, None)], 1000, [5, 1000], [5, 5]),
        ([(1, None), (1, None)], None, [0, 1000], [0, 0]),
        ([(None, None), (None, None)], 10, [0, 1000], [0, 10]),
    ],
)
def test_how_many_of_each(parts: Any, num_train: int | None, available: list[int], numbers: list[int]) -> None:
    made = [Part(str(k), f"instructions.sources.{k}", *part) for k, part in enumerate(parts)]
    assert Mixture(made, num_train).numbers(available) == numbers


def test_no_rule_is_broken_for_any_numbers() -> None:
    draw = random.Random(1)
    for _ in range(2000):
        available = [draw.randrange(0, 400) for _ in range(draw.randrange(1, 6))]
        with_shares, num_train = draw.random() < 0.6, draw.choice([None, draw.randrange(1, 900)])
        parts = [
            Part(
                str(k),
                "",
                draw.choice([0.1, 0.3, 1, 2.5, 1 / 3]) if with_shares else None,
                draw.choice([None, draw.randrange(1, 300)]),
            )
            for k in range(len(available))
        ]
        numbers = Mixture(parts, num_train).numbers(available)
        most = [min(n, p.max_problems or n) for n, p in zip(available, parts, strict=True)]
        assert all(0 <= number <= limit for number, limit in zip(numbers, most, strict=True))
        assert sum(numbers) <= (num_train or sum(most))
        if not with_shares:
            assert sum(numbers) == min(sum(most), num_train or sum(most))
            continue

        # By the shares, to a problem; and no larger sum would keep them.
        shares = [part.share / sum(p.share for p in parts) for part in parts]
        assert all(abs(number - sum(numbers) * share) < 1 for number, share in zip(numbers, shares, strict=True))
        more = sum(numbers) + 1
        assert (num_train is not None and more > num_train) or any(
            more * share > limit - 1e-9 for share, limit in zip(shares, most, strict=True)
        )


def test_sources_are_mixed_by_share_and_nothing_is_lost(tmp_path: Path) -> None:
    first = file_of(tmp_path, "a.jsonl", 400)
    second = file_of(tmp_path, "b.jsonl", 100, first=1000)
    sources = [{"path": str(first), "share": 3}, {"path": str(second), "share": 1}]
    problems = problems_of(sources, "instructions.num_eval=20")
    training, rejects = counts(problems)
    held_out = Counter(row["source"] for row in problems.to_pylist() if row["split"] == "eval")
    assert held_out.total() == 20
    num_second = 100 - held_out["b.jsonl"]
    assert training == {"a.jsonl": 3 * num_second, "b.jsonl": num_second}
    assert rejects == {"over_share": 400 - held_out["a.jsonl"] - 3 * num_second}
    assert len(problems.to_pylist()) == 500
    details = {row[DETAIL] for row in problems.to_pylist() if row[REASON] is not None}
    of_all = f"{3 * num_second:,} of {400 - held_out['a.jsonl']:,} of a.jsonl"
    assert details == {f"instructions.sources.0.share is 3: {of_all}"}


def test_any_order_of_a_file_and_a_larger_number_keep_the_same_problems(tmp_path: Path) -> None:
    def taken(paths: list[Path], number: int) -> set[str]:
        sources = [{"path": str(path), "label": path.stem[0]} for path in paths]
        problems = problems_of(sources, f"instructions.num_train={number}", "instructions.num_eval=5")
        return {i for part in problems.ids("train") for i in part}

    first, second = file_of(tmp_path, "a.jsonl", 300), file_of(tmp_path, "b.jsonl", 200, first=1000)
    shuffled = tmp_path / "a2.jsonl"
    lines = first.read_text().splitlines()
    random.Random(3).shuffle(lines)
    shuffled.write_text("\n".join(lines))
    assert taken([first, second], 100) == taken([shuffled, second], 100)
    assert len(taken([first, second], 100)) == 100
    assert taken([first, second], 100) < taken([first, second], 250)


def test_a_problem_of_two_sources_counts_for_the_first(tmp_path: Path) -> None:
    first = file_of(tmp_path, "a.jsonl", 30)
    second = file_of(tmp_path, "b.jsonl", 40, first=20)
    problems = problems_of([str(first), str(second)], "instructions.num_eval=2")
    training, rejects = counts(problems)
    held_out = Counter(row["source"] for row in problems.to_pylist() if row["split"] == "eval")
    assert training == {"a.jsonl": 30 - held_out["a.jsonl"], "b.jsonl": 30 - held_out["b.jsonl"]}
    assert rejects == {"duplicate": 10}
    (row, *_) = [row for row in problems.to_pylist() if row[REASON] == "duplicate"]
    assert row[DETAIL] == "record 1: same text as record 21 of a.jsonl"


def test_the_place_of_a_copy_is_that_in_its_own_file(tmp_path: Path) -> None:
    """Beside a file of held-out problems, the number was counted over both files."""
    held_out, training = file_of(tmp_path, "test.jsonl", 5), file_of(tmp_path, "train.jsonl", 10, first=3)
    config = load(None, [f"instructions.path={training}", f"instructions.eval_path={held_out}"])
    rows = collecting.collect(config.instructions, 0).to_pylist()
    details = [row[DETAIL] for row in rows if row[REASON] == "duplicate"]
    assert details == [f"record {k}: same text as record {k + 3} of test.jsonl" for k in (1, 2)]


def test_each_source_has_its_own_columns_split_and_cap(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("frage,loesung\n" + "".join(f"Was ist {k} mal {k + 1}?,{k}\n" for k in range(50)))
    folder = tmp_path / "set"
    file_of(folder, "train.jsonl", 20, first=100)
    file_of(folder, "test.jsonl", 30, first=300)
    sources = [
        {"path": str(own), "label": "own", "columns": {"instruction": "frage", "answer": "loesung"}, "max_problems": 7},
        {"path": str(folder), "dataset_split": "test"},
        {"path": "tiny", "max_problems": 12},
    ]
    problems = problems_of(sources, "instructions.num_eval=0")
    training, rejects = counts(problems)
    assert training == {"own": 7, "set": 30, "tiny": 12}
    assert rejects == {"over_limit": 43}
    (detail,) = {row[DETAIL] for row in problems.to_pylist() if row[REASON] is not None}
    assert detail == "instructions.sources.0.max_problems is 7"
    config = load(None, [f"instructions.sources={json.dumps(sources)}", "instructions.num_eval=0", "training=null"])  # fmt: skip
    lines = collecting.reading(config.instructions, problems.facts)
    assert lines[0].startswith(f"own ('{own}'): 50 records: 7 to train on, 0 held out; 7 have an answer; rejected: over_limit 43 (")  # fmt: skip
    assert [line.partition(":")[0] for line in lines[1:]] == [f"set ('{folder}')", "tiny ('tiny')", "all 3 sources"]
    assert lines[-1] == "all 3 sources: 92 records: 49 to train on, 0 held out; 49 have an answer"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["instructions.path=a.jsonl", "instructions.sources=[b.jsonl]"], "instructions.path: 'a.jsonl' stands beside"),
        (["instructions.sources=[{path: a, share: 1}, {path: b}]"], "instructions.sources.1.share: other sources have"),
        (["instructions.sources=[{path: a, share: 0}]"], "instructions.sources.0.share: input should be greater than 0"),
        (["instructions.sources=[{path: a, share: .inf}]"], "instructions.sources.0.share: "),
        (["instructions.sources=[{path: a, label: x}, {path: b, label: x}]"], "instructions.sources: 2 sources have the label 'x'"),
        (["instructions.sources=[{path: a, label: 'x|y'}]"], "instructions.sources.0.label: 'x|y' is no name"),
        (["instructions.sources=[{pth: a}]"], "instructions.sources.0.pth: unknown key; did you mean 'path'?"),
        (["instructions.sources=a.jsonl"], "instructions.sources: "),
        (["instructions.sources=[a]", "instructions.columns={answer: x}"], "instructions.columns: each of instructions.sources"),
        (["instructions.sources=[a]", "instructions.dataset_split=test"], "instructions.dataset_split: each of instructions.sources"),
        (["instructions.sources=[a]", "instructions.license=mit"], "instructions.license: each of instructions.sources"),
    ],
)  # fmt: skip
def test_mistakes_are_told_by_their_key(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(None, overrides)
    lines = str(error.value).splitlines()
    assert any(line.startswith(message) for line in lines), lines


def test_two_files_of_one_name_need_labels(tmp_path: Path) -> None:
    paths = [str(file_of(tmp_path / name, "train.jsonl", 5, first=k)) for k, name in enumerate("ab")]
    with pytest.raises(
        UserError, match=r"instructions.sources.0 and instructions.sources.1: 2 sources are called 'train"
    ):
        problems_of(list(paths))


def test_a_source_with_a_share_and_no_problem_is_refused(tmp_path: Path) -> None:
    first = file_of(tmp_path, "a.jsonl", 30)
    second = tmp_path / "b.jsonl"
    second.write_text('{"problem": "What is 7 times 8?"}\n')
    sources = [{"path": str(first), "share": 1}, {"path": str(second), "share": 1}]
    with pytest.raises(UserError) as error:
        problems_of(sources)
    assert str(error.value).startswith(
        f"instructions.sources.1.path: '{second}' leaves no instruction to train on, and it"
    )
    assert "instructions.sources.1.columns={instruction: problem}" in str(error.value)


def test_a_source_that_cannot_be_read_is_refused_without_shares_too(tmp_path: Path) -> None:
    first = file_of(tmp_path, "a.jsonl", 30)
    second, copy = tmp_path / "b.jsonl", tmp_path / "copy.jsonl"
    second.write_text('{"problem": "What is 7 times 8?"}\n')
    copy.write_bytes(first.read_bytes())
    with pytest.raises(UserError) as error:
        problems_of([str(first), str(second)])
    assert str(error.value).startswith(
        f"instructions.sources.1.path: '{second}' leaves no instruction to train on: 1 of 1"
    )
    assert "instructions.sources.1.columns={instruction: problem}" in str(error.value)
    assert problems_of([str(first), str(copy)]).facts.rejects == {"duplicate": 30}, "a copy can be read"


def test_a_source_without_answers_is_told(tmp_path: Path) -> None:
    first, second = file_of(tmp_path, "a.jsonl", 30), file_of(tmp_path, "b.jsonl", 30, first=100, answer=None)
    sources = [str(first), str(second)]
    config = load(None, [f"instructions.sources={json.dumps(sources)}"])
    problems = collecting.collect(config.instructions, 0)
    (finding,) = collecting.unchecked(config.instructions, problems.facts)
    assert finding.text.startswith("none of 30 instructions of b.jsonl has `answer`")


@pytest.mark.parametrize("key", ["license=mit", "path=b.jsonl"])
def test_the_place_and_the_license_of_a_source_remake_nothing(key: str, tmp_path: Path) -> None:
    file_of(tmp_path, "a.jsonl", 30).replace(tmp_path / "b.jsonl")
    file_of(tmp_path, "a.jsonl", 30)
    assert _digest(tmp_path) == _digest(tmp_path, key.replace("b.jsonl", str(tmp_path / "b.jsonl")))


@pytest.mark.parametrize("key", ["label=x", "share=2", "max_problems=7", "columns={answer: a}", "drop_system=true"])
def test_other_keys_of_a_source_make_the_problems_anew(key: str, tmp_path: Path) -> None:
    file_of(tmp_path, "a.jsonl", 30)
    assert _digest(tmp_path) != _digest(tmp_path, key)


def _digest(folder: Path, *keys: str) -> str:
    sources = f"instructions.sources=[{{path: {folder / 'a.jsonl'}}}]"
    config = load(None, [sources, *(f"instructions.sources.0.{key}" for key in keys)])
    settings = instructions.settings_of(config).values
    return fingerprint("instructions", 1, settings, source_fingerprints(config.instructions))


def test_a_run_and_its_report_have_each_source(tmp_path: Path) -> None:
    sources = [
        {"path": str(file_of(tmp_path, "a.jsonl", 40)), "share": 1},
        {"path": str(file_of(tmp_path, "b.jsonl", 9, first=100)), "share": 1, "label": "own"},
    ]
    run_keys = [f"run.storage_path={tmp_path}", "run.name=mixed", "instructions.num_eval=0", "training=null"]
    config = load(None, [*run_keys, f"instructions.sources={json.dumps(sources)}"])
    run = Run(config, resolve_models(config))
    artifact = make_instructions(run, read_problems(config))
    manifest = artifact.manifest()
    assert (manifest.rows_in, manifest.rows_out) == (49, 18)
    assert manifest.rejects == {"over_share": 31}
    assert manifest.summary["sources"] == {
        "a.jsonl": {"rows": 40, "train": 9, "eval": 0, "rejects": {"over_share": 31}},
        "own": {"rows": 9, "train": 9, "eval": 0, "rejects": {}},
    }
    assert kept_out.curation(manifest, None, None)["sources"] == [
        ["a.jsonl", "40", "9", "0", "over_share 31"],
        ["own", "9", "9", "0", "–"],
    ]
