"""Two tables in one transaction: it holds the first while it waits for the second."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("next_release", "0001_expand")]
    operations = [
        migrations.RunSQL("ALTER TABLE plans ADD COLUMN seats integer"),
        migrations.RunSQL("ALTER TABLE users ADD COLUMN seat integer"),
    ]
