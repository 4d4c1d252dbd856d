"""Problems of a run and of its benchmarks, as a configuration names them."""
