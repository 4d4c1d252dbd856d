"""Whether an exported student is asked as it was trained: prompts of packed examples beside those of its own template."""

from collections.abc import Iterator

from ray_distil.chat.chat_templates import ChatSettings
from ray_distil.chat.export_template import difference, served_prompt
from ray_distil.chat.generation_settings import mended
from ray_distil.chat.model_files import read_tokenizer
from ray_distil.chat.tokenization import IGNORE_INDEX
from ray_distil.config import StagesConfig, TrainingConfig
from ray_distil.config.findings import Finding, remark
from ray_distil.errors import StageError, UserError
from ray_distil.store.artifact_reader import ArtifactReader
from ray_distil.store.manifest import STUDENT, read_manifest
from ray_distil.store.storage import Folder

NUM_CHECKED = 8  # examples
NUM_SHARDS = 4  # of the examples that are read for their prompts, at most
ROWS = 64


def before_training(config: StagesConfig, training: TrainingConfig, student: str) -> Iterator[Finding]:
    """The export could not be asked as it was trained; and a remark where its generation settings are mended."""
    chat = ChatSettings.of(training.chat_template_kwargs)
    template = config.packing.template
    try:
        mismatch = difference(student, chat, training.system_prompt, template)
    except UserError as error:
        mismatch = str(error)
    if mismatch:
        key = "packing.template" if template is not None else "training.system_prompt, training.chat_template_kwargs"
        yield Finding(key, f"the exported student would be asked otherwise than it was trained: {mismatch}")
    elif changed := mended(student):
        text = f"Transformers would not save its generation_config.json; in the export, {', '.join(changed)}"
        yield remark("training.student", text)


def check(examples: Folder, packed: ArtifactReader, checkpoint: Folder) -> int:
    """Compare up to NUM_CHECKED prompts token by token; returns how many there were. Raises StageError where one differs."""
    questions = _questions(examples)
    prompts = [(questions[example_id], ids) for example_id, ids in _trained_prompts(packed) if example_id in questions]
    if not prompts:
        return 0
    tokenizer = read_tokenizer((checkpoint / STUDENT).uri)
    for question, trained in prompts[:NUM_CHECKED]:
        served = served_prompt(question, tokenizer)
        if served != trained:
            raise StageError(
                f"checkpoint: the exported student would be asked {tokenizer.decode(served)!r}, and was trained with "
                f"{tokenizer.decode(trained)!r}; its chat template does not take the settings of training"
            )
    return len(prompts[:NUM_CHECKED])


def _questions(examples: Folder) -> dict[str, str]:
    """Id -> prompt of the examples in the first shards."""
    manifest = read_manifest(examples)
    shards = [name for name in manifest.files if name.startswith("part-")] if manifest is not None else []
    questions: dict[str, str] = {}
    for shard in shards[:NUM_SHARDS]:
        table = examples.read_table(shard, ["example_id", "prompt"])
        questions |= dict(zip(table["example_id"].to_pylist(), table["prompt"].to_pylist(), strict=True))
    return questions


def _trained_prompts(packed: ArtifactReader) -> list[tuple[str, list[int]]]:
    """(example id, ids of its prompt) of the examples in the first packed shard."""
    manifest = read_manifest(packed.folder)
    shards = [name for name in manifest.files if name.startswith("part-")] if manifest is not None else []
    prompts = []
    columns = ["input_ids", "labels", "lengths", "example_ids"]
    for table in packed.folder.read_parts(shards[0], columns, ROWS) if shards else ():
        for row in table.to_pylist():
            start = 0
            for length, example_id in zip(row["lengths"], row["example_ids"], strict=True):
                labels = row["labels"][start : start + length]
                num_asked = next((k for k, label in enumerate(labels) if label != IGNORE_INDEX), length)
                prompts.append((example_id, row["input_ids"][start : start + num_asked]))
                start += length
        if len(prompts) >= 100 * NUM_CHECKED:
            break
    return prompts
