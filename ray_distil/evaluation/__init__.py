"""Figures of models: accuracy, tokens, intervals."""
