"""How bytes travel between the pods of a group: one file per algorithm, all over the same `Pods` of `link`.

Each algorithm works on one flat buffer per pod, after the pod's own devices have been reduced into it and before
the result is copied out to them. Every algorithm has a fixed order of reduction, whatever the timing.
"""
