"""Owns how dates and times are written in English: shortest, and the same order everywhere. For FORMAT_MODULE_PATH."""

DATE_FORMAT = SHORT_DATE_FORMAT = "j M Y"
TIME_FORMAT = "H:i"
DATETIME_FORMAT = SHORT_DATETIME_FORMAT = "j M Y H:i"
