"""How long a training step takes: roofline of a chip, collectives over the wiring, pipeline, memory per device.

What may live here: pure functions and frozen values on numpy and the standard library; no clock, no I/O, no logging.
In: `chips` figures, a model shape, a parallelism, links. Out: seconds with their parts, bytes per device, MFU.
"""
