"""The tiny world: word problems and models small enough to distil on two CPU cores."""
