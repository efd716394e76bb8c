"""What staff search the log by, and their right to export it."""

from django.db import migrations, models

_PROVIDER_ID = models.Index(
    condition=models.Q(("provider_request_id", ""), _negated=True),
    fields=["provider_request_id"],
    name="proxy_requests_provider_id",
)


def add_index(apps, schema_editor):
    if schema_editor.connection.vendor != "postgresql":
        schema_editor.add_index(apps.get_model("usage", "ProxyRequest"), _PROVIDER_ID)
        return
    # 28 bytes a row, where a tree takes 59
    schema_editor.execute(
        "CREATE INDEX proxy_requests_provider_id ON proxy_requests USING hash (provider_request_id)"
        " WHERE provider_request_id <> ''"
    )


def remove_index(apps, schema_editor):
    schema_editor.remove_index(apps.get_model("usage", "ProxyRequest"), _PROVIDER_ID)


class Migration(migrations.Migration):

    dependencies = [
        ('usage', '0002_prices'),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='proxyrequest',
            options={'ordering': ['-created_at', '-id'], 'permissions': [('export_proxyrequest', 'Can export requests')], 'verbose_name': 'request'},
        ),
        migrations.AddIndex(
            model_name='proxyrequest',
            index=models.Index(condition=models.Q(('outcome', 'ok'), _negated=True), fields=['outcome', '-id'], name='proxy_requests_not_ok'),
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(add_index, remove_index)],
            state_operations=[migrations.AddIndex(model_name='proxyrequest', index=_PROVIDER_ID)],
        ),
    ]
