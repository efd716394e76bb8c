"""The log, partitioned by month on PostgreSQL, and its hourly sums.

Django has no partitioned tables: the log's state is declared to it, and its table is made by hand.
"""

import datetime as dt

import accounts.ids
from django.db import migrations, models

from usage import partitions

# Wide columns first: nothing is lost to alignment. The primary key of a partitioned table must hold what it is
# partitioned by; ids alone are unique all the same, since created_at is the time inside them.
_PARTITIONED = """
CREATE TABLE proxy_requests (
    id uuid NOT NULL,
    user_id uuid NOT NULL,
    proxy_key_id uuid NOT NULL,
    api_key_id uuid,
    created_at timestamp with time zone NOT NULL,
    overhead_ms double precision,
    tokens_input integer NOT NULL,
    tokens_output integer NOT NULL,
    tokens_total integer NOT NULL,
    tokens_cached integer NOT NULL,
    tokens_reasoning integer NOT NULL,
    latency_ms integer NOT NULL,
    ttft_ms integer,
    status_code smallint NOT NULL,
    streamed boolean NOT NULL,
    cost numeric(12, 8),
    provider varchar(20) NOT NULL,
    model varchar(100) NOT NULL,
    endpoint varchar(40) NOT NULL,
    outcome varchar(16) NOT NULL,
    error_message varchar(200) NOT NULL,
    usage_source varchar(10) NOT NULL,
    provider_request_id varchar(80) NOT NULL,
    writer varchar(40) NOT NULL,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX idx_requests_user_date ON proxy_requests (user_id, created_at DESC);
"""


def create_table(apps, schema_editor):
    if schema_editor.connection.vendor != "postgresql":
        schema_editor.create_model(apps.get_model("usage", "ProxyRequest"))
        return
    schema_editor.execute(_PARTITIONED)
    partitions.ensure(schema_editor.connection, partitions.coming_months(dt.datetime.now(tz=dt.UTC).date()))


def delete_table(apps, schema_editor):
    schema_editor.delete_model(apps.get_model("usage", "ProxyRequest"))



