"""The Ray that a run works on, progress on the console, metrics. Knows nothing of models or rows."""
