"""Lets support and admin send users a link to a new password."""

from importlib import import_module

from django.db import migrations

roles = import_module("staff.migrations.0002_roles")
PERMISSION = "accounts.send_reset_mail_user"


def let_roles_send(apps, schema_editor):
    using = schema_editor.connection.alias
    roles.make_permissions(apps, using)
    for group in apps.get_model("auth", "Group").objects.using(using).filter(name__in=["support", "admin"]):
        roles.give(apps, using, group, [PERMISSION])


class Migration(migrations.Migration):
    dependencies = [("staff", "0002_roles"), ("accounts", "0004_account_life")]
    operations = [migrations.RunPython(let_roles_send, migrations.RunPython.noop)]
