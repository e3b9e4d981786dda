"""A model and tokens in, nats out: exact, or as a bound with its error."""
