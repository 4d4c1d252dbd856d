"""What a run will need, told before anything is spent: rows, tokens, hours of engines and GPUs, money, disk.

The numbers of instructions and responses are exact. Later stages depend on texts that do not exist yet; their numbers
are estimated from `plan` in the configuration. Starts nothing. Asks a hub for the size of the student, and for
instructions that lie there if `plan.num_instructions` does not give their number.
"""

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from ray_distil.chat.prompts import LONG2SHORT
from ray_distil.checks import preflight, weight_files
from ray_distil.commands import status
from ray_distil.config import StagesConfig, TeacherConfig
from ray_distil.config.evaluation_config import HELD_OUT, BenchmarkConfig, folder_of
from ray_distil.config.models import named_models, resolve_model, responses_of
from ray_distil.config.plan_config import Expected
from ray_distil.errors import PlaceAway, UserError
from ray_distil.generate import generators
from ray_distil.generate.generator import Generator
from ray_distil.planning.plan_steps import generation, training_steps
from ray_distil.planning.plan_table import UNITS, Step, table
from ray_distil.problems import benchmark_rows
from ray_distil.problems.collecting import reading
from ray_distil.problems.problem_sources import all_sources
from ray_distil.records import sources
from ray_distil.records.problem_facts import EVAL, TRAIN
from ray_distil.records.problems import Problems
from ray_distil.report.benchmark_tables import scaled
from ray_distil.report.cost import expected_key, unlike_prices
from ray_distil.stages import asking, instructions
from ray_distil.store import hub
from ray_distil.store.shards import REASON
from ray_distil.store.storage import describe

SYSTEM_TOKENS = len(LONG2SHORT) / 4  # about four characters of English a token


@dataclass(frozen=True)
class Plan:
    """The steps in their order, and remarks for the user."""

    steps: list[Step]
    remarks: list[str]
    problems: Problems | None = None  # None where their files are not there
    assumptions: str = ""

    def __str__(self) -> str:
        """The table and the remarks, as the command prints them."""
        with (console := Console(width=120, color_system=None)).capture() as printed:
            console.print(table(self.steps), *self.lines, sep="\n", soft_wrap=True)
        return printed.get()

    @property
    def lines(self) -> list[str]:
        """What stands below the table."""
        return [*filter(None, [self.assumptions]), *self.remarks]


def checked(config: StagesConfig) -> Plan:
    """The plan, and the remarks of the checks that need no Ray. Raises UserError for settings that cannot be right."""
    config, remarks = _with_reachable_folder(config)
    planned = make(config)
    remarks = [
        *status.remarks_on_plan(config, planned.problems),
        *preflight.check_plan(config, planned.problems),
        *remarks,
    ]
    return replace(planned, remarks=[*planned.remarks, *remarks])


def _with_reachable_folder(config: StagesConfig) -> tuple[StagesConfig, list[str]]:
    """The configuration, planned as a new run where its object store cannot be reached from this machine; remarks."""
    try:
        config.run_folder.exists()
    except (PlaceAway, OSError) as error:
        place = Path(tempfile.gettempdir(), f"ray_distil-{os.getpid()}")  # where nothing is
        run = config.run.model_copy(update={"storage_path": str(place)})
        text = (
            str(error) if isinstance(error, PlaceAway) else f"{config.run_folder} cannot be reached: {describe(error)}"
        )
        return config.model_copy(update={"run": run}), [f"run.storage_path: {text}; planned as a new run"]
    return config, []


def show(config: StagesConfig, console: Console) -> None:
    """Print the checked plan and its remarks."""
    planned = checked(config)
    console.print(table(planned.steps), *planned.lines, sep="\n", soft_wrap=True)


