"""Proxy: the data plane."""
