"""A batch's mean and deviation, gathered while the batch is made, block by block in the cache.

Each block gives its sums and its squares about its own mean; at the end, with n values in all,

    mean = Σ sums/n        variance = (Σ squares + Σ nₖ·(meanₖ − mean)²)/n

which is exact, and rounds no worse than a pass of its own over the whole batch.
Source: Chan, Golub & LeVeque, Updating formulae and a pairwise algorithm for computing sample
variances (1979).
"""

import numpy as np


class Statistics:
    """The mean and the inverse deviation of each feature of ``y`` over all samples and pixels.

    After :meth:`begin` it is called with blocks i:j of samples, from any thread; then
    :meth:`finish` writes the results.

    Args:
        y: an array (N, ..., C), whose samples i:j are ready when the block is called.
        mean, deviation: where the results go, (1, ..., C) each; deviation and eps may be None.
        temporary: ``temporary(shape, dtype)``, memory of the calling thread.
    """

    def __init__(self, y, mean, deviation, eps, temporary):
        self.y, self.mean, self.deviation, self.eps = y, mean, deviation, eps
        self.temporary = temporary
        self.ones = {}
        self.blocks = {}  # (i, j): sums and squares of the block, memory that stays
        self.seen = []

    def begin(self):
        """Forget what an interrupted batch has left."""
        self.seen.clear()

    def __call__(self, i, j):
        channels = self.y.shape[-1]
        rows = self.y[i:j].reshape(-1, channels)
        if (i, j) not in self.blocks:
            self.blocks[i, j] = np.empty((3, channels), rows.dtype)
            self.ones.setdefault(len(rows), np.ones(len(rows), rows.dtype))
        sums, means, squares = self.blocks[i, j]
        ones = self.ones[len(rows)]
        np.matmul(ones, rows, out=sums)
        if self.deviation is not None:
            np.multiply(sums, rows.dtype.type(1 / len(rows)), out=means)
            offset = self.temporary(rows.shape, rows.dtype)
            np.subtract(rows, means, out=offset)
            np.multiply(offset, offset, out=offset)
            np.matmul(ones, offset, out=squares)
        self.seen.append((i, j))

    def finish(self):
        """Write the results, the blocks in their order."""
        seen = sorted(self.seen)
        number = self.y.dtype.type
        parts = [self.blocks[at] for at in seen]
        mean = self.mean.reshape(-1)
        mean[...] = 0
        for sums, _, _ in parts:
            mean += sums
        mean *= number(mean.size / self.y.size)
        if self.deviation is None:
            return
        variance = self.deviation.reshape(-1)
        variance[...] = 0
        for (i, j), (_, means, squares) in zip(seen, parts, strict=True):
            shift = means - mean
            shift *= shift
            shift *= number((j - i) * (self.y[0].size // mean.size))
            variance += squares
            variance += shift
        variance *= number(mean.size / self.y.size)
        variance += number(self.eps)
        np.sqrt(variance, out=variance)
        np.divide(number(1), variance, out=variance)
