"""The problems of a declared benchmark as rows, in the same form as the run's own problems.

    {"question": "Which?", "options": ["5", "6"], "answer": "B", "category": "physics"}
    -> instruction "Which?\\n\\nA. 6\\nB. 5\\n\\nPlease ...", reference "A", num_choices 2, category "physics"

`instruction` holds the exact text that a model reads. An id is a hash of the benchmark, the record's own id, the
question and its options: a problem with a changed text is another problem.
"""

import json
import re
from collections.abc import Iterable, Iterator
from string import ascii_uppercase
from typing import Any

from ray_distil.config import TINY
from ray_distil.config.evaluation_config import BenchmarkConfig
from ray_distil.errors import BadRecord
from ray_distil.judge.choices import MOST, listed, ordered
from ray_distil.judge.scorers import whole_number
from ray_distil.records import sources
from ray_distil.records.conversations import instruction_of, reference_of
from ray_distil.records.problem_facts import EVAL
from ray_distil.records.sources import Source
from ray_distil.selection.contamination import BenchmarkProblem
from ray_distil.store.schemas import normalised, stable_id
from ray_distil.store.shards import REASON, reject

_PLACE = re.compile(r"\{(instruction|choices)\}")
_COMMIT = re.compile(r"@[0-9a-f]{40}$")
Row = dict[str, Any]


def source_of(config: BenchmarkConfig) -> Source | None:
    """The source of the problems; None: the tiny world."""
    if config.path is None or config.path == TINY:
        return None
    columns = {str(ours): theirs for ours, theirs in config.columns.items() if isinstance(theirs, str)}
    listed_columns = config.columns.get("choices")
    if isinstance(listed_columns, list):
        columns |= {f"choice_{k}": column for k, column in enumerate(listed_columns)}
    columns |= {f"keep_{k}": column for k, column in enumerate(config.keep)}
    key = f"evaluation.benchmarks.{config.name}"
    return Source(config.path, f"{key}.path", config.dataset_split, "dataset_split", config.dataset_name, columns)


def content(config: BenchmarkConfig) -> str:
    """A mark of the source's content. A path with a commit of the hub fixes the content, so the hub is not asked."""
    source = source_of(config)
    if source is None:
        return TINY
    if source.is_on_hub and _COMMIT.search(source.path):
        return stable_id(source.path, source.name or "", source.split)
    return sources.fingerprint(source)


def problems_mark(config: BenchmarkConfig) -> str:
    """A mark of all that says which texts are its problems."""
    keys = {"columns", "keep", "answer", "dataset_split", "dataset_name"} | (
        {"num_problems"} if config.path == TINY else set()
    )
    return stable_id(content(config), json.dumps(config.model_dump(mode="json", include=keys), sort_keys=True))


def problems(config: BenchmarkConfig) -> list[Row]:
    """Rows of BENCHMARK, accepted or rejected; [] for a source without a record.

    `limit` keeps the accepted rows whose own ids have the smallest hashes. Raises UserError where the source cannot be
    read.
    """
    seen_ids: dict[str, str] = {}
    accepted: list[tuple[str, Row]] = []
    rejected: list[Row] = []
    records = list(_records(config))
    by_index = config.answer == "choice" and all(map(_may_be_index, records))
    for position, record in enumerate(records, 1):
        own_id, row = problem_row(record, config, position, by_index)
        if REASON not in row and row["instruction_id"] in seen_ids:
            same = f"record {position}: same text as {seen_ids[row['instruction_id']]}"
            row = reject(row, "duplicate", same) | {"instruction_id": stable_id(row["instruction_id"], position)}
        if REASON in row:
            rejected.append(row)
            continue
        seen_ids[row["instruction_id"]] = f"record {position}"
        accepted.append((stable_id(config.name, own_id), row))
    if config.limit is not None:
        accepted = sorted(accepted, key=lambda entry: entry[0])[: config.limit]
    return [row for _, row in accepted] + rejected


def test_problems(config: BenchmarkConfig) -> Iterator[BenchmarkProblem]:
    """Each problem without the prompt around it: what a training problem must not hold."""
    records = list(_records(config))
    by_index = config.answer == "choice" and all(map(_may_be_index, records))
    for position, record in enumerate(records, 1):
        own_id, row = problem_row(record, config, position, by_index)
        if REASON not in row:
            options = _choice(record, config, own_id, by_index)[0] if config.answer == "choice" else []
            yield BenchmarkProblem(config.name, f"{config.name} {own_id[:80]}", _question(record), "\n".join(options))


def _records(config: BenchmarkConfig) -> Iterator[Any]:
    source = source_of(config)
    records: Iterable[Any] = _tiny(config) if source is None else sources.records(source, may_be_empty=True)
    required = list(config.keep.values())
    for record in records:
        if isinstance(record, dict) and not all(
            text in str(record.get(f"keep_{k}") or "") for k, text in enumerate(required)
        ):
            continue
        yield record


