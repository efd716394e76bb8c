"""The loss finder: runs the whole service under load, breaks it at random from a seed, and counts every row after."""