class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name='ProxyRequest',
                    fields=[
                        ('id', models.UUIDField(default=accounts.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(help_text='When it arrived: the time inside its id.')),
                        ('user_id', models.UUIDField(help_text='Whose proxy key was used.')),
                        ('proxy_key_id', models.UUIDField(help_text='The proxy key it came with.')),
                        ('api_key_id', models.UUIDField(help_text='The provider key that served it.', null=True)),
                        ('provider', models.CharField(blank=True, help_text='Who answered; empty: nobody was asked.', max_length=20)),
                        ('model', models.CharField(help_text='As the client asked; `(unknown)` if unrouted.', max_length=100)),
                        ('endpoint', models.CharField(help_text='What was called, as in `chat.completions`.', max_length=40)),
                        ('streamed', models.BooleanField(default=False, help_text='Whether the answer was asked for as a stream.')),
                        ('outcome', models.CharField(choices=[('ok', 'complete'), ('refused', 'refused by us'), ('provider_error', 'refused or failed by the provider'), ('timeout', 'provider too slow'), ('client_gone', 'client left'), ('interrupted', 'worker died'), ('drained', 'cut off by a shutdown'), ('error', 'failed inside the proxy')], help_text='How it ended.', max_length=16)),
                        ('status_code', models.PositiveSmallIntegerField(help_text='What the client was sent; 499: it left before; 500 if the worker died.')),
                        ('error_message', models.CharField(blank=True, default='', help_text='What went wrong, if anything.', max_length=200)),
                        ('tokens_input', models.PositiveIntegerField(default=0, help_text='All input tokens, cached ones included.')),
                        ('tokens_output', models.PositiveIntegerField(default=0, help_text='All output tokens, reasoning included.')),
                        ('tokens_total', models.PositiveIntegerField(default=0, help_text='Input and output.')),
                        ('tokens_cached', models.PositiveIntegerField(default=0, help_text='Input tokens read from a cache.')),
                        ('tokens_reasoning', models.PositiveIntegerField(default=0, help_text='Output tokens spent on reasoning.')),
                        ('usage_source', models.CharField(choices=[('provider', 'as the provider says'), ('estimated', 'our estimate'), ('none', 'nothing was used')], default='none', help_text='Who counted the tokens.', max_length=10)),
                        ('cost', models.DecimalField(decimal_places=8, help_text='US dollars; empty: the price is unknown.', max_digits=12, null=True)),
                        ('latency_ms', models.PositiveIntegerField(default=0, help_text='From its arrival to the last byte.')),
                        ('ttft_ms', models.PositiveIntegerField(help_text='From its arrival to the first answer byte.', null=True)),
                        ('overhead_ms', models.FloatField(help_text='Our own part, before the provider was asked.', null=True)),
                        ('provider_request_id', models.CharField(blank=True, default='', help_text="The provider's own id of it, to ask them about.", max_length=80)),
                        ('writer', models.CharField(blank=True, default='', help_text='Which process recorded it.', max_length=40)),
                    ],
                    options={
                        'verbose_name': 'request',
                        'db_table': 'proxy_requests',
                        'ordering': ['-created_at', '-id'],
                        'indexes': [models.Index(fields=['user_id', '-created_at'], name='idx_requests_user_date')],
                    },
                ),
            ],
        ),
        migrations.RunPython(create_table, delete_table),
        migrations.CreateModel(
            name='UsageHour',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('hour', models.DateTimeField(help_text='Its start, UTC.')),
                ('user_id', models.UUIDField(help_text='Whose requests.')),
                ('proxy_key_id', models.UUIDField(help_text='The proxy key they came with.')),
                ('provider', models.CharField(blank=True, help_text='Who answered; empty: nobody was asked.', max_length=20)),
                ('model', models.CharField(help_text='As the client asked.', max_length=100)),
                ('requests', models.PositiveBigIntegerField(default=0, help_text='All that ended.')),
                ('errors', models.PositiveBigIntegerField(default=0, help_text="Those that ended neither complete nor by the client's leaving.")),
                ('tokens_input', models.PositiveBigIntegerField(default=0, help_text='All input tokens, cached ones included.')),
                ('tokens_output', models.PositiveBigIntegerField(default=0, help_text='All output tokens, reasoning included.')),
                ('tokens_total', models.PositiveBigIntegerField(default=0, help_text='Input and output.')),
                ('tokens_cached', models.PositiveBigIntegerField(default=0, help_text='Input tokens read from a cache.')),
                ('tokens_reasoning', models.PositiveBigIntegerField(default=0, help_text='Output tokens spent on reasoning.')),
                ('cost', models.DecimalField(decimal_places=8, default=0, help_text='US dollars, as far as known.', max_digits=18)),
                ('unpriced', models.PositiveBigIntegerField(default=0, help_text='Requests that used tokens at an unknown price.')),
                ('latency_ms_sum', models.PositiveBigIntegerField(default=0, help_text='Of the complete requests.')),
                ('latency_100', models.PositiveBigIntegerField(default=0, help_text='At most 0.1 s.')),
                ('latency_250', models.PositiveBigIntegerField(default=0, help_text='At most 0.25 s.')),
                ('latency_500', models.PositiveBigIntegerField(default=0, help_text='At most 0.5 s.')),
                ('latency_1000', models.PositiveBigIntegerField(default=0, help_text='At most 1 s.')),
                ('latency_2000', models.PositiveBigIntegerField(default=0, help_text='At most 2 s.')),
                ('latency_4000', models.PositiveBigIntegerField(default=0, help_text='At most 4 s.')),
                ('latency_8000', models.PositiveBigIntegerField(default=0, help_text='At most 8 s.')),
                ('latency_15000', models.PositiveBigIntegerField(default=0, help_text='At most 15 s.')),
                ('latency_30000', models.PositiveBigIntegerField(default=0, help_text='At most 30 s.')),
                ('latency_60000', models.PositiveBigIntegerField(default=0, help_text='At most a minute.')),
                ('latency_120000', models.PositiveBigIntegerField(default=0, help_text='At most two minutes.')),
                ('latency_more', models.PositiveBigIntegerField(default=0, help_text='More than two minutes.')),
            ],
            options={
                'verbose_name': 'hour of usage',
                'verbose_name_plural': 'hours of usage',
                'db_table': 'usage_hours',
                'ordering': ['-hour'],
                'indexes': [models.Index(fields=['hour'], name='usage_hours_hour')],
                'constraints': [models.UniqueConstraint(fields=('user_id', 'hour', 'proxy_key_id', 'provider', 'model'), name='usage_hours_unique')],
            },
        ),
    ]
