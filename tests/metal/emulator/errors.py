"""What a kernel can do wrong, one exception each."""

from __future__ import annotations


class EmulatorError(Exception):
    """A kernel, or the way it was launched, is wrong."""


class NoCompilerError(EmulatorError):
    """No C++ compiler is installed."""


class CompileError(EmulatorError):
    """The compiler refuses the kernel."""


class SourceError(EmulatorError):
    """The source breaks a rule that can be seen without running it."""


class NonAsciiError(SourceError):
    """MLX passes sources on as ASCII."""


class DoubleError(SourceError):
    """Metal has no double: a floating literal needs its suffix."""


class RecursiveKernelError(SourceError):
    """Metal has no recursion."""


class TooManyBuffersError(SourceError):
    """Metal binds at most 31 buffers."""


class AddressSpaceError(SourceError):
    """A pointer of one address space is used as one of another, or an input that may be `constant` as `device`."""


class LaunchError(EmulatorError):
    """The grid, the threadgroup or the arrays do not fit the kernel."""


class KernelError(EmulatorError):
    """Something a thread did while the kernel ran."""


class OutOfBoundsError(KernelError):
    """A read or a write before or past a buffer."""


class ReadOnlyError(KernelError):
    """A write to an input."""


class MisalignedError(KernelError):
    """A vector is loaded or stored at an address that it may not have."""


class WildAccessError(KernelError):
    """A read or a write far from any buffer."""


class UninitialisedReadError(KernelError):
    """A read of threadgroup memory or of an output that nobody wrote."""


class UnwrittenOutputError(KernelError):
    """The launch ended and part of an output was not written."""


class RaceError(KernelError):
    """Two threads touch the same byte with nothing that orders them, and one of them writes."""


class SimdError(KernelError):
    """A simd operation that not all lanes of the simdgroup execute together."""


class SimdDivergenceError(SimdError):
    """Lanes came to a simd operation by different branches, or some never came."""


class SimdMismatchError(SimdError):
    """Lanes of one simdgroup are in different simd operations."""


class SimdAfterExitError(SimdError):
    """A simd operation after a lane has left the kernel."""


class SimdLaneError(SimdError):
    """A shuffle from a lane that does not exist."""


class BarrierDivergenceError(KernelError):
    """A barrier that not all threads of the threadgroup execute together."""


class ThreadgroupMemoryError(KernelError):
    """More than 32 KB of threadgroup memory."""


class StackOverflowError(KernelError):
    """A thread's stack is full."""


class ArithmeticFault(KernelError):
    """An integer division by zero."""


class TooLongError(KernelError):
    """A launch that takes more processor time than `Settings.seconds`: a loop that never ends, mostly."""


# In the order of runtime.h.
BY_CODE: dict[int, type[KernelError]] = {
    1: OutOfBoundsError,
    2: ReadOnlyError,
    3: UninitialisedReadError,
    4: RaceError,
    5: SimdDivergenceError,
    6: SimdMismatchError,
    7: SimdAfterExitError,
    8: SimdLaneError,
    9: BarrierDivergenceError,
    10: ThreadgroupMemoryError,
    11: StackOverflowError,
    12: WildAccessError,
    13: MisalignedError,
    14: ArithmeticFault,
    15: ThreadgroupMemoryError,
    16: TooLongError,
}
