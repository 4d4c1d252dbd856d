"""What made the tiny models of `ray_distil/tiny/models`."""
