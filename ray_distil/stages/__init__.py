"""The stages of a run, from instructions to evaluation: what each makes of a row, and how it is built."""
