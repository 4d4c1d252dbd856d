"""What a run will need, by the arithmetic of its steps."""
