"""Columns that the release before does not give, a table that it does not know, indexes of tables that are in use."""

from django.db import migrations

from usage import partitions

COLUMNS = [
    "ALTER TABLE users ADD COLUMN locale varchar(10) DEFAULT 'en' NOT NULL",
    "ALTER TABLE proxy_api_keys ADD COLUMN note varchar(200)",
    "ALTER TABLE api_keys ADD COLUMN region varchar(20) DEFAULT '' NOT NULL",
    "ALTER TABLE plans ADD COLUMN max_cost numeric(12, 2)",
    "ALTER TABLE sign_ins ADD COLUMN agent varchar(200) DEFAULT '' NOT NULL",
    "ALTER TABLE usage_hours ADD COLUMN tokens_audio bigint DEFAULT 0 NOT NULL",
    "ALTER TABLE proxy_requests ADD COLUMN tokens_audio integer DEFAULT 0 NOT NULL",
]
TABLE = [
    "CREATE TABLE teams (id uuid PRIMARY KEY, owner_id uuid NOT NULL)",
    "ALTER TABLE teams ADD CONSTRAINT teams_owner FOREIGN KEY (owner_id) REFERENCES users (id) NOT VALID",
    "ALTER TABLE teams VALIDATE CONSTRAINT teams_owner",
]


def index_log(apps, schema_editor):
    partitions.add_index(schema_editor.connection, "proxy_requests_model", "(model, id DESC)")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("usage", "0003_log_search"), ("accounts", "0004_account_life"), ("vault", "0003_role_permissions")]
    operations = [
        *(migrations.RunSQL(statement) for statement in COLUMNS + TABLE),
        migrations.RunSQL("CREATE INDEX CONCURRENTLY proxy_keys_note ON proxy_api_keys (note)"),
        migrations.RunPython(index_log),
    ]
