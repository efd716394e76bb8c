"""Sums by user alone: who was there, who cost most, and how much of a plan is used, from few rows."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('usage', '0006_fill_days_and_totals'),
    ]

    operations = [
        migrations.CreateModel(
            name='UserDay',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('requests', models.PositiveBigIntegerField(default=0, help_text='All that ended.')),
                ('errors', models.PositiveBigIntegerField(default=0, help_text="Those that ended neither complete nor by the client's leaving.")),
                ('tokens_input', models.PositiveBigIntegerField(default=0, help_text='All input tokens, cached ones included.')),
                ('tokens_output', models.PositiveBigIntegerField(default=0, help_text='All output tokens, reasoning included.')),
                ('tokens_total', models.PositiveBigIntegerField(default=0, help_text='Input and output.')),
                ('tokens_cached', models.PositiveBigIntegerField(default=0, help_text='Input tokens read from a cache.')),
                ('tokens_reasoning', models.PositiveBigIntegerField(default=0, help_text='Output tokens spent on reasoning.')),
                ('cost', models.DecimalField(decimal_places=8, default=0, help_text='US dollars; of the requests whose cost is known.', max_digits=18)),
                ('unpriced', models.PositiveBigIntegerField(default=0, help_text='Requests whose cost is not known.')),
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
                ('errors_refused', models.IntegerField(db_default=0, default=0, help_text='Refused by us.')),
                ('errors_provider_error', models.IntegerField(db_default=0, default=0, help_text='Refused or failed by the provider.')),
                ('errors_timeout', models.IntegerField(db_default=0, default=0, help_text='The provider was too slow.')),
                ('errors_interrupted', models.IntegerField(db_default=0, default=0, help_text='The worker died.')),
                ('errors_drained', models.IntegerField(db_default=0, default=0, help_text='Cut off by a shutdown.')),
                ('errors_error', models.IntegerField(db_default=0, default=0, help_text='Failed inside the proxy.')),
                ('day', models.DateTimeField(help_text='Its start, UTC.')),
                ('user_id', models.UUIDField(help_text='Whose requests.')),
            ],
            options={
                'db_table': 'usage_user_days',
                'default_permissions': (),
            },
        ),
        migrations.CreateModel(
            name='UserHour',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('requests', models.PositiveBigIntegerField(default=0, help_text='All that ended.')),
                ('errors', models.PositiveBigIntegerField(default=0, help_text="Those that ended neither complete nor by the client's leaving.")),
                ('tokens_input', models.PositiveBigIntegerField(default=0, help_text='All input tokens, cached ones included.')),
                ('tokens_output', models.PositiveBigIntegerField(default=0, help_text='All output tokens, reasoning included.')),
                ('tokens_total', models.PositiveBigIntegerField(default=0, help_text='Input and output.')),
                ('tokens_cached', models.PositiveBigIntegerField(default=0, help_text='Input tokens read from a cache.')),
                ('tokens_reasoning', models.PositiveBigIntegerField(default=0, help_text='Output tokens spent on reasoning.')),
                ('cost', models.DecimalField(decimal_places=8, default=0, help_text='US dollars; of the requests whose cost is known.', max_digits=18)),
                ('unpriced', models.PositiveBigIntegerField(default=0, help_text='Requests whose cost is not known.')),
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
                ('errors_refused', models.IntegerField(db_default=0, default=0, help_text='Refused by us.')),
                ('errors_provider_error', models.IntegerField(db_default=0, default=0, help_text='Refused or failed by the provider.')),
                ('errors_timeout', models.IntegerField(db_default=0, default=0, help_text='The provider was too slow.')),
                ('errors_interrupted', models.IntegerField(db_default=0, default=0, help_text='The worker died.')),
                ('errors_drained', models.IntegerField(db_default=0, default=0, help_text='Cut off by a shutdown.')),
                ('errors_error', models.IntegerField(db_default=0, default=0, help_text='Failed inside the proxy.')),
                ('hour', models.DateTimeField(help_text='Its start, UTC.')),
                ('user_id', models.UUIDField(help_text='Whose requests.')),
            ],
            options={
                'db_table': 'usage_user_hours',
                'default_permissions': (),
            },
        ),
        migrations.RemoveIndex(
            model_name='usageday',
            name='usage_days_day',
        ),
        migrations.AddIndex(
            model_name='userday',
            index=models.Index(fields=['day', 'user_id'], name='usage_user_days_day'),
        ),
        migrations.AddConstraint(
            model_name='userday',
            constraint=models.UniqueConstraint(fields=('user_id', 'day'), name='usage_user_days_unique'),
        ),
        migrations.AddIndex(
            model_name='userhour',
            index=models.Index(fields=['hour', 'user_id'], name='usage_user_hours_hour'),
        ),
        migrations.AddConstraint(
            model_name='userhour',
            constraint=models.UniqueConstraint(fields=('user_id', 'hour'), name='usage_user_hours_unique'),
        ),
    ]
