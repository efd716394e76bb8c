"""Owns the audit log. Rows are added by audit/trail.py; the database refuses to change or delete one.

Nothing refers to other tables: a row outlives whom and what it names.
"""

from django.db import models
from django.utils import timezone


class Action(models.TextChoices):
    CREATE = "create", "created"
    CHANGE = "change", "changed"
    DELETE = "delete", "deleted"
    REVOKE = "revoke", "revoked"
    TEST = "test", "tested at the provider"
    EXPORT = "export", "exported"
    REWRAP = "rewrap", "stored keys re-wrapped"
    SIGN_IN = "sign_in", "signed in"
    SIGN_IN_FAILED = "sign_in_failed", "sign-in failed"
    LOCKED_OUT = "locked_out", "locked out"
    SIGN_OUT = "sign_out", "signed out"
    SECOND_FACTOR = "second_factor", "second factor"
    MAIL = "mail", "mailed"


class Event(models.Model):
    """One thing that somebody did, or tried."""

    created_at = models.DateTimeField(default=timezone.now, editable=False, help_text="When.")
    actor_id = models.UUIDField(null=True, editable=False, help_text="Who did it; empty: a command, or not signed in.")
    actor = models.CharField(
        max_length=254, blank=True, editable=False, help_text="Their e-mail address at that time, or the command."
    )
    address = models.GenericIPAddressField(null=True, editable=False, help_text="Where they were.")
    request_id = models.CharField(max_length=36, blank=True, editable=False, help_text="As in `x-request-id`.")
    action = models.CharField(max_length=20, choices=Action.choices, editable=False, help_text="What they did.")
    object_type = models.CharField(max_length=80, blank=True, editable=False, help_text="Model, as in `accounts.user`.")
    object_id = models.CharField(max_length=64, blank=True, editable=False, help_text="Its primary key.")
    object_name = models.CharField(max_length=254, blank=True, editable=False, help_text="What it was called then.")
    changes = models.JSONField(
        default=dict, editable=False, help_text="Field: [old value, new value]; `***` where the value is secret."
    )
    note = models.CharField(max_length=200, blank=True, editable=False, help_text="Circumstances.")

    class Meta:
        db_table = "audit_events"
        ordering = ["-id"]
        default_permissions = ("view",)
        indexes = [
            # serves: what happened in a period, and the list's drill-down by date
            models.Index(fields=["created_at"], name="audit_events_date"),
            # serves: everything that was done to one object
            models.Index(fields=["object_id", "-id"], name="audit_events_object"),
            # serves: everything that one person did
            models.Index(fields=["actor_id", "-id"], name="audit_events_actor"),
        ]

    def __str__(self) -> str:
        return f"{self.actor or 'somebody'}: {self.get_action_display()} {self.object_name}".strip()
