"""What a text means: records, prompts, reasoning, answers, tokens, gates."""
