"""Publishing: a Publication in, words on a platform out. Publishers decide nothing."""
