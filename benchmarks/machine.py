"""What a run is made on: which core is whose, and the facts without which its figures mean nothing."""

import contextlib
import os
import platform
import struct
import subprocess
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
LOAD = CORES[0]  # clients, the provider, Redis, PostgreSQL and the shipper
TARGET = CORES[1 % len(CORES)]  # the measured proxy, alone


@contextlib.contextmanager
def on_core(*cores: int) -> Iterator[None]:
    """What is started inside stays on that core, or these: children inherit it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def keep_on(cores: Iterable[int], pids: Iterable[int]) -> None:
    """Moves what runs already, with its threads; what they start later inherits it."""
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), cores)


@contextlib.contextmanager
def awake() -> Iterator[bool]:
    """Whether the processors may be kept from sleeping meanwhile: in a virtual machine it takes longer to wake one up
    than to answer a request, and that is the machine's time, not the measured program's.

    https://docs.kernel.org/power/pm_qos_interface.html, as the profile latency-performance of tuned does."""
    try:
        quality = os.open("/dev/cpu_dma_latency", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        os.write(quality, struct.pack("i", 0))  # microseconds; as long as it is open
        yield True
    finally:
        os.close(quality)


def in_the_background(pid: int) -> None:
    """It has what time nobody else wants; its children too."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.setpriority(os.PRIO_PROCESS, pid, 19)


def load_average() -> float:
    return round(os.getloadavg()[0], 2)


def facts() -> dict[str, object]:
    return {
        "cpu": _cpu_model(),
        "cores": len(CORES),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": platform.release(),
        "system": platform.system(),
        "python": platform.python_version(),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average_before": load_average(),
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()
