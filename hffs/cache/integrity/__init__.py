"""Checks of stored content and the record of mismatches."""
