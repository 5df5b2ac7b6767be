"""What all tests share."""

from __future__ import annotations

import signal

# A suite started in the background of a shell inherits an ignored SIGINT, and its children with it: Ctrl-C would do
# nothing in the commands under test.
signal.signal(signal.SIGINT, signal.default_int_handler)
