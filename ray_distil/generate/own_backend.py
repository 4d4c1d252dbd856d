"""Generation by a function of the user's own, which the configuration names by its import path.

def build(num_rows, **kwargs):      # `kwargs` of the configuration; at most `num_rows` rows come
    def generate(rows):             # a Ray dataset with the columns that `generation.py` needs
        return rows.map_batches(...)  # and with those that it adds: one row out for each row in
    return generate
"""

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.config.engine_config import BackendConfig
from ray_distil.errors import UserError
from ray_distil.generate.generation import ADDED, Generate
from ray_distil.runtime import user_code

if TYPE_CHECKING:
    from ray.data import Dataset

FINISH_REASONS = ("stop", "length", "error")


def build(config: BackendConfig, key: str, num_rows: int) -> Generate:
    """Generation of at most `num_rows` rows, whose results are checked by the contract. key: the backend's section."""
    generate = user_code.load(config.build, f"{key}.build")(num_rows, **config.kwargs)
    if not callable(generate):
        raise UserError(f"{key}.build: {config.build} returned {generate!r}; it returns a function of a Ray dataset")

    def checked(rows: "Dataset") -> "Dataset":
        return generate(rows).map_batches(  # type: ignore[no-any-return]
            check, batch_size=None, batch_format="pyarrow", fn_kwargs={"path": config.build}
        )

    return checked


def check(table: pa.Table, path: str) -> pa.Table:
    """The generated rows as the stages read them. Raises UserError where they do not keep the contract."""
    needed = ["id", *ADDED.names]
    if missing := [name for name in needed if name not in table.column_names]:
        raise UserError(f"{path} gives rows without {', '.join(missing)}; see ray_distil/generate/generation.py")
    strange = pc.invert(pc.is_in(table["finish_reason"], pa.array(FINISH_REASONS)))
    if pc.any(strange).as_py():
        value = table["finish_reason"].filter(strange)[0].as_py()
        raise UserError(f"{path} gives the finish_reason {value!r}; it is one of {', '.join(FINISH_REASONS)}")
    for field in ADDED:
        column = table[field.name]
        if column.null_count:
            raise UserError(f"{path} gives a row without a value of {field.name}; a count is 0 where it is not known")
        table = table.set_column(table.schema.get_field_index(field.name), field, column.cast(field.type))
    return table
