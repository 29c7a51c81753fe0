"""How a convolution becomes matrix products: as columns, or as tiles with fewer products.

*Columns* serve every geometry. A chunk of images is laid out so that each grid point has its
kh·kw·C inputs in one row (im2col), and one matrix product does the rest; the transpose makes the
same rows by a product and adds them back (col2im).

*Tiles* (Toom–Cook, Winograd's F(2,2)) serve kernels two strides long. With pixels in blocks of one
stride, such a kernel has two taps (w₀, w₁) of one block each, and two neighbouring grid points
(z₀, z₁) see three blocks (d₀, d₁, d₂). Their part of the trilinear form of ``conv.py`` takes three
products for four:

    d₀w₀z₀ + d₁w₁z₀ + d₁w₀z₁ + d₂w₁z₁
        = (d₀ − d₁)·w₀·z₀  +  d₁·(w₀ + w₁)·(z₀ + z₁)  +  (d₂ − d₁)·w₁·z₁

so nine for sixteen in two dimensions. Each op is the derivative of the right-hand side in one of
its three arguments: it transforms two of them by the sums above, multiplies, and goes through the
transposed sums for the third. All nine arrays of a kind lie in one, (3, 3, rows, columns), tiles
before samples: every sum is then one pass over long runs of memory, and the nine products are one
call. Sums of strided pixels, which col2im makes, take five times as long.

Chunks are as large as the cache likes. What memory they take, a :class:`tinygan.parallel.Room`
gives and keeps.

Source: Winograd, Arithmetic complexity of computations (1980); Lavin & Gray, Fast algorithms for
convolutional neural networks (2015).
"""

import math

import numpy as np

from tinygan.backend import array_module
from tinygan.parallel import split

CHUNK = 1 << 22  # bytes of columns at a time: they are written and read back from the cache
MANY = 16  # channels that make a run long enough for sums of strided pixels
PRODUCT = 1 << 19  # bytes of the larger operand of one of a chunk's nine products
ROWS = 512  # of it at least, or reading the weights takes longer than multiplying by them
CHANNELS = 32  # on both sides, from which tiles pay
TILES = 256  # in a batch, from which tiles pay: the sums of weights do not grow with it
WORK = 1 << 23  # tiles times channels of both sides, from which they pay


def columns(x, geometry, start, stop, room):
    """im2col: (i, j, columns) for chunks i:j of start:stop, one row of kh·kw·C per grid point."""
    xp, channels = array_module(x), x.shape[3]
    if geometry.whole:
        if start < stop:
            yield start, stop, x[start:stop].reshape(stop - start, -1)
        return
    (height, width), (p, q), (kh, kw) = geometry.image, geometry.grid, geometry.kernel
    (top, bottom), (left, right) = geometry.pad
    chunk = _chunk(geometry, x, stop - start)
    rows = room.array("columns", (chunk, p, q, kh, kw * channels), x.dtype)
    frame = (chunk, top + height + bottom, left + width + right, channels)
    padded = room.array("padded", frame, x.dtype)
    padded[:, :top] = padded[:, top + height :] = 0
    padded[:, :, :left] = padded[:, :, left + width :] = 0
    sample, line, pixel, item = padded.strides
    under_kernel = xp.lib.stride_tricks.as_strided(
        padded,
        rows.shape,
        (sample, geometry.stride[0] * line, geometry.stride[1] * pixel, line, item),
    )
    for i in range(start, stop, chunk):
        j = min(i + chunk, stop)
        padded[: j - i, top : top + height, left : left + width] = x[i:j]
        rows[: j - i] = under_kernel[: j - i]
        yield i, j, rows[: j - i].reshape((j - i) * p * q, -1)


