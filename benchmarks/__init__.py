"""Scripts that measure: speed, and the tiny models that the project trains for itself."""
