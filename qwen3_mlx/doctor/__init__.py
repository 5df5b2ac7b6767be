"""What this machine can do, and whether the Metal kernels are right and fast on it. Nothing here prints."""
