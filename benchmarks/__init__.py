"""Side-by-side measurements. Run one as ``python -m benchmarks.NAME``; each prints medians and a ratio."""
