"""Reading and judging texts: records, prompts, reasoning, answers, tokens, gates."""
