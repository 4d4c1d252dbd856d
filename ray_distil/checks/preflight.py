"""Checks in the first seconds, before Ray starts, for mistakes that would show only after the money is spent.

`check` raises ConfigError with a line for each setting that cannot be right. It returns remarks on settings that may be
right, e.g. a system prompt that a chat template adds, or instructions without a reference answer.
"""

import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec

from ray_distil.chat.chat_templates import ChatSettings, encode_prompt, render_prompt
from ray_distil.chat.model_files import read_config
from ray_distil.chat.prompts import instruction_messages
from ray_distil.chat.reasoning_marks import THINK_END
from ray_distil.checks import endpoint_checks, idle_settings, libraries, model_checks, training_memory, weight_files
from ray_distil.checks.model_checks import CheckedModel
from ray_distil.checks.resources import for_cluster, unwritable, what_cannot_come
from ray_distil.config import TRAINED, StagesConfig, TrainingConfig
from ray_distil.config.findings import Finding, remark
from ray_distil.config.models import beyond_tiny, model_sources, named_models, resolve_model
from ray_distil.errors import ConfigError, HubAway, UserError
from ray_distil.generate import endpoint, engine, generators, own_backend
from ray_distil.judge.agreement import JUDGE, wrong_judge
from ray_distil.records.problem_facts import Figures
from ray_distil.report.provenance import check_run
from ray_distil.runner import frozen
from ray_distil.runtime import user_code
from ray_distil.runtime.session import is_local
from ray_distil.stages import asking, export_check, instructions
from ray_distil.store.storage import Folder
from ray_distil.train.attention import FLAT

GENERATED = ("responses", "rewrites", "eval")  # what of a run can be used again


def check(
    config: StagesConfig, models: dict[str, str], problems: Figures | None = None, planned: bool = False
) -> list[str]:
    """Remarks. Raises ConfigError with one line for each mistake. `problems`: None where they are not known.

    `planned`: only a plan is made, maybe not on the machine of the run: missing CPUs and GPUs are then only remarks.
    """
    remarks: dict[str, None] = {}  # each once, in their order
    for findings in _phases(config, models, problems, planned):
        phase_findings = list(findings)
        if errors := dict.fromkeys(str(finding) for finding in phase_findings if finding.is_error):
            raise ConfigError("\n".join(errors))
        remarks |= dict.fromkeys(map(str, phase_findings))
    return list(remarks)


