"""Makes the three plans everybody starts with. Staff edit them later; applying this again keeps their edits."""

from django.db import migrations

PLANS = [
    {
        "code": "free",
        "name": "Free",
        "rpm": 60,
        "tpm": 100_000,
        "max_parallel": 10,
        "max_api_keys": 5,
        "max_proxy_keys": 5,
    },
    {
        "code": "pro",
        "name": "Pro",
        "rpm": 600,
        "tpm": 2_000_000,
        "max_parallel": 100,
        "max_api_keys": 20,
        "max_proxy_keys": 50,
    },
    {
        "code": "enterprise",
        "name": "Enterprise",
        "rpm": 6_000,
        "tpm": 20_000_000,
        "max_parallel": 1_000,
        "max_api_keys": 200,
        "max_proxy_keys": 1_000,
    },
]


def make_plans(apps, schema_editor):
    plans = apps.get_model("accounts", "Plan").objects.using(schema_editor.connection.alias)
    for plan in PLANS:
        plans.get_or_create(code=plan["code"], defaults=plan)


def remove_unused_plans(apps, schema_editor):
    """A plan that somebody is on stays: its row is worth more than a clean reversal."""
    plans = apps.get_model("accounts", "Plan").objects.using(schema_editor.connection.alias)
    plans.filter(code__in=[plan["code"] for plan in PLANS], user=None).delete()


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]
    operations = [migrations.RunPython(make_plans, remove_unused_plans)]
