"""Answers that need training: compare, quickstart, study."""
