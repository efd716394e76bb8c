"""Usage: the record of every request."""
