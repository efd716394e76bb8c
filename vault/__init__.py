"""Vault: provider keys, encrypted at rest."""
