"""The one tree of Supernode's errors.

Expected failure is a value (`scheduling.Unplaceable`); what stands here is raised. Foreign errors are translated
once, at the edge where they enter, with ``raise ... from exc``. Only `handlers` turns them into kopf's.

    SupernodeError
    ├── InputError               what a person wrote is wrong; names the object and the field
    │   ├── ChipError            an unknown chip, or a figure that the catalogue lacks
    │   └── ModelError           a model or parallelism that cannot be run or predicted
    ├── ClusterError             a Kubernetes API server said no
    │   ├── BadRequestError      400, 422: the server refuses the object itself
    │   ├── ForbiddenError       401, 403
    │   ├── NotFoundError        404
    │   ├── ConflictError        409: someone else wrote first, or the object exists already
    │   ├── GoneError            410: the watch is too old, list again
    │   └── UnavailableError     429, 5xx, no connection, no answer in time: try again later
    ├── EmulatorError            the emulated device
    │   ├── ProtocolError        a frame that is not ours, too large, or of another version
    │   ├── OutOfDeviceMemoryError  more bytes than the device has left
    │   ├── KernelError          a launch that the kernel table refuses (name, dtype, shape), or that fails
    │   │   ├── KernelTypeError      a dtype or an attribute's type; also a TypeError
    │   │   └── KernelValueError     shapes or values; also a ValueError
    │   │       └── KernelIndexError     an axis or a place that is not there; also an IndexError
    │   ├── InvalidHandleError   an array, stream, event or group that is not (or no longer) there
    │   └── FabricError          a collective or a link
    │       ├── PeerLostError        a rank is gone
    │       ├── CollectiveTimeoutError  a rank did not come in time
    │       ├── CollectiveMismatchError  ranks disagree on what they do together
    │       └── AuthenticationError  a peer that does not hold the job's secret
    └── LocalError               the local cluster could not do what was asked
        ├── StatusError          the embedded API server says no: a metav1.Status
        └── RefusedError         its machinery does: what is wrong with an object, a patch or a parameter
            ├── InvalidError         the object; with causes, field by field
            ├── BadRequestError      the body or a parameter cannot be understood
            ├── UnprocessableError   a patch that cannot be carried out on this object
            ├── PatchedInvalidError  what a patch made of the object
            ├── UntypedError         an applied configuration that does not fit the schema
            └── ApplyConflictError   fields that others own
"""

from __future__ import annotations


class SupernodeError(Exception):
    """Root of every error that Supernode raises itself.

    Attributes:
        call: of an emulated device's client, the number of the call that failed; 0: none.
    """

    call: int = 0


class InputError(SupernodeError):
    """Something a person wrote is wrong.

    Args:
        message: what was asked, what was found, and what would help.
        field: path of the field in the object, such as ``spec.parallelism.tensor``; empty if none applies.
        obj: the object, such as ``TrainingJob team-a/gpt``; empty if none applies.
    """

    def __init__(self, message: str, *, field: str = "", obj: str = "") -> None:
        self.message = message
        self.field = field
        self.obj = obj
        super().__init__(": ".join(part for part in (obj, field, message) if part))


class ChipError(InputError):
    """An unknown chip, or a chip without a figure that is needed."""


class ModelError(InputError):
    """A model shape or parallelism that cannot be run or predicted."""


class ClusterError(SupernodeError):
    """A Kubernetes API server answered with an error, or not at all.

    Args:
        message: what was tried and what the server said.
        status: HTTP status, 0 when there was no answer.
        reason: the server's machine-readable reason, such as ``AlreadyExists``.
        retry_after: seconds the server asked to wait, or None.
    """

    def __init__(self, message: str, *, status: int = 0, reason: str = "", retry_after: float | None = None) -> None:
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        super().__init__(message)


class BadRequestError(ClusterError):
    """400 or 422: the server refuses the object itself; trying again changes nothing."""


class ForbiddenError(ClusterError):
    """401 or 403."""


class NotFoundError(ClusterError):
    """404."""


class ConflictError(ClusterError):
    """409: someone else wrote first, or the object exists already (`reason` tells which)."""


class GoneError(ClusterError):
    """410: the resource version is too old; list again."""


class UnavailableError(ClusterError):
    """429, 5xx, no connection or no answer in time: trying again later may help."""


class EmulatorError(SupernodeError):
    """The emulated device refused or failed."""


class ProtocolError(EmulatorError):
    """A frame that is not ours, too large, truncated, or of another version."""


class OutOfDeviceMemoryError(EmulatorError):
    """An allocation larger than what the device has left; the message carries the numbers."""


class KernelError(EmulatorError):
    """A launch that the kernel table refuses (unknown name, dtype or shape), or that fails on what the data is."""


class KernelTypeError(KernelError, TypeError):
    """A dtype that the kernel does not have, or an argument of a type that it does not take."""


class KernelValueError(KernelError, ValueError):
    """Shapes that do not go together, or values that the kernel does not take."""


class KernelIndexError(KernelValueError, IndexError):
    """An axis or a place that is not there; a ValueError too, as NumPy's AxisError is."""


class InvalidHandleError(EmulatorError):
    """An array, stream, event or group that is not, or no longer, there."""


class FabricError(EmulatorError):
    """A collective or a link failed."""


class PeerLostError(FabricError):
    """A rank is gone; the message names it."""


class CollectiveTimeoutError(FabricError):
    """A rank did not come to a collective within the deadline; the message names it."""


class CollectiveMismatchError(FabricError):
    """Ranks disagree on what they do together; the message carries both sides' call."""


class AuthenticationError(FabricError):
    """A peer that does not hold the job's secret."""


class LocalError(SupernodeError):
    """The local cluster could not do what was asked."""
