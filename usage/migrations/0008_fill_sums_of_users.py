"""As 0006, for the sums by user."""

from django.db import migrations

from usage import rebuild


def fill(apps, schema_editor):
    hours, *tables = (apps.get_model("usage", name) for name in ("UsageHour", "UserHour", "UserDay"))
    for day in rebuild.days(hours):
        with rebuild.shippers_waiting():
            rebuild.from_hours(day, hours, tables)


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("usage", "0007_sums_of_users")]

    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
