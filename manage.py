#!/usr/bin/env python
"""The operator's entry: `manage.py help` lists what it can do."""

import os
import sys

INTERRUPTED = 130  # what a shell says of Ctrl-C


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "aiproxy.settings")
    try:
        " ".join(sys.argv).encode()
    except UnicodeEncodeError:
        sys.exit("An argument is not UTF-8.")
    if sys.argv[1:2] != ["serve"]:
        run()
        return
    from aiproxy import metrics_directory

    metrics_directory.make()  # before Django is loaded
    try:
        run()
    finally:
        metrics_directory.remove()


def run() -> None:
    """An operator is told what is wrong in a line; with --traceback also where."""
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line
    from django.db import InterfaceError, OperationalError, ProgrammingError

    try:
        execute_from_command_line(sys.argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # who reads this has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except (ImproperlyConfigured, InterfaceError, OperationalError, ProgrammingError) as error:
        if "--traceback" in sys.argv:
            raise
        said = str(error).strip().partition("\n")[0]
        if isinstance(error, ImproperlyConfigured):
            sys.exit(f"A setting is wrong: {said}")
        sys.exit(f"The database failed: {said}. `manage.py doctor` says what is wrong.")


if __name__ == "__main__":
    main()
