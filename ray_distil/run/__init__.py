"""What it means to make a run: checks, stages put together from the configuration, their order, the command line."""
