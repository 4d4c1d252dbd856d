"""The problems of a run in a temporary file, with their words: one part of them is in memory at a time."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from os import cpu_count

import pyarrow as pa

from ray_distil.runtime.temporary_files import filling, temporary_file
from ray_distil.selection.near_duplicates import Bands, band_keys
from ray_distil.selection.words import WORDS, Hashes, Words, words_of
from ray_distil.store.schemas import INSTRUCTIONS
from ray_distil.store.shards import REASON, with_rejects

ROWS = with_rejects(INSTRUCTIONS)
NAME = "words"
MOST_THREADS = 4


class ProblemFile:
    """Parts of rows in their order, each a table of `ROWS`. With `bands`, each has the column `words` too.

    Arrow opens the file itself. Its threads can still hold a file of Python when Python ends, and then abort the process
    (github.com/apache/arrow/issues/50482).
    """

    def __init__(self, parts: Iterable[pa.Table], has_words: bool, bands: Bands | None) -> None:
        """Reads all parts. `bands`: gets the keys of all rows. Raises UserError where the disk is full."""
        self.has_words = has_words
        self._file = temporary_file()  # it lives as long as this object
        self._path = f"/dev/fd/{self._file.fileno()}"
        schema = ROWS.append(pa.field(NAME, WORDS)) if has_words else ROWS
        with filling("instructions"):
            sink = pa.OSFile(self._path, "wb")
            writer = pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        for table, keys in _with_words(parts, bands is not None) if has_words else ((part, None) for part in parts):
            with filling("instructions"):
                writer.write_table(table)
            if bands is not None and keys is not None:
                bands.add(keys)
        with filling("instructions"):
            writer.close()
            sink.close()

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The parts; `columns`: these alone, `words` among them. None: those of `ROWS`."""
        names = [*ROWS.names, NAME] if self.has_words else ROWS.names
        places = [names.index(name) for name in columns or ROWS.names]
        options = pa.ipc.IpcReadOptions(included_fields=places)
        with pa.OSFile(self._path) as file, pa.ipc.open_file(file, options=options) as reader:
            for number in range(reader.num_record_batches):
                yield pa.Table.from_batches([reader.get_batch(number)])


def _with_words(parts: Iterable[pa.Table], with_keys: bool) -> Iterator[tuple[pa.Table, Hashes | None]]:
    """(the part with its words, its keys). Threads do it while the next part is read: Arrow and numpy leave Python free."""
    num_threads = max(1, min(MOST_THREADS, cpu_count() or 1))
    waiting: deque[Future[tuple[pa.Table, Hashes | None]]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for part in parts:
            waiting.append(pool.submit(_worded, part, with_keys))
            if len(waiting) > num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _worded(part: pa.Table, with_keys: bool) -> tuple[pa.Table, Hashes | None]:
    """Rejected rows have no words."""
    usable = pa.compute.if_else(part[REASON].is_null(), part["instruction"], pa.scalar(None, pa.string()))
    column = words_of(usable)
    keys = band_keys(Words.of(column), part["reference_answer"]) if with_keys else None
    return part.append_column(pa.field(NAME, WORDS), column), keys
