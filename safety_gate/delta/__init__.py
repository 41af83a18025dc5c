"""The exact change of every parameter that an adapter changes, whatever its kind."""
