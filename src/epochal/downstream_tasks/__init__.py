"""Tasks of lm-evaluation-harness, scored alike for all families."""
