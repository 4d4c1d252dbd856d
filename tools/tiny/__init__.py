"""The programs that made the tiny models in `ray_distil/tiny/models`."""
