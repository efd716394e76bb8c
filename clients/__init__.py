"""Real clients, each in an environment of its own, against the whole service and providers' servers we did not write.

`make clients` runs it; docs/providers.md has its last result.
"""
