"""What is measured and counted of this project. ``python -m benchmarks`` lists all that there is."""
