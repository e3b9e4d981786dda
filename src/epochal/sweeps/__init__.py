"""Sweeps: one question in, many recipes out, and how they are run."""
