"""Measurements, side by side with what people use otherwise. No tests: nothing here passes or fails. See README.md."""