def make(config: StagesConfig) -> Plan:
    """The plan of a run. Raises UserError for instructions that cannot be used."""
    assumed, num_parameters = config.plan, student_parameters(config)
    remarks: list[str] = []
    prompt = assumed.num_prompt_tokens
    num_train, num_eval, problems, steps = 0, 0, None, list[Step]()
    if config.teachers is not None or config.training is not None:  # neither: jobs/eval.py
        num_train, num_eval, problems = _instructions(config, remarks)
        total = num_train + num_eval
        steps.append(Step("instructions", total, size=total * prompt * assumed.bytes_per_token))
    num_examples = tokens_learnt = 0.0

    models = named_models(config)
    teachers, rewriter = generators.teachers(config, models), generators.rewriter(config, models)
    for name, section in config.teachers.sections.items() if config.teachers is not None else ():
        # Responses.
        expected = assumed.expected(name, section.sampling_params.max_tokens)
        rows, is_exact = _num_responses(name, section, num_train, problems)
        remarks += _at_most(name, section)
        if name in teachers:
            steps.append(generation(f"responses/{name}", rows, is_exact, prompt, expected, teachers[name], config))
            remarks += _too_long(f"plan.{name}", expected, teachers[name])
        else:
            size = rows * (prompt + expected.num_generated_tokens) * assumed.bytes_per_token
            steps.append(Step(f"responses/{name}", rows, is_exact, is_paid=False, size=size))
            remarks += _absent_responses(section, f"teachers.{name}")

        # What of them is learnt.
        num_kept, completion = rows * assumed.kept, expected.num_generated_tokens
        if name in config.candidates:
            num_examples += num_kept
            tokens_learnt += num_kept * (prompt + completion)
            remarks += _does_not_pack(name, prompt + completion, config)
        if name == "slow" and rewriter is not None:
            longer = prompt + SYSTEM_TOKENS + completion
            expected = assumed.expected("long2short", rewriter.sampling.max_tokens, rewriter.is_slow_teacher)
            steps.append(generation("rewrites", round(num_kept), False, longer, expected, rewriter, config))
            remarks += _too_long("plan.long2short", expected, rewriter)
            num_kept, completion = num_kept * assumed.kept, expected.num_generated_tokens
            num_examples += num_kept
            tokens_learnt += num_kept * (prompt + completion)
            remarks += _does_not_pack("long2short", prompt + completion, config)

    num_examples, tokens_learnt = _after_choice(num_examples, tokens_learnt, num_train, config)
    if config.training is not None and num_examples:
        num_learning = num_parameters or assumed.student_parameters
        steps += training_steps(round(num_examples), tokens_learnt, config, config.training, num_learning)
    elif num_examples:
        size = tokens_learnt * assumed.bytes_per_token
        steps.append(Step("sft_examples", round(num_examples), False, size=size))
    steps += _evaluations(num_eval, config, remarks)
    remarks += unlike_prices(config)
    if any(step.seconds is None for step in steps if step.tokens):
        remarks.append(
            "tokens are guesses, and hours not told, where the plan section has none; take them from a small run"
        )
    return Plan(steps, remarks, problems, _assumptions(config, num_parameters))


def _assumptions(config: StagesConfig, num_parameters: int | None) -> str:
    """What a plan takes from the section `plan`, which no change of a model changes. num_parameters: of the student's files."""
    assumed, parts = config.plan, list[str]()
    if config.training is not None and assumed.training_tokens_per_s is not None:
        stated = assumed.student_parameters
        of = f" of {scaled(stated, UNITS)} parameters" if stated is not None else ""
        parts.append(f"a student{of} learns {assumed.training_tokens_per_s:,.0f} tokens/s a worker")
        if num_parameters and stated and not 0.8 < num_parameters / stated < 1.25:
            parts[-1] += f" (training.student has {scaled(num_parameters, UNITS)}: set plan.training_tokens_per_s)"
        elif num_parameters is None:
            parts[-1] += f" (training.student is {config.training.student}, whose size could not be read)"
    sections = config.teachers.sections if config.teachers is not None else {}
    kinds = {name: getattr(assumed, name) for name in [*sections, "long2short"] if name in assumed.model_fields_set}
    evaluated = {f"eval/{name}": expected for name, expected in assumed.evaluation.items()}
    for name, expected in {**kinds, **evaluated}.items():
        rate = f" at {expected.tokens_per_s:,.0f} tokens/s" if expected.tokens_per_s else ""
        parts.append(f"{name} {expected.num_generated_tokens:,.0f} tokens a text{rate}")
    return f"assumed by the section plan, whatever the models are: {'; '.join(parts)}" if parts else ""


def student_parameters(config: StagesConfig) -> int | None:
    """The parameters of the student by the headers of its files, here or at the hub; None where they cannot be read."""
    if config.training is None:
        return None
    try:
        student = resolve_model(config.training.student, "training.student")
        if hub.is_hub_name(student) and (commit := hub.commit_of(student)) is not None:
            student = f"{hub.split(student)[0]}@{commit}"
        tensors = weight_files.headers(student)
    except (UserError, OSError, ValueError):  # the checks tell what is wrong with it
        return None
    return sum(tensor.numel() for tensor in tensors.values()) if tensors is not None else None


