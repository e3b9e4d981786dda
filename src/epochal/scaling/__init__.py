"""Scaling laws: run records in, laws and plans out."""
