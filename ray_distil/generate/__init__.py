"""Generation: its contract, local vLLM engines, endpoints, rate limits, rows that kill an engine."""
