"""The choice among the examples of a run (`selection/choice.py`), on shards that are written already.

Ray tasks read the shards and give small columns; the driver chooses, a part of the problems at a time; tasks reject what was
not chosen. No text moves.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.config.curation_config import CurationConfig
from ray_distil.judge import gates
from ray_distil.judge.answers import extract_answer
from ray_distil.judge.spelling import cleaned
from ray_distil.selection.candidates import candidate_parts, sample_parts
from ray_distil.selection.choice import (
    CANDIDATE,
    CODES,
    OVER_BUDGET,
    REASONS,
    SAMPLE,
    STAYS,
    Rules,
    choose,
    doubted,
    within_budget,
)
from ray_distil.selection.tallies import Tally, rates_of
from ray_distil.store.ids import DIGITS, Keys, keys_of
from ray_distil.store.schemas import SFT_EXAMPLES, stable_id
from ray_distil.store.shards import DETAIL, REASON, with_rejects

if TYPE_CHECKING:
    from ray.data import Dataset

NUM_DOUBTED = 20  # ids that the summary names
CHARACTERS_PER_TOKEN = 4  # where nobody counted the tokens


@dataclass
class Chosen:
    """The result of a choice: ids of examples by their reason, ascending; and figures for the manifest's summary."""

    by_reason: dict[int, Keys]
    pass_rates: Counter[str] = field(default_factory=Counter)  # "0.25" -> problems
    doubted: list[str] = field(default_factory=list)  # ids of the first NUM_DOUBTED problems
    num_doubted: int = 0
    texts: Tally = field(default_factory=Tally)  # that passed the gates
    learnt: Tally = field(default_factory=Tally)  # of them, those that stay

    @property
    def summary(self) -> dict[str, Any]:
        figures: dict[str, Any] = {"pass_rates": dict(sorted(self.pass_rates.items()))}
        figures |= {"texts_by_rate": self.texts.of_rates(), "learnt_by_rate": self.learnt.of_rates()}
        return figures | ({"num_doubted": self.num_doubted, "doubted": self.doubted} if self.num_doubted else {})


def rules_of(config: CurationConfig, kinds: list[str]) -> Rules:
    """kinds: those that may be learnt."""
    has_floor = config.choose != "all" or "conclusion" in kinds
    return Rules(
        tuple(CODES[kind] for kind in kinds),
        config.choose,
        config.keep,
        config.min_length if has_floor else 0.0,
        config.pass_rate,
        config.easy_fraction,
        config.slow_fraction,
        config.vote,
    )


def chosen_examples(
    examples: "Dataset", responses: "Dataset", rules: Rules, max_tokens: int | None, judge: str | None
) -> Chosen:
    """The choice among all examples that passed the gates. responses: all that the teachers gave.

    Memory: one part of the problems; eight bytes for each example that is rejected; with a budget, 25 for each that stays.
    """
    candidates, samples = candidate_parts(), sample_parts()
    columns = examples.map_batches(
        candidate_columns, batch_size=None, batch_format="pyarrow", fn_kwargs={"vote": rules.vote}
    )
    for table in columns.iter_batches(batch_size=None, batch_format="pyarrow"):
        candidates.add(_records(table, CANDIDATE))
    columns = responses.map_batches(sample_columns, batch_size=None, batch_format="pyarrow", fn_kwargs={"judge": judge})
    for table in columns.iter_batches(batch_size=None, batch_format="pyarrow"):
        samples.add(_records(table, SAMPLE))

    # Part by part.
    choice = Chosen({})
    ids: dict[int, list[Keys]] = {code: [] for code in range(1, len(REASONS))}
    staying: list[np.ndarray] = []
    staying_rates: list[np.ndarray] = []
    for of_problems, of_samples in zip(candidates, samples, strict=True):
        reasons, difficulty = choose(of_problems, of_samples, rules)
        for code in np.unique(reasons[reasons != STAYS]).tolist():
            ids[code].append(of_problems["example"][reasons == code])
        rates, stays = rates_of(of_problems["problem"], difficulty), reasons == STAYS
        choice.texts.add(of_problems["problem"], rates, of_problems["characters"])
        if max_tokens is not None:
            staying.append(of_problems[stays][["problem", "example", "tokens", "characters"]])
            staying_rates.append(rates[stays].astype(np.uint8))
        else:
            choice.learnt.add(of_problems["problem"][stays], rates[stays], of_problems["characters"][stays])
        choice.pass_rates.update(f"{rate:.2f}" for rate in (difficulty.right / difficulty.tried).tolist())
        doubted_problems, _ = doubted(of_samples)
        choice.num_doubted += len(doubted_problems)
        room = NUM_DOUBTED - len(choice.doubted)
        choice.doubted += [f"{key:0{DIGITS}x}" for key in doubted_problems[:room].tolist()]

    # The budget holds for all problems together.
    if max_tokens is not None and staying:
        left, rates = np.concatenate(staying), np.concatenate(staying_rates)
        is_within = within_budget(left["problem"], left["tokens"], max_tokens)
        ids[OVER_BUDGET].append(left["example"][~is_within])
        choice.learnt.add(left["problem"][is_within], rates[is_within], left["characters"][is_within])
    by_reason = {code: np.sort(np.concatenate(parts)) for code, parts in ids.items() if parts}
    choice.by_reason = {code: keys for code, keys in by_reason.items() if len(keys)}
    return choice


