"""`python -m qwen3_mlx.cli`: the command `qwen3-mlx` where the script is not on the path."""

import sys

from . import main

sys.exit(main())
