"""Which models and keys were tried for a request. On PostgreSQL a column without a default: no row is touched."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('usage', '0008_fill_sums_of_users'),
    ]

    operations = [
        migrations.AddField(
            model_name='proxyrequest',
            name='attempts',
            field=models.JSONField(help_text='If several models or keys were tried: each in order, with what came of it.', null=True),
        ),
    ]
