"""The local server: OpenAI's API over HTTP or a Unix socket, on the engine of ``qwen3_mlx.api``.

Bodies become typed tasks and events become what goes over the wire in pure files (``chat``, ``completions``); the rest
is transport.
"""
