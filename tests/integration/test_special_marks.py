"""Models whose marks of thinking are special tokens, through real engines and a real training.

The tiny slow teacher, with the same weights, writes the marks of another family where it wrote `<think>` and `</think>`:
its texts must be split as before.
"""

import json
import shutil
from pathlib import Path

import pytest

from ray_distil import read_rows
from ray_distil.config.models import TINY_MODELS
from tests.chat_families import special_model
from tests.integration.conftest import SmallRun
from tests.integration.test_own_engine import respond

# Begin and end mark, each as one special token.
MARKS = {
    "gpt-oss": ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    "Magistral": ("[THINK]", "[/THINK]"),
    "Gemma 4": ("<|channel>", "<channel|>"),
}


def teacher(family: str, folder: Path) -> str:
    """The slow teacher with the marks of a family."""
    shutil.copytree(TINY_MODELS / "teacher-r1", folder)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    renamed = dict(zip(("<think>", "</think>"), MARKS[family], strict=True))
    for token in tokenizer["added_tokens"]:
        if token["content"] in renamed:
            token |= {"content": renamed[token["content"]], "special": True}
    file.write_text(json.dumps(tokenizer))
    return str(folder)


@pytest.mark.parametrize(
    "family",
    ["gpt-oss", pytest.param("Magistral", marks=pytest.mark.long), pytest.param("Gemma 4", marks=pytest.mark.long)],
)
def test_thoughts_are_split_as_those_of_other_models(family: str, small_run: SmallRun, tmp_path: Path) -> None:
    said = respond(tmp_path, "special", f"teachers.slow.engine.model_source={teacher(family, tmp_path / 'teacher')}")
    columns = ["reasoning", "response", "finish_reason"]
    rows = read_rows(tmp_path / "special", "responses").set_index("response_id")[columns]
    plain = read_rows(small_run.folder, "responses")
    expected = plain[plain.teacher == "slow"].set_index("response_id")[columns].reindex(rows.index)
    assert len(rows) > 5, said
    assert (rows.reasoning != "").all()
    same = (rows.reasoning == expected.reasoning) & (rows.response == expected.response)
    assert same.mean() > 0.9, "float32 sums in another order now and then draw another token"
    assert (rows.finish_reason == expected.finish_reason)[same].all()


@pytest.mark.long
def test_a_run_of_models_like_gpt_oss(tmp_path: Path) -> None:
    """Its teacher's chains are rewritten, its student is trained in channels, exported, and asked by an engine."""
    (tmp_path / "student").mkdir()
    student = special_model("gpt-oss", tmp_path / "student")
    run = SmallRun(tmp_path)
    made = run.make(
        f"teachers.slow.engine.model_source={teacher('gpt-oss', tmp_path / 'r1')}", f"training.student={student}"
    )
    rewrites = read_rows(run.folder, "rewrites")
    assert len(rewrites) > 5, made.stdout
    assert not rewrites.reasoning.str.contains("channel|analysis", regex=True).any()
    scores = {
        model["name"]: model for model in json.loads((run.folder / "report" / "report.json").read_text())["models"]
    }
    assert scores["fast"]["accuracy"] > scores["base"]["accuracy"]
    answers = read_rows(run.folder, "eval/fast/tiny")
    assert not answers.response.str.contains("channel|<|", regex=False).any()
    assert answers.complete.mean() > 0.5
    asked = read_rows(run.folder, "eval/slow/tiny")
    complete = asked[asked.complete]
    assert len(complete) > 5
    assert ((complete.num_thinking_tokens > 20) & (complete.num_thinking_tokens < complete.num_generated_tokens)).all()
