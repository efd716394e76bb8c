"""Owns where the processes of one service leave their metrics for each other, and that nothing is left of it.

Prometheus' client chooses at its import whether processes are added up, so this is named before Django is loaded:
nothing of Django or of that client is imported here.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "aiproxy-metrics-"
# Names the process that made the directory.
_MADE_BY = "_AIPROXY_METRICS_OF"


def make() -> None:
    """The operator's own directory without the files of processes that are gone, or a new one in memory."""
    os.environ[_MADE_BY] = str(os.getpid())
    given = os.environ.get(VARIABLE)
    if not given:
        os.environ[VARIABLE] = _new()
        return
    Path(given).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=given):  # each process will have files there
        pass
    for left in Path(given).glob("*.db"):
        left.unlink(missing_ok=True)


def is_ours() -> bool:
    return os.environ.get(_MADE_BY) == str(os.getpid())


def remove() -> None:
    if is_ours() and Path(os.environ[VARIABLE]).name.startswith(PREFIX):
        shutil.rmtree(os.environ[VARIABLE], ignore_errors=True)


def _new() -> str:
    memory = "/dev/shm"  # noqa: S108
    parent = memory if os.access(memory, os.W_OK) else tempfile.gettempdir()
    remove_left(Path(parent))
    directory = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
    lock = os.open(Path(directory, "lock"), os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.set_inheritable(lock, True)  # held until the last of our processes has ended
    return directory


def remove_left(parent: Path) -> None:
    """Those of services that were killed: nobody holds their lock."""
    for directory in parent.glob(PREFIX + "*"):
        with suppress(OSError), open(directory / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
