"""The tiny world: its language is fixed, since the shipped models know it."""

import hashlib
import itertools

from ray_distil.tiny import world


def digest(problems: list[world.Problem]) -> str:
    return hashlib.sha256("\n".join(f"{p.question}|{p.answer}" for p in problems).encode()).hexdigest()[:16]


def test_problems_are_those_the_models_know() -> None:
    assert digest(world.held_out(world.SEED_TEST)) == "cb3e2b453457da8e"
    assert digest(world.held_out(world.SEED_DEV)) == "cf44c177626f69d2"
    assert digest(list(itertools.islice(world.training_problems(50_000), 2500))) == "b8793cd70f466845"


def test_answers_follow_from_the_steps() -> None:
    for problem in world.held_out(3, 200):
        assert all(world.calculate(s.op, s.a, s.b) == s.r for s in problem.steps)
        assert 2 <= len(problem.steps) <= 4
        assert all(1 <= s.r <= 99 for s in problem.steps)


def test_training_shares_nothing_with_the_held_out_sets() -> None:
    held_out = {p.question for seed in (world.SEED_TEST, world.SEED_DEV) for p in world.held_out(seed)}
    assert not held_out & {p.question for p in itertools.islice(world.training_problems(1), 20_000)}
