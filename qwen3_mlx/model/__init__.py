"""The Qwen3 decoder as MLX modules whose attribute names are the checkpoint's."""
