"""What a run remembers of its training text."""
