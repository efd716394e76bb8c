"""`manage.py migrate`: Django's, but one that waits for a lock never makes everybody else wait behind it."""

import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.core.management.commands import migrate
from django.db import OperationalError, connections
from psycopg.errors import LockNotAvailable

from aiproxy.checks import check_data_directory

# Seconds. Who waits behind us takes the database to be away after AIPROXY_DATABASE_TIMEOUT, and PostgreSQL ends one of
# two that wait for each other after 1 (deadlock_timeout): we give way before either.
PATIENCE = 0.5
PAUSE = 10  # times as long
LONGEST = 86_400
TRIES = 24


class Command(migrate.Command):
    """A migration that is undone half way is begun again: each is one transaction, or can be repeated."""

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--lock-timeout", type=float, default=PATIENCE, metavar="SECONDS",
            help="How long a statement waits for a lock, and everybody else behind it (default: %(default)s); it is "
            f"tried {TRIES} times. PostgreSQL only.",
        )  # fmt: skip

    def execute(self, *args: Any, **options: Any) -> Any:
        if connections[options["database"]].vendor == "sqlite":
            # It makes its file, not the directory around it; the system checks open it already.
            for wrong in check_data_directory():
                raise CommandError(f"{wrong.msg} {wrong.hint}")
            Path(settings.AIPROXY_DATA_DIR).mkdir(mode=0o700, parents=True, exist_ok=True)
        return super().execute(*args, **options)

    def handle(self, *args: Any, **options: Any) -> None:
        if not 0 < options["lock_timeout"] <= LONGEST:
            raise CommandError(f"--lock-timeout: more than 0 seconds, and {LONGEST:,} at the most.")
        for left in range(TRIES - 1, -1, -1):
            try:
                self._migrate(*args, **options)
                return
            except OperationalError as error:
                if not isinstance(error.__cause__, LockNotAvailable):
                    raise
                if not left:
                    raise CommandError(
                        f"No lock within {options['lock_timeout']:g} s, {TRIES} times over. Something holds its table "
                        "for long: see pg_stat_activity, end that, and run this again; what is applied stays applied."
                    ) from error
                pause = PAUSE * options["lock_timeout"]  # whoever waited behind us goes first
                self.stderr.write(f"No lock within {options['lock_timeout']:g} s; trying again in {pause:g} s …")
                time.sleep(pause)

    def _migrate(self, *args: Any, **options: Any) -> None:
        connection = connections[options["database"]]
        if connection.vendor != "postgresql":
            super().handle(*args, **options)
            return
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, false)", [f"{options['lock_timeout']}s"])
        try:
            super().handle(*args, **options)
        finally:
            if not connection.needs_rollback:
                with connection.cursor() as cursor:
                    cursor.execute("RESET lock_timeout")
