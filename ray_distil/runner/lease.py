"""Who makes a run: one process at a time.

On a disk this is a lock of the kernel, which goes with its process. An object store has no locks. There the run's folder
holds a lease: who makes the run, since when, and how often the lease was renewed. It is renewed each RENEWAL_S, and free
when that has not happened for EXPIRY_S by the store's own clock. A process of this machine that has ended holds none.

The lease keeps two people from paying twice for the same run. It is not what keeps rows whole: a process whose run was
taken over can write neither shards nor a manifest (`Artifact.start`).
"""

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ray_distil.errors import UserError
from ray_distil.runner.unfinished import RECENT_SECONDS
from ray_distil.store.listing import stored_files
from ray_distil.store.patience import hurried
from ray_distil.store.storage import Folder, describe

LOCK, LEASE, CLOCK = ".lock", "_lease.json", "_clock"
RENEWAL_S = 60.0
EXPIRY_S = 600.0
SETTLING_S = 2.0  # between writing the lease and reading it back: two processes may begin at once
POLL_S = 5.0


@dataclass(frozen=True)
class Lease:
    """Who makes the run.

    machine: of the process, until its next start; "" where it has no such mark. started: of the process, in ticks since
    the machine's start, since a number of a process is used again.
    """

    holder: str
    host: str
    machine: str
    pid: int
    started: int | None
    since: str
    num_renewals: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} of {self.host}, since {self.since}"

    @property
    def has_ended(self) -> bool:
        """Whether it is a process of this machine that runs no more."""
        return bool(self.machine) and self.machine == _machine() and _started(self.pid) != self.started


def _machine() -> str:
    """A mark of this start of this machine, and of the numbers that its processes have for this one (a container's own)."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""


def _started(pid: int) -> int | None:
    """When a process of this machine was started, in ticks since the machine's start; None where there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return None


@contextmanager
def run_lock(folder: Folder, take_over: bool = False, say: Callable[[str], None] = print) -> Iterator[None]:
    """Only this process makes the run within the block. Raises UserError where another process makes it.

    `take_over`: take a lease in an object store from whoever holds it.
    """
    if folder.local is None:
        with _leased(folder, take_over, say):
            yield
        return
    try:
        folder.local.mkdir(parents=True, exist_ok=True)
        lock = open(folder.local / LOCK, "w")  # noqa: SIM115  closed below
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}); set run.storage_path to a folder that can"
        ) from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is making {folder}; wait for it, or give this run another run.name"
            ) from None
        yield


@contextmanager
def _leased(folder: Folder, take_over: bool, say: Callable[[str], None]) -> Iterator[None]:
    earlier = read_lease(folder)
    if earlier is not None and not take_over and not earlier.has_ended:
        _wait_for(folder, earlier, say)

    # Write the lease. Of two processes that do so at once, the later one has it.
    now, pid = datetime.now(UTC).isoformat(timespec="seconds"), os.getpid()
    lease = Lease(secrets.token_hex(8), socket.gethostname(), _machine(), pid, _started(pid), now)
    _write(folder, lease)
    time.sleep(SETTLING_S)
    newest = read_lease(folder)
    if newest is not None and newest.holder != lease.holder:
        raise _is_held(folder, newest)

    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(folder, lease, over, say), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join(timeout=5)
        with hurried(), suppress(OSError):  # else the lease expires; the run's own error must be the one that is raised
            newest = read_lease(folder)
            if newest is not None and newest.holder == lease.holder:
                folder.remove(LEASE)


def _wait_for(folder: Folder, earlier: Lease, say: Callable[[str], None]) -> None:
    """Wait until the lease is gone or has expired. Raises UserError where it is renewed meanwhile."""
    says = (
        f"{folder} is held by {earlier}; it is taken over if the lease is not renewed within {EXPIRY_S / 60:g} minutes"
    )
    if (age := _age_s(folder)) < EXPIRY_S:
        say(f"{says}, and was renewed {age / 60:.0f} minutes ago; run.take_over=true does not wait")
    while True:
        lease = read_lease(folder)
        if lease is None:
            return
        if lease != earlier:
            raise _is_held(folder, lease)
        if _age_s(folder) >= EXPIRY_S:
            say(f"{folder}: taken over from {earlier}, which has not renewed its lease")
            return
        time.sleep(POLL_S)


def _is_held(folder: Folder, lease: Lease) -> UserError:
    return UserError(
        f"another process is making {folder}: {lease}; wait for it, give this run another run.name, or end that process "
        "and set run.take_over=true"
    )


def _renew(folder: Folder, lease: Lease, over: threading.Event, say: Callable[[str], None]) -> None:
    while not over.wait(RENEWAL_S):
        try:
            newest = read_lease(folder)
            if newest is not None and newest.holder != lease.holder:
                say(f"{folder} was taken over by {newest}; this process can write no more rows")
                return
            if over.is_set():
                return
            lease = replace(lease, num_renewals=lease.num_renewals + 1)
            _write(folder, lease)
        except OSError as error:
            say(f"{folder}: the lease could not be renewed, and is tried again: {describe(error)[:200]}")


def is_at_work(run_folder: Folder, changed: float, now: float) -> bool:
    """Whether some process makes the run: it holds the run's lock or, in an object store, a lease that has not expired.

    `changed`: when the newest file was written. On a disk without locks, a run is at work if that was within
    RECENT_SECONDS.
    """
    if run_folder.local is None:
        leases = [file for file in stored_files(run_folder, recursive=False) if file.name == LEASE]
        return any(lease.changed > now - EXPIRY_S for lease in leases)
    try:
        with open(run_folder.local / LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return changed > now - RECENT_SECONDS


def read_lease(folder: Folder) -> Lease | None:
    """The lease in a run's folder; None where there is none."""
    try:
        return Lease(**json.loads(folder.read_text(LEASE)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write(folder: Folder, lease: Lease) -> None:
    folder.write_text(LEASE, json.dumps(asdict(lease)) + "\n")


def _age_s(folder: Folder) -> float:
    """Seconds since the lease was written, by the clock of the store: that of another machine may be wrong."""
    folder.write_text(CLOCK, str(os.getpid()))
    written, now = folder.modified(LEASE), folder.modified(CLOCK)
    folder.remove(CLOCK)
    return 0.0 if written is None or now is None else now - written
