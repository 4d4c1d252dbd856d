"""The table of rules: each rule decides its own example, and no rule before it does."""

import pytest

from ray_distil.judge.agreement import compare_answers
from ray_distil.judge.rules import FORMS, QUANTITIES, Form, Quantity, sides_of
from ray_distil.judge.spelling import cleaned


@pytest.mark.parametrize("rule", [*FORMS, *QUANTITIES], ids=lambda rule: rule.name)
def test_an_example_is_decided_by_its_rule(rule: Form | Quantity) -> None:
    answer, reference, verdict = rule.example
    assert compare_answers(answer, reference) == compare_answers(reference, answer) == verdict
    first, second = cleaned(answer), cleaned(reference)
    forms = [form.name for form in FORMS if form.decide(first, second) is not None]
    quantities = [one.name for one in QUANTITIES if one.decide(*sides_of(first, second)) is not None]
    assert [*forms, *quantities][0] == rule.name
