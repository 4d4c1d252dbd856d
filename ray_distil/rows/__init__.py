"""What each stage does to its rows: pure functions, and a thin `Dataset -> Dataset` around each."""
