"""A run in, nats with an interval out."""
