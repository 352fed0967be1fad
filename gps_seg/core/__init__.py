"""Which scalars of a model may change, and training those alone. Knows torch and nothing of tasks, data or SAM."""
