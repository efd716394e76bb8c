"""`manage.py make_secrets`: makes every secret of a new installation, once."""

import secrets
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlunsplit

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.addresses import split_url
from aiproxy.demo import SECRETS, write_private

ENVIRONMENT, PASSWORD = "env", "database_password"


class Command(BaseCommand):
    help = (
        "Makes the secrets of a new installation, as lines NAME=value: for a .env, or for `kubectl create secret "
        "generic --from-env-file`. Keep them: without the master keys every stored provider key is lost."
    )
    requires_system_checks = []  # they miss what is made here

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--into", type=named, metavar="DIRECTORY",
            help=f"Write them to DIRECTORY/{ENVIRONMENT} for AIPROXY_ENV_FILE; one that is there is left alone.",
        )  # fmt: skip
        parser.add_argument(
            "--database", default="", metavar="URL",
            help=f"Make a password for its user, too: in DATABASE_URL, and alone in DIRECTORY/{PASSWORD}.",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> str:
        directory, database = options["into"], address(options["database"])
        lines = [f"{name}={make()}" for name, make in SECRETS.items()]
        if directory is None:
            if database.netloc:
                raise CommandError("--database needs --into: its server must be told the password, too.")
            return "\n".join(lines)
        if (directory / ENVIRONMENT).exists():
            return f"{directory / ENVIRONMENT} is there already: nothing was changed."
        try:
            if database.netloc:
                password = secrets.token_urlsafe(32)
                where = database.netloc.replace("@", f":{password}@", 1)
                lines.append(f"DATABASE_URL={urlunsplit(database._replace(netloc=where))}")
                write_private(directory / PASSWORD, password)
            # Last: who finds it finds everything.
            write_private(directory / ENVIRONMENT, "\n".join(lines) + "\n")
        except OSError as error:
            raise CommandError(f"{directory} cannot be written: {error.strerror}.") from error
        return f"Made {directory / ENVIRONMENT}. Keep it: without it every stored provider key is lost."


def named(text: str) -> Path:
    if not text:  # of an unset variable; a path it would be the working directory
        raise ArgumentTypeError("an empty text names no directory.")
    return Path(text)


def address(text: str) -> SplitResult:
    """Of a database with a user; of none for an empty text."""
    try:
        found = split_url(text)
        wrong = text and not (found.username and found.hostname and found.password is None)
    except ValueError:  # its host or port
        wrong = True
    if wrong:
        raise CommandError("--database: a URL with a user and no password, as in postgres://me@host/name.")
    return found
