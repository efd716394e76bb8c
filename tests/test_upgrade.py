"""What docs/operations.md asks of migrations under "Upgrade": the release before goes on working, and nobody waits."""

import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests import migrating

pytestmark = pytest.mark.postgres
# Django's choices of types and names, and what `manage.py migrate` does by itself.
ACCEPTED = [
    "prefer-robust-stmts", "prefer-text-field", "prefer-bigint-over-int", "prefer-bigint-over-smallint",
    "prefer-identity", "prefer-timestamp-tz", "require-timeout-settings", "require-statement-timeout",
]  # fmt: skip


def objections(sql: str) -> str:
    """What a linter says that holds up everybody, of statements on tables that are in use."""
    squawk = [Path(sysconfig.get_path("scripts"), "squawk"), "--reporter=gcc", "--pg-version=15"]
    done = subprocess.run([*squawk, f"--exclude={','.join(ACCEPTED)}"], input=sql, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def steps(module_postgres_database, django_db_blocker):
    with django_db_blocker.unblock(), migrating.database(module_postgres_database) as connection:
        return migrating.steps(connection)


def test_no_migration_breaks_the_release_before(steps):
    assert len(steps) > 10
    assert {str(step): step.breaks() for step in steps if step.breaks() and not step.contracts} == {}


def test_no_migration_holds_up_who_reads_or_writes(steps):
    changing = [step for step in steps if step.sql]
    assert changing
    assert {str(step): found for step in changing if (found := objections("\n".join(step.sql)))} == {}


@pytest.mark.parametrize(("statement", "objection"), [
    ("ALTER TABLE users ADD COLUMN locale varchar(10) DEFAULT 'en' NOT NULL", ""),
    ("CREATE INDEX CONCURRENTLY users_name ON users (name)", ""),
    ("CREATE INDEX users_name ON users (name)", "require-concurrent-index-creation"),
    ("ALTER TABLE users ADD COLUMN token uuid DEFAULT gen_random_uuid()", "adding-field-with-default"),
    ("ALTER TABLE users ALTER COLUMN name TYPE text", "changing-column-type"),
    ("ALTER TABLE users ALTER COLUMN name SET NOT NULL", "adding-not-nullable-field"),
    ("ALTER TABLE users ADD CONSTRAINT c CHECK (name <> '')", "constraint-missing-not-valid"),
])  # fmt: skip
def test_it_objects_to_long_locks_alone(statement, objection):
    assert (objection in objections(statement + ";")) if objection else (objections(statement + ";") == "")


FREE, REQUIRED = migrating.Column("text", must_be_given=False), migrating.Column("text", must_be_given=True)


@pytest.mark.parametrize(("change", "broken"), [
    ({"name": FREE}, []),
    ({"name": FREE, "locale": FREE}, []),
    ({"name": FREE, "locale": REQUIRED}, ["users.locale must be given"]),
    ({"name": migrating.Column("integer", must_be_given=False)}, ["users.name is another type"]),
    ({}, ["users.name is gone"]),
])  # fmt: skip
def test_it_knows_what_the_release_before_needs(change, broken):
    before = {"users": {"name": FREE}}
    found = migrating.Step(None, before, {"users": change}).breaks()
    assert [text.partition(":")[0] for text in found] == broken
