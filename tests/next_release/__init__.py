"""A release to come, as far as the database sees it: its migration adds to every table what releases add."""
