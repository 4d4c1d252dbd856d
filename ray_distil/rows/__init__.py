"""What each stage does to its rows: pure functions, and for each a thin wrapper `Dataset -> Dataset`."""
