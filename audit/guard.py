"""Owns whether the database still refuses to change or delete an event: the triggers of the second migration."""

from django.db import connection

TRIGGERS = {
    "postgresql": {"audit_events_kept", "audit_events_not_emptied"},
    "sqlite": {"audit_events_not_changed", "audit_events_not_deleted", "audit_events_not_replaced"},
}
_THERE = {
    # 'D': taken out of use by ALTER TABLE … DISABLE TRIGGER; 'R': does nothing but on a replica
    "postgresql": "SELECT tgname FROM pg_trigger"
    " WHERE tgrelid = to_regclass('audit_events') AND tgenabled IN ('O', 'A')",
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit_events'",
}


def missing_triggers() -> set[str]:
    """The names of those that are not there, or not in use."""
    with connection.cursor() as cursor:
        cursor.execute(_THERE[connection.vendor])
        return TRIGGERS[connection.vendor] - {name for (name,) in cursor.fetchall()}
