"""What a DCU's runtime gives: devices with limited memory, streams that run in order, events, and a virtual clock.

Flows in: work items made from checked commands (`session`). Flows out: arrays, device seconds, errors that carry the
call that caused them. Not here: operators (`kernels`), links (`fabric`), the wire.
"""
