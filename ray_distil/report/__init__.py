"""The report of a run: figures, pictures, excerpts, the page."""
