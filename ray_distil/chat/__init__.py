"""What a model reads and what it writes: prompts, chat templates, tokens, marks of reasoning."""
