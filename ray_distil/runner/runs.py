"""A run's folder, and how a stage is made: a complete artifact is skipped, an unfinished one is continued."""

import gc
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_distil.config import TRAINED, DistillConfig, StagesConfig
from ray_distil.errors import StageError, UserError
from ray_distil.generate.generation import is_transient
from ray_distil.report.provenance import successors
from ray_distil.runner import remaking, waiting
from ray_distil.runner.reuse import carry
from ray_distil.runner.stage import GeneratingStage, Stage
from ray_distil.runner.stage_settings import StageSettings
from ray_distil.runner.watchdog import FailureLimit, failures_text, steady
from ray_distil.runtime import metrics
from ray_distil.runtime.progress import Display
from ray_distil.runtime.session import (
    engine_is_ready,
    in_background,
    last_line,
    nodes_without,
    start_ray,
    user_error_in,
)
from ray_distil.store.artifact import DROPPED, Artifact
from ray_distil.store.manifest import NOTES, Manifest, fingerprint
from ray_distil.store.shards import REJECTS_FOLDER
from ray_distil.store.superseded import SUPERSEDED, saved_made_of

BEGAN = "began"  # a file in the run's folder, with the date


class Run:
    """A run while its stages are made. `models`: key of the configuration -> the model's folder or hub name."""

    def __init__(self, config: StagesConfig, models: dict[str, str], display: Display | None = None) -> None:
        self.config, self.models, self.folder = config, models, config.run_folder
        self.display = display or Display()
        self._seeing_nodes: set[tuple[str, str]] = set()  # (folder, node that sees it); new nodes may come
        self.before_making: Callable[[], list[str]] | None = None  # checks before the first making; returns remarks
        self.save_settings: Callable[[], None] = lambda: None  # called when the first stage begins
        self._checking = threading.Lock()
        self._has_set_aside = False

    def date(self) -> str:
        """The day that chat templates write: `run.date` of the configuration, else the day on which the run began."""
        return self._date

    @cached_property
    def _date(self) -> str:
        if self.config.run.date is not None:
            return self.config.run.date
        if not self.folder.exists(BEGAN):
            self.folder.write_text(BEGAN, date.today().isoformat() + "\n")
        return self.folder.read_bytes(BEGAN).decode().strip()

    @property
    def max_shard_bytes(self) -> int | None:
        """Up to which size shards are merged; None: they stay as they were written."""
        megabytes = self.config.run.max_shard_mb
        return None if megabytes is None else int(megabytes * 2**20)

    def start_ray(self, imports: tuple[str, ...] = ()) -> None:
        """See `session.start_ray`. Raises UserError where a node does not see the run's folder."""
        logs = start_ray(self.config.ray.num_cpus, imports)
        if logs is not None:
            self.display.say(f"messages of engines and workers: {logs}")
        places = {"run.storage_path": self.folder.local} | {
            key: Path(model) for key, model in self.models.items() if Path(model).is_dir()
        }
        for key, place in places.items():
            if place is not None and (blind := nodes_without(place, self._seeing_nodes)):
                raise UserError(
                    f"{key}: the nodes {', '.join(blind)} do not see {place}; "
                    "give a path on a disk that all nodes share, or s3://BUCKET/PATH"
                )

    def make(self, stage: Stage) -> Artifact:
        """Make one stage and write its manifest. A stage with a complete artifact is skipped.

        A stage with `resume` keeps the rows that a stopped run has finished: its `make` leaves them out
        (`Artifact.done_ids`). Rows that were rejected with a transient error, such as a timeout, are made again, even
        where the artifact is complete, as long as nothing is made of its rows.

        Raises UserError where texts or a training that were paid for would be lost, unless `run.remake` agrees to it.
        """
        target = self._make(stage)
        stage.on_complete(target)
        return target

    def _make(self, stage: Stage) -> Artifact:
        target, name = self.target(stage), stage.artifact
        if (old := target.earlier_making()) is not None:
            self._check()
            target.bring_back(old)
            self.display.say(f"{name}: the settings are those of an earlier making, which is brought back")

        # A complete artifact needs nothing, unless rows failed.
        manifest = target.manifest()
        if manifest is not None and not self._is_tried_again(target, stage, manifest, name):
            return target

        self._refuse_loss(stage, target)
        self._check()
        if manifest is not None and not manifest.content:
            target.content_before = target.digest()

        # The making, which can use old rows again.
        started, change = time.monotonic(), remaking.change(target, self._made_with(stage, target))
        target.start(stage.resume, stage.reuse.marks if stage.reuse is not None else None)
        if target.replaced is not None:
            self._tell_set_aside(name, change)
        with (
            self.display.stage(name, stage.unit) as target.tell,
            waiting.announced(name, target.tell.idle_seconds, self.display.say),
        ):
            self.carry(stage, target)
            rows_in, summary = stage.make(target)

        gc.collect()  # datasets are in reference cycles; a node that holds a block of one is not released
        manifest = target.finish(
            name,
            stage.unit,
            rows_in,
            time.monotonic() - started,
            lambda: summary | stage.summarise(target),
            self.max_shard_bytes,
            stage.tokens,
        )
        pa.default_memory_pool().release_unused()  # pyarrow keeps freed memory, and this process lives for days

        self.display.tell(name, f"{manifest.seconds:6.1f} s: {_counts(manifest)}")
        if left := _transient(stage, manifest):
            command = "--retry-failed" if self.has_later_stages(target.name) else "the same command"
            self.display.say(f"{name}: {failures_text(left, target.first_details())}: {command} tries them again")
        return target

    def carry(self, stage: Stage, target: Artifact) -> None:
        """Write the rows of earlier makings, and of other runs, that can be used again into the started artifact."""
        runs, reuse = self.config.reused_runs, stage.reuse
        if reuse is not None and (number := carry(target, reuse, stage.artifact, runs, stage.unsettled)):
            self.display.say(f"{stage.artifact}: {number:,} rows of an earlier making are used again")

    def refuse_loss(self, stage: Stage) -> None:
        """Raise the UserError that `make` would raise, before anything is made."""
        target = self.target(stage)
        if target.manifest() is None and target.earlier_making() is None:
            self._refuse_loss(stage, target)

    def _refuse_loss(self, stage: Stage, target: Artifact) -> None:
        """Raises UserError where something paid for would be lost, and the user has not agreed to it.

        Who tries failed rows again agrees to what follows from new rows, and not to other settings.
        """
        stage.check(target)
        limits, settings = self.config.run, self._made_with(stage, target)
        follows = limits.retry_failed and saved_made_of(target.folder).get("settings", {}) == settings
        if not limits.remake and not follows and (loss := stage.loss(target)):
            raise UserError(remaking.question(stage.artifact, loss, target, settings))

    def would_come_back(self, stage: Stage) -> bool:
        """Whether `make` would bring the stage's artifact back from superseded/."""
        return self.target(stage).earlier_making() is not None

    def _made_with(self, stage: Stage, target: Artifact) -> dict[str, Any]:
        """The stage's settings, by the rules by which what is there was made."""
        return stage.settings.readable_like(saved_made_of(target.folder).get("settings", {}))

    def _tell_set_aside(self, name: str, change: str) -> None:
        """A line for the first stage of a command that sets something aside; later stages follow it."""
        if not self._has_set_aside:
            self._has_set_aside = True
            rows = f"{change}: what was there, and what is made of it anew,"
            self.display.say(f"{name}: {rows} lies in {self.folder}/{SUPERSEDED}; the old settings bring it back")

    def target(self, stage: Stage) -> Artifact:
        """The artifact of a stage: that of earlier versions' rules where it is there, or set aside, and no other is."""
        targets = [self._artifact_of(stage, rules) for rules in stage.settings.all_rules()]
        if len(targets) == 1:
            return targets[0]
        begun_targets = (target for target in targets if target.is_begun())
        set_aside = (target for target in targets if target.earlier_making() is not None)
        return next(begun_targets, None) or next(set_aside, targets[0])

    def _artifact_of(self, stage: Stage, settings: StageSettings) -> Artifact:
        mark = fingerprint(stage.fingerprint_name, stage.version, settings.values, stage.inputs)
        target = Artifact(self.folder, stage.artifact, stage.schema, mark, stage.counted)
        target.made_of = {"settings": settings.readable, "inputs": stage.inputs, "config": self.config.saved()}
        return target

    def has_later_stages(self, artifact: str) -> bool:
        """Whether this command, which makes a whole recipe, goes on to make something of the artifact's rows."""
        return bool(successors(artifact)) and isinstance(self.config, DistillConfig)

    def _is_tried_again(self, target: Artifact, stage: Stage, manifest: Manifest, name: str) -> bool:
        """Whether rows of a complete artifact that failed with transient errors are made again; says what it is.

        Rows of which later stages are made stay as they are until `run.retry_failed` asks for more.
        """
        self.display.tell(name, f"complete: {_counts(manifest)}")
        if not (failed := _transient(stage, manifest)):
            return False
        if self.config.run.retry_failed or not remaking.is_used(target):
            return True
        students = [model.name for model in self.config.evaluation.models if model.model_source == TRAINED]
        then = ", ".join(
            f"{later.artifact} ({later.rows_out:,} {later.unit})"
            for later in remaking.later_artifacts(target, students)
        )
        self.display.say(
            f"{name}: {failures_text(failed, target.first_details())} and are left out; --retry-failed tries them again, and where one succeeds makes anew "
            f"what is made of them: {then}"
        )
        return False

    def _check(self) -> None:
        """Do the checks of `before_making`, at the first stage that is not complete. A finished run needs no check.

        Where two stages begin side by side, one of them does the checks, and the other one waits for them.
        """
        with self._checking:
            if self.before_making is None:
                return
            remarks = self.before_making()
            self.before_making = None
            for remark in remarks:
                self.display.say(f"note: {remark}")
            self.folder.write_text(NOTES, json.dumps(remarks, indent=1, ensure_ascii=False) + "\n")
            self.save_settings()

    def generate(self, stage: GeneratingStage, artifact: Artifact, rows_in: int) -> None:
        """Write the rows of a stage that are not in its artifact yet.

        Ray and its engines repair a lost worker or node by themselves. Where they give up, the stage starts again with
        the rows that are left. It does so as long as each start finishes at least one row; two failures without a
        finished row between them raise StageError. Raises StoppedError by `run.stall_minutes` and
        `run.max_reject_fraction`.

        Rows with transient errors are tried once more when all other rows are finished.
        """
        num_failed = artifact.forget_rejects(is_transient).total() + artifact.num_failed_before
        self._generate_missing(stage, artifact, rows_in, num_failed)
        details = artifact.first_details()
        if failed := artifact.forget_rejects(is_transient):
            line = f"{failures_text(failed, details)}, with transient errors: they are tried once more"
            self.display.say(f"{stage.artifact}: {line}")
            self._generate_missing(stage, artifact, rows_in, failed.total())

    def _generate_missing(self, stage: GeneratingStage, artifact: Artifact, rows_in: int, num_failed: int) -> None:
        """`num_failed`: how many of the missing rows have failed before, and may fail again."""
        name = stage.artifact
        failed_at = -1
        limits = self.config.run
        while True:
            done = artifact.done_ids()
            artifact.tell.expect(rows_in, len(done))
            num_missing = rows_in - len(done)
            if num_missing <= 0:
                return

            self.start_ray(stage.imports)
            rejects = f"{artifact.folder}/{REJECTS_FOLDER}"
            failures = FailureLimit(limits.max_reject_fraction, num_missing, name, rejects, num_failed)

            # Finished rows stay where an attempt fails.
            try:
                written = artifact.written(
                    stage.datasets(done, num_missing), name, stage.parallel, self.max_shard_bytes
                )
                for shard in steady(written, limits.stall_minutes, name, engine_is_ready):
                    failures.add(shard)
                    num_missing = max(0, num_missing - shard["rows_out"] - shard["rows_rejected"])
                    self._show_progress(artifact, name, rows_in, num_missing)
                failures.judge()
                self._show_progress(artifact, name, rows_in, 0)
                return
            except (StageError, UserError):
                raise
            except Exception as error:
                if mistake := user_error_in(error):  # a user's mistake: no second start
                    raise UserError(mistake) from error

                # The stage starts again only after progress.
                num_done = len(artifact.done_ids())
                if artifact.is_taken():
                    raise
                if num_done == failed_at:
                    raise StageError(
                        f"{name}: failed twice with no row finished in between: {last_line(error)}. What engines and "
                        "workers say is in Ray's log folder"
                    ) from error
                failed_at = num_done
                self.display.say(f"{name}: failed with {num_done:,} rows done, and begins again: {last_line(error)}")
                gc.collect()  # the failed dataset's engines keep their resources until the dataset is deleted
                artifact.start()

    def _show_progress(self, artifact: Artifact, stage: str, rows_in: int, num_missing: int) -> None:
        """The gauges of a generating stage. A stage whose rows are all there has none missing: no alert looks at it."""
        values: dict[str, float] = {"distil_rows_expected": rows_in, "distil_rows_missing": num_missing}
        left = artifact.tell.seconds_left() if num_missing else 0.0
        if left is not None:
            values["distil_seconds_left"] = left
        metrics.show(values, run=self.folder.name, stage=stage.partition("/")[0])


@contextmanager
def beside(work: Callable[[], None], parallel: bool, say: Callable[[str], None] = print) -> Iterator[None]:
    """Do `work` in a thread beside the `with` block; without `parallel`, before the block.

    An error of `work` is printed at once and raised after the block. If the block fails, nobody waits for `work`: the
    process is about to end. The shards that `work` has written stay.
    """
    if not parallel:
        work()
        yield
        return

    def tell(done: "Future[None]") -> None:
        if done.exception() is not None:
            say(f"failed beside the other stages, which go on: {done.exception()}")

    working = in_background(work)
    working.add_done_callback(tell)
    yield
    working.result()


def _counts(manifest: Manifest) -> str:
    counts = (
        f"{manifest.rows_in:,} in, {manifest.rows_out:,} out, {manifest.rows_rejected:,} rejected ({manifest.unit})"
    )
    dropped = manifest.summary.get(DROPPED)
    return f"{counts}; of {dropped:,} that a stopped run wrote twice, one is kept" if dropped else counts


def _transient(stage: Stage, manifest: Manifest) -> Counter[str]:
    """The rejected rows of a generating stage that may succeed if they are tried again, by reason."""
    return Counter({reason: n for reason, n in manifest.rejects.items() if stage.resume and is_transient(reason)})