def columns_back(y, geometry, start, stop, room):
    """col2im: (i, j, columns, add_up) for chunks i:j; add_up() puts the columns' sums into y[i:j].

    Columns are in the order of :func:`kernel_matrix`. Taps k and l that differ by less than a
    stride never meet in a pixel. So the kernel is cut into blocks of one stride, and each block of
    all grid points is added at once: with pixels in blocks too, the kernel's block a adds to blocks
    a, a+1, …, a+P−1 of the image.
    """
    channels = y.shape[3]
    if geometry.whole:
        if start < stop:
            yield start, stop, y[start:stop].reshape(stop - start, -1), lambda: None
        return
    (height, width), (p, q), (kh, kw) = geometry.image, geometry.grid, geometry.kernel
    (top, _), (left, _) = geometry.pad
    down, across = geometry.stride
    lines = max(p + (kh - 1) // down, -(-(top + height) // down))
    places = max(q + (kw - 1) // across, -(-(left + width) // across))
    chunk = _chunk(geometry, y, stop - start)
    for i in range(start, stop, chunk):
        j = min(i + chunk, stop)
        rows = room.array("columns", ((j - i) * p * q, kh * kw * channels), y.dtype)

        def add_up(i=i, j=j, rows=rows):
            padded = room.array("padded", (j - i, lines, down, places, across, channels), y.dtype)
            blocks = padded.transpose(0, 1, 3, 2, 4, 5)
            if channels < MANY:
                sums = room.array("sums", blocks.shape, y.dtype)
                _add_up(rows, sums, geometry)
                blocks[...] = sums
            else:
                _add_up(rows, blocks, geometry)
            padded = padded.reshape(j - i, lines * down, places * across, channels)
            y[i:j] = padded[:, top : top + height, left : left + width]

        yield i, j, rows, add_up


def kernel_matrix(w, geometry, scratch):
    """The weights as a matrix, (kh·kw·C, O); of few channels, the taps of a block in a row.

    A block's sums then run over as many contiguous numbers as can be.
    """
    if geometry.whole or w.shape[2] >= MANY:
        return w.reshape(-1, w.shape[3])
    matrix = scratch.room(0).array("weights", (math.prod(w.shape[:3]), w.shape[3]), w.dtype)
    for _, _, rows, taps in _blocks_of_kernel(geometry, w.shape[2]):
        block = w[taps]
        matrix[rows].reshape(block.shape)[...] = block
    return matrix


def _blocks_of_kernel(geometry, channels):
    """(a, b, rows, taps): a block's place, its rows in the matrix of blocks, its taps."""
    (kh, kw), (down, across) = geometry.kernel, geometry.stride
    stop = 0
    for a in range(-(-kh // down)):
        for b in range(-(-kw // across)):
            taps = (
                slice(a * down, min(kh, (a + 1) * down)),
                slice(b * across, min(kw, (b + 1) * across)),
            )
            start, stop = stop, stop + math.prod(t.stop - t.start for t in taps) * channels
            yield a, b, slice(start, stop), taps


def _add_up(columns, blocks, geometry):
    """The sums of all columns that meet in a pixel, into the blocks.

    Shapes: columns (n·P·Q, kh·kw·C), blocks (n, blocks down, blocks across, stride, stride, C).
    """
    (p, q), (n, channels) = geometry.grid, blocks.shape[:1] + blocks.shape[5:]
    blocks[:, p:] = 0
    blocks[:, :p, q:] = 0
    for a, b, rows, (down, across) in _blocks_of_kernel(geometry, channels):
        height, width = down.stop - down.start, across.stop - across.start
        if channels < MANY:
            block = columns[:, rows].reshape(n, p, q, height, width, channels)
        else:
            block = columns.reshape(n, p, q, *geometry.kernel, channels)[:, :, :, down, across]
        place = blocks[:, a : a + p, b : b + q, :height, :width]
        if a or b:
            place += block
        else:  # the first of all: nothing to add to, and the rest of its blocks is 0
            blocks[:, :p, :q, height:] = 0
            blocks[:, :p, :q, :height, width:] = 0
            place[...] = block


def bias_of_a_line(y, b, scratch):
    """b for each point of a line of y, (points·channels,); None for None.

    Short runs are slow: added by threes, a bias takes eight times as long.
    """
    if b is None:
        return None
    line = scratch.room(0).array("bias", y.shape[2:], b.dtype)
    line[...] = b
    return line.reshape(-1)


def add_to_lines(y, line):
    """y += line for each line of y, an array in C order; nothing for None."""
    if line is not None:
        lines = y.reshape(-1, len(line))
        lines += line


def _chunk(geometry, images, n):
    """How many images to lower at once."""
    if array_module(images) is not np:
        return max(1, n)  # a GPU has no use for the cache's size
    taps = math.prod(geometry.grid) * math.prod(geometry.kernel)
    return max(1, min(n, CHUNK // max(1, taps * images.shape[3] * images.dtype.itemsize)))


def tiled(geometry, samples, channels, features):
    """Whether tiles serve this geometry, and pay for images and grids of so many channels.

    By the sizes alone: the same sizes are lowered in the same way, whatever the threads.
    """
    even = all(size % 2 == 0 for size in geometry.grid)
    fits = all(
        k == 2 * s and before + size <= (points + 1) * s  # no pixel that the kernel never meets
        for k, s, size, (before, _), points in zip(
            geometry.kernel, geometry.stride, geometry.image, geometry.pad, geometry.grid,
            strict=True,
        )
    )  # fmt: skip
    tiles = samples * math.prod(geometry.grid) // 4  # of two by two grid points
    pays = tiles >= TILES and tiles * channels * features >= WORK
    return even and fits and pays and min(channels, features) >= CHANNELS


def conv2d_in_tiles(y, x, w, b, geometry, after, pays, scratch):
    """:func:`tinygan.conv.conv2d_into` by tiles."""
    features = w.shape[3]
    weights = _weights_apart(w, geometry.stride, scratch)

    def part(start, stop, room):
        for i, j, images in _images_apart(x, geometry, features, start, stop, room):
            grid = room.array("grid", (*images.shape[:3], features), y.dtype)
            np.matmul(images, weights, out=grid)
            if b is not None:
                grid[1, 1] += b  # the one product that goes into all four points of a tile
            _together(grid)
            points = _grid_by_tiles(y[i:j])
            points[...] = grid[::2, ::2].reshape(points.shape)
            if after is not None:
                after(i, j)

    split(len(x), part, pays, scratch)


def conv2d_transpose_in_tiles(y, z, w, b, geometry, after, pays, scratch):
    """:func:`tinygan.conv.conv2d_transpose_into` by tiles."""
    weights = _weights_apart(w, geometry.stride, scratch).swapaxes(2, 3)
    phases, bias = list(_phases(geometry)), bias_of_a_line(y, b, scratch)

    def part(start, stop, room):
        for i, j in _chunks_of_tiles(y, geometry, z.shape[3], start, stop):
            grid = _grid_apart(z[i:j], room)
            quarters = apart, *_ = _quarters(y, geometry, j - i, room)
            np.matmul(grid, weights, out=apart.reshape(*grid.shape[:3], -1))
            _images_together(*quarters)
            for at, tiles, pixels in phases:
                y[i:j][pixels] = _phase(quarters, at, geometry)[tiles].transpose(2, 0, 1, 3)
            add_to_lines(y[i:j], bias)
            if after is not None:
                after(i, j)

    split(len(z), part, pays, scratch)


def conv2d_weight_grad_in_tiles(y, x, z, geometry, pays, scratch):
    """:func:`tinygan.conv.conv2d_weight_grad_into` by tiles."""
    channels, features = y.shape[2:]
    down, across = geometry.stride
    shape = (3, 3, down * across * channels, features)

    def part(start, stop, room):
        total = room.array("total", shape, y.dtype)
        for i, j, images in _images_apart(x, geometry, features, start, stop, room):
            pair = images.swapaxes(2, 3), _grid_apart(z[i:j], room)
            if i == start:
                np.matmul(*pair, out=total)
            else:
                total += np.matmul(*pair, out=room.array("product", shape, y.dtype))
        return total.reshape(3, 3, down, across, channels, features)

    first, *others = split(len(x), part, pays, scratch)
    for other in others:
        first += other
    _together(first)
    _weights_by_taps(y, down, across)[...] = first[::2, ::2]


def _apart(a):
    """(a₀, ·, a₁) to (a₀, a₀ + a₁, a₁), along the first two axes, in place."""
    np.add(a[::2, 0], a[::2, 2], out=a[::2, 1])
    np.add(a[0], a[2], out=a[1])


def _together(a):
    """The transpose of :func:`_apart`: (a₀, a₁, a₂) to (a₀ + a₁, ·, a₁ + a₂), in place."""
    for axis in (a.swapaxes(0, 1), a):
        axis[0] += axis[1]
        axis[2] += axis[1]


def _weights_by_taps(w, down, across):
    """(kh, kw, C, O) seen as (2, 2, stride, stride, C, O): taps of one block each."""
    return w.reshape(2, down, 2, across, *w.shape[2:]).transpose(0, 2, 1, 3, 4, 5)


def _weights_apart(w, stride, scratch):
    """The weights' nine factors, (3, 3, stride²·C, O)."""
    taps = _weights_by_taps(w, *stride)
    apart = scratch.room(0).array("weights", (3, 3, *taps.shape[2:]), w.dtype)
    apart[::2, ::2] = taps
    _apart(apart)
    return apart.reshape(3, 3, -1, w.shape[3])


def _grid_by_tiles(z):
    """(n, P, Q, O) seen as (2, 2, P/2, Q/2, n, O): the four points of each tile."""
    n, p, q, features = z.shape
    return z.reshape(n, p // 2, 2, q // 2, 2, features).transpose(2, 4, 1, 3, 0, 5)


def _grid_apart(z, room):
    """The grid's nine factors, (3, 3, tiles·n, O)."""
    points = _grid_by_tiles(z)
    apart = room.array("grid", (3, 3, *points.shape[2:]), z.dtype)
    apart[::2, ::2] = points
    _apart(apart)
    return apart.reshape(3, 3, -1, z.shape[3])


def _chunks_of_tiles(images, geometry, features, start, stop):
    """(i, j) of the chunks of start:stop."""
    columns = max(math.prod(geometry.stride) * images.shape[3], features)
    rows = max(ROWS, PRODUCT // (columns * images.itemsize))
    chunk = max(1, rows // (math.prod(geometry.grid) // 4))
    for i in range(start, stop, chunk):
        yield i, min(i + chunk, stop)


def _images_apart(x, geometry, features, start, stop, room):
    """(i, j, factors) for chunks i:j of images; their nine factors, (3, 3, tiles·n, stride²·C)."""
    phases, size = list(_phases(geometry)), None
    for i, j in _chunks_of_tiles(x, geometry, features, start, stop):
        if j - i != size:
            size = j - i
            quarters = apart, left, top, corner = _quarters(x, geometry, size, room)
            for quarter in (apart[1, 1], left[1], top, corner):
                quarter.fill(0)  # around the image it stays so
        for at, tiles, pixels in phases:
            _phase(quarters, at, geometry)[tiles] = x[i:j][pixels].transpose(1, 2, 0, 3)
        for even, odd in _neighbours(*quarters):
            np.subtract(even[:-1], odd[1], out=odd[0])
            np.subtract(even[1:], odd[1], out=odd[2])
        yield i, j, apart.reshape(3, 3, -1, apart.shape[-1])


def _images_together(*quarters):
    """The transpose of the sums in :func:`_images_apart`, in place."""
    for even, odd in reversed(_neighbours(*quarters)):
        odd[1] -= odd[0]
        odd[1] -= odd[2]
        even[0] = odd[0, 0]
        even[-1] = odd[2, -1]
        np.add(odd[0, 1:], odd[2, :-1], out=even[1:-1])


def _quarters(images, geometry, n, room):
    """Room for n images in blocks of a stride, those of odd and even rows and columns apart.

    In each axis an odd block is the middle one of a tile's three, d₁, and an even block the last of
    one tile, d₂, and the first of the next, d₀: there is one more of them than of tiles.

    Shapes: apart (3, 3, T, U, n, K), all nine factors, [1, 1] being the blocks odd in both axes;
        left (3, T, U + 1, n, K), the three factors down of even columns, [1] being odd rows;
        top (T + 1, U, n, K), even rows; corner (T + 1, U + 1, n, K), even rows and columns.
    """
    t, u = (points // 2 for points in geometry.grid)
    end = n, math.prod(geometry.stride) * images.shape[3]
    return (
        room.array("images", (3, 3, t, u, *end), images.dtype),
        room.array("left", (3, t, u + 1, *end), images.dtype),
        room.array("top", (t + 1, u, *end), images.dtype),
        room.array("corner", (t + 1, u + 1, *end), images.dtype),
    )


def _neighbours(apart, left, top, corner):
    """(even, odd) blocks of an axis along theirs first: down twice, then across."""
    across = left.transpose(2, 0, 1, 3, 4), apart.transpose(1, 3, 0, 2, 4, 5)
    return (corner, left), (top, apart[:, 1]), across


def _phases(geometry):
    """(at, tiles, pixels): where the pixels lie that have one place ``at`` in a block of a quarter.

    at = (odd row of blocks?, odd column?, row in the block, column in the block).
    """
    down, across = (
        [_phase_of_an_axis(*sizes, odd, k) for odd in (0, 1) for k in range(sizes[2])]
        for sizes in zip(geometry.image, geometry.pad, geometry.stride, geometry.grid, strict=True)
    )
    for odd_row, k, lines, rows in down:
        for odd_column, m, places, columns in across:
            at = odd_row, odd_column, k, m
            yield at, (lines, places), (slice(None), rows, columns)


def _phase_of_an_axis(size, pad, stride, points, odd, k):
    step = 2 * stride  # pixels from one tile to the next
    first = odd * stride + k - pad[0]  # the pixel in the first tile; maybe none
    start = max(0, -(first // step))
    stop = max(start, min(points // 2 + 1 - odd, -((first - size) // step)))
    return odd, k, slice(start, stop), slice(first + start * step, first + stop * step, step)


def _phase(quarters, at, geometry):
    """Of the quarter, the pixels ``at`` one place of the blocks, (T or T + 1, U or U + 1, n, C)."""
    apart, left, top, corner = quarters
    odd_row, odd_column, k, m = at
    quarter = ((corner, top), (left[1], apart[1, 1]))[odd_row][odd_column]
    return quarter.reshape(*quarter.shape[:3], *geometry.stride, -1)[:, :, :, k, m]
