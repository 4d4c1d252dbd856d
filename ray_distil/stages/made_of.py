"""What each artifact of a run is made of: all that goes into its fingerprint beside its inputs, in one place.

    settings    what changes which rows there are, or what they say; another value remakes the artifact
    asked       only for generated texts: part (e.g. a teacher) -> two marks, one of all that changes the texts, one of
                the limits to their length. A row is used again where both marks are equal; where only the limits
                differ, if its text would be the same under the new limits (`store/reuse.py`)

A key of the configuration that is in neither of the two remakes nothing: the number of engines, the folder of the run,
how often a loss is logged.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from math import prod
from types import ModuleType
from typing import Any

from ray_distil.chat.chat_templates import chat_settings
from ray_distil.chat.prompts import long2short_messages
from ray_distil.config import TINY, StagesConfig, TrainingConfig
from ray_distil.config.evaluation_config import HELD_OUT, BenchmarkConfig, EvaluationConfig
from ray_distil.config.models import responses_of
from ray_distil.generate.generator import Generator
from ray_distil.judge import scorers
from ray_distil.records import sources
from ray_distil.runner.runs import Run
from ray_distil.runner.stage import MadeOf
from ray_distil.stages import evaluation, instructions, long2short, teacher
from ray_distil.store.artifact_reader import FINGERPRINT
from ray_distil.store.manifest import fingerprint, model_fingerprint
from ray_distil.store.storage import Folder
from ray_distil.store.superseded import saved_made_of

ASKED_WITH = ("system_prompt", "chat_template_kwargs")  # keys of `training` that packing and evaluation read
# Keys of `training` that change no weight of the student.
SILENT_TRAINING = {
    "resources_per_worker", "cpus_per_worker", "logging_steps", "save_steps", "save_minutes", "keep_states", "max_failures",
    "eval_steps", "tensorboard",
}  # fmt: skip
# Keys of `training` that say how a step is computed, and not what: another value may be the remedy for a lack of memory.
HOW_TRAINED = {
    "gradient_checkpointing", "attn_implementation", "torch_compile", "offload_optimizer", "use_gpu", "zero_stage",
}  # fmt: skip
IDS_BY_SOURCE = "ids_by_source"  # a file in the run's folder
SPLIT = ("num_workers", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def of_instructions(config: StagesConfig) -> MadeOf:
    """Without the paths of the sources: another name or place of a file changes nothing.

    What the sources hold is an input of the stage (`instructions.source_fingerprint`).
    """
    settings = config.instructions.model_dump(mode="json", exclude={"suffix", "path", "eval_path"})
    sources_ = instructions.sources_of(config.instructions)
    named: dict[str, Any] = {"ids": "text", "sources": ["tiny" if one is None else "own" for one in sources_]}
    if ids_by_source(config.run_folder, "instructions"):
        named = {"sources": [one.label if one is not None else None for one in sources_]}
    return MadeOf(settings | named | {"seed": config.run.seed})


def ids_by_source(run: Folder, artifact: str) -> bool:
    """Whether an artifact has rows whose ids depend on the name of their source, by the rule of earlier versions.

    Its run keeps this rule: by other ids, nothing that was made of these rows would be found again.
    """
    if run.exists(IDS_BY_SOURCE):
        return True
    folder = run / artifact
    return folder.exists(FINGERPRINT) and saved_made_of(folder).get("settings", {}).get("ids") != "text"


def keep_ids_by_source(run: Folder, artifact: str) -> None:
    """Write into the run that its ids are by the rule of earlier versions, if they are, before the artifact can move."""
    if ids_by_source(run, artifact) and not run.exists(IDS_BY_SOURCE):
        run.write_text(
            IDS_BY_SOURCE, "The ids of this run's rows are hashes of their texts and of the name of their file.\n"
        )


def of_responses(config: StagesConfig, generators: dict[str, Generator]) -> MadeOf:
    """`generators`: the teachers that generate, by name; the others' responses are imported."""
    return _with_earlier(lambda by_earlier_rules: _responses(config, generators, by_earlier_rules))


def _responses(config: StagesConfig, generators: dict[str, Generator], by_earlier_rules: bool) -> MadeOf:
    settings: dict[str, Any] = {}
    marks = {}
    assert config.teachers is not None
    for name, section in config.teachers.given.items():
        settings[name] = section.model_dump(mode="json", include={"fraction", "num_samples"})
        if section.responses is not None:
            source = responses_of(section, f"teachers.{name}")
            settings[name] |= {"responses": sources.fingerprint(source), "columns": section.columns}
            settings[name] |= {"drop_system": section.drop_system}
            continue
        marks[name] = _marks(teacher, generators[name].texts(by_earlier_rules), generators[name].limits)
        settings[name] |= {"asked": list(marks[name])}
    texts = {name: generator.texts(by_earlier_rules) for name, generator in generators.items()}
    max_tokens = {name: generator.sampling.max_tokens for name, generator in generators.items()}
    return MadeOf(settings, marks, texts, max_tokens=max_tokens)


def of_rewrites(config: StagesConfig, rewriter: Generator) -> MadeOf:
    return _with_earlier(lambda by_earlier_rules: _rewrites(config, rewriter, by_earlier_rules))


def _rewrites(config: StagesConfig, rewriter: Generator, by_earlier_rules: bool) -> MadeOf:
    # The whole prompt is in the mark, in place of its parts.
    texts = rewriter.texts(by_earlier_rules) | {"system_prompt": None}
    del texts["suffix"]
    texts["prompt"] = long2short_messages("PROBLEM", "ANSWER", "REASONING", rewriter.system_prompt)
    settings = {"gates": enabled_gates(config)}
    return _of_one_generator(long2short, rewriter, texts, settings)


