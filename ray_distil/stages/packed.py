r"""Examples packed into sequences of `max_length` tokens. No example is cut, and none sees another.

    input_ids     P P P C C E | P P C C C E | . .      P prompt, C completion, E end of turn, . padding
    labels        _ _ _ C C E | _ _ C C C E | _ _      _ is -100: the token is not learnt
    position_ids  0 1 2 3 4 5 | 0 1 2 3 4 5 | 0 1      a 0 is a border that attention does not cross
    lengths       [6, 6]

Packing is a stage of its own, before training: inside the training job the ranks would wait for each other.

The examples, sorted by id, are divided into chunks of up to CHUNK_TOKENS tokens; only examples of one chunk are packed
together. The driver holds some 40 bytes an example while it divides them. Ray's sort brings the texts from the shards
to their chunks, WINDOW chunks at a time. So neither a worker's memory, nor the driver's table of blocks, nor the object
store grows with the number of examples or with their length. Each window reads all examples again.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.chat.chat_templates import PLAIN, ChatSettings, chat_settings
from ray_distil.chat.families import family_of
from ray_distil.chat.tokenization import IGNORE_INDEX, encode_examples, padding_token
from ray_distil.config import TrainingConfig
from ray_distil.config.models import beyond_tiny
from ray_distil.errors import NoRowsLeft
from ray_distil.generate import token_rows
from ray_distil.runner.runs import Run
from ray_distil.runner.stage import Made, Stage, required
from ray_distil.runner.stage_settings import StageSettings, values_of
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import Keys, keys_of
from ray_distil.store.manifest import model_fingerprint, why_none
from ray_distil.store.schemas import PACKED
from ray_distil.store.shards import reject, table_of

if TYPE_CHECKING:
    from ray.data import Dataset

NAME = "packing"  # in fingerprints
VERSION = 2
FIRST_KEYS = ("enabled", "max_length", "template")  # of `packing`; later ones count where they are set
CHUNK_TOKENS = 10_000_000  # in a chunk: a good fit even for long examples, and at most 1.5 GiB of a worker's memory
CHUNK_EXAMPLES = 20_000  # at most in a chunk, however short they are
BYTES_PER_TOKEN = 3  # of a text in UTF-8 that nobody counted: less than most texts have, so that no chunk is too large
BEFORE_PACKING = ("sft_examples", "rewrites", "responses")
WINDOW = 100  # chunks in one sort, which makes a block for each pair of shard and chunk
COLUMNS = ("example_id", "prompt", "completion")  # the columns that are packed
SIZED = (*COLUMNS, "num_tokens")  # the columns from which the size of an example is known


class Packed(Stage):
    """Examples in sequences of fixed length."""

    artifact, fingerprint_name, version = "packed", NAME, VERSION
    schema, unit, counted = PACKED, "examples", "example_ids"

    def __init__(self, run: Run, examples: Artifact) -> None:
        self.run, self.examples, self.student = run, examples, run.models["training.student"]
        self.training = required(run.config.training)
        self.settings = settings_of(run, self.student, self.training)
        self.inputs = [examples.content()]

    def make(self, artifact: Artifact) -> Made:
        self.run.start_ray()
        config = self.run.config.packing

        # Which examples are packed together.
        starts = chunk_starts(all_sizes(self.examples.read(list(SIZED))))
        if not len(starts):
            why = why_none(self.run.folder, BEFORE_PACKING)
            hint = f"; {limits}" if (limits := beyond_tiny(self.run.config)) else ""
            raise NoRowsLeft(f"{self.artifact}: no example passed the gates: {why}{hint}")

        # The sequences, window by window.
        max_length = config.max_length or token_rows.model_length(self.student)
        windows = pack(
            lambda: self.examples.read(list(COLUMNS)),
            starts,
            model=self.student,
            max_length=max_length,
            enabled=config.enabled,
            template=config.template,
            system_prompt=self.training.system_prompt,
            chat=chat_settings(self.student, self.training.chat_template_kwargs, self.run.date),
        )
        for window in windows:
            artifact.write([window], self.artifact)

        # How full they are.
        num_sequences = num_tokens = 0
        for table in artifact.tables(["lengths"]):
            num_sequences += table.num_rows
            num_tokens += pc.sum(pc.list_flatten(table["lengths"])).as_py() or 0
        filled = round(fill(num_tokens, num_sequences, max_length), 4) if config.enabled else 1.0
        summary = {"num_sequences": num_sequences, "max_length": max_length, "fill": filled}
        return self.examples.count("example_id"), summary


def settings_of(run: Run, student: str, training: TrainingConfig) -> StageSettings:
    chat = chat_settings(student, training.chat_template_kwargs, run.date)
    prompt = {"tokenizer": model_fingerprint(student), "system_prompt": training.system_prompt, "chat": asdict(chat)}
    # Examples in which a family's marks of thinking were text are others.
    family = family_of(student) if run.config.packing.template is None else None
    marks = {"marks": family.end} if family is not None else {}
    return StageSettings(values_of(run.config.packing, FIRST_KEYS) | prompt | marks)


def best_fit(lengths: list[int], max_length: int) -> list[list[int]]:
    """Best-fit decreasing: groups of indices; the lengths in a group add up to at most `max_length`, as each one does.

    The longest example comes first; each goes into the fullest group that still has room for it (Johnson, 1973: at most
    11/9 of the smallest possible number of groups). Equal lengths keep their order: the result depends on the arguments
    alone.
    """
    room: list[tuple[int, int]] = []  # (tokens free, group), sorted
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect_left(room, (lengths[index], -1))
        if at < len(room):
            free, group = room.pop(at)
        else:
            free, group = max_length, len(groups)
            groups.append([])
        groups[group].append(index)
        insort(room, (free - lengths[index], group))
    return groups


def pack_group(examples: list[tuple[str, list[int], list[int]]], max_length: int, pad_token_id: int) -> dict[str, Any]:
    """One PACKED row, without its id, made from examples `(example_id, input_ids, labels)`."""
    lengths = [len(ids) for _, ids, _ in examples]
    padding = max_length - sum(lengths)
    return {
        "input_ids": [i for _, ids, _ in examples for i in ids] + [pad_token_id] * padding,
        "labels": [i for *_, labels in examples for i in labels] + [IGNORE_INDEX] * padding,
        # The padding is numbered like an example of its own.
        "position_ids": [k for length in [*lengths, padding] for k in range(length)],
        "lengths": lengths,
        "example_ids": [example_id for example_id, *_ in examples],
    }


def pack_chunk(
    table: pa.Table,
    model: str,
    max_length: int,
    enabled: bool = True,
    template: str | None = None,
    system_prompt: str | None = None,
    chat: ChatSettings = PLAIN,
) -> pa.Table:
    """The PACKED rows of a chunk of SFT_EXAMPLES rows in any order, and a reject for each example that is too long.

    Without `enabled`, each row holds one example and no padding.
    """
    encoded, rows = [], []
    examples = table.sort_by("example_id").to_pylist()
    pairs = [(row["prompt"], row["completion"]) for row in examples]
    ids_of_pairs = encode_examples(pairs, model, template, system_prompt, chat)
    for row, (ids, labels) in zip(examples, ids_of_pairs, strict=True):
        if len(ids) > max_length:
            detail = f"{len(ids)} tokens with the prompt; packing.max_length is {max_length}"
            rows.append(reject({"sequence_id": row["example_id"]}, "too_long", detail))
        else:
            encoded.append((row["example_id"], ids, labels))
    (chunk,) = table["chunk"].unique().to_pylist()
    lengths = [len(ids) for _, ids, _ in encoded]
    groups = best_fit(lengths, max_length) if enabled else [[i] for i in range(len(encoded))]
    for number, group in enumerate(groups):
        long = max_length if enabled else lengths[group[0]]
        packed = pack_group([encoded[i] for i in group], long, padding_token(model))
        rows.append({"sequence_id": f"{chunk:05d}-{number:06d}", **packed})
    return table_of(rows, PACKED)


def example_sizes(table: pa.Table) -> pa.Table:
    """The ids of SFT_EXAMPLES rows with SIZED columns, and their `tokens`: by its teacher's count, else by its bytes."""
    prompt, completion = (pc.divide(pc.binary_length(table[name]), BYTES_PER_TOKEN) for name in COLUMNS[1:])
    tokens = pc.add(prompt, pc.coalesce(table["num_tokens"], completion))
    return pa.table({"example_id": table["example_id"], "tokens": tokens.cast(pa.int32())})