def check_plan(config: StagesConfig, problems: Figures | None) -> list[str]:
    """`check` for a plan. A model of a hub that cannot be reached is checked by the file alone; a remark names it."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # only the plan goes to the console
    models, absent, mistakes = dict[str, str](), dict[str, str](), list[str]()
    for key, source in model_sources(config).items():
        try:
            models[key.removesuffix(".engine.model_source")] = resolve_model(source, key)
        except HubAway as error:
            absent[source] = str(error).partition(", and ")[2]
        except ConfigError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ConfigError("\n".join(mistakes))

    models, _ = frozen.freeze(config, models)
    remarks = check(config, models, problems, planned=True)
    if absent:
        names = ", ".join(absent)
        skipped = "files, chat template, tokenizer, context and class"
        remarks.append(f"not on this machine, and not checked: {skipped} of {names}; {next(iter(absent.values()))}")
    return remarks


def _phases(
    config: StagesConfig, models: dict[str, str], problems: Figures | None, planned: bool
) -> Iterator[Iterable[Finding]]:
    """The checks in groups: where one has found an error, the next ones, which may rely on it, are not done."""
    yield _user_code(config)
    yield libraries.unfit() if config.engines or config.training is not None else []

    # What this machine lacks, the one of the run may have.
    resources = list(_resources(config))
    if planned and resources:
        first = min(resources, key=lambda finding: "gpu" not in finding.key)  # the first one of a GPU
        more = f" ({len(resources) - 1} more settings like this)" if resources[1:] else ""
        text = for_cluster(config) or f"on this machine the run would end at once: {first}{more}"
        resources = [remark("", text)]

    yield [*resources, *_written_lengths(config, models), *_of_models(config, models, problems)]
    yield unwritable(config.run_folder) if planned else []
    yield _no_runs(config)
    if config.training is not None and (student := models.get("training.student")):
        yield _thinks_twice(config, config.training, student)
        yield _cannot_be_learnt(config, config.training, student, _prompts(config, problems, "train"))
        yield _not_loaded(student, config.training)
        yield training_memory.findings(config, config.training, student)
        evaluated = any(model.model_source == TRAINED for model in config.evaluation.models)
        yield _trial(student, config.training, config.packing.enabled, evaluated)
        yield export_check.before_training(config, config.training, student)
    yield engine.unknown_arguments(config.engines)
    yield [*_short_for_chains(config), *idle_settings.findings(config)]
    yield [remark("", text) for text in (beyond_tiny(config), _ends_with_examples(config)) if text]
    if problems is not None:
        yield [
            *instructions.findings(config.instructions, problems.facts),
            *asking.asked_of_none(config, problems.facts),
        ]
    # Last, because a request of one token is paid for.
    yield endpoint_checks.findings(config, models) if not planned else endpoint_checks.missing_keys(config)


def _no_runs(config: StagesConfig) -> Iterator[Finding]:
    """An error for each folder of run.reuse that is no run, has no texts, or is this run."""
    for path, folder in zip(config.run.reuse, config.reused_runs, strict=True):
        try:
            check_run(folder)
        except UserError as problem:
            yield Finding("run.reuse", f"{path!r} cannot be used again: {problem}")
            continue
        if _is_same(folder, config.run_folder):
            yield Finding("run.reuse", f"{path!r} is the folder of this run itself; leave it out")
        elif not any((folder / name).is_folder() for name in GENERATED):
            yield Finding(
                "run.reuse",
                f"{path!r} cannot be used again: it has no {', '.join(GENERATED)}; give the folder of a run, e.g. runs/tiny",
            )


def _is_same(first: Folder, second: Folder) -> bool:
    """Whether two folders are one, also by a link."""
    if first.local is None or second.local is None:
        return str(first) == str(second)
    return first.local.resolve() == second.local.resolve()


def _ends_with_examples(config: StagesConfig) -> str:
    if config.teachers is None or config.training is not None:
        return ""
    return "training is null: the run ends with its examples; nothing is trained, and no model is compared"


def _user_code(config: StagesConfig) -> Iterator[Finding]:
    """Functions of the user's own that cannot be imported, or not be called as they will be."""
    judge = config.answers.judge
    paths = [(f"gates.custom: {path}", path) for path in config.gates.custom] + ([(JUDGE, judge)] if judge else [])
    for benchmark in config.evaluation.benchmarks:
        paths += [(f"evaluation.benchmarks: {benchmark.name}.scorer", benchmark.scorer)] if benchmark.scorer else []
    paths += [(f"{key}.build", backend.build) for key, backend in config.own_backends.items()]
    for key, path in paths:
        try:
            user_code.load(path)
        except UserError as error:
            yield Finding(key, str(error))
            return

    # Each is called as a stage will call it.
    if judge and (mistake := wrong_judge(judge)):
        yield Finding(JUDGE, mistake)
    for gate in config.gates.custom:
        if mistake := user_code.wrong_call(gate, row=""):
            yield Finding("gates.custom", mistake)
    for benchmark in config.evaluation.benchmarks:
        if benchmark.scorer and (mistake := user_code.wrong_call(benchmark.scorer, response="", reference="")):
            yield Finding(f"evaluation.benchmarks: {benchmark.name}.scorer", mistake)
    for key, backend in config.own_backends.items():
        if mistake := own_backend.wrong_arguments(backend):
            yield Finding(f"{key}.kwargs", mistake)


def _of_models(config: StagesConfig, models: dict[str, str], problems: Figures | None) -> Iterator[Finding]:
    for checked in _checked_models(config, models, problems):
        yield from model_checks.findings(checked)


def _written_lengths(config: StagesConfig, models: dict[str, str]) -> Iterator[Finding]:
    """Of models without files on this machine: max_tokens beyond the max_model_len that the configuration gives."""
    absent = {section: model for section, model in named_models(config).items() if section not in models}
    for generator in generators.generators(config, absent):
        length = engine.context_of(generator.engine) if generator.engine is not None else None
        max_tokens = generator.sampling.max_tokens
        if length is not None and max_tokens > length:
            yield Finding(
                f"{generator.section}.sampling_params.max_tokens",
                f"{max_tokens:,}, and its engine reads {length:,} with the prompt; lower it, or raise "
                f"{generator.backend_section}.engine.engine_kwargs.max_model_len",
            )


def _resources(config: StagesConfig) -> Iterator[Finding]:
    if is_local():
        yield from what_cannot_come(config)
        yield from endpoint.what_cannot_open(config.endpoints)


def _checked_models(config: StagesConfig, models: dict[str, str], problems: Figures | None) -> Iterator[CheckedModel]:
    """The models in `models`, once for each way in which the configuration uses them; no endpoint's."""
    for generator in generators.generators(config, models):
        if generator.engine is not None:
            yield CheckedModel(
                generator.section,
                generator.model,
                generator.chat(),
                generator.system_prompt,
                f"{generator.backend_section}.engine",
                generator.engine,
                generator.sampling,
                _prompts(config, problems, generator.split) if generator.split else [],
            )
    if config.training is not None and "training.student" in models:
        chat = ChatSettings.of(config.training.chat_template_kwargs)
        yield CheckedModel("training.student", models["training.student"], chat, config.training.system_prompt)


def _prompts(config: StagesConfig, problems: Figures | None, split: str) -> list[str]:
    if problems is None:
        return []
    return [text + config.instructions.suffix for text in problems.samples[split]]


