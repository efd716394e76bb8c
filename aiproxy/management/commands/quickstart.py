"""Owns `make run`: a working demo on a bare checkout, and the end of everything it started.

The mock provider runs in this process; the service is a child with a process group of its own, so that Ctrl-C comes
here first and the service is asked to finish.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from aiproxy import demo
from aiproxy.management.commands.serve import refuse_taken
from aiproxy.mock_provider import MockProvider

START_TIMEOUT = 60.0  # seconds until the service must be ready
QUESTION = {"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "Hello! Who are you?"}]}


def shown_host(host: str) -> str:
    """How a browser on this machine reaches what listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def curl_line(url: str, key: str) -> str:
    return (
        f"curl -N {url}/v1/chat/completions -H 'Authorization: Bearer {key}'"
        f" -H 'Content-Type: application/json' -d '{json.dumps(QUESTION)}'"
    )


def end_with_parent() -> Callable[[], object]:
    """For a child: the kernel tells it to finish should this process be killed (Linux; elsewhere it would go on)."""
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class Command(BaseCommand):
    help = "Sets up a demo (secrets, database, user, keys, mock provider), starts it, and prints a line to try."
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        self._restart_with_secrets()
        self.host, self.port = os.environ.get("HOST") or "127.0.0.1", self._port()
        other = self.port + 1 if self.port < 65535 else 8000
        refuse_taken((self.host, self.port, f"Stop what uses it, or choose another: make run PORT={other}"))
        self.stdout.write("Preparing the database …")
        try:
            Path(settings.AIPROXY_DATA_DIR).mkdir(mode=0o700, parents=True, exist_ok=True)
            call_command("migrate", verbosity=0, interactive=False)
            self.demo = demo.prepare()
        except OSError as error:
            raise CommandError(f"{settings.AIPROXY_DATA_DIR} cannot be written: {error.strerror}.") from error
        connections.close_all()
        asyncio.run(self._run())

    # --- Before the start ----------------------------------------------------------------------------

    def _restart_with_secrets(self) -> None:
        """Settings are read at import: once `.env` is complete, this process begins anew with it."""
        try:
            made = demo.complete_environment_file()
        except OSError as error:
            raise CommandError(f"{demo.environment_file()} cannot be written: {error.strerror}.") from error
        if made:
            self.stdout.write(f"Made {', '.join(made)} in {demo.environment_file()}")
            self.stdout.flush()
            environment = {name: value for name, value in os.environ.items() if value or name not in made}
            os.execve(sys.executable, [sys.executable, *sys.argv], environment)

    def _port(self) -> int:
        text = os.environ.get("PORT") or "8000"
        if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
            raise CommandError(f"PORT is {text!r}: it must be a number from 1 to 65535.")
        return int(text)

    # --- The run -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        self.stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self.stop.set)
        # one password, printed, on the loopback: a demo's second factor would only be in the way
        environment = {
            "AIPROXY_ADMIN_SECOND_FACTOR": "false",
            "AIPROXY_UNVERIFIED_MAY_PROXY": "true",
            "EMAIL_URL": "consolemail://",
            **os.environ,
        }
        provider = MockProvider()
        if not environment.get("AIPROXY_OPENAI_BASE_URL"):
            environment["AIPROXY_OPENAI_BASE_URL"] = f"http://127.0.0.1:{await provider.start()}/v1"
        if shown_host(self.host) not in settings.ALLOWED_HOSTS and not environment.get("ALLOWED_HOSTS"):
            environment["ALLOWED_HOSTS"] = ",".join([*settings.ALLOWED_HOSTS, shown_host(self.host)])
        service = await self._start_service(environment)
        ended = asyncio.create_task(service.wait())
        try:
            if await self._until(self._ready(), ended):
                self._welcome(environment["AIPROXY_OPENAI_BASE_URL"])
                await self._until(asyncio.Event().wait(), ended)
        finally:
            await self._stop_service(service, ended)
            await provider.stop()

    async def _start_service(self, environment: dict[str, str]) -> asyncio.subprocess.Process:
        workers = "2" if settings.REDIS_URL else "1"  # without Redis, workers cannot share limits
        manage = str(settings.BASE_DIR / "manage.py")
        where = ["--workers", workers, "--host", self.host, "--port", str(self.port)]
        return await asyncio.create_subprocess_exec(
            sys.executable,
            manage,
            "serve",
            *where,
            env=environment,
            start_new_session=True,
            preexec_fn=end_with_parent(),
        )

    async def _until(self, work: Any, ended: asyncio.Task[int]) -> bool:
        """True when the work is done, False when we were told to stop; raises when the service has ended by itself."""
        doing, told = asyncio.ensure_future(work), asyncio.ensure_future(self.stop.wait())
        await asyncio.wait({doing, told, ended}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if ended.done() and not self.stop.is_set():
            doing.cancel()
            raise CommandError(f"The service has ended (status {ended.result()}); its last lines above say why.")
        if self.stop.is_set():
            doing.cancel()
            return False
        doing.result()
        return True

    async def _ready(self) -> None:
        answer = "no answer"
        for _ in range(int(START_TIMEOUT / 0.1)):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                status, answer = await self._ask_ready()
                if status == 200:
                    return
            await asyncio.sleep(0.1)
        raise CommandError(f"The service is not ready after {START_TIMEOUT:.0f} s: {answer[:500]}")

    async def _ask_ready(self) -> tuple[int, str]:
        host = shown_host(self.host)
        reader, writer = await asyncio.open_connection(host.strip("[]"), self.port)
        try:
            writer.write(f"GET /readyz HTTP/1.1\r\nHost: {host}:{self.port}\r\nConnection: close\r\n\r\n".encode())
            head = await reader.readline()
            text = (await reader.read()).decode(errors="replace")
        finally:
            writer.close()
        return int(head.split()[1]) if head.count(b" ") >= 1 else 0, text.partition("\r\n\r\n")[2]

    def _welcome(self, provider_url: str) -> None:
        url = f"http://{shown_host(self.host)}:{self.port}"
        password = self.demo.password or "(the one you have set)"
        self.stdout.write(
            f"\naiproxy is up.\n"
            f"  API       {url}/v1\n"
            f"  Console   {url}/console/   {self.demo.email}   {password}\n"
            f"  Admin     {url}/{settings.AIPROXY_ADMIN_PATH}/   {self.demo.email}   {password}\n"
            f"  Provider  openai at {provider_url}\n\n"
            f"Paste this to see an answer stream:\n\n{curl_line(url, self.demo.proxy_key)}\n\nCtrl-C stops it.\n"
        )
        self.stdout.flush()

    async def _stop_service(self, service: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> None:
        """Asks, waits for open streams, then insists; a second Ctrl-C insists at once."""
        if not ended.done():
            self.stdout.write("\nStopping; open streams may finish (Ctrl-C again: at once) …")
            self.stdout.flush()
            self.stop.clear()
            service.terminate()
            again = asyncio.ensure_future(self.stop.wait())
            grace = settings.AIPROXY_GRACE + 15  # more than `serve` takes at most
            await asyncio.wait({ended, again}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            again.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(service.pid, signal.SIGKILL)
        await ended
