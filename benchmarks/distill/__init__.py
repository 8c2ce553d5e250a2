"""What distillation reaches: see `python -m benchmarks.distill --help`."""
