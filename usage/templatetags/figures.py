"""Owns the filters that show numbers in templates."""

from django import template

from usage import figures

register = template.Library()
for one in (figures.compact, figures.dollars, figures.milliseconds, figures.percent, figures.amount):
    register.filter(one.__name__, one)
