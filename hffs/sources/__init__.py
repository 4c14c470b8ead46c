"""Servers: where listings and bytes come from."""
