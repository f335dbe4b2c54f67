"""For all tests: the conditions that a shell gives a person, and no clock on the wall."""

import signal

from hypothesis import HealthCheck, settings

# A shell without job control starts background commands with SIGINT ignored, and children inherit that: tests that
# press Ctrl-C would press it in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes depends on what else the machine does: never a reason for a test to fail.
settings.register_profile("supernode", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("supernode")
