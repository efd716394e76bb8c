"""What staff search the log by, and their right to export it."""

from django.db import migrations, models

from usage import partitions

_NOT_OK = models.Index(
    condition=models.Q(("outcome", "ok"), _negated=True), fields=["outcome", "-id"], name="proxy_requests_not_ok"
)
_PROVIDER_ID = models.Index(
    condition=models.Q(("provider_request_id", ""), _negated=True),
    fields=["provider_request_id"],
    name="proxy_requests_provider_id",
)
_ON_POSTGRES = {
    _NOT_OK.name: "(outcome, id DESC) WHERE NOT outcome = 'ok'",
    # 28 bytes a row, where a tree takes 59
    _PROVIDER_ID.name: "USING hash (provider_request_id) WHERE provider_request_id <> ''",
}


def add_indexes(apps, schema_editor):
    for index in (_NOT_OK, _PROVIDER_ID):
        if schema_editor.connection.vendor == "postgresql":
            partitions.add_index(schema_editor.connection, index.name, _ON_POSTGRES[index.name])
        else:
            schema_editor.add_index(apps.get_model("usage", "ProxyRequest"), index)


def remove_indexes(apps, schema_editor):
    for index in (_NOT_OK, _PROVIDER_ID):
        schema_editor.remove_index(apps.get_model("usage", "ProxyRequest"), index)


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ('usage', '0002_prices'),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='proxyrequest',
            options={'ordering': ['-created_at', '-id'], 'permissions': [('export_proxyrequest', 'Can export requests')], 'verbose_name': 'request'},
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(add_indexes, remove_indexes)],
            state_operations=[
                migrations.AddIndex(model_name='proxyrequest', index=_NOT_OK),
                migrations.AddIndex(model_name='proxyrequest', index=_PROVIDER_ID),
            ],
        ),
    ]
