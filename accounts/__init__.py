"""Accounts: users, plans and proxy keys."""
