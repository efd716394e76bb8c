"""Owns the processes of a run: started on a core of their choice, accounted for, and all stopped at its end.

CPU time and memory are those of everything in the session that a process began: workers and helpers count.
"""

import contextlib
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.machine import on_core

TICK = os.sysconf("SC_CLK_TCK")
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is never behind a proxy


class DidNotStart(Exception):
    """The message says why, with the end of what the program printed."""


class Running:
    def __init__(
        self, command: Sequence[object], log: Path, *, core: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        self.begun = time.perf_counter()
        with log.open("ab") as output, on_core(core):
            self.process = subprocess.Popen(
                [str(part) for part in command], env=None if environment is None else dict(environment),
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    def wait_for(self, url: str, *, patience: float = 60) -> float:
        """Seconds from exec to the first 200."""
        while True:
            with contextlib.suppress(OSError), OPENER.open(url, timeout=5) as answer:
                if answer.status == 200:
                    return time.perf_counter() - self.begun
            if self.process.poll() is not None or time.perf_counter() - self.begun > patience:
                raise DidNotStart(f"{url} never answered:\n{self.last_words()}")
            time.sleep(0.005)

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-1500:]

    def pids(self) -> list[int]:
        return [pid for pid, session in _sessions() if session == self.process.pid]

    def cpu_seconds(self) -> float:
        return sum(map(cpu_seconds, self.pids()))

    def memory_mb(self) -> float:
        """Proportional set size: what processes share counts once."""
        return sum(_smaps(pid).get("Pss", 0) for pid in self.pids()) / 1e6

    def stop(self, patience: float = 20) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(patience)


def cpu_seconds(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = _stat(pid)
        return (int(fields[11]) + int(fields[12])) / TICK
    return 0.0


def resident_mb(pid: int) -> float:
    return _smaps(pid).get("Rss", 0) / 1e6


def _smaps(pid: int) -> dict[str, int]:
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        return {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    return {}


def _stat(pid: int) -> list[str]:
    """proc(5), from the third field (state) on: the second may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _sessions() -> list[tuple[int, int]]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                found.append((int(entry), int(_stat(int(entry))[3])))
    return found
