"""Which problems a teacher is asked: a share of all by hash, or those that the other teacher does not solve."""

from collections.abc import Container, Iterator, Sequence
from math import prod

import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.config import StagesConfig
from ray_distil.config.findings import Finding, remark
from ray_distil.generate.generation import is_transient
from ray_distil.judge import gates
from ray_distil.records.problem_facts import TRAIN, Facts
from ray_distil.runner.stage import of_split, where
from ray_distil.selection.pass_rates import PassRates
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import IdSet
from ray_distil.store.schemas import stable_fraction
from ray_distil.store.shards import REASON


def is_asked(instruction_id: str, teacher: str, fraction: float, settled: Container[str] | None = None) -> bool:
    """Whether a teacher is asked this instruction: one of `settled`; None: a hash chooses the share `fraction` of all."""
    return stable_fraction(teacher, instruction_id) < fraction if settled is None else instruction_id in settled


def num_requests(instruction_ids: list[str], teacher: str, fraction: float, num_samples: int) -> int:
    """The number of responses that a teacher must give to these instructions."""
    return sum(is_asked(i, teacher, fraction) for i in instruction_ids) * num_samples


def num_finished(responses: Artifact, teachers: Sequence[str]) -> int:
    """The rows of these teachers that a stopped run has finished, without those that are tried again. One that it wrote
    twice counts once.
    """
    lasting = [row for row in responses.rejected() if not is_transient(row[REASON])]
    parts = [[row["response_id"] for row in lasting if row["teacher"] in teachers]]
    for table in responses.tables(["response_id", "teacher"]):
        is_of = pc.is_in(table["teacher"], pa.array(teachers, pa.string()))
        parts.append(table["response_id"].filter(is_of).to_pylist())
    return len(IdSet(parts))


def by_pass_rate(problems: Artifact, responses: Artifact, teacher: str, config: StagesConfig) -> tuple[IdSet, str]:
    """The problems that a teacher with a pass rate is asked, when the other one has answered, and a line on them.

    A problem that the teacher was asked before is among them, whatever the other one's responses are by now.
    """
    assert config.teachers is not None
    sections = config.teachers.sections
    section, (first,) = sections[teacher], [name for name in sections if name != teacher]
    lowest, highest = section.pass_rate or (0.0, 1.0)
    columns = ["response_id", "instruction_id", "teacher", "verdict"]
    rates = PassRates(responses.tables(columns), first, sections[first].num_samples, gates.ACCEPTED)

    # Those that it was asked before.
    parts = [[row["instruction_id"] for row in responses.rejected() if row["teacher"] == teacher]]
    parts += [where(table, "teacher", teacher)["instruction_id"].to_pylist() for table in responses.tables(columns)]

    # Those of the rate, and of these the share `fraction`.
    num_problems = 0
    for table in of_split(problems, TRAIN, ["instruction_id"]):
        ids = table["instruction_id"].to_pylist()
        num_problems += len(ids)
        parts.append([i for i in rates.within(ids, lowest, highest) if is_asked(i, teacher, section.fraction)])
    settled = IdSet(parts)
    share = f"{lowest:.0%} to {highest:.0%}" if highest > lowest else f"{lowest:.0%}"
    return (
        settled,
        f"{teacher} is asked {len(settled):,} of {num_problems:,} problems: those of which {share} of {first}'s responses are right",
    )


def asked_of_none(config: StagesConfig, facts: Facts) -> Iterator[Finding]:
    """A remark where a part of the training problems is asked of no teacher."""
    teachers = config.teachers.sections if config.teachers is not None else {}
    share = prod(1 - teacher.fraction for teacher in teachers.values())
    if teachers and share:
        number = round(share * facts.usable[TRAIN])
        keys = " and ".join(f"teachers.{name}.fraction" for name in teachers)
        yield remark(keys, f"about {number:,} of {facts.usable[TRAIN]:,} problems are asked of no teacher")