def _instructions(config: StagesConfig, remarks: list[str]) -> tuple[int, int, Problems | None]:
    """(number to train on, number held out, the rows). Rows are None where the numbers are assumed: no file yet."""
    config_section = config.instructions
    absent = list(filter(None, map(sources.absence, all_sources(config_section))))
    if absent and config.plan.num_instructions is not None:
        assumed = min(config.plan.num_instructions, config_section.num_train or config.plan.num_instructions)
        remarks.append(f"{' and '.join(absent)}: counted as plan.num_instructions={assumed:,}")
        return assumed, config_section.num_eval, None
    problems = instructions.collected(config, remarks)
    remarks += reading(config_section, problems.facts)
    return problems.facts.usable[TRAIN], problems.facts.usable[EVAL], problems


def _after_choice(num_examples: float, tokens: float, num_train: int, config: StagesConfig) -> tuple[float, float]:
    """Examples and their tokens after `curation`: `keep` of each problem, and the budget. Difficulty is not known yet."""
    curation = config.curation
    limit = num_train * curation.keep if curation.choose != "all" else num_examples
    share = min(1.0, limit / num_examples) if num_examples else 1.0
    if curation.max_tokens is not None and tokens:
        share = min(share, curation.max_tokens / tokens)
    return num_examples * share, tokens * share


def _num_responses(name: str, section: TeacherConfig, num_train: int, problems: Problems | None) -> tuple[int, bool]:
    """How many responses a teacher is asked for, at most, and whether the number is exact."""
    if problems is None:
        return round(num_train * section.fraction) * section.num_samples, False
    parts = problems.ids(TRAIN)
    rows = sum(asking.num_requests(ids, name, section.fraction, section.num_samples) for ids in parts)
    return rows, section.pass_rate is None


def _at_most(name: str, section: TeacherConfig) -> list[str]:
    if section.pass_rate is None:
        return []
    later = "how many it is asked is known when the other teacher has answered"
    return [f"teachers.{name}.pass_rate: responses/{name} counts all problems; {later}"]


def _absent_responses(teacher: TeacherConfig, key: str) -> list[str]:
    source = responses_of(teacher, key)
    absence = "" if source.is_on_hub else sources.absence(source)
    return [f"{source.key}: {absence.removeprefix(f'{source.key}: ')}"] if absence else []


def _evaluations(num_eval: int, config: StagesConfig, remarks: list[str]) -> list[Step]:
    evaluation = config.evaluation
    steps, assumed = [], config.plan.evaluation
    for benchmark in evaluation.benchmarks:
        label, (problems, exact) = evaluation.label(benchmark), _problems(benchmark, num_eval, remarks)
        for model in evaluation.models:
            key = expected_key(config, model.name, label)
            expected = assumed.get(key) or Expected().below(evaluation.sampling_of(benchmark).max_tokens)
            rows, prompt = problems * evaluation.samples_of(benchmark), config.plan.num_prompt_tokens
            generator = generators.evaluated(config, model, benchmark, "")
            name = f"eval/{model.name}/{folder_of(label)}"
            steps.append(generation(name, rows, exact, prompt, expected, generator, config))
            remarks += _too_long(f"plan.evaluation.{key}", expected, generator)
            if timed := min(evaluation.num_timed, problems):
                name = name.replace("eval/", "timing/", 1)
                steps.append(generation(name, timed, exact, prompt, expected, generator, config))
    return steps


def _problems(benchmark: BenchmarkConfig, num_eval: int, remarks: list[str]) -> tuple[int, bool]:
    """(number of problems, whether they were counted). The declared number is taken where no file is here to count."""
    if benchmark.name == HELD_OUT:
        return num_eval, True
    source = benchmark_rows.source_of(benchmark)
    if source is None or not (absence := sources.absence(source)):
        return sum(REASON not in row for row in benchmark_rows.problems(benchmark)), True
    number = benchmark.num_problems
    if number is None:
        remarks.append(f"{benchmark.name}: {absence}: counted as no problem; set num_problems")
    return min(number or 0, benchmark.limit or number or 0), False


def _too_long(key: str, expected: Expected, generator: Generator) -> list[str]:
    max_tokens = generator.sampling.max_tokens
    if expected.num_generated_tokens < max_tokens:
        return []
    mean = f"{key}.num_generated_tokens={expected.num_generated_tokens:,.0f}"
    return [
        f"{mean} reaches {generator.section}.sampling_params.max_tokens={max_tokens:,}: most would be rejected as cut"
    ]


def _does_not_pack(name: str, tokens: float, config: StagesConfig) -> list[str]:
    length = config.packing.max_length if config.training is not None else None  # else nothing is packed
    if length is None or tokens <= length or name not in config.plan.model_fields_set:
        return []
    return [f"{name} examples of {tokens:,.0f} tokens exceed packing.max_length={length:,}: most are rejected"]
