"""Generation by a function of the user's own, which the configuration names by its import path.

    def build(num_rows, **kwargs):        # `kwargs` of the configuration; at most `num_rows` rows come
        def generate(rows):               # a Ray dataset with the columns id, messages, sampling_params and carried
            return rows.map_batches(...)  # with id, carried and the columns that `generation.py` adds
        return generate

`carried` is a text. It holds the other columns of a row, which no format of a batch can change so.
"""

import inspect
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_distil.config.engine_config import BackendConfig
from ray_distil.errors import UserError
from ray_distil.generate.generation import ADDED, Generate
from ray_distil.runtime import user_code

if TYPE_CHECKING:
    from ray.data import Dataset

FINISH_REASONS = ("stop", "length", "error")
CARRIED, SEEN = "carried", ("id", "messages", "sampling_params")


def build(config: BackendConfig, key: str, num_rows: int) -> Generate:
    """Generation of at most `num_rows` rows, whose results are checked by the contract. key: the backend's section."""
    generate = user_code.load(config.build, f"{key}.build")(num_rows, **config.kwargs)
    if not callable(generate):
        raise UserError(f"{key}.build: {config.build} returned {generate!r}; it returns a function of a Ray dataset")

    def checked(rows: "Dataset") -> "Dataset":
        # A block for each batch, so that many are at work, and each is saved by itself.
        blocks = rows.repartition(target_num_rows_per_block=config.batch_size)
        packed = blocks.map_batches(pack, batch_size=config.batch_size, batch_format="pyarrow")
        options = {"batch_size": None, "batch_format": "pyarrow", "fn_kwargs": {"path": config.build}}
        return generate(packed).map_batches(unpack, **options)

    return checked


def wrong_arguments(config: BackendConfig) -> str:
    """Why the function cannot be called with `kwargs`; "" if it can."""
    try:
        inspect.signature(user_code.load(config.build)).bind(1, **config.kwargs)
    except (TypeError, ValueError) as error:
        return f"{config.build} is called with num_rows and kwargs: {error}"
    return ""


def pack(table: pa.Table) -> pa.Table:
    """Rows as the user's function gets them."""
    rest = table.drop_columns(list(SEEN)).to_pylist()
    carried = [json.dumps(row, ensure_ascii=True) for row in rest]
    return table.select(list(SEEN)).append_column(CARRIED, pa.array(carried, pa.string()))


def unpack(table: pa.Table, path: str) -> pa.Table:
    """The generated rows as the stages read them. Raises UserError where they do not keep the contract."""
    needed = ["id", CARRIED, *ADDED.names]
    if missing := [name for name in needed if name not in table.column_names]:
        columns = ", ".join(f"the column {name!r}" for name in missing)
        raise UserError(f"{path} gives rows that lack {columns}; docs/doors.md has the columns")
    try:
        added = table.select(ADDED.names).cast(ADDED)
        rows = list(zip(table["id"].to_pylist(), table[CARRIED].to_pylist(), added.to_pylist(), strict=True))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise UserError(f"{path} gives values of other types than {', '.join(map(str, ADDED))}: {error}") from error
    return pa.Table.from_pylist([_checked(*row, path) for row in rows]) if rows else table


def _checked(row_id: str, carried: str, reply: dict[str, Any], path: str) -> dict[str, Any]:
    for name, value in reply.items():
        if value is None:
            raise UserError(
                f"{path} gives a row whose {name!r} is null; a count is 0 where it is not known, a text is empty"
            )
    if reply["finish_reason"] not in FINISH_REASONS:
        reasons = ", ".join(FINISH_REASONS)
        raise UserError(f"{path} gives the finish_reason {reply['finish_reason']!r}; it is one of {reasons}")
    if (reply["finish_reason"] == "error") != bool(reply["error"]):
        raise UserError(f"{path} gives a row whose finish_reason is error without an `error`, or the other way round")
    return {"id": row_id, **json.loads(carried), **reply}