def candidate_columns(table: pa.Table, vote: bool) -> pa.Table:
    """The fields of CANDIDATE of SFT_EXAMPLES rows."""
    characters = pc.utf8_length(table["completion"])
    estimated = pc.divide(characters, CHARACTERS_PER_TOKEN)
    texts = table["completion"].to_pylist() if vote else []
    return pa.table({
        "problem": keys_of(table["instruction_id"].to_pylist()),
        "example": keys_of(table["example_id"].to_pylist()),
        "kind": np.array([CODES[origin] for origin in table["origin"].to_pylist()], np.uint8),
        "characters": characters,
        "tokens": pc.coalesce(table["num_tokens"], estimated),
        "answer": np.array([answer_mark(extract_answer(text)) for text in texts] or [0] * table.num_rows, np.uint64),
    })  # fmt: skip


def sample_columns(table: pa.Table, judge: str | None) -> pa.Table:
    """The fields of SAMPLE of RESPONSES rows. A row without a verdict of these gates is judged here."""
    rows = table.to_pylist()
    is_right = [gates.first_reason(row, gates.GATES, judge) is None for row in rows]
    return pa.table({
        "problem": keys_of(table["instruction_id"].to_pylist()),
        "answer": np.array([answer_mark(row["answer"]) for row in rows], np.uint64),
        "is_right": np.array(is_right, np.bool_),
        "has_reference": table["reference_answer"].is_valid(),
    })  # fmt: skip


def answer_mark(answer: str | None) -> int:
    """A hash of an answer in one spelling; 0 for none."""
    return int(stable_id(cleaned(answer)), 16) if answer else 0


def marked(table: pa.Table, by_reason: Any) -> pa.Table:
    """SFT_EXAMPLES rows as a table of `with_rejects`: those that were not chosen are rejected. by_reason: in Ray's store."""
    import ray

    keys = keys_of(table["example_id"].to_pylist())
    reasons = np.full(len(keys), None, object)
    for code, ids in ray.get(by_reason).items():
        place = np.minimum(np.searchsorted(ids, keys), len(ids) - 1)
        reasons[ids[place] == keys] = REASONS[code]
    column = pa.array(reasons, pa.string())
    details = pc.if_else(column.is_valid(), table["origin"], pa.scalar(None, pa.string()))
    rows = table.select(SFT_EXAMPLES.names).append_column(REASON, column).append_column(DETAIL, details)
    return rows.cast(with_rejects(SFT_EXAMPLES))


def marking(choice: Chosen) -> Any:
    """`marked` for `reject_rows`, with the ids once in Ray's object store."""
    import ray

    return partial(marked, by_reason=ray.put(choice.by_reason))


def _records(table: pa.Table, dtype: np.dtype) -> np.ndarray:
    rows = np.zeros(table.num_rows, dtype)
    for name in dtype.names or ():
        rows[name] = table[name].to_numpy(zero_copy_only=False)
    return rows
