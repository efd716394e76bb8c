"""Sums by day and over all users, of the hours that are there: a day a transaction, so that shippers wait little."""

from django.db import migrations

from usage import rebuild


def fill(apps, schema_editor):
    names = ("UsageHour", "UsageDay", "TotalHour", "TotalDay")
    hours, *tables = (apps.get_model("usage", name) for name in names)
    for day in rebuild.days(hours):
        with rebuild.shippers_waiting():
            rebuild.from_hours(day, hours, tables)


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("usage", "0005_days_and_totals")]

    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
