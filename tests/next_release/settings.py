"""Owns the settings of `manage.py migrate` in the release to come."""

from aiproxy.settings import *  # noqa: F403
from aiproxy.settings import INSTALLED_APPS as BEFORE

INSTALLED_APPS = [*BEFORE, "tests.next_release"]
