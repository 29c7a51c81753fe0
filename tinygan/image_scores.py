"""How good images of digits are, by our own classifier, and scores for classifiers of your own.

The scores are those of the literature: the Inception score, the Fréchet and the kernel distance,
precision and recall, modes of stacked digits, the birthday estimate of the support. Published
figures take them from a network trained on ImageNet (Inception). Ours come from
:func:`digit_classifier`, a small network trained on 4,000 digits by
``examples/digit_classifier.py``. **They are not comparable with any published figure**, only with
each other. For other images, bring features: every score is a function of arrays, and ``embed`` of
:func:`image_report` is the place.

Scores take NumPy or CuPy arrays, compute on the host in float64 and return numbers; divergences
are in nats.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygan import nn
from tinygan.backend import Stream, to_device, to_host
from tinygan.data.images import MNIST_NORMALISED, Images
from tinygan.data.readers import digits
from tinygan.metrics import _count, _points
from tinygan.models.net import Net
from tinygan.ops import relu, softmax
from tinygan.weights import load_weights

CLASSES = 10
MODES = 1000
TRAINED_ON = 4000
"""So many of the shipped digits, the first, trained the classifier; the other 1,000 never did."""

_WEIGHTS = Path(__file__).parent / "data" / "digits" / "classifier.npz"
_BLOCK = 500  # images, or rows of a matrix of distances, in memory at a time


# The classifier


NETWORK = Net(
    "digit classifier",
    (28, 28, 1),
    {
        "conv0": nn.Conv(1, 16, 5, 2, 2),
        "relu0": relu,
        "conv1": nn.Conv(16, 32, 5, 2, 2),
        "relu1": relu,
        "conv2": nn.Conv(32, 32, 3, 2, 1),
        "relu2": relu,
        "row": nn.Flatten(),
        "hidden": nn.Linear(4 * 4 * 32, 64),
        "relu3": relu,
        "logits": nn.Linear(64, CLASSES),
    },
)
"""28×28 digits → 10 logits; the 64 numbers before the last layer are the features.