def _not_loaded(student: str, training: TrainingConfig) -> Iterator[Finding]:
    """A student that Transformers cannot load from its files, or only in part; layers that it does not have."""
    mistake: str | None
    try:
        mistake = weight_files.wrong_student(student)
    except (UserError, OSError) as error:
        mistake = str(error)
    except ImportError as error:
        mistake = f"its class cannot be imported ({libraries.first_line(error)[:150]}); install what it needs"
    except ValueError as error:  # Transformers', of a config.json
        mistake = f"{_first(error)}; train another student"
    if mistake is None:
        text = "the names of its weights could not be read; if some are missing, only the training tells it, when it begins"
        yield remark("training.student", text)
    if mistake:
        yield Finding("training.student", mistake)
    elif training.lora is not None and (text := wrong_targets(student, training.lora.target_modules)):
        yield Finding("training.lora.target_modules", text)


def _trial(student: str, training: TrainingConfig, packing: bool, evaluated: bool) -> Iterator[Finding]:
    """A step of a small copy of the student; see `leaks.leak` and `trial_step`. Where it cannot be tried, a remark says so."""
    from ray_distil.checks.leaks import leak
    from ray_distil.checks.trial_step import wrong_step

    implementation = training.attn_implementation
    together = packing or (implementation in FLAT and training.train_micro_batch_size_per_gpu > 1)
    try:
        with weight_files.quiet():
            text = leak(student, implementation, together) or wrong_step(student, training, together, evaluated)
        if text:
            yield Finding("training.student", text)
    except ImportError as error:
        yield Finding("training.student", f"its architecture needs a package that is not installed ({_first(error)})")
    except Exception as error:  # noqa: BLE001  model code may raise any error at unusual sizes
        yield remark(
            "training.student",
            "a training step could not be tried on a small copy of its architecture "
            f"({type(error).__name__}: {_first(error)[:150]})",
        )


def _first(error: Exception) -> str:
    return " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())


def _cannot_be_learnt(
    config: StagesConfig, training: TrainingConfig, student: str, prompts: list[str]
) -> Iterator[Finding]:
    """Settings of training under which no worker would start, or no example would be left."""
    if training.attn_implementation == "flash_attention_2":
        key = "training.attn_implementation"
        if not training.use_gpu:
            yield Finding(key, "flash_attention_2 needs a GPU; use sdpa, or set training.use_gpu=true")
        elif is_local() and find_spec("flash_attn") is None:
            yield Finding(key, "flash_attention_2 needs the package flash-attn; install it, or use sdpa")

    # The shortest prompt: where it does not fit, no example does.
    max_length = config.packing.max_length
    if max_length is None or not prompts or config.packing.template is not None:
        return
    chat = ChatSettings.of(training.chat_template_kwargs)
    turns = (instruction_messages(text, "", training.system_prompt) for text in prompts)
    shortest = min(len(encode_prompt(turn, student, chat)) for turn in turns)
    if shortest >= max_length:
        yield Finding(
            "packing.max_length",
            f"{max_length:,}, and the shortest prompt has {shortest:,} tokens; no example would be left",
        )


def wrong_targets(student: str, targets: str | list[str]) -> str:
    """See `lora.wrong_targets`; tried on the student without its weights."""
    from ray_distil.train import lora
    from ray_distil.train.small_copies import without_weights

    return lora.wrong_targets(without_weights(read_config(student)), targets)


def _thinks_twice(config: StagesConfig, training: TrainingConfig, student: str) -> Iterator[Finding]:
    """Completions are chains of thought, but the prompt ends with an empty, closed think block."""
    has_chains = config.teachers is not None and config.teachers.slow is not None and "slow" in config.candidates
    if not has_chains or config.packing.template is not None:
        return
    chat = ChatSettings.of(training.chat_template_kwargs)
    prompt = render_prompt(instruction_messages("question", "", training.system_prompt), student, chat)
    if prompt.rstrip().endswith(THINK_END):
        yield remark(
            "training.student",
            "its prompt holds an empty think block, and the slow teacher's completions think behind it; set "
            "training.chat_template_kwargs so that the prompt leaves thinking open",
        )


def _short_for_chains(config: StagesConfig) -> Iterator[Finding]:
    """The rewriter's engine cannot read the longest chain that the slow teacher may write."""
    models = named_models(config)
    slow, rewriter = generators.teachers(config, models).get("slow"), generators.rewriter(config, models)
    if slow is None or rewriter is None or rewriter.engine is None:
        return
    length = engine.context_of(rewriter.engine)
    chain, rewrite = slow.sampling.max_tokens, rewriter.sampling.max_tokens
    if length is not None and chain + rewrite > length:
        yield remark(
            "long2short",
            f"a chain of {chain:,} tokens and a rewrite of {rewrite:,} are more than its engine reads ({length:,}); "
            "longer ones are rejected as prompt_too_long",
        )
