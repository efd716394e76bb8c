"""The master process: workers and side processes are started, replaced when they die, and stopped in the right order.

Owns gunicorn's settings and what differs from gunicorn's own arbiter. It opens no connection and starts no thread, so
that every fork begins clean. Knows nothing of requests or rows.
"""

import contextlib
import gc
import logging
import math
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from prometheus_client import multiprocess

from aiproxy.worker import SERVER_MARGIN, WORKER_ENDS, WORKER_MARGIN, ProxyWorker

logger = logging.getLogger(__name__)

HANG_TIMEOUT = 30  # seconds without a heartbeat, after which a worker is killed
BACKOFF = (0.5, 30.0)  # seconds before a side process that died is started again, doubled up to the second
STEADY = 60.0  # a side process that lived this long starts again at the first delay
PATIENCE = 10.0  # seconds that a side process has to end
PARENT_POLL = 0.1  # seconds
# Supervisors like systemd send SIGTERM to every process at once; a side process must outlive the workers, so only the
# master tells it to end, by another signal.
END = signal.SIGUSR2
ENDS = {END, *WORKER_ENDS}


@contextlib.contextmanager
def ends_held_back() -> Iterator[None]:
    """Around a fork: a child that is told to end before it has its own handlers would queue that, and never look."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)


class SideProcess:
    """A forked process beside the workers, which runs `work(stop)` until `stop` is set."""

    def __init__(self, name: str, work: Callable[[threading.Event], None]) -> None:
        self.name = name
        self.pid = 0
        self._work = work
        self._delay = 0.0
        self._started = 0.0
        self._not_before = 0.0

    def keep(self, listeners: Iterable[Any]) -> None:
        """Start it unless it runs, or died so recently that it would only die again."""
        if self.pid or time.monotonic() < self._not_before:
            return
        self._started = time.monotonic()
        master = os.getpid()
        with ends_held_back():
            self.pid = os.fork()
            if not self.pid:
                self._run(master, listeners)
        logger.info("The %s process has begun, pid %d", self.name, self.pid)

    def reap(self) -> None:
        if not self.pid:
            return
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:  # gunicorn waits for any child, and was first
            pid, status = self.pid, 0
        if not pid:
            return
        self.pid = 0
        now = time.monotonic()
        steady = now - self._started > STEADY
        self._delay = BACKOFF[0] if steady or not self._delay else min(self._delay * 2, BACKOFF[1])
        self._not_before = now + self._delay
        code = os.waitstatus_to_exitcode(status)
        logger.error("The %s process ended (status %d); it starts again in %.1f s", self.name, code, self._delay)

    def stop(self) -> None:
        """Ask it to end, and wait; what it was doing at PATIENCE seconds is lost to it, not to its data."""
        if not self.pid:
            return
        deadline = time.monotonic() + PATIENCE
        try:
            os.kill(self.pid, END)
            while not os.waitpid(self.pid, os.WNOHANG)[0]:
                if time.monotonic() > deadline:
                    logger.error("The %s process does not end; it is killed", self.name)
                    os.kill(self.pid, signal.SIGKILL)
                    deadline = math.inf
                time.sleep(0.02)
        except (ChildProcessError, ProcessLookupError):
            pass
        self.pid = 0

    def _run(self, master: int, listeners: Iterable[Any]) -> None:
        told: list[int] = []
        for number in Arbiter.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(END, lambda number, frame: told.append(number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
        for listener in listeners:
            listener.close()
        stop = threading.Event()

        def watch() -> None:
            # Setting the event in the signal handler could meet its lock held by the very code it interrupts.
            while not told and os.getppid() == master:
                time.sleep(PARENT_POLL)
            stop.set()

        threading.Thread(target=watch, name="parent", daemon=True).start()
        try:
            self._work(stop)
        except Exception:
            logger.exception("The %s process failed", self.name)
            sys.exit(1)
        sys.exit(0 if stop.is_set() else 1)


class Supervisor(Arbiter):  # type: ignore[misc]
    def __init__(self, application: "Service") -> None:
        self.side_processes = application.side_processes
        super().__init__(application)

    def start(self) -> None:
        super().start()
        # Nothing of what the workers share is looked at by their collectors, so nothing of it is copied.
        gc.collect()
        gc.freeze()
        if threading.active_count() > 1:
            logger.warning("The master has threads: %s", ", ".join(thread.name for thread in threading.enumerate()))

    def spawn_worker(self) -> Any:
        with ends_held_back():
            return super().spawn_worker()

    def manage_workers(self) -> None:
        super().manage_workers()
        for process in self.side_processes:
            process.keep(self.LISTENERS)

    def reap_workers(self) -> None:
        for process in self.side_processes:
            process.reap()
        super().reap_workers()

    def stop(self, graceful: bool = True) -> None:
        super().stop(graceful)
        # Only now: what the workers' last requests left is theirs to carry away.
        for process in self.side_processes:
            process.stop()


class Log(Logger):  # type: ignore[misc]
    """Gunicorn's words go where all others go: through Django's LOGGING, and its scrubbing of secrets."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.error_log.propagate = True
        for name in ("uvicorn.error", "uvicorn.access"):
            logging.getLogger(name).handlers = []


class Service(BaseApplication):  # type: ignore[misc]
    """The ASGI application on `host`:`port` in `workers` processes, and the side processes beside them."""

    def __init__(self, host: str, port: int, *, workers: int, side_processes: list[SideProcess]) -> None:
        self._bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._workers = workers
        self.side_processes = side_processes
        super().__init__()

    def load_config(self) -> None:
        memory = Path("/dev/shm")  # noqa: S108  # a heartbeat on a disk waits for that disk
        options: dict[str, Any] = {
            "bind": self._bind,
            "workers": self._workers,
            "worker_class": ProxyWorker,
            "worker_tmp_dir": str(memory) if os.access(memory, os.W_OK) else None,
            "preload_app": True,
            "timeout": HANG_TIMEOUT,
            "graceful_timeout": int(settings.AIPROXY_GRACE + SERVER_MARGIN + WORKER_MARGIN),
            "keepalive": int(settings.AIPROXY_KEEPALIVE_TIMEOUT),
            "control_socket_disable": True,
            "forwarded_allow_ips": "",
            "accesslog": None,
            "errorlog": None,
            "loglevel": "debug" if settings.AIPROXY_LOG_LEVEL == "DEBUG" else "warning",
            "logger_class": Log,
            "proc_name": "aiproxy",
            "child_exit": forget_metrics,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        from aiproxy.asgi import application

        return application

    def run(self) -> None:
        # All have the master keys, and workers and the shipper open provider keys: a dump would write them down.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        Supervisor(self).run()


def forget_metrics(supervisor: Supervisor, worker: ProxyWorker) -> None:
    """The gauges of a worker that is gone; its counters stay, for sums do not go back."""
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
