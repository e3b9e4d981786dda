"""A model in, text out: samplers for each way to write."""
