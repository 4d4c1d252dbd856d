"""The recipe in eighty lines teaches its student, as a user runs it: by its path, from another folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.integration.cluster import PATIENCE
from tests.integration.conftest import ROOT

ROW = re.compile(r"^(base|teacher|student) +([\d.]+)% +([\d.]+)$", re.MULTILINE)


def test_the_recipe_in_eighty_lines_distils(tmp_path: Path) -> None:
    """With fewer problems, to save time: the student is right less often, and its responses are as short."""
    command = [sys.executable, str(ROOT / "examples" / "recipe_in_eighty_lines.py")]
    environment = os.environ | {"NUM_PROBLEMS": "300"}
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr

    # Its table.
    rows = {name: (float(accuracy), float(tokens)) for name, accuracy, tokens in ROW.findall(result.stdout)}
    assert rows.keys() == {"base", "teacher", "student"}, result.stdout
    (base_accuracy, _), (_, teacher_tokens), (accuracy, tokens) = (rows[n] for n in ("base", "teacher", "student"))
    assert accuracy > base_accuracy + 20, result.stdout
    assert 20 < tokens < teacher_tokens / 2, result.stdout

    # Its student, in Hugging Face format.
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in tmp_path.glob("runs/student/*")}
