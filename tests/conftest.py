"""For all tests: the conditions that a shell gives a person."""

import signal

# A shell without job control starts background commands with SIGINT ignored, and children inherit that: tests that
# press Ctrl-C would press it in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
