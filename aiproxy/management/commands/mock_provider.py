"""Owns the command that runs the demo provider by itself."""

import asyncio
import signal
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from aiproxy.management.commands.serve import port_number, refuse_taken
from aiproxy.mock_provider import MockProvider

LONGEST = 60_000  # milliseconds


class Command(BaseCommand):
    help = "Runs a small OpenAI-compatible provider for demos; point AIPROXY_OPENAI_BASE_URL at it."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="where it listens (default: %(default)s)")
        parser.add_argument("--port", type=port_number, default=8001, help="0 takes a free one (default: %(default)s)")
        parser.add_argument("--pace", type=float, default=30, help="milliseconds between chunks (default: %(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 0 <= options["pace"] <= LONGEST:
            raise CommandError(f"--pace is a number of milliseconds: 0 to {LONGEST:,}.")
        asyncio.run(self._serve(options["host"], options["port"], options["pace"] / 1000))

    async def _serve(self, host: str, port: int, pace: float) -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        refuse_taken((host, port, "Stop what uses it, or choose another: --host, --port."))
        provider = MockProvider(pace=pace)
        port = await provider.start(host, port)
        shown = f"[{host}]" if ":" in host else host
        self.stdout.write(f"Demo provider: AIPROXY_OPENAI_BASE_URL=http://{shown}:{port}/v1")
        await stopped.wait()
        await provider.stop()
