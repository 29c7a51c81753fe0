"""Where gpu.py's parts run, and how a turn is timed: on a GPU, or by the emulator on a CPU.

A turn on a GPU. First a buffer four times the size of the L2 cache is written, then a kernel keeps
one multiprocessor busy while the host queues the calls, so that the time between the two CUDA
events holds the calls and not the host. Each call of a turn has inputs, and an output, of its own:
all bytes come from memory, as the floor of a roofline supposes. (Flushing between calls instead
would need a pair of events around each, whose own microseconds weigh on layers of five.)
"""

from contextlib import contextmanager, nullcontext

import numpy as np

TRIES = 5  # to queue a turn's calls before the first of them starts
TRIAL = 20_000  # repeats of the waiting kernel that its speed is taken of


class Emulator:
    """NumPy arrays and the emulator: everything but the times."""

    emulated = True
    xp = np

    def asarray(self, a):
        return np.array(a)  # a copy: each call has its own

    def get(self, a):
        return a

    def torch(self, a):
        """The array as PyTorch has it."""
        import torch

        return torch.from_numpy(a)

    def from_torch(self, a):
        return a.detach().numpy()

    def ours(self):
        """The context in which tinygan's kernels take this place's arrays."""
        from tinygan import kernels

        return kernels.emulated()

    def wait(self):
        """Until all work is done."""

    def turn(self, calls):
        """Make the calls once; no time."""
        for call in calls[:1]:
            call()
        return None

    def steps(self, call, count):
        """Make ``count`` calls; no time."""
        for _ in range(count):
            call()
        return None


class GPU:
    """CuPy arrays on the current device; PyTorch's are views of them, on the same stream."""

    emulated = False

    def __init__(self):
        from tinygan.backend import import_cupy
        from tinygan.kernels import ceilings

        self.xp = import_cupy()
        cuda = self.xp.cuda
        self.cuda = cuda
        self.ceilings = ceilings
        l2 = cuda.Device().attributes["L2CacheSize"]
        self.flushed = self.xp.empty(4 * max(l2, 1 << 24) // 4, np.float32)
        self.chain = self.xp.asarray(np.full(ceilings.ADDS_VALUES, 0.5, np.float32))
        self.delay = 2e-3  # seconds that the host has for a turn's calls, to begin with
        trial = min(self.steps(lambda: self._keep_busy(TRIAL), 1) for _ in range(3))
        self.repeats_per_second = TRIAL / trial

    def _keep_busy(self, repeats):
        self.ceilings.multiply_adds(self.chain, repeats, 1)

    def asarray(self, a):
        return self.xp.asarray(a)

    def get(self, a):
        return a.get()

    def torch(self, a):
        import torch

        return torch.as_tensor(a, device="cuda")  # by __cuda_array_interface__: no copy

    def from_torch(self, a):
        return self.xp.asarray(a.detach())

    def ours(self):
        return nullcontext()

    def wait(self):
        self.cuda.Device().synchronize()

    def turn(self, calls):
        """Seconds per call, by CUDA events around all of the calls.

        Raises: RuntimeError if the host cannot queue them before the first one starts: a call that
            waits for the device has no time of its own to speak of.
        """
        start, end = self.cuda.Event(), self.cuda.Event()
        for _ in range(TRIES):
            self.flushed.fill(0)
            self._keep_busy(int(self.delay * self.repeats_per_second))
            start.record()
            kept = [call() for call in calls]
            begun = start.done
            end.record()
            end.synchronize()
            del kept
            if not begun:
                return self.cuda.get_elapsed_time(start, end) / 1e3 / len(calls)
            self.delay *= 2
        raise RuntimeError(
            f"the host took longer than {self.delay / 2:.3f} s to queue {len(calls)} calls, or one "
            "of them waits for the device"
        )

    def steps(self, call, count):
        """Seconds per call, the host's part included: events around all of them."""
        start, end = self.cuda.Event(), self.cuda.Event()
        self.wait()
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return self.cuda.get_elapsed_time(start, end) / 1e3 / count


def place(emulate):
    """The :class:`Emulator`, or the :class:`GPU`; RuntimeError with the remedy if there is none."""
    return Emulator() if emulate else GPU()


@contextmanager
def tf32(on):
    """PyTorch's convolutions and products with or without TF32, cuDNN's plans chosen by timing."""
    import torch

    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    saved = convolutions.benchmark
    convolutions.benchmark = True
    if hasattr(convolutions, "conv"):  # from 2.9 on
        settings = [(convolutions.conv, "fp32_precision"), (products, "fp32_precision")]
        value = "tf32" if on else "ieee"
    else:
        settings, value = [(convolutions, "allow_tf32"), (products, "allow_tf32")], on
    before = [getattr(owner, name) for owner, name in settings]
    for owner, name in settings:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name), old in zip(settings, before, strict=True):
            setattr(owner, name, old)
        convolutions.benchmark = saved
