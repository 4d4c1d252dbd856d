"""Generation: its contract, engines of our own, endpoints, limits, rows that kill an engine."""