def of_examples(config: StagesConfig) -> MadeOf:
    thoughts = config.teachers.direct_thoughts if config.teachers is not None else "drop"
    settings = {"gates": enabled_gates(config), "suffix": config.instructions.suffix, "direct_thoughts": thoughts}
    if config.curation.candidates is not None:
        settings["candidates"] = sorted(config.curation.candidates)
    # In earlier versions equal texts of a problem were all learnt. What they have made stays valid.
    return MadeOf(settings | {"equal_texts": "once"}, by_earlier_rules=MadeOf(settings))


def of_packed(run: Run, student: str, training: TrainingConfig) -> MadeOf:
    chat = chat_settings(student, training.chat_template_kwargs, run.date)
    read = {"tokenizer": model_fingerprint(student), "system_prompt": training.system_prompt, "chat": asdict(chat)}
    return MadeOf(run.config.packing.model_dump() | read)


def of_checkpoint(run: Run, student: str, training: TrainingConfig) -> MadeOf:
    """Only the product of workers, micro-batch and micro-steps counts: a step is the same step, however it is split."""
    now, with_generation_config, with_how = (
        _checkpoint(run, student, training, *rules) for rules in ((False, False), (True, False), (True, True))
    )
    return replace(now, by_earlier_rules=replace(with_generation_config, by_earlier_rules=with_how))


def _checkpoint(
    run: Run, student: str, training: TrainingConfig, counts_generation_config: bool, counts_how: bool
) -> MadeOf:
    """`counts_...`: the rules of two earlier versions."""
    left_out = {"student", "seed", *SILENT_TRAINING, *ASKED_WITH, *SPLIT} | (set() if counts_how else HOW_TRAINED)
    trained = training.model_dump(mode="json", exclude=left_out)
    # Keys that older runs lack are left out at their default, so that the students of these runs are not remade.
    trained = {
        k: v
        for k, v in trained.items()
        if (k, v) not in (("lora", None), ("offload_optimizer", False), ("max_steps", None))
    }
    if training.max_steps is not None:
        del trained["num_train_epochs"]  # it counts no more
    trained["train_batch_size"] = prod(getattr(training, name) for name in SPLIT)
    # Nothing is generated in training: the generation config changes no weight.
    without = () if counts_generation_config else ("generation_config.json",)
    return MadeOf(trained | {"seed": run.config.training_seed, "student": model_fingerprint(student, without)})


def of_benchmark(config: BenchmarkConfig) -> MadeOf:
    """What makes the problems: neither how often they are asked, nor the path. The content at the path is an input."""
    named = {"name", "columns", "keep", "answer", "answer_after", "no_choice", "limit"}
    settings = config.model_dump(mode="json", include=named) | {"prompt": config.template}
    return MadeOf(settings | ({"num_problems": config.num_problems} if config.path == TINY else {}))


def of_evaluation(
    config: EvaluationConfig, name: str, benchmark: BenchmarkConfig, generator: Generator, model_mark: str
) -> MadeOf:
    """`name`: of the compared model. `model_mark` identifies it: its own fingerprint, or for the student its training's.

    The scorer is in `settings`, but not in `asked`: another scorer judges the stored texts, and asks no model.
    """
    return _with_earlier(
        lambda by_earlier_rules: _evaluation(config, name, benchmark, generator, model_mark, by_earlier_rules)
    )


def _evaluation(
    config: EvaluationConfig,
    name: str,
    benchmark: BenchmarkConfig,
    generator: Generator,
    model_mark: str,
    by_earlier_rules: bool,
) -> MadeOf:
    texts = generator.texts(by_earlier_rules)
    texts |= {"model": model_mark, "name": name, "benchmark": config.label(benchmark)}
    if benchmark.name != HELD_OUT:  # a benchmark's prompts are complete; its template stands here in the suffix's place
        texts["suffix"] = benchmark.template
    settings = {"num_samples": config.samples_of(benchmark), "scored_by": scorers.scored_by(benchmark.answer)}
    return _of_one_generator(evaluation, generator, texts, settings)


def _of_one_generator(
    stage: ModuleType, generator: Generator, texts: dict[str, Any], settings: dict[str, Any]
) -> MadeOf:
    marks = _marks(stage, texts, generator.limits)
    limit = generator.sampling.max_tokens
    return MadeOf({"asked": list(marks)} | settings, {"": marks}, {"": texts}, max_tokens={"": limit})


def _marks(stage: Any, texts: dict[str, Any], limits: dict[str, int | None]) -> tuple[str, str]:
    """Two marks: one of all that changes the texts, one of the limits to their length."""
    return (
        fingerprint(stage.STAGE, stage.ASKING_VERSION, texts, []),
        fingerprint(stage.STAGE, stage.ASKING_VERSION, limits, []),
    )


def _with_earlier(make: Callable[[bool], MadeOf]) -> MadeOf:
    """`make(before)`: what an artifact is made of, by the present rules or by those of earlier versions."""
    now, earlier = make(False), make(True)
    return now if earlier.settings == now.settings else replace(now, by_earlier_rules=earlier)


def enabled_gates(config: StagesConfig) -> list[str]:
    """The names of the gates that are on, in their order."""
    return [name for name, on in config.gates.model_dump().items() if on]