The shipped weights make their mean square 1 over the digits they were trained on.
"""

_BODY = Net("features", NETWORK.input, {k: v for k, v in NETWORK.layers.items() if k != "logits"})


def split_digits():
    """The shipped digits as the classifier has them: (those it was trained on, those held out).

    The first 4,000 and the last 1,000, in the order of the file, which is shuffled.

    Shapes: :class:`tinygan.data.Images` of 4,000 and of 1,000.
    """
    images = digits()
    return images.take(range(TRAINED_ON)), images.take(range(TRAINED_ON, len(images)))


@dataclass(frozen=True, eq=False)
class DigitClassifier:
    """A classifier of grey 28×28 digits: what it sees in them, and how sure it is of each class.

    features = body(x), probabilities = softmax(features·weight + bias)

    Args:
        params: the parameters of :data:`NETWORK`; images go to their device.
        config: what made them, and how good they are: a dict with "accuracy" and more.
        device: where the parameters are, "cpu" or "gpu".
    """

    params: dict
    config: dict
    device: str = "cpu"

    def __call__(self, images):
        """(features, probabilities) of images, as every ``embed`` gives them.

        Shapes: images n×28×28×1 of uint8, 0 black, NumPy or CuPy; returns n×64 of float32 and
            n×10 of float64, NumPy.
        Raises: TypeError or ValueError for other images.
        """
        images = _pixels("DigitClassifier", "images", images, NETWORK.input)
        body = {name: p for name, p in self.params.items() if name != "logits"}
        features, logits = [], []
        for start in range(0, len(images), _BLOCK):
            block = to_device(images[start : start + _BLOCK], self.device)
            seen = _BODY(body, MNIST_NORMALISED.apply(block))
            features.append(to_host(seen))
            logits.append(to_host(NETWORK.layers["logits"](self.params["logits"], seen)))
        return np.concatenate(features), softmax(np.concatenate(logits).astype(np.float64))


def digit_classifier(path=None, device="cpu"):
    """The classifier that comes with tinygan, read from its file at each call: keep it.

    Args:
        path: other weights of :data:`NETWORK`, as ``examples/digit_classifier.py`` writes them.
        device: where it computes, "cpu" or "gpu".
    Returns: a :class:`DigitClassifier`; ``.config["accuracy"]`` is its share of right answers on
        the 1,000 digits held out.
    Raises: as :func:`tinygan.load_weights`.
    """
    like = NETWORK.init(Stream(0))
    params, config = load_weights(_WEIGHTS if path is None else path, like, device)
    return DigitClassifier(params, config or {}, device)


@dataclass(frozen=True, eq=False)
class StackedClassifier:
    """A classifier of digits, applied to each channel of stacked ones.

    features = (f(r), f(g), f(b)), p(100i + 10j + k) = p(i|r)·p(j|g)·p(k|b)

    Args:
        embed: a function of n×H×W×1 images with ten classes, as :func:`digit_classifier` makes.
    """

    embed: Any

    def channels(self, images):
        """(features, probabilities) of each channel.

        Shapes: images n×H×W×3 of uint8; returns n×3×d and n×3×10.
        Raises: TypeError or ValueError for other images, or what an embed may not give.
        """
        images = _pixels("StackedClassifier", "images", images)
        if images.shape[3] != 3:
            raise ValueError(
                f"StackedClassifier: images of shape {images.shape}; expected n×H×W×3, three "
                "digits each"
            )
        seen = [_embedded(self.embed, "images", images[..., c : c + 1]) for c in range(3)]
        features, probabilities = (np.stack(each, axis=1) for each in zip(*seen, strict=True))
        if probabilities.shape[2] != CLASSES:
            raise ValueError(
                f"StackedClassifier: embed gave {probabilities.shape[2]} classes; expected "
                f"{CLASSES}, the digits"
            )
        return features, probabilities

    def __call__(self, images):
        """(features, probabilities) of images, as every ``embed`` gives them.

        Shapes: images n×H×W×3 of uint8; returns n×3d and n×1000.
        Raises: as :meth:`channels`.
        """
        features, p = self.channels(images)
        joint = p[:, 0, :, None, None] * p[:, 1, None, :, None] * p[:, 2, None, None, :]
        return features.reshape(len(p), -1), joint.reshape(len(p), MODES)


# Scores of probabilities


def inception_style_score(probabilities, splits=1):
    """The Inception score's formula on the probabilities of any classifier.

    exp(1/n · Σᵢ KL(p(·|xᵢ) ‖ p)), p = 1/n · Σᵢ p(·|xᵢ): from 1 to the number of classes

    It is high for images that are sure to be of some class, and of all classes equally often. It
    cannot see how many different images a class has, nor that they look like real ones.

    Args:
        splits: cut the rows into so many parts, in their order, and average the parts' scores.
            The literature takes 10 of 50,000; small parts give smaller scores.
    Shapes: probabilities n×C, rows that sum to 1; returns a float.
    Raises: TypeError or ValueError for what is no such matrix, or splits outside 1 to n.
    Source: Salimans et al., Improved techniques for training GANs (2016), section 4. With our
        classifier it is not comparable with published scores, which are Inception's.
    """
    p = _probabilities("inception_style_score", probabilities)
    splits = _count("inception_style_score", "splits", splits)
    if splits > len(p):
        raise ValueError(
            f"inception_style_score: {splits} splits of {len(p)} rows; expected at most one each"
        )
    scores = []
    for part in np.array_split(p, splits):
        ratio = np.divide(part, part.mean(axis=0), out=np.ones_like(part), where=part > 0)
        scores.append(math.exp(np.sum(part * np.log(ratio)) / len(part)))
    return float(np.mean(scores))


class StackedModes(NamedTuple):
    """What :func:`stacked_modes` counts.

    Args:
        modes: labels that occur, of 1000.
        kl: KL(histogram of the labels ‖ reference), nats.
        expected_modes, expected_kl: what n samples of the reference itself have on average. They
            are the best to expect: few samples cannot reach all modes, and their histogram is
            never even.
    """

    modes: int
    kl: float
    expected_modes: float
    expected_kl: float


def stacked_modes(labels, reference=None):
    """How many of the 1000 kinds of stacked digits occur, and how unevenly.

    KL = Σₗ hₗ·log(hₗ/rₗ), h the labels' histogram and r the reference; of n samples of r,
    E modes = Σₗ 1 − (1 − rₗ)ⁿ and E KL = Σₗ E[B/n · log(B/(n·rₗ))], B ~ Binomial(n, rₗ)

    Published tables take 26,000 samples, and all the same another classifier. Every noise image
    has some label too: modes alone are no praise.

    Args:
        labels: numbers 0 to 999, as of :class:`tinygan.data.StackedDigits`; or the probabilities
            of each channel's digit, as of :meth:`StackedClassifier.channels`.
        reference: the data's share of each label (``StackedDigits.shares``); None: 1/1000 each.
    Shapes: labels n, or n×3×10; reference 1000; returns :class:`StackedModes`.
    Raises: TypeError or ValueError for other labels, or a reference that is no distribution.
    Source: Metz et al., Unrolled GANs (2017), section 3.3; Srivastava et al., VEEGAN (2017); Lin
        et al., PacGAN (2018).
    """
    labels = _stacked_labels(labels)
    n = len(labels)
    r = np.full(MODES, 1 / MODES)
    if reference is not None:
        r = np.asarray(to_host(reference))
        if r.shape != (MODES,):
            raise ValueError(
                f"stacked_modes: reference has shape {r.shape}; expected (1000,), the share of "
                "each label, as StackedDigits.shares"
            )
        r = _probabilities("stacked_modes", r[None], "reference")[0]
    h = np.bincount(labels, minlength=MODES) / n
    return StackedModes(
        modes=int(np.sum(h > 0)),
        kl=_kl(h, r),
        expected_modes=float(np.sum(1 - (1 - r) ** n)),
        expected_kl=_expected_kl(n, r),
    )


def _expected_kl(n, r):
    """The mean KL of the histogram of n samples of r from r, exact."""
    from scipy.stats import binom

    total, counts = 0.0, np.arange(1, n + 1)
    shares, times = np.unique(r[r > 0], return_counts=True)
    for share, repeated in zip(shares, times, strict=True):
        terms = binom.pmf(counts, n, share) * counts / n * np.log(counts / (n * share))
        total += repeated * terms.sum()
    return float(total)


def _stacked_labels(labels):
    labels = np.asarray(to_host(labels))
    if labels.dtype.kind == "f":
        if labels.ndim != 3 or labels.shape[1:] != (3, CLASSES):
            raise ValueError(
                f"stacked_modes: probabilities of shape {labels.shape}; expected n×3×10, a row for "
                "each channel, as StackedClassifier(embed).channels(images)[1]"
            )
        rows = _probabilities("stacked_modes", labels.reshape(-1, CLASSES), "labels")
        labels = rows.reshape(-1, 3, CLASSES).argmax(axis=2) @ np.array([100, 10, 1])
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or labels.size == 0:
        raise TypeError(
            f"stacked_modes: labels is an array of {labels.dtype} and shape {labels.shape}; "
            "expected a row of whole numbers, at least one"
        )
    if labels.min() < 0 or labels.max() >= MODES:
        raise ValueError(
            f"stacked_modes: labels from {labels.min()} to {labels.max()}; expected 0 to 999, "
            "100·red + 10·green + blue"
        )
    return labels.astype(np.int64)


# Scores of features


def frechet_distance(x, y):
    """The squared Fréchet distance of the Gaussians with two samples' means and covariances.

    ‖μ − μ'‖² + tr(Σ + Σ' − 2(ΣΣ')^½)

    With Σ = RᵀR and Σ' = R'ᵀR', of the QR decomposition of the centred samples, the eigenvalues of
    (ΣΣ')^½ are the singular values of RR'ᵀ. So no covariance is formed, none has to be invertible,
    and no root is taken of a rounding error. Two samples of one distribution are not at 0: it
    falls as 1/n.

    Shapes: x n×d, y m×d, n and m at least 2; returns a float. Covariances divide by n − 1.
    Raises: TypeError or ValueError for inputs that are not such finite floats.
    Source: Dowson & Landau (1982); Heusel et al., GANs trained by a two time-scale update rule
        (2017), who call it FID on Inception's features. On ours it is not comparable with that.
    """
    x, y = _two_samples("frechet_distance", x, y)
    shift = x.mean(axis=0) - y.mean(axis=0)
    r, s = _factor(x), _factor(y)
    common = np.linalg.svd(r @ s.T, compute_uv=False).sum()
    spread = np.sum(r * r) + np.sum(s * s) - 2 * common
    return max(0.0, float(shift @ shift + spread))


def _factor(x):
    """R with RᵀR the covariance of x."""
    return np.linalg.qr((x - x.mean(axis=0)) / math.sqrt(len(x) - 1), mode="r")


def kernel_distance(x, y):
    """The squared maximum mean discrepancy of two samples under a cubic kernel, unbiased.

    Σ_{i≠j} k(xᵢ, xⱼ)/(n(n − 1)) + Σ_{i≠j} k(yᵢ, yⱼ)/(m(m − 1)) − 2·Σᵢⱼ k(xᵢ, yⱼ)/(nm),
    k(a, b) = (aᵀb/d + 1)³

    For two samples of one distribution its mean is 0, whatever their size, so it is as often
    below 0 as above.

    Shapes: x n×d, y m×d, n and m at least 2; returns a float.
    Raises: TypeError or ValueError for inputs that are not such finite floats.
    Source: Bińkowski et al., Demystifying MMD GANs (2018), who call it KID on Inception's
        features and average it over subsets. On ours it is not comparable with that.
    """
    x, y = _two_samples("kernel_distance", x, y)
    n, m = len(x), len(y)
    within_x = _kernel_sum(x, x) - np.sum(_cubic(np.sum(x * x, axis=1), x.shape[1]))
    within_y = _kernel_sum(y, y) - np.sum(_cubic(np.sum(y * y, axis=1), y.shape[1]))
    across = _kernel_sum(x, y)
    return float(within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m))


def _cubic(product, d):
    return (product / d + 1) ** 3


def _kernel_sum(x, y):
    """Σᵢⱼ k(xᵢ, yⱼ), block by block."""
    blocks = (x[i : i + _BLOCK] for i in range(0, len(x), _BLOCK))
    return sum(float(_cubic(block @ y.T, x.shape[1]).sum()) for block in blocks)


class PrecisionRecall(NamedTuple):
    """What :func:`precision_recall` finds, two shares from 0 to 1.

    Args:
        precision: of the fake samples, those that lie among the real ones.
        recall: of the real samples, those that lie among the fake ones.
    """

    precision: float
    recall: float


def precision_recall(real, fake, k=3):
    """Precision, that samples look real, apart from recall, that all of the data is reached.

    precision = share of fakes f with ‖f − r‖ ≤ ρₖ(r) for some real r, and recall with the sides
    exchanged; ρₖ(r) is the distance from r to its k-th nearest neighbour among the other reals

    Shapes: real n×d, fake m×d, both of more than k rows; returns :class:`PrecisionRecall`. The
        paper takes n = m; more samples of a side make the other's share larger.
    Raises: TypeError or ValueError for inputs that are not such finite floats, or k below 1.
    Source: Kynkäänniemi et al., Improved precision and recall metric for assessing generative
        models (2019), equations 1 and 2. With our features it is not comparable with theirs.
    """
    real, fake = _two_samples("precision_recall", real, fake, "real", "fake")
    k = _count("precision_recall", "k", k)
    for argument, points in (("real", real), ("fake", fake)):
        if len(points) <= k:
            raise ValueError(
                f"precision_recall: {argument} has {len(points)} samples; expected more than k = "
                f"{k}, each with {k} neighbours"
            )
    return PrecisionRecall(
        precision=_share_within(fake, real, _radii(real, k)),
        recall=_share_within(real, fake, _radii(fake, k)),
    )


def _radii(points, k):
    """The distance from each point to its k-th nearest other."""
    # Place 0 holds the point itself, at distance 0, or an equal one, which is as far.
    return np.concatenate(
        [np.partition(block, k, axis=1)[:, k] for block in _distances(points, points)]
    )


def _share_within(points, centres, radii):
    """The share of the points that lie in some ball."""
    within = [(block <= radii).any(axis=1) for block in _distances(points, centres)]
    return float(np.mean(np.concatenate(within)))


def _distances(x, y):
    """The matrix of distances ‖xᵢ − yⱼ‖, in blocks of rows."""
    from scipy.spatial.distance import cdist

    for start in range(0, len(x), _BLOCK):
        yield cdist(x[start : start + _BLOCK], y)


# Duplicates


class ClosestPairs(NamedTuple):
    """What :func:`closest_pairs` finds, the closest first.

    Args:
        indices: rows (i, j) with i < j.
        distances: ‖xᵢ − xⱼ‖ of each.
    """

    indices: np.ndarray
    distances: np.ndarray


def closest_pairs(samples, count=10):
    """The pairs of samples that are most alike, for somebody to look at.

    Shapes: samples n×d, n at least 2, such as images.reshape(n, -1)/255; returns
        :class:`ClosestPairs` of indices c×2 and distances c, c ≤ count as there are pairs.
    Raises: TypeError or ValueError for samples that are not such finite floats, or count below 1.
    Source: Arora & Zhang, Do GANs actually learn the distribution? (2017), section 3: a person
        decides which of the closest 20 pairs of a batch are duplicates.
    """
    samples = _sample("closest_pairs", "samples", samples)
    count = _count("closest_pairs", "count", count)
    pairs, distances = np.empty((0, 2), np.int64), np.empty(0)
    for b, block in enumerate(_distances(samples, samples)):
        block[np.tri(*block.shape, k=b * _BLOCK, dtype=bool)] = math.inf  # each pair once
        flat, kept = block.ravel(), min(count, block.size)
        best = np.argpartition(flat, kept - 1)[:kept]
        best = best[np.isfinite(flat[best])]
        row, column = np.divmod(best, len(samples))
        pairs = np.concatenate([pairs, np.stack([row + b * _BLOCK, column], axis=1)])
        distances = np.concatenate([distances, flat[best]])
        order = np.lexsort((pairs[:, 1], pairs[:, 0], distances))[:count]
        pairs, distances = pairs[order], distances[order]
    return ClosestPairs(pairs, distances)


def duplicate_distance(real):
    """How close two samples must be to count as duplicates: nearer than any two real ones.

    min over i < j of ‖xᵢ − xⱼ‖, over samples that are known to be distinct

    An automatic stand-in for the person of :func:`closest_pairs`, and a rough one. In pixels, two
    images of one stroke a pixel apart are no duplicates to it, and faint or blurred images soon
    are. The closest real digits are ones. It falls as samples are added, so take as many as of
    those that are judged.

    Shapes: real n×d, n at least 2; returns a float.
    Raises: TypeError or ValueError for samples that are not such finite floats; ValueError if two
        of them are equal, for then they are not distinct.
    """
    real = _sample("duplicate_distance", "real", real)
    (pair,), (distance,) = closest_pairs(real, 1)
    if distance == 0:
        raise ValueError(
            f"duplicate_distance: samples {pair[0]} and {pair[1]} are equal; expected distinct ones"
        )
    return float(distance)


class Birthday(NamedTuple):
    """What :func:`birthday_support` finds.

    Args:
        batch: the smallest batch of which at least half hold a duplicate; infinity if the samples
            are too few to say: then it is above n.
        support: batch², the estimate; infinity likewise, above n².
        pairs: how many pairs of the n samples are duplicates.
    """

    batch: float
    support: float
    pairs: int


def birthday_support(samples, distance, stream, trials=200):
    """How many different samples a generator has, by how soon two are alike.

    support ≈ s², s the smallest batch that holds two samples within ``distance`` with probability
    at least ½

    Of N equally likely samples s is about √(2·ln 2·N) = 1.18·√N, so s² is 1.39·N: it tells the
    order of magnitude. If samples are not equally likely, it is nearer to the number of those that
    are frequent. The batches are the first s of the samples in ``trials`` random orders.

    Args:
        distance: up to which two samples are duplicates. :func:`duplicate_distance` of as many
            real samples is automatic, and a convention of ours: the paper has a person look.
        stream: gives the orders.
    Shapes: samples n×d, n at least 2; returns :class:`Birthday`. Takes n² bytes.
    Raises: TypeError or ValueError for samples that are not such finite floats, a distance that is
        negative or not finite, no stream, or trials below 1.
    Source: Arora & Zhang, Do GANs actually learn the distribution? An empirical study (2017).
    """
    samples = _sample("birthday_support", "samples", samples)
    if not 0 <= distance < math.inf:
        raise ValueError(
            f"birthday_support: distance is {distance!r}; expected 0 or more, as "
            "duplicate_distance(real) gives"
        )
    if not isinstance(stream, Stream):
        raise TypeError(
            f"birthday_support: stream is a {type(stream).__name__}; expected a random stream, as "
            "from tinygan.backend.Stream(0)"
        )
    trials = _count("birthday_support", "trials", trials)
    alike = np.concatenate([block <= distance for block in _distances(samples, samples)])
    np.fill_diagonal(alike, False)
    paired = np.flatnonzero(alike.any(axis=1))
    alike, pairs = alike[np.ix_(paired, paired)], int(alike.sum()) // 2
    firsts = []
    for _ in range(trials):
        place = to_host(stream.permutation(len(samples)))[paired]
        order = np.argsort(place)
        first = _first_pair(alike, order)
        firsts.append(math.inf if first is None else place[order[first]] + 1)
    batch = float(np.sort(firsts)[(trials - 1) // 2])  # of which at least half are no larger
    return Birthday(batch, batch * batch, pairs)


def _first_pair(alike, order):
    """The first position in ``order`` of one that is like an earlier one; None without any."""
    size = 16
    while True:
        some = order[:size]
        later = np.triu(alike[np.ix_(some, some)], 1).any(axis=0)
        if later.any():
            return int(later.argmax())
        if size >= len(order):
            return None
        size *= 2


# All of them


def image_report(images, real, embed=None, stream=None, k=3):
    """All scores of images against real ones, a dict of numbers.

    - ``images``, ``real_images``: how many;
    - ``inception_style_score``, and ``real_inception_style_score`` for comparison;
    - ``frechet_distance``, ``kernel_distance``, ``precision``, ``recall``: of the features;
    - ``classes``: how many classes are the likeliest of some image, and ``class_kl``: KL(their
      histogram ‖ that of the real images), infinite if a class occurs that no real image has;
    - ``duplicate_distance`` of the distinct real images' pixels p/255; ``duplicates``, the pairs of
      images within it; ``birthday_batch`` and ``birthday_support``, automatic;
    - of stacked digits, in place of classes, ``modes`` and ``modes_kl`` with ``expected_modes`` and
      ``expected_modes_kl``, as :func:`stacked_modes` has them;
    - ``classifier``: whose features they are.

    Neither our features nor sizes below 50,000 give what is published as IS, FID or KID. Compare
    with a report of other real images, as many.

    Args:
        images, real: pixels; of floats, make them by ``SIGNED.invert(samples)``. Equally many make
            all scores fair.
        embed: a function from images to (features, probabilities), n×d and n×C. None:
            :func:`digit_classifier`, of each channel if there are three
            (:class:`StackedClassifier`).
        stream: for the random orders of :func:`birthday_support`; None: ``Stream(0)``.
        k: of :func:`precision_recall`.
    Shapes: images n×H×W×C, real m×H×W×C, uint8, more than k of each.
    Raises: TypeError or ValueError for other images, or for what an embed may not give.
    """
    images = _pixels("image_report", "images", images)
    real = _pixels("image_report", "real", real, images.shape[1:])
    stacked, classifier = False, getattr(embed, "__name__", type(embed).__name__)
    if embed is None:
        embed, stacked = digit_classifier(), images.shape[3] == 3
        embed = StackedClassifier(embed) if stacked else embed
        classifier = "tinygan's own of digits, not comparable with Inception"
    features, p = _embedded(embed, "images", images)
    real_features, q = _embedded(embed, "real", real)
    if features.shape[1] != real_features.shape[1] or p.shape[1] != q.shape[1]:
        raise ValueError(
            f"image_report: embed gave {features.shape[1]} features and {p.shape[1]} classes for "
            f"images, {real_features.shape[1]} and {q.shape[1]} for real; expected the same"
        )
    found = precision_recall(real_features, features, k)
    flat, flat_real = (a.reshape(len(a), -1) / 255 for a in (images, real))
    distance = duplicate_distance(np.unique(flat_real, axis=0))
    birthday = birthday_support(flat, distance, Stream(0) if stream is None else stream)
    return {
        "images": len(images),
        "real_images": len(real),
        "inception_style_score": inception_style_score(p),
        "real_inception_style_score": inception_style_score(q),
        "frechet_distance": frechet_distance(real_features, features),
        "kernel_distance": kernel_distance(real_features, features),
        "precision": found.precision,
        "recall": found.recall,
        **(_modes(p) if stacked else _classes(p, q)),
        "duplicate_distance": distance,
        "duplicates": birthday.pairs,
        "birthday_batch": birthday.batch,
        "birthday_support": birthday.support,
        "classifier": classifier,
    }


def _modes(p):
    found = stacked_modes(p.argmax(axis=1))
    return {
        "modes": found.modes,
        "modes_kl": found.kl,
        "expected_modes": found.expected_modes,
        "expected_modes_kl": found.expected_kl,
    }


def _classes(p, q):
    h, r = (np.bincount(each.argmax(axis=1), minlength=p.shape[1]) / len(each) for each in (p, q))
    return {"classes": int(np.sum(h > 0)), "class_kl": _kl(h, r)}


def _kl(h, r):
    """KL(h ‖ r) of two histograms; infinite if something occurs in h that never does in r."""
    some = h > 0
    with np.errstate(divide="ignore"):
        return float(np.sum(h[some] * np.log(h[some] / r[some])))


# What is checked


def _pixels(name, argument, images, shape=None):
    """``images`` as n×H×W×C of uint8, on the host."""
    if isinstance(images, Images):
        raise TypeError(f"{name}: {argument} is of class Images; expected its .pixels")
    images = to_host(images)
    wanted = "n×H×W×C" if shape is None else "n×" + "×".join(map(str, shape))
    if getattr(images, "dtype", None) != np.uint8:
        kind = getattr(images, "dtype", type(images).__name__)
        raise TypeError(
            f"{name}: {argument} is of {kind}; expected uint8, {wanted}. Floats become that by "
            "their scaling, as tinygan.data.SIGNED.invert(samples)"
        )
    if images.ndim != 4 or images.size == 0 or shape not in (None, images.shape[1:]):
        raise ValueError(
            f"{name}: {argument} has shape {images.shape}; expected {wanted}, at least one image"
        )
    return images


def _embedded(embed, argument, images):
    """What ``embed`` gives for images, checked: features n×d and probabilities n×C, float64."""
    given = embed(images)
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise TypeError(
            f"embed gave a {type(given).__name__} for {argument}; expected a pair (features, "
            "probabilities), n×d and n×C"
        )
    features = _points("embed", f"features of {argument}", given[0])
    probabilities = _probabilities("embed", given[1], f"probabilities of {argument}")
    if not len(features) == len(probabilities) == len(images):
        raise ValueError(
            f"embed gave features {features.shape} and probabilities {probabilities.shape} for "
            f"{len(images)} {argument}; expected one row of each for every image, in their order"
        )
    return features, probabilities


def _probabilities(name, rows, argument="probabilities"):
    rows = _points(name, argument, rows)
    sums = rows.sum(axis=1)
    if rows.min() < 0 or abs(sums - 1).max() > 1e-3:
        raise ValueError(
            f"{name}: {argument} from {rows.min():.4g}, rows that sum to {sums.min():.4g} to "
            f"{sums.max():.4g}; expected no negative ones and sums of 1: of logits, take "
            "tinygan.ops.softmax(logits)"
        )
    return rows / sums[:, None]


def _sample(name, argument, points):
    points = _points(name, argument, points)
    if len(points) < 2:
        raise ValueError(f"{name}: {argument} has one sample; expected at least 2")
    return points


def _two_samples(name, x, y, first="x", second="y"):
    x, y = _sample(name, first, x), _sample(name, second, y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{name}: {first} has {x.shape[1]} features and {second} {y.shape[1]}; expected the "
            "same ones"
        )
    return x, y
