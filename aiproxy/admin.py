"""Owns the back-office's site; what is shown there is registered by each app's admin.py."""

from django.contrib import admin
from django.contrib.admin.apps import AdminConfig as DjangoAdminConfig


class AdminSite(admin.AdminSite):
    site_title = "aiproxy"
    site_header = "aiproxy"
    index_title = "Back-office"


class AdminConfig(DjangoAdminConfig):
    default_site = "aiproxy.admin.AdminSite"
