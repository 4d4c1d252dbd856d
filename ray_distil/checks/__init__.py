"""Checks in the first seconds, before Ray starts."""
