"""The keys of curation: what cannot be right is refused, what changes nothing is told."""

import pytest

from ray_distil.checks.preflight import check_plan
from ray_distil.config import DistillConfig, load
from ray_distil.errors import ConfigError

SAMPLED = ["teachers.direct.num_samples=4", "teachers.slow.num_samples=4"]
SAMPLED += [f"teachers.{name}.sampling_params.temperature=0.7" for name in ("direct", "slow")]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["curation.candidates=[conclusion]", "teachers.slow=null"],
            "conclusion needs teachers.slow, and there is none",
        ),
        (["curation.candidates=[rewrite]", "long2short.enabled=false"], "set long2short.enabled=true"),
        (["curation.candidates=[]"], "curation.candidates"),
        (["curation.candidates=[direct, direct]"], "names a kind twice"),
        (["curation.candidates=[fast]"], "curation.candidates"),
        (["curation.keep=3"], "curation.keep: choose is all, which keeps every text; set curation.choose=shortest"),
        (["curation.keep=0", "curation.choose=shortest"], "curation.keep"),
        (["curation.choose=longest"], "curation.choose"),
        (["curation.pass_rate=[0.9, 0.1]"], r"curation.pass_rate: \[0.9, 0.1\] is no range within \[0, 1\]"),
        (["curation.pass_rate=[0, 2]"], r"curation.pass_rate: \[0.0, 2.0\] is no range"),
        (["curation.pass_rate=0.5"], "curation.pass_rate"),
        (["curation.min_length=2"], "curation.min_length"),
        (["curation.easy_fraction=-1"], "curation.easy_fraction"),
        (["curation.slow_fraction=0.5", "teachers.slow=null"], "curation.slow_fraction: needs teachers.slow"),
        (["curation.max_tokens=0"], "curation.max_tokens"),
    ],
)
def test_what_cannot_be_right_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(None, overrides)


def remarks(*overrides: str) -> list[str]:
    return [remark for remark in check_plan(load(None, list(overrides)), None) if remark.startswith("curation")]


def test_a_choice_among_one_text_is_told() -> None:
    (line,) = remarks("curation.choose=shortest", "curation.candidates=[direct]")
    assert line.startswith(
        "curation.choose: shortest changes nothing: each problem has one candidate; see teachers.*.num"
    )
    assert not remarks("curation.choose=shortest", "curation.candidates=[direct]", *SAMPLED)


@pytest.mark.parametrize("key", ["pass_rate=[0.1, 0.9]", "easy_fraction=0.5", "vote=true"])
def test_a_pass_rate_of_one_sample_is_told(key: str) -> None:
    (line,) = remarks(f"curation.{key}", "teachers.slow=null", "long2short.enabled=false")
    assert "by one sample a problem, a pass rate is 0 or 1" in line
    assert not remarks(f"curation.{key}", *SAMPLED)


def test_without_a_key_of_the_choice_all_texts_are_learnt() -> None:
    def has_choice(*overrides: str) -> bool:
        config: DistillConfig = load(None, list(overrides))
        return config.has_choice

    assert not has_choice()
    assert not has_choice("curation.candidates=[direct]", "curation.min_length=0.5")
    assert has_choice("curation.candidates=[conclusion]")
    assert has_choice("curation.max_tokens=100")
