"""What is to be judged, by whom it is held, and what came of it; two stores behind one protocol."""
