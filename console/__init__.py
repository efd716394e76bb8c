"""The user's console: every page of it is about whoever is signed in, and nobody else."""
