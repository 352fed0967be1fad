"""Image classification: the benchmarks of the GPS paper."""