def all_sizes(examples: "Dataset") -> Iterator[pa.Table]:
    """`example_sizes` of a dataset, computed where its shards are read."""
    sizes = examples.map_batches(example_sizes, batch_size=None, batch_format="pyarrow")
    yield from sizes.iter_batches(batch_size=None, batch_format="pyarrow")


def chunk_starts(sizes: Iterable[pa.Table]) -> Keys:
    """The smallest example id of each chunk, [chunks]. `sizes`: tables of `example_sizes`, of all examples, in any order.

    A chunk ends before the example that would exceed CHUNK_TOKENS or CHUNK_EXAMPLES. It has one example at least.
    """
    ids, counts = bytearray(), bytearray()
    for table in sizes:
        if table.num_rows:
            ids += keys_of(table["example_id"].to_pylist()).tobytes()
            counts += np.asarray(table["tokens"], np.int32).tobytes()
    keys = np.frombuffer(ids, np.uint64)

    # The order is that of the ids alone: which shard holds an example changes nothing.
    order = np.argsort(keys)
    ends = np.cumsum(np.frombuffer(counts, np.int32)[order], dtype=np.int64)  # tokens up to and with each example

    starts, start = [], 0
    while start < len(keys):
        starts.append(start)
        tokens_before = int(ends[start - 1]) if start else 0
        by_tokens = int(np.searchsorted(ends, tokens_before + CHUNK_TOKENS, side="right"))
        start = max(start + 1, min(by_tokens, start + CHUNK_EXAMPLES))
    return keys[order[starts]] if starts else keys


