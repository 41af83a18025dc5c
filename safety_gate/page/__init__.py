"""The status page: what was judged, what waits, and every report; it can only be read."""
