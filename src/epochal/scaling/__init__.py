"""Scaling laws: run records in, laws and advice out."""
