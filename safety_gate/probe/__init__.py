"""Ask the model: what it refuses and answers, before and after the adapter."""