def numbered(table: pa.Table, starts: Keys, first: int, end: int) -> pa.Table:
    """The SFT_EXAMPLES rows of the chunks `first` to `end` - 1; the new column `chunk` has the number of the chunk."""
    chunks = np.searchsorted(starts, keys_of(table["example_id"].to_pylist()), side="right") - 1
    table = table.append_column("chunk", pa.array(chunks, pa.int32()))
    return table.filter(pa.array((chunks >= first) & (chunks < end)))


def pack(read: Callable[[], "Dataset"], starts: Keys, **options: Any) -> Iterator["Dataset"]:
    """The packed sequences of SFT_EXAMPLES rows, one dataset for each window of WINDOW chunks.

    read: returns the dataset of all rows with COLUMNS. starts: from `chunk_starts`. options: other arguments of
    `pack_chunk`.
    """
    for first in range(0, len(starts), WINDOW):
        end = min(first + WINDOW, len(starts))
        rows = read().map_batches(
            numbered,
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs={"starts": starts, "first": first, "end": end},
        )
        borders = list(range(first + 1, end))
        # One block for each chunk: Ray's sort makes one block between two given boundaries.
        chunks = rows.sort("chunk", boundaries=borders) if borders else rows.repartition(1)
        yield chunks.map_batches(pack_chunk, batch_size=None, batch_format="pyarrow", fn_kwargs=options)


def fill(num_tokens: int, num_sequences: int, max_length: int) -> float:
    """The share of positions that hold a token of an example, not padding."""
    return num_tokens / max(1, num_sequences * max_length)
