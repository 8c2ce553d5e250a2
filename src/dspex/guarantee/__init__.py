"""Statistics behind a guarantee: what a rate is known to be, and when it changed. Knows no programs."""
