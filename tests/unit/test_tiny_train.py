"""How the tiny models are made: the optimizer is torch's own in float32, courses fit together, runs repeat exactly."""

import random
from itertools import islice
from pathlib import Path

import pytest
import torch

from ray_distil.chat.tokenization import load_tokenizer
from ray_distil.config.models import TINY_MODELS
from ray_distil.tiny.world import draw_problem
from tools.tiny import train as tiny
from tools.tiny.answers import Answer, score
from tools.tiny.examples import Examples, mixed
from tools.tiny.muon import Muon, orthogonalized

TOKENIZER = load_tokenizer(str(TINY_MODELS / "student-base"))


def trained(steps: int) -> torch.nn.Module:
    torch.set_num_threads(1)  # as `make` does; also quicker where both cores are busy
    torch.manual_seed(7)
    model = tiny.new_model(TOKENIZER)
    batches = mixed(Examples(TOKENIZER), {"facts": 0.5, "story": 0.5}, 256, seed=7)
    tiny.train(model, batches, steps, 4e-3, TOKENIZER.pad_token_id, "trial")
    return model


def test_muon_is_torchs_own_up_to_its_precision() -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.zeros(24, 40)) for _ in range(2))
    mine = Muon([ours], lr=0.1, weight_decay=0.01)
    reference = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        ours.grad = torch.randn(24, 40)
        theirs.grad = ours.grad.clone()
        mine.step()
        reference.step()
    assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999
    assert ours.norm().item() == pytest.approx(theirs.norm().item(), rel=0.02)


@pytest.mark.parametrize("shape", [(8, 32), (32, 8)])
def test_orthogonalized_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    values = torch.linalg.svdvals(orthogonalized(torch.randn(*shape, generator=torch.Generator().manual_seed(1))))
    assert 0.6 < values.min() <= values.max() < 1.3


def test_muon_refuses_what_is_no_matrix() -> None:
    with pytest.raises(ValueError, match=r"matrices.*\(3,\)"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)


def test_training_repeats_exactly_and_learns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "LOG_STEPS", 5)
    first, second = trained(10), trained(10)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    losses = [float(line.split("loss ")[1].split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert losses[:2] == losses[2:]
    assert losses[1] < losses[0] - 0.1


def test_what_is_saved_loads_as_it_was(tmp_path: Path) -> None:
    model = trained(1)
    tiny.save(model, TOKENIZER, tmp_path / "m")
    again = tiny.load(tmp_path / "m")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert again.generation_config.eos_token_id == TOKENIZER.eos_token_id


def test_courses_make_what_ships_each_after_what_it_needs() -> None:
    made: set[str] = set()
    waiting = list(tiny.COURSES)
    while waiting:
        ready = [course for course in waiting if course.needs <= made]
        assert ready, f"{[c.name for c in waiting]} wait for each other"
        made |= {course.name for course in ready}
        waiting = [course for course in waiting if course not in ready]
    assert made >= set(tiny.SHIPPED) == {p.parent.name for p in TINY_MODELS.glob("*/config.json")}
    for course in tiny.COURSES:
        assert course.chains_of or sum(course.mixture.values()) == pytest.approx(1)
        assert all(callable(getattr(Examples, kind)) for kind in course.mixture)


def test_a_score_counts_complete_right_answers_only() -> None:
    problem = draw_problem(random.Random(1))
    right, wrong = (f"The final answer is \\boxed{{{n}}}." for n in (problem.answer, problem.answer + 1))
    answers = [
        Answer(problem, right, 10, "stop"),
        Answer(problem, f"<think>\n{wrong}\n</think>\n\n{right}", 30, "stop"),
        Answer(problem, right, 600, "length"),
        Answer(problem, f"<think>\n{right}", 20, "stop"),
        Answer(problem, wrong, 40, "stop"),
    ]
    assert [a.correct for a in answers] == [True, True, False, False, False]
    assert score(answers).accuracy == pytest.approx(0.4)
    assert score(answers).mean_tokens == pytest.approx(140)


def test_batches_of_a_mixture_are_the_same_for_the_same_seed() -> None:
    examples = Examples(TOKENIZER)
    draws = [list(islice(mixed(examples, {"slow": 0.5, "rewrite": 0.5}, 3072, seed), 3)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
