"""Lets the database itself refuse to change or delete an event, whoever asks: the service, a shell, psql.

On SQLite a later migration that makes the table anew (as most AlterField do) loses the triggers and must apply this again.
"""

from django.db import migrations

POSTGRES = (
    """
    CREATE FUNCTION audit_events_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'audit_events is append-only' USING ERRCODE = 'insufficient_privilege';
    END $$
    """,
    "CREATE TRIGGER audit_events_kept BEFORE UPDATE OR DELETE ON audit_events"
    " FOR EACH ROW EXECUTE FUNCTION audit_events_append_only()",
    "CREATE TRIGGER audit_events_not_emptied BEFORE TRUNCATE ON audit_events"
    " FOR EACH STATEMENT EXECUTE FUNCTION audit_events_append_only()",
)
POSTGRES_UNDO = (
    "DROP TRIGGER audit_events_not_emptied ON audit_events",
    "DROP TRIGGER audit_events_kept ON audit_events",
    "DROP FUNCTION audit_events_append_only()",
)
SQLITE = (
    "CREATE TRIGGER audit_events_not_changed BEFORE UPDATE ON audit_events"
    " BEGIN SELECT RAISE(ABORT, 'audit_events is append-only'); END",
    "CREATE TRIGGER audit_events_not_deleted BEFORE DELETE ON audit_events"
    " BEGIN SELECT RAISE(ABORT, 'audit_events is append-only'); END",
    # INSERT OR REPLACE deletes a row without asking the trigger above
    "CREATE TRIGGER audit_events_not_replaced BEFORE INSERT ON audit_events"
    " WHEN EXISTS (SELECT 1 FROM audit_events WHERE id = NEW.id)"
    " BEGIN SELECT RAISE(ABORT, 'audit_events is append-only'); END",
)
SQLITE_UNDO = (
    "DROP TRIGGER audit_events_not_changed",
    "DROP TRIGGER audit_events_not_deleted",
    "DROP TRIGGER audit_events_not_replaced",
)


def guard(apps, schema_editor):
    for statement in POSTGRES if schema_editor.connection.vendor == "postgresql" else SQLITE:
        schema_editor.execute(statement)


def unguard(apps, schema_editor):
    for statement in POSTGRES_UNDO if schema_editor.connection.vendor == "postgresql" else SQLITE_UNDO:
        schema_editor.execute(statement)


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_initial")]
    operations = [migrations.RunPython(guard, unguard)]
