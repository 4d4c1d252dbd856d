"""Each reason for which the package rejects a row has a meaning for the readers of a report."""

import re
from pathlib import Path

from ray_distil.judge import gates
from ray_distil.judge.reasons import MEANINGS, meanings
from ray_distil.report import report
from ray_distil.store.storage import Folder
from tests.unit.test_layout import PACKAGE
from tests.unit.test_report import artifact

LITERAL = re.compile(r"\b(?:reject|BadRecord)\((?:[^()\"]|\([^()]*\)|\{[^{}]*\})*?\"([a-z_]+)\"")

COLUMNS = {"instruction_id", "sequence_id", "rewrite_id", "reason"}


def test_every_reason_has_a_meaning() -> None:
    literals = {name for path in PACKAGE.rglob("*.py") for name in LITERAL.findall(path.read_text())}
    assert {"duplicate", "over_limit", "bad_messages", "thinks"} <= literals
    assert literals - COLUMNS | set(gates.REASONS) <= set(MEANINGS)


def test_a_report_explains_its_own_reasons(tmp_path: Path) -> None:
    assert meanings(["http_422", "source_no_answer", "my_own"]) == {
        "http_422": "the endpoint refused it with status 422",
        "source_no_answer": "of the slow response: the text states no answer",
    }
    artifact(tmp_path / "run", "responses", "responses", {"prompt_too_long": 2, "my_own": 1})
    report.build(Folder.at(tmp_path / "run"))
    page, markdown = ((tmp_path / "run" / "report" / f"report.{ending}").read_text() for ending in ("html", "md"))
    assert "<dt>prompt_too_long</dt><dd>prompt and max_tokens are more than the engine reads</dd></dl>" in page
    assert "\n- prompt_too_long: prompt and max_tokens are more than the engine reads\n" in markdown
