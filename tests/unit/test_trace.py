"""The way of one problem through a run, by words or by the first digits of an id."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_distil.commands.trace import traced
from ray_distil.errors import UserError
from ray_distil.store import schemas
from ray_distil.store.shards import ATTEMPT, reject, table_of, write_block
from ray_distil.store.storage import Folder

KEPT, COPY, WRONG = "aaaa000000000001", "aaaa000000000002", "aaaa000000000003"
DIRECT, SLOW, OF_WRONG = "bbbb000000000001", "bbbb000000000002", "bbbb000000000003"
REWRITE = "cccc000000000001"
EXAMPLE, OF_REWRITE, UNLEARNT = "dddd000000000001", "dddd000000000002", "dddd000000000003"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A kept problem with all of its texts, a near-duplicate of it, and one whose only text is wrong."""
    folder = Folder.at(tmp_path_factory.mktemp("runs")) / "small"
    folder.write_text("config.yaml", "run: {name: small}\n")

    def write(artifact: str, schema: pa.Schema, *rows: dict[str, Any]) -> None:
        filled = {
            field.name: None if field.nullable else {"string": "x", "int32": 1}.get(str(field.type), [])
            for field in schema
        }
        (folder / artifact).write_text(ATTEMPT, "1")
        write_block(table_of([filled | row for row in rows], schema), folder / artifact, schema, artifact, "1")

    problem = {
        "instruction": "Olga has 49 eggs\nand buys 3.",
        "reference_answer": "52",
        "source": "own",
        "split": "train",
    }
    write("instructions", schemas.INSTRUCTIONS, problem | {"instruction_id": KEPT}, problem | {"instruction_id": WRONG, "instruction": "Zoë counts."},
          reject(problem | {"instruction_id": COPY, "instruction": "Rosa has 49 eggs and buys 3."}, "near_duplicate", f"like {KEPT}: 0.80 of the word pairs are the same"))  # fmt: skip
    response = {
        "finish_reason": "stop",
        "num_generated_tokens": 30,
        "answer": "52",
        "verdict": "accepted",
        "sample_index": 0,
    }
    write("responses", schemas.RESPONSES,
          response | {"response_id": DIRECT, "instruction_id": KEPT, "teacher": "direct"},
          response | {"response_id": SLOW, "instruction_id": KEPT, "teacher": "slow", "num_generated_tokens": 300},
          response | {"response_id": OF_WRONG, "instruction_id": WRONG, "teacher": "direct", "verdict": "wrong_answer"})  # fmt: skip
    write("rewrites", schemas.REWRITES, {"rewrite_id": REWRITE, "response_id": SLOW, "instruction_id": KEPT, "rewritten_tokens": 40, "answer": "52", "verdict": "accepted"})  # fmt: skip
    write("sft_examples", schemas.SFT_EXAMPLES,
          {"example_id": EXAMPLE, "instruction_id": KEPT, "origin": "direct", "origin_id": DIRECT},
          {"example_id": OF_REWRITE, "instruction_id": KEPT, "origin": "rewrite", "origin_id": REWRITE},
          reject({"example_id": UNLEARNT, "instruction_id": WRONG, "origin": "direct", "origin_id": OF_WRONG}, "wrong_answer", "direct"))  # fmt: skip
    write("packed", schemas.PACKED, {"sequence_id": "00000-000007", "example_ids": [EXAMPLE]},
          reject({"sequence_id": OF_REWRITE}, "too_long", "500 tokens"))  # fmt: skip
    return folder


ACCEPTED = [
    f"problem {KEPT}  own, train",
    "  Olga has 49 eggs and buys 3.",
    "  reference 52",
    f"  direct 0  {DIRECT}  stop, 30 tokens, answer 52, accepted  -> example {EXAMPLE}, sequence 00000-000007",
    f"  slow 0  {SLOW}  stop, 300 tokens, answer 52, accepted",
    f"    rewrite  {REWRITE}  40 tokens, answer 52, accepted  -> example {OF_REWRITE}, not packed: too_long",
]


@pytest.mark.parametrize("text", ["olga has 49", KEPT, DIRECT, REWRITE, EXAMPLE, OF_REWRITE])
def test_an_accepted_problem_is_followed_to_its_sequence(run: Folder, text: str) -> None:
    assert list(traced(run, text)) == ACCEPTED


@pytest.mark.parametrize("text", ["Zoë", "aaaa000000000003", OF_WRONG, UNLEARNT])
def test_a_text_that_is_not_learnt_says_why(run: Folder, text: str) -> None:
    assert list(traced(run, text))[-1] == (
        f"  direct 0  {OF_WRONG}  stop, 30 tokens, answer 52, wrong_answer  -> not learnt: wrong_answer (direct)"
    )


@pytest.mark.parametrize("text", ["Rosa has", COPY])
def test_a_near_duplicate_names_the_problem_that_it_is_like(run: Folder, text: str) -> None:
    assert list(traced(run, text)) == [
        f"problem {COPY}  own, train  REJECTED near_duplicate: like {KEPT}: 0.80 of the word pairs are the same",
        "  Rosa has 49 eggs and buys 3.",
        "  reference 52",
        f"  like it: problem {KEPT}  own, train",
        "  like it: Olga has 49 eggs and buys 3.",
    ]


def test_several_problems_are_shown_and_more_are_counted(run: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(line.startswith("problem") for line in traced(run, "has 49")) == 2
    monkeypatch.setattr("ray_distil.commands.trace.MOST", 1)
    assert list(traced(run, "aaaa"))[-1] == "2 more problems; give more words"


@pytest.mark.parametrize("text", ["Nobody", "ffff", "aaa"])
def test_what_means_no_problem_is_told(run: Folder, text: str) -> None:
    with pytest.raises(UserError, match=f"'{text}' is in no problem of .*/small, and no id begins so"):
        list(traced(run, text))


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run folder"):
        list(traced(Folder.at(tmp_path / "none"), "x"))
