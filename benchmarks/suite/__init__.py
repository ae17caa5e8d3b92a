"""What all scenarios of `python -m benchmarks` are measured and reported with."""
