#!/usr/bin/env python
"""The operator's entry: `manage.py help` lists what it can do."""

import os
import sys

INTERRUPTED = 130  # what a shell says of Ctrl-C


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "aiproxy.settings")
    fill_closed_streams()
    try:
        " ".join(sys.argv).encode()
    except UnicodeEncodeError:
        sys.exit("An argument is not UTF-8.")
    if sys.argv[1:2] != ["serve"]:
        run()
        return
    from aiproxy import metrics_directory

    try:
        metrics_directory.make()  # before Django is loaded
    except OSError as error:
        sys.exit(f"Metrics cannot be added up: {error}. Set PROMETHEUS_MULTIPROC_DIR to a directory to write in.")
    try:
        run()
    finally:
        metrics_directory.remove()


def fill_closed_streams() -> None:
    """Of what was closed (`>&-`), no file that is opened later takes the place; what is printed there fails, as on a
    full disk."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            found = os.open(os.devnull, os.O_RDONLY if name == "stdout" else os.O_RDWR)
            os.dup2(found, number)
            if found != number:
                os.close(found)
            setattr(sys, name, os.fdopen(number, mode))


def run() -> None:
    """An operator is told what is wrong in a line; with --traceback also where."""
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line
    from django.db import Error as DatabaseError

    try:
        try:
            execute_from_command_line(sys.argv)
        finally:
            sys.stdout.flush()  # the interpreter would do it where nobody can say what failed
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as error:  # a full disk, what may not be read; BrokenPipeError: who reads this has seen enough
        if "--traceback" in sys.argv:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left to print would fail once more
        where = f": {error.filename}" if error.filename else ""
        quiet = isinstance(error, BrokenPipeError)
        sys.exit(1 if quiet else f"{error.strerror or error}{where}. With --traceback it says what it was doing.")
    except EOFError:
        sys.exit("Standard input ended before there was an answer.")
    except (ImproperlyConfigured, DatabaseError) as error:
        if "--traceback" in sys.argv:
            raise
        said = str(error).strip().partition("\n")[0]
        if isinstance(error, ImproperlyConfigured):
            sys.exit(f"A setting is wrong: {said}")
        sys.exit(f"The database failed: {said}. `manage.py doctor` says what is wrong.")


if __name__ == "__main__":
    main()