def _tiny(config: BenchmarkConfig) -> Iterator[Row]:
    from ray_distil.tiny import world

    number = min(config.num_problems or world.NUM_HELD_OUT, world.NUM_HELD_OUT)
    for problem in world.held_out(world.SEED_TEST, number):
        yield {"instruction": problem.question, "answer": str(problem.answer)}


def _may_be_index(record: Any) -> bool:
    """Whether a record's answer may be the index of an option, from 0. Where all are, they are: also 1 of 1, 2, 3, 4."""
    choices, answer = (record.get("choices"), record.get("answer")) if isinstance(record, dict) else (None, None)
    return answer is None or (type(answer) is int and isinstance(choices, list) and 0 <= answer < len(choices))


def problem_row(record: Any, config: BenchmarkConfig, position: int, by_index: bool = False) -> tuple[str, Row]:
    """(the record's own id, its row). A rejected row gets an id from the record's position, and its own id is "".

    by_index: the answers of the benchmark are indices of options.
    """
    row: Row = {
        "instruction_id": stable_id(config.name, "record", position),
        "source": config.name,
        "split": EVAL,
        "category": None,
        "num_choices": None,
    }
    if not isinstance(record, dict):
        return "", reject(row, "not_an_object", f"record {position} is a {type(record).__name__}; expected an object")

    try:
        question = _question(record)
        record_id = record.get("id")
        own_id = normalised(question) if record_id is None else str(record_id)
        options: list[str] = []
        if config.answer == "choice":
            options, reference = _choice(record, config, own_id, by_index)
        else:
            reference = _reference(record.get("answer"), config)
    except BadRecord as error:
        return "", reject(row, error.reason, f"record {position}: {error}")

    category = record.get("category")
    return own_id, row | {
        "instruction_id": stable_id(config.name, own_id, normalised(question), *options),
        "instruction": rendered(config.template, question, options),
        "reference_answer": reference,
        "category": None if category is None else str(category),
        "num_choices": len(options) or None,
    }


def _question(record: Row) -> str:
    text = instruction_of(record)
    if not isinstance(text, str) or not text.strip():
        raise BadRecord("no_instruction", "`instruction` is missing, empty or not text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRecord("not_unicode", "`instruction` holds a lone surrogate") from None
    return text.strip()


def rendered(template: str, question: str, options: list[str]) -> str:
    """The text that a model reads. Braces in the question stay as they are."""
    texts = {"instruction": question, "choices": listed(options)}
    return _PLACE.sub(lambda match: texts[match[1]], template)


def _reference(answer: Any, config: BenchmarkConfig) -> str | None:
    """The reference answer; None if the record has none: such a problem can show tokens, but no accuracy."""
    reference = reference_of(answer)
    if reference is None:
        return None
    if config.answer_after is not None:
        head, mark, reference = reference.rpartition(config.answer_after)
        if not mark or not reference.strip():
            raise BadRecord("bad_answer", f"`answer` has nothing behind {config.answer_after!r}: {head[-80:]!r}")
        reference = reference.strip()
        plain = whole_number(reference)
        reference = reference if plain is None else str(plain)
    if config.answer == "integer":
        number = whole_number(reference)
        if number is None:
            raise BadRecord("bad_answer", f"`answer` is no whole number: {reference[:80]!r}")
        return str(number)
    return reference


def _choice(record: Row, config: BenchmarkConfig, own_id: str, by_index: bool) -> tuple[list[str], str | None]:
    """(the options in the order in which they are shown, the letter of the right option or None)."""
    columns = config.columns.get("choices", "choices")
    is_list = isinstance(columns, str)
    choices = record.get("choices") if is_list else [record.get(f"choice_{k}") for k in range(len(columns))]
    if not isinstance(choices, list) or not all(isinstance(choice, str | int | float | None) for choice in choices):
        raise BadRecord("bad_choices", "`choices` is no list of texts")
    texts = ["" if choice is None else str(choice).strip() for choice in choices]
    right = _right(record.get("answer"), texts, is_list, by_index)
    left = [text for text in texts if text and (text != config.no_choice or text == right)]
    options = ordered(own_id, left)
    if not 2 <= len(options) <= MOST:
        raise BadRecord("bad_choices", f"`choices` holds {len(options)} different options; expected 2 to {MOST}")
    return options, None if right is None else ascii_uppercase[options.index(right)]


def _right(answer: Any, texts: list[str], is_list: bool, by_index: bool) -> str | None:
    """The text of the right option. `answer` is this text, or its letter or index from 0 if the options are a list."""
    if answer is None:
        return None
    if is_list and type(answer) is int and 0 <= answer < len(texts) and (by_index or str(answer) not in texts):
        return _not_empty(texts[answer], answer)
    text = str(answer).strip()
    if is_list and len(text) == 1 and text in ascii_uppercase[: len(texts)]:
        return _not_empty(texts[ascii_uppercase.index(text)], answer)
    if text in texts:
        return _not_empty(text, answer)
    raise BadRecord("bad_answer", f"`answer` is none of the options: {text[:80]!r}")


def _not_empty(text: str, answer: Any) -> str:
    if not text:
        raise BadRecord("bad_answer", f"`answer` {answer!r} names an option that is empty")
    return text
