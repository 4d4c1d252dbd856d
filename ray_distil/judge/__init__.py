"""Answers found and compared with references, gates, and scores."""
