"""How a run is made: checks, stages built from the configuration, their order, the command line."""
