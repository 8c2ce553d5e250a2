"""Learning native programs from examples."""
