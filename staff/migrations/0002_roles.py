"""Makes the four roles. A group of such a name that is there already stays as staff have made it.

Django makes permissions only after all migrations: what is asked for here is made here. A permission that comes later is
given to roles by a later migration, with `give()`.
"""

from django.contrib.auth.management import create_permissions
from django.db import migrations

APPS = ["accounts", "audit", "auth", "axes", "proxy", "staff", "usage", "vault"]

SERVICE = [
    *("accounts.view_user", "accounts.view_plan", "accounts.view_proxykey"),
    *("usage.view_proxyrequest", "usage.view_usagehour", "usage.view_price", "proxy.view_modelalias"),
]
EVERYTHING = [
    *SERVICE,
    *("accounts.view_signin", "vault.view_apikey", "audit.view_event", "staff.view_authenticator", "auth.view_group"),
    *("axes.view_accessattempt", "axes.view_accessfailurelog", "axes.view_accesslog"),
]
HELP = [
    *("accounts.disable_user", "accounts.revoke_proxykey", "accounts.end_signin"),
    *("vault.test_apikey", "vault.invalidate_apikey", "axes.delete_accessattempt"),
]
MONEY = [
    *("accounts.assign_plan", "accounts.add_plan", "accounts.change_plan", "accounts.delete_plan"),
    *("usage.add_price", "usage.change_price", "usage.delete_price", "usage.export_proxyrequest"),
]
ROLES = {
    "support": [*SERVICE, "accounts.view_signin", "vault.view_apikey", "axes.view_accessattempt", *HELP],
    "billing": [*SERVICE, *MONEY],
    "auditor": EVERYTHING,
    "admin": [
        *(*EVERYTHING, *HELP, *MONEY),
        *("accounts.add_user", "accounts.change_user", "accounts.delete_user"),
        *("accounts.add_proxykey", "accounts.change_proxykey", "accounts.delete_proxykey"),
        *("accounts.change_signin", "accounts.delete_signin", "staff.delete_authenticator"),
        *("vault.change_apikey", "vault.delete_apikey", "vault.rewrap_apikey"),
        *("proxy.add_modelalias", "proxy.change_modelalias", "proxy.delete_modelalias"),
    ],
}


def make_roles(apps, schema_editor):
    using = schema_editor.connection.alias
    make_permissions(apps, using)
    groups = apps.get_model("auth", "Group").objects.using(using)
    for name, permissions in ROLES.items():
        group, is_new = groups.get_or_create(name=name)
        if is_new:
            give(apps, using, group, permissions)


def make_permissions(apps, using):
    for label in APPS:
        app = apps.get_app_config(label)
        # without one, Django takes an app for one that has no models; those of a migration have none
        kept = getattr(app, "models_module", None)
        app.models_module = kept or True
        create_permissions(app, apps=apps, using=using, verbosity=0)
        app.models_module = kept


def give(apps, using, group, names):
    permissions = apps.get_model("auth", "Permission").objects.using(using)
    for name in names:
        label, _, codename = name.partition(".")
        group.permissions.add(permissions.get(content_type__app_label=label, codename=codename))


class Migration(migrations.Migration):
    dependencies = [
        ("staff", "0001_initial"),
        ("accounts", "0003_role_permissions"),
        ("audit", "0001_initial"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("axes", "0010_accessattemptexpiration"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("proxy", "0001_model_aliases"),
        ("usage", "0003_log_search"),
        ("vault", "0003_role_permissions"),
    ]
    # Roles stay when this is reversed: people have them.
    operations = [migrations.RunPython(make_roles, migrations.RunPython.noop)]
