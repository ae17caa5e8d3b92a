"""Measurements that anyone can rerun: `python -m benchmarks.NAME --help`. Never imported by the product."""
