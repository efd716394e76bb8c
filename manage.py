#!/usr/bin/env python
"""The operator's entry: `manage.py help` lists what it can do."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "aiproxy.settings")
    if sys.argv[1:2] == ["serve"]:
        from aiproxy import metrics_directory

        metrics_directory.make()  # before Django is loaded
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
