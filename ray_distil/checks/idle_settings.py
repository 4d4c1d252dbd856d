"""Remarks on settings that change nothing: teachers whose texts are not learnt, a choice among one text, equal samples."""

from collections.abc import Iterator

from ray_distil.config import TRAINED, StagesConfig
from ray_distil.config.findings import Finding, remark


def findings(config: StagesConfig) -> Iterator[Finding]:
    yield from _same_samples(config)
    yield from _never_learnt(config)
    yield from _without_base(config)
    yield from _no_choice(config)


def _never_learnt(config: StagesConfig) -> Iterator[Finding]:
    """A teacher generates, and none of its texts may be learnt."""
    kinds = {"direct": {"direct"}, "slow": {"slow", "rewrite", "conclusion"}}
    for name in config.teachers.sections if config.teachers is not None else ():
        if not kinds[name] & set(config.candidates):
            candidates = ", ".join(config.candidates)
            text = f"it is asked, and none of its texts is learnt; curation.candidates is {candidates}"
            yield remark(f"teachers.{name}", text)


def _without_base(config: StagesConfig) -> Iterator[Finding]:
    """The trained student is compared, and not with itself before its training."""
    sources = [model.model_source for model in config.evaluation.models]
    if config.training is None or TRAINED not in sources or config.training.student in sources:
        return
    student = config.training.student
    text = (
        f"none is {student}, the student before its training, so no figure says what the training brings; name it there"
    )
    yield remark("evaluation.models", text)


def _no_choice(config: StagesConfig) -> Iterator[Finding]:
    """A choice among one text, and a pass rate of one sample."""
    teachers = config.teachers.sections if config.teachers is not None else {}
    section, samples = config.curation, {name: teacher.num_samples for name, teacher in teachers.items()}
    num_texts = sum(samples.get("direct" if kind == "direct" else "slow", 0) for kind in config.candidates)
    if section.choose != "all" and num_texts == 1:
        text = "changes nothing: each problem has one candidate; see teachers.*.num_samples and curation.candidates"
        yield remark("curation.choose", f"{section.choose} {text}")
    by_rate = [key for key in ("pass_rate", "easy_fraction", "slow_fraction", "vote") if key in section.chosen_by]
    if by_rate and sum(samples.values()) == 1:
        yield remark(
            f"curation.{by_rate[0]}", "by one sample a problem, a pass rate is 0 or 1; see teachers.*.num_samples"
        )


def _same_samples(config: StagesConfig) -> Iterator[Finding]:
    """Several samples at temperature 0: they would all be the same text."""
    teachers = config.teachers.sections if config.teachers is not None else {}
    sampled = [
        (f"teachers.{name}", teacher.num_samples, teacher.sampling_params)
        for name, teacher in teachers.items()
        if teacher.responses is None
    ]
    evaluation = config.evaluation
    for benchmark in evaluation.benchmarks if evaluation.models else ():
        sampling = evaluation.sampling_of(benchmark)
        sampled.append((f"evaluation.benchmarks: {benchmark.name}", evaluation.samples_of(benchmark), sampling))
    for key, number, sampling in sampled:
        if number > 1 and sampling.temperature == 0:
            text = f"{number} samples at temperature 0 are one text {number} times; set a temperature, or one sample"
            yield remark(key, text)
