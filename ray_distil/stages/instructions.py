"""Instructions, from the tiny world or from the user's own sources."""

from collections.abc import Iterator
from typing import Any

from ray_distil.config import InstructionsConfig, StagesConfig
from ray_distil.config.findings import Finding
from ray_distil.errors import UserError
from ray_distil.problems.benchmark_rows import problems_mark, test_problems
from ray_distil.problems.benchmark_rows import source_of as source_of_benchmark
from ray_distil.problems.collecting import collect, mostly_alike, refuse_empty, unchecked
from ray_distil.problems.problem_sources import held_out_source, left_out, source_fingerprints, training_sources
from ray_distil.records import sources
from ray_distil.records.problem_facts import Facts, StoredProblems, summary_of
from ray_distil.records.problems import Problems
from ray_distil.runner import remaking
from ray_distil.runner.id_rule import ids_by_source, keep_ids_by_source
from ray_distil.runner.runs import Run
from ray_distil.runner.stage import Made, Stage
from ray_distil.runner.stage_settings import StageSettings, values_of
from ray_distil.selection.contamination import BenchmarkProblem
from ray_distil.store.artifact import Artifact
from ray_distil.store.manifest import fingerprint
from ray_distil.store.schemas import INSTRUCTIONS

OF_NO_ROW = ("path", "license")  # of a source; what is in its file is an input of the stage
FIRST_KEYS = (  # of `instructions`; later ones count where they are set
    "dataset_split", "dataset_name", "drop_system", "columns", "num_train", "eval_split", "num_eval",
)  # fmt: skip


class Instructions(Stage):
    """All records as rows, accepted or rejected."""

    artifact = fingerprint_name = "instructions"
    version, schema, unit = 2, INSTRUCTIONS, "instructions"

    def __init__(self, run: Run, records: Problems | StoredProblems) -> None:
        keep_ids_by_source(run.folder, self.artifact)
        self.run, self.records = run, records
        self.settings = settings_of(run.config)
        self.inputs = source_fingerprints(run.config.instructions)

    def loss(self, artifact: Artifact) -> str:
        lost = remaking.lost_ids(artifact, self.settings.values)
        if lost or not artifact.is_of_other_settings() or isinstance(self.records, StoredProblems):
            return lost
        number = remaking.num_with_texts(artifact, self.records.ids_alike())
        names = ", ".join(benchmark.name for benchmark in self.run.config.test_sets) or "held-out"
        if not number:
            return ""
        return (
            f"{number:,} problems with texts that were paid for are like an earlier one, or hold a problem of {names}, and "
            "would be left out (instructions.near_duplicates, instructions.decontamination.benchmarks)"
        )

    def make(self, artifact: Artifact) -> Made:
        records = self.records
        if isinstance(records, StoredProblems):  # they are gone meanwhile
            records = collected(self.run.config)
        for table in records.tables():
            artifact.write_table(table, self.artifact)
        return records.facts.num_rows, summary_of(records.facts)


def settings_of(config: StagesConfig) -> StageSettings:
    """Without the paths of the sources: another name or place of a file changes nothing.

    What the sources hold is an input of the stage (`source_fingerprints`). A run of an earlier version, which looked for no
    near-duplicates and contaminated problems, keeps its problems until a key of them is set.
    """
    section = config.instructions
    of_likeness = ("near_duplicates", "decontamination")
    values = values_of(section, FIRST_KEYS, without=("suffix", "sources", "eval_path", *OF_NO_ROW, *of_likeness))
    training, held_out = training_sources(section), held_out_source(section)
    kinds = ["tiny" if source is None else "own" for source in [*(s.source for s in training), held_out]]
    source_settings: dict[str, Any] = {"ids": "text", "sources": kinds}
    if ids_by_source(config.run_folder, Instructions.artifact):
        labels = [source.label if source.source is not None else None for source in training]
        source_settings = {"sources": [*labels, held_out.label if held_out is not None else None]}
    if section.sources:
        source_settings["mixture"] = [values_of(source, (), without=OF_NO_ROW) for source in section.sources]
    values |= source_settings | {"seed": config.run.seed}
    likeness = _likeness_settings(config)
    is_default = all(getattr(section, key) == getattr(InstructionsConfig(), key) for key in of_likeness)
    return StageSettings(values | likeness, earlier=StageSettings(values) if is_default else None)


def _likeness_settings(config: StagesConfig) -> dict[str, Any]:
    section, settings = config.instructions, dict[str, Any]()
    if section.near_duplicates is not None:
        settings["near_duplicates"] = section.near_duplicates
    if section.decontamination.coverage is not None:
        settings["decontamination"] = section.decontamination.model_dump(mode="json", exclude={"benchmarks"}) | {
            "benchmarks": {benchmark.name: problems_mark(benchmark) for benchmark in config.test_sets}
        }
    return settings


def read_problems(config: StagesConfig) -> Problems | StoredProblems:
    """The problems of a run, from its artifact where this is complete and of the same source, else from the source.

    Raises UserError where the source cannot be used.
    """
    inputs = source_fingerprints(config.instructions)
    for rules in settings_of(config).all_rules():
        mark = fingerprint(Instructions.fingerprint_name, Instructions.version, rules.values, inputs)
        stored = Artifact(config.run_folder, Instructions.artifact, INSTRUCTIONS, mark)
        if stored.is_complete():
            return StoredProblems(stored)
    return collected(config)


def collected(config: StagesConfig, remarks: list[str] | None = None) -> Problems:
    """All records of a run's source, without those that hold a test problem.

    remarks: gets a line for each benchmark that is not there. Without it, such a benchmark raises UserError.
    """
    section = config.instructions
    by_source = ids_by_source(config.run_folder, Instructions.artifact)
    problems = collect(section, config.run.seed, by_source)
    if (coverage := section.decontamination.coverage) is None:
        return problems

    # The test problems are read last: a mistake in the problems' own file shows before a hub is asked.
    tests: list[BenchmarkProblem] = []
    for benchmark in config.test_sets:
        source = source_of_benchmark(benchmark)
        if remarks is not None and source is not None and (absence := sources.absence(source)):
            text = "problems that hold one of its are counted as training problems"
            remarks.append(f"{benchmark.name}: {absence}: {text}")
            continue
        try:
            tests += test_problems(benchmark)
        except UserError as error:
            remedy = "or leave it out of instructions.decontamination.benchmarks, and its problems may be learnt"
            raise UserError(f"{error}; {remedy}") from error
    problems.reject_contaminated(tests, coverage, section.decontamination.ignore_numbers)
    refuse_empty(section, problems.facts)
    return problems


def findings(config: InstructionsConfig, facts: Facts) -> Iterator[Finding]:
    """What is told of a run's problems: files that are not read, sources without answers, and a wrong file."""
    yield from left_out(config)
    yield from unchecked(config, facts)
    yield from mostly_alike(facts)
