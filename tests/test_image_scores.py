"""Scores of images against closed forms, naive loops and real digits; the shipped classifier."""

import math
import struct

import numpy as np
import pytest
from test_examples import load

from tinygan import image_scores, metrics, nn, ops, optim
from tinygan.backend import Stream
from tinygan.data import SIGNED, UNIT, Images, StackedDigits, digits
from tinygan.image_scores import (
    NETWORK,
    StackedClassifier,
    birthday_support,
    closest_pairs,
    digit_classifier,
    duplicate_distance,
    frechet_distance,
    image_report,
    inception_style_score,
    kernel_distance,
    precision_recall,
    split_digits,
    stacked_modes,
)
from tinygan.models import Net
from tinygan.train import GAN, train
from tinygan.weights import load_weights, save_weights

example = load("digit_classifier")
heavy = pytest.mark.numpy_path("a thousand images in a moment")


def normal(seed, *shape):
    return Stream(seed).normal(shape, np.float64)


def whitened(x):
    """The sample with mean 0 and covariance I, to rounding."""
    x = x - x.mean(axis=0)
    values, vectors = np.linalg.eigh(x.T @ x / (len(x) - 1))
    return x @ (vectors / np.sqrt(values)) @ vectors.T


# --- inception-style score --------------------------------------------------------------


def test_the_inception_style_score_at_its_ends():
    assert inception_style_score(np.full((7, 5), 0.2)) == pytest.approx(1, abs=1e-15)
    one = np.tile(np.eye(5)[2], (7, 1))
    assert inception_style_score(one) == 1  # sure, and always of the same class
    assert inception_style_score(np.tile(np.eye(5), (3, 1))) == pytest.approx(5, rel=1e-14)


def test_the_inception_style_score_by_hand():
    p = np.array([[0.75, 0.25], [0.25, 0.75]])
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert inception_style_score(p) == pytest.approx(math.exp(kl), rel=1e-14)


def test_the_inception_style_score_of_parts_is_the_mean_of_theirs():
    p = ops.softmax(normal(0, 11, 4))
    parts = [inception_style_score(part) for part in (p[:4], p[4:8], p[8:])]
    assert inception_style_score(p, splits=3) == pytest.approx(np.mean(parts), rel=1e-14)
    assert inception_style_score(p, splits=11) == pytest.approx(1, rel=1e-14)


@pytest.mark.parametrize(
    "p, splits, message",
    [
        (np.ones((3, 2)), 1, "sum to 2 to 2; expected .*softmax"),
        (np.array([[1.5, -0.5]]), 1, "from -0.5, rows"),
        (np.ones(3), 1, r"shape \(3,\); expected n×d"),
        (np.full((3, 2), 0.5), 4, "4 splits of 3 rows"),
        (np.full((3, 2), 0.5), 0, "splits is 0"),
        (np.full((3, 2), np.nan), 1, "NaN"),
    ],
)
def test_what_are_no_probabilities_is_refused(p, splits, message):
    with pytest.raises(ValueError, match=message):
        inception_style_score(p, splits)


# --- Fréchet distance -------------------------------------------------------------------


def test_the_frechet_distance_of_known_gaussians():
    x = whitened(normal(0, 50, 3))
    assert frechet_distance(x, x + [3, 0, 4]) == pytest.approx(25, rel=1e-12)
    assert frechet_distance(x, 2.5 * x) == pytest.approx(3 * 1.5**2, rel=1e-12)
    a, b = np.array([1.0, 2, 3]), np.array([4.0, 1, 0.5])  # diagonal: Σ (a − b)²
    assert frechet_distance(x * a, x * b) == pytest.approx(np.sum((a - b) ** 2), rel=1e-12)


def test_the_frechet_distance_where_covariances_do_not_commute():
    x, y = normal(1, 30, 4) @ normal(2, 4, 4), normal(3, 20, 4) @ normal(4, 4, 4) + 1
    s, t = np.cov(x.T), np.cov(y.T)
    root = np.sqrt(np.linalg.eigvals(s @ t).real).sum()  # of (ΣΣ')^½, by another way
    shift = np.sum((x.mean(0) - y.mean(0)) ** 2)
    expected = shift + np.trace(s) + np.trace(t) - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-10)
    from scipy.linalg import sqrtm

    again = shift + np.trace(s) + np.trace(t) - 2 * np.trace(sqrtm(s @ t).real)
    assert expected == pytest.approx(again, rel=1e-8)


@pytest.mark.parametrize("n, d", [(40, 6), (5, 12), (2, 3)])
def test_a_sample_is_at_no_frechet_distance_from_itself(n, d):
    x = 100 * normal(0, n, d)
    x[:, 0] = 7  # singular even with many samples
    assert frechet_distance(x, x) <= 1e-13 * np.sum(x * x)
    assert frechet_distance(x, x[::-1].copy()) <= 1e-12 * np.sum(x * x)


def test_singular_covariances_have_a_distance():
    x = np.array([[-1.0, 0.0], [1.0, 0.0]])  # variances 2 and 0
    y = np.array([[0.0, -1.0], [0.0, 1.0]])  # 0 and 2: nothing in common
    assert frechet_distance(x, y) == pytest.approx(4, rel=1e-14)
    still = np.array([[3.0, 4.0], [3.0, 4.0]])
    assert frechet_distance(x, still) == pytest.approx(25 + 2, rel=1e-14)


@pytest.mark.parametrize("score", [frechet_distance, kernel_distance, precision_recall])
def test_samples_that_do_not_fit_are_refused(score):
    with pytest.raises(ValueError, match="has 3 features and .* 4; expected the same"):
        score(np.ones((9, 3)), np.ones((9, 4)))
    with pytest.raises(ValueError, match="has one sample; expected at least 2"):
        score(np.ones((9, 3)), np.ones((1, 3)))
    with pytest.raises(TypeError, match="int64; expected floats"):
        score(np.ones((9, 3), np.int64), np.ones((9, 3)))


# --- kernel distance --------------------------------------------------------------------


def naive_kernel_distance(x, y):
    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    n, m, total = len(x), len(y), 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                total += k(x[i], x[j]) / (n * (n - 1))
    for i in range(m):
        for j in range(m):
            if i != j:
                total += k(y[i], y[j]) / (m * (m - 1))
    for i in range(n):
        for j in range(m):
            total -= 2 * k(x[i], y[j]) / (n * m)
    return total


@pytest.mark.parametrize("block", [500, 4])
def test_the_kernel_distance_is_that_of_naive_loops(monkeypatch, block):
    monkeypatch.setattr(image_scores, "_BLOCK", block)
    x, y = normal(0, 11, 3), normal(1, 8, 3) * 1.5 + 0.5
    expected = naive_kernel_distance(x, y)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-12)
    assert kernel_distance(y, x) == pytest.approx(expected, rel=1e-12)


def test_the_kernel_distance_is_unbiased():
    found = [kernel_distance(normal(2 * i, 6, 2), normal(2 * i + 1, 5, 2)) for i in range(1000)]
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error
    assert min(found) < 0 < max(found) and error < 0.2  # the biased estimate is some 5 too large


def test_the_kernel_distance_by_hand():
    # k is (1 + 1)³ = 8 among the ones, and (0 + 1)³ = 1 where a factor is 0.
    x, y = np.ones((2, 1)), np.zeros((3, 1))
    assert kernel_distance(x, y) == 8 + 1 - 2 * 1


# --- precision and recall ---------------------------------------------------------------


def on_line(*points):
    return np.array(points, float)[:, None]


def test_precision_and_recall_by_hand():
    real, fake = on_line(0, 1, 2, 3), on_line(0.5, 3.9, 4.1, 9)
    # k = 1: every real ball has radius 1, so they cover [-1, 4]; the fakes' radii are 3.4, 0.2,
    # 0.2 and 4.9: they cover [-2.9, 3.9], [3.7, 4.1], [3.9, 4.3], [4.1, 13.9].
    assert precision_recall(real, fake, k=1) == (2 / 4, 4 / 4)
    # k = 2: radii 2, 1, 1, 2, up to 5
    assert precision_recall(real, fake, k=2).precision == 3 / 4
    # k = 3: radii 3, 2, 2, 3, up to 6
    assert precision_recall(real, fake, k=3).precision == 3 / 4
    assert precision_recall(real, on_line(5.9, 6, 6.01, 20), k=3).precision == 2 / 4  # edges count


def test_precision_is_apart_from_recall():
    modes = on_line(0, 0.1, 0.2, 0.3, 10, 10.1, 10.2, 10.3)
    one = on_line(0.02, 0.12, 0.22, 0.28)
    assert precision_recall(modes, one, k=1) == (1, 4 / 8)
    assert precision_recall(one, modes, k=1) == (4 / 8, 1)
    assert precision_recall(modes, one + 100, k=1) == (0, 0)


@pytest.mark.parametrize("block", [500, 3])
def test_precision_and_recall_are_those_of_naive_loops(monkeypatch, block):
    monkeypatch.setattr(image_scores, "_BLOCK", block)
    real, fake, k = normal(0, 15, 2), normal(1, 10, 2) + 1, 3

    def share(points, centres):
        inside = 0
        for p in points:
            for i, c in enumerate(centres):
                others = sorted(math.dist(c, o) for j, o in enumerate(centres) if j != i)
                if math.dist(p, c) <= others[k - 1]:
                    inside += 1
                    break
        return inside / len(points)

    expected = (share(fake, real), share(real, fake))
    assert precision_recall(real, fake, k) == pytest.approx(expected)
    assert 0 < expected[0] < 1 and 0 < expected[1] < 1


def test_neighbours_must_be_there():
    with pytest.raises(ValueError, match="fake has 3 samples; expected more than k = 3"):
        precision_recall(np.ones((4, 1)), np.ones((3, 1)))
    with pytest.raises(ValueError, match="k is 0"):
        precision_recall(np.ones((4, 1)), np.ones((4, 1)), k=0)


# --- modes of stacked digits ------------------------------------------------------------


def test_modes_by_hand():
    found = stacked_modes(np.array([7, 7, 7, 999]))
    assert found.modes == 2
    expected = 0.75 * math.log(750) + 0.25 * math.log(250)
    assert found.kl == pytest.approx(expected, rel=1e-14)
    assert stacked_modes(np.arange(1000)).kl == pytest.approx(0, abs=1e-12)
    assert stacked_modes(np.zeros(5, np.uint8)).kl == pytest.approx(math.log(1000), rel=1e-14)


def test_modes_against_the_shares_of_the_data():
    reference = np.zeros(1000)
    reference[[3, 5]] = 0.25, 0.75
    found = stacked_modes(np.array([3, 5, 5, 5]), reference)
    assert (found.modes, found.kl) == (2, 0)
    assert found.expected_modes == pytest.approx(2 - 0.75**4 - 0.25**4, rel=1e-14)
    assert stacked_modes(np.array([3, 4]), reference).kl == math.inf


def test_what_is_expected_of_the_data_itself():
    one = stacked_modes(np.array([4]))
    assert one.expected_modes == pytest.approx(1)
    assert one.expected_kl == pytest.approx(math.log(1000)) == one.kl
    two = stacked_modes(np.array([4, 5]))  # equal with probability 1/1000
    assert two.expected_modes == pytest.approx(2 - 1 / 1000)
    expected = math.log(1000) / 1000 + math.log(500) * 999 / 1000
    assert two.expected_kl == pytest.approx(expected, rel=1e-12)
    found = [stacked_modes(Stream(i).integers(2000, 1000)) for i in range(40)]
    assert np.mean([f.modes for f in found]) == pytest.approx(found[0].expected_modes, rel=0.005)
    assert np.mean([f.kl for f in found]) == pytest.approx(found[0].expected_kl, rel=0.02)
    many = stacked_modes(np.arange(26000) % 1000)
    assert many.expected_kl == pytest.approx(999 / (2 * 26000), rel=0.02)


def test_modes_from_the_probabilities_of_the_channels():
    labels = np.array([[1, 2, 3], [0, 0, 9], [1, 2, 3]])
    p = 0.4 * ops.one_hot(labels, 10, np.float64) + 0.06
    assert stacked_modes(p) == stacked_modes(np.array([123, 9, 123]))
    reference = np.zeros(1000)
    reference[[9, 123]] = 1 / 3, 2 / 3
    assert stacked_modes(p, reference).kl == pytest.approx(0, abs=1e-15)  # the red digit first


@pytest.mark.parametrize(
    "labels, reference, error, message",
    [
        (np.array([1000]), None, ValueError, "from 1000 to 1000; expected 0 to 999"),
        (np.array([-1, 3]), None, ValueError, "from -1 to 3"),
        (np.array([], int), None, TypeError, "at least one"),
        (np.ones((3, 3), int), None, TypeError, "expected a row of whole numbers"),
        (np.ones((3, 10)), None, ValueError, "expected n×3×10"),
        (np.ones((2, 3, 10)), None, ValueError, "sum to 10"),
        (np.array([1]), np.ones(10) / 10, ValueError, r"expected \(1000,\)"),
        (np.array([1]), np.ones(1000), ValueError, "reference .* sum to 1000"),
    ],
)
def test_labels_that_are_none_are_refused(labels, reference, error, message):
    with pytest.raises(error, match=message):
        stacked_modes(labels, reference)


# --- duplicates -------------------------------------------------------------------------


@pytest.mark.parametrize("block", [500, 7])
def test_the_closest_pairs_are_those_of_naive_loops(monkeypatch, block):
    monkeypatch.setattr(image_scores, "_BLOCK", block)
    x = normal(0, 30, 3)
    every = sorted(
        (math.dist(x[i], x[j]), i, j) for i in range(30) for j in range(30) if i < j
    )  # fmt: skip
    found = closest_pairs(x, 12)
    assert found.indices.tolist() == [[i, j] for _, i, j in every[:12]]
    np.testing.assert_allclose(found.distances, [d for d, _, _ in every[:12]], rtol=1e-12)
    assert len(closest_pairs(x, 1000).distances) == 30 * 29 / 2
    assert duplicate_distance(x) == pytest.approx(every[0][0], rel=1e-12)


def test_equal_samples_are_no_measure_of_what_is_distinct():
    x = on_line(1, 5, 1)
    assert closest_pairs(x, 1).indices.tolist() == [[0, 2]]
    with pytest.raises(ValueError, match="samples 0 and 2 are equal; expected distinct"):
        duplicate_distance(x)


@pytest.mark.parametrize("support", [50, 400])
def test_the_birthday_estimate_of_a_known_support(support):
    stream = Stream(0)
    points = stream.normal((support, 2), np.float64)
    samples = points[stream.integers(2500, support)]
    found = birthday_support(samples, 1e-9, stream)
    exact = 1.1774 * math.sqrt(support)  # the median's asymptote
    assert found.batch == pytest.approx(exact, rel=0.15)
    assert found.support == found.batch**2
    assert found.pairs == pytest.approx(2500**2 / 2 / support, rel=0.05)


def test_half_of_the_orders_have_a_duplicate_in_the_batch():
    # Of 10 samples 2 are alike: both among the first s with probability s(s − 1)/90, ½ at 7.2.
    samples = on_line(*range(9), 8.25)
    assert birthday_support(samples, 0.25, Stream(0), trials=2000) == (8, 64, 1)
    assert birthday_support(samples, 0.24, Stream(0)) == (math.inf, math.inf, 0)


def test_the_ends_of_the_birthday_estimate():
    assert birthday_support(np.zeros((40, 2)), 0, Stream(0)) == (2, 4, 780)
    assert birthday_support(normal(0, 40, 2), 1e-6, Stream(0)).support == math.inf


def test_the_birthday_estimate_is_that_of_naive_orders():
    samples = Stream(1).integers((120, 1), 150).astype(np.float64)
    stream, firsts = Stream(2), []
    for _ in range(31):
        place, seen = stream.permutation(120), set()
        for s, i in enumerate(np.argsort(place)):
            if float(samples[i, 0]) in seen:
                firsts.append(s + 1)
                break
            seen.add(float(samples[i, 0]))
    assert len(firsts) == 31 and max(firsts) > 16  # longer than the first look
    assert birthday_support(samples, 0.5, Stream(2), trials=31).batch == sorted(firsts)[15]


@pytest.mark.parametrize(
    "distance, stream, error",
    [(-1, Stream(0), ValueError), (math.nan, Stream(0), ValueError), (1, 0, TypeError)],
)
def test_a_birthday_estimate_needs_a_distance_and_a_stream(distance, stream, error):
    with pytest.raises(error, match="birthday_support: .* expected"):
        birthday_support(np.ones((3, 1)), distance, stream)


# --- the classifier ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier():
    return digit_classifier()


@pytest.fixture(scope="module")
def held_out():
    return split_digits()[1]


def test_the_split_is_the_order_of_the_file():
    learned, held_out = split_digits()
    every = digits()
    assert (len(learned), len(held_out)) == (4000, 1000)
    assert np.array_equal(np.concatenate([learned.pixels, held_out.pixels]), every.pixels)
    shares = [np.bincount(part.labels) / len(part) for part in (learned, held_out)]
    assert abs(shares[0] - 0.1).max() < 0.005 and abs(shares[1] - 0.1).max() < 0.02


@heavy
def test_the_shipped_classifier_is_as_good_as_its_file_says(classifier, held_out):
    _, p = classifier(held_out.pixels)
    right = int(np.sum(p.argmax(axis=1) == held_out.labels))
    # A sum in another order on another machine may turn one doubtful digit.
    assert abs(right - 1000 * classifier.config["accuracy"]) <= 1
    assert classifier.config["accuracy"] >= 0.975
    assert classifier.config["held_out"] == 1000
    assert image_scores._WEIGHTS.stat().st_size < 300_000


def test_an_embed_gives_features_and_probabilities(classifier, held_out):
    features, p = classifier(held_out.pixels[:7])
    assert features.shape == (7, 64) and features.dtype == np.float32
    assert p.shape == (7, 10) and p.dtype == np.float64
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    x = example.SCALING.apply(held_out.pixels[:7])
    logits = NETWORK(classifier.params, x)  # the whole network, not body and head
    np.testing.assert_allclose(np.log(p), ops.log_softmax(logits), rtol=1e-4, atol=1e-4)


@heavy
def test_features_do_not_depend_on_the_blocks(classifier, held_out, monkeypatch):
    at_once = classifier(held_out.pixels[:20])
    monkeypatch.setattr(image_scores, "_BLOCK", 6)
    for one, other in zip(at_once, classifier(held_out.pixels[:20]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@heavy
def test_the_features_mean_square_is_one(classifier):
    features, _ = classifier(split_digits()[0].pixels)
    assert np.mean(features.astype(np.float64) ** 2) == pytest.approx(1, rel=1e-4)


def test_a_classifier_computes_on_its_device(classifier, held_out, stand_in):
    there = digit_classifier(device="gpu")
    assert type(there.params["logits"]["weight"]) is stand_in.ndarray
    pixels = held_out.pixels[:2]
    for images in (pixels, stand_in.asarray(pixels)):
        for one, other in zip(there(images), classifier(pixels), strict=True):
            assert type(one) is np.ndarray
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_classifier_refuses_what_are_no_digits(classifier):
    with pytest.raises(TypeError, match=r"float64; expected uint8, n×28×28×1. .*SIGNED.invert"):
        classifier(np.zeros((2, 28, 28, 1)))
    with pytest.raises(ValueError, match=r"shape \(2, 28, 28\); expected n×28×28×1"):
        classifier(np.zeros((2, 28, 28), np.uint8))
    with pytest.raises(TypeError, match="of class Images; expected its .pixels"):
        classifier(digits())
    with pytest.raises(ValueError, match="at least one"):
        classifier(np.zeros((0, 28, 28, 1), np.uint8))


def test_other_weights_can_be_read(tmp_path, held_out):
    params = NETWORK.init(Stream(5))
    save_weights(tmp_path / "mine.npz", params)
    features, _ = digit_classifier(tmp_path / "mine.npz")(held_out.pixels[:3])
    other, _ = image_scores.DigitClassifier(params, {})(held_out.pixels[:3])
    assert np.array_equal(features, other)
    save_weights(tmp_path / "other.npz", {"a": np.ones(3)})
    with pytest.raises(ValueError, match="weights of another model"):
        digit_classifier(tmp_path / "other.npz")


def test_a_stacked_classifier_sees_each_channel(classifier, held_out):
    stacked = StackedDigits(held_out).images(12, Stream(0))
    embed = StackedClassifier(classifier)
    features, p = embed.channels(stacked.pixels)
    for c in range(3):
        alone = classifier(stacked.pixels[..., c : c + 1])
        np.testing.assert_allclose(features[:, c], alone[0], rtol=1e-6)
        np.testing.assert_allclose(p[:, c], alone[1], rtol=1e-9)
    joined, joint = embed(stacked.pixels)
    assert joined.shape == (12, 192) and joint.shape == (12, 1000)
    assert joint[3, 247] == pytest.approx(p[3, 0, 2] * p[3, 1, 4] * p[3, 2, 7])
    assert np.mean(joint.argmax(axis=1) == stacked.labels) > 0.8
    with pytest.raises(ValueError, match="expected n×H×W×3"):
        embed(held_out.pixels[:2])
    with pytest.raises(ValueError, match="gave 4 classes; expected 10"):
        StackedClassifier(lambda x: (np.ones((len(x), 2)), np.full((len(x), 4), 0.25)))(
            stacked.pixels
        )


# --- the report -------------------------------------------------------------------------


@heavy
def test_real_digits_score_far_better_than_what_is_no_digit():
    pixels = digits().pixels
    real, other = pixels[:400], pixels[4000:4400]
    noise = Stream(0).integers(other.shape, 256).astype(np.uint8)
    good, bad = image_report(other, real), image_report(noise, real)
    blank = image_report(np.zeros_like(other), real)
    assert good["inception_style_score"] > 8 > 2 > bad["inception_style_score"]
    assert good["precision"] > 0.7 > 0.2 > bad["precision"]
    assert good["recall"] > 0.7 > 0.2 > bad["recall"]
    for wrong in (bad, blank):
        assert 20 * good["frechet_distance"] < wrong["frechet_distance"]
        assert 20 * abs(good["kernel_distance"]) < wrong["kernel_distance"]
        assert good["class_kl"] < 0.1 < wrong["class_kl"]
    assert good["classes"] == 10 and good["birthday_support"] > 10_000
    assert (blank["birthday_batch"], blank["duplicates"]) == (2, 400 * 399 / 2)
    assert blank["inception_style_score"] == pytest.approx(1)
    assert "not comparable" in good["classifier"]


@heavy
def test_a_generator_of_few_images_is_seen():
    pixels = digits().pixels
    few = pixels[Stream(0).integers(400, 40)]
    found = image_report(few, pixels[1000:1400])
    assert found["inception_style_score"] > 7  # which cannot see it
    assert found["recall"] < 0.2 and 15 < found["birthday_support"] < 150


def test_a_report_takes_an_embed_of_ones_own():
    images = Stream(0).integers((30, 5, 4, 3), 256).astype(np.uint8)
    images[20:] = images[:10]
    real = Stream(1).integers((20, 5, 4, 3), 256).astype(np.uint8)

    def colours(x):
        mean = x.mean(axis=(1, 2)) / 255
        return mean, mean / mean.sum(axis=1, keepdims=True)

    found = image_report(images, real, colours, Stream(6), k=2)
    (x, p), (y, q) = colours(images), colours(real)
    flat = images.reshape(30, -1) / 255
    distance = duplicate_distance(real.reshape(20, -1) / 255)
    birthday = birthday_support(flat, distance, Stream(6))
    assert birthday.batch != birthday_support(flat, distance, Stream(0)).batch
    h, r = (np.bincount(a.argmax(axis=1), minlength=3) / len(a) for a in (p, q))
    assert found == {
        "images": 30,
        "real_images": 20,
        "inception_style_score": inception_style_score(p),
        "real_inception_style_score": inception_style_score(q),
        "frechet_distance": frechet_distance(y, x),
        "kernel_distance": kernel_distance(y, x),
        "precision": precision_recall(y, x, 2).precision,
        "recall": precision_recall(y, x, 2).recall,
        "classes": 3,
        "class_kl": pytest.approx(np.sum(h * np.log(h / r))),
        "duplicate_distance": distance,
        "duplicates": birthday.pairs,
        "birthday_batch": birthday.batch,
        "birthday_support": birthday.support,
        "classifier": "colours",
    }


def test_a_report_of_stacked_digits_counts_modes(held_out):
    data = StackedDigits(held_out)
    images, real = data.images(12, Stream(0)), data.images(9, Stream(1))
    found = image_report(images.pixels, real.pixels)
    expected = stacked_modes(images.labels)
    assert abs(found["modes"] - expected.modes) <= 1
    assert found["expected_modes"] == expected.expected_modes
    assert found["expected_modes_kl"] == expected.expected_kl
    assert found["modes_kl"] == pytest.approx(expected.kl, abs=0.3)
    assert "classes" not in found


P = np.full((4, 2), 0.5)


@pytest.mark.parametrize(
    "given, error, message",
    [
        (np.ones((4, 3)), TypeError, "embed gave a ndarray for images; expected a pair"),
        ((np.ones((4, 3)),), TypeError, "expected a pair"),
        ((np.ones((3, 3)), P), ValueError, r"features \(3, 3\) and .* \(4, 2\) for 4 images"),
        ((np.ones((4, 3)), P[:3]), ValueError, "expected one row of each"),
        ((np.ones((4, 3, 1)), P), ValueError, r"features of images has shape \(4, 3, 1\)"),
        ((np.ones((4, 3)), P + 1), ValueError, "probabilities of images .*softmax"),
        ((np.full((4, 3), np.inf), P), ValueError, "features of images holds NaN or infinity"),
    ],
)
def test_an_embed_that_gives_something_else_is_refused(given, error, message):
    images = np.arange(4 * 4, dtype=np.uint8).reshape(4, 2, 2, 1)
    with pytest.raises(error, match=message):
        image_report(images, images, lambda x: given)


def test_an_embed_must_give_the_same_features_each_time():
    widths = iter([3, 2])
    images = np.arange(4 * 4, dtype=np.uint8).reshape(4, 2, 2, 1)
    with pytest.raises(ValueError, match="3 features and 2 classes for images, 2 and 2 for real"):
        image_report(images, images, lambda x: (np.ones((4, next(widths))), P))


def test_a_report_checks_its_images():
    with pytest.raises(TypeError, match="image_report: images is of float32; expected uint8"):
        image_report(np.zeros((4, 28, 28, 1), np.float32), digits().pixels[:4])
    with pytest.raises(ValueError, match=r"real has shape .*1\); expected n×28×28×3"):
        image_report(np.zeros((4, 28, 28, 3), np.uint8), digits().pixels[:4])


# --- stacked digits ---------------------------------------------------------------------


def numbered(n=10):
    """n images of one brightness each, and their number as label."""
    pixels = np.zeros((n, 2, 3, 1), np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None]
    return Images(pixels, np.arange(n), "numbered")


def test_a_stacked_digit_is_three_and_its_label_says_which():
    data = StackedDigits(numbered(), UNIT)
    batch, labels = data.sample_with_labels(200, Stream(3))
    assert batch.shape == (200, 2, 3, 3) == (200, *data.shape) and batch.dtype == np.float32
    seen = UNIT.invert(batch)
    assert (seen == seen[:, :1, :1]).all()
    assert np.array_equal(labels, seen[:, 0, 0].astype(np.int64) @ [100, 10, 1])
    assert labels.min() >= 0 and labels.max() <= 999 and len(set(labels.tolist())) > 150


def test_a_stacked_digit_is_that_of_the_shipped_file():
    every = digits()
    data = StackedDigits(every)
    index = Stream(0).integers((4, 3), len(every))
    batch, labels = data.sample_with_labels(4, Stream(0))
    for i in range(4):
        for c in range(3):
            expected = SIGNED.apply(every.pixels[index[i, c]][..., 0])
            assert np.array_equal(batch[i, :, :, c], expected)
        assert labels[i] == int("".join(str(every.labels[j]) for j in index[i]))


def test_samples_follow_from_the_stream():
    data = StackedDigits(numbered(), dtype=np.float64)
    stream = Stream(1)
    first, second = data.sample(5, stream), data.sample(5, stream)
    assert first.dtype == np.float64 and not np.array_equal(first, second)
    assert np.array_equal(first, data.sample_with_labels(5, Stream(1))[0])
    images = data.images(5, Stream(1))
    assert np.array_equal(SIGNED.apply(images.pixels, np.float64), first)
    assert images.labels.tolist() == data.sample_with_labels(5, Stream(1))[1].tolist()


def test_stacked_digits_are_what_training_takes():
    row = {"row": nn.Flatten(), "logit": nn.Linear(18, 1)}
    grown = {"hidden": nn.Linear(2, 18), "image": nn.Reshape((2, 3, 3)), "tanh": ops.tanh}
    critic, generator = Net("critic", (2, 3, 3), row), Net("generator", (2,), grown)
    gan, stream = GAN(generator, critic, optim.SGD(1e-2), optim.SGD(1e-2)), Stream(0)
    data = StackedDigits(numbered())
    run = train(gan, gan.init(stream), data.sample, 3, stream, batch=4, latent=2)
    assert len(run.history.records) == 3


def test_stacked_digits_on_a_device(stand_in):
    batch, labels = StackedDigits(numbered()).sample_with_labels(5, Stream(1, device="gpu"))
    assert type(batch) is stand_in.ndarray and type(labels) is stand_in.ndarray
    expected, wanted = StackedDigits(numbered()).sample_with_labels(5, Stream(1))
    assert np.array_equal(stand_in.get(batch), expected)
    assert np.array_equal(stand_in.get(labels), wanted)


def test_the_shares_of_the_labels():
    assert abs(StackedDigits(digits()).shares - 1e-3).max() < 1e-15
    images = numbered().take([1, 2, 2, 2])
    shares = StackedDigits(images).shares
    assert shares[112] == 0.25 * 0.25 * 0.75 and shares[222] == 0.75**3
    assert shares.sum() == 1 and np.count_nonzero(shares) == 8


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: StackedDigits(np.zeros(3)), TypeError, "expected Images"),
        (lambda: StackedDigits(numbered(), "signed"), TypeError, "and a Scaling"),
        (lambda: StackedDigits(numbered(11)), ValueError, "from 0 to 10; expected 0 to 9"),
        (lambda: StackedDigits(numbered().repeated(3)), ValueError, "expected grey images"),
        (lambda: StackedDigits(Images(numbered().pixels)), ValueError, "no labels"),
        (lambda: StackedDigits(numbered(), dtype=int), TypeError, "dtype is int64"),
        (lambda: StackedDigits(numbered()).sample(3, 0), TypeError, "expected a random stream"),
        (lambda: StackedDigits(numbered()).sample(0, Stream(0)), ValueError, "n is 0"),
    ],
)
def test_what_cannot_be_stacked_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# --- the example ------------------------------------------------------------------------


@heavy
def test_the_example_trains_and_writes_a_classifier(tmp_path, capsys):
    small = ["--steps", "3", "--batch", "16", "--out", str(tmp_path)]
    example.main(small)
    printed = capsys.readouterr().out
    assert "step 3: loss" in printed and "of 1,000 held-out digits" in printed
    params, config = load_weights(tmp_path / "classifier.npz", NETWORK.init(Stream(0)))
    assert (config["steps"], config["batch"], config["seed"]) == (3, 16, 0)
    first = (tmp_path / "classifier.npz").read_bytes()
    example.main([*small, "--quiet"])
    assert (tmp_path / "classifier.npz").read_bytes() == first
    held_out = split_digits()[1]
    right = example.correct(params, held_out)
    assert right == round(1000 * config["accuracy"])
    assert f"right on {right:,} of 1,000 held-out digits" in printed


def test_the_shipped_file_names_its_settings(classifier):
    args, _ = example.parse(["--out", "."])
    for name in ("steps", "batch", "rate", "seed"):
        assert classifier.config[name] == getattr(args, name)
    assert classifier.config["trained_on"] == image_scores.TRAINED_ON


def test_the_loss_is_the_cross_entropy():
    params = NETWORK.init(Stream(0), np.float64)
    x = Stream(1).normal((5, 28, 28, 1), np.float64)
    labels = np.array([3, 0, 9, 3, 1])
    logits = NETWORK(params, x)
    expected = 0.0
    for row, label in zip(logits, labels, strict=True):
        expected -= math.log(math.exp(row[label]) / sum(math.exp(v) for v in row)) / 5
    found = example.loss(params, x, ops.one_hot(labels, 10, np.float64))
    assert found == pytest.approx(expected, rel=1e-12)


def test_shifts_move_whole_images():
    pixels = Stream(0).integers((300, 6, 7, 1), 255).astype(np.uint8) + np.uint8(1)
    moved = example.shifted(pixels, Stream(1))
    seen = set()
    for image, found in zip(pixels, moved, strict=True):
        padded = np.pad(image, [(2, 2), (2, 2), (0, 0)])
        places = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if np.array_equal(padded[i : i + 6, j : j + 7], found)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 25


def test_features_of_unit_size_change_no_answer(held_out):
    params, few = NETWORK.init(Stream(3)), held_out.take(range(40))
    before = image_scores.DigitClassifier(params, {})(few.pixels)
    after = image_scores.DigitClassifier(example.with_unit_features(params, few), {})(few.pixels)
    np.testing.assert_allclose(before[1], after[1], rtol=1e-4)
    assert np.mean(after[0].astype(np.float64) ** 2) == pytest.approx(1, rel=1e-5)


def mnist_folder(path, images):
    n, (height, width, _) = len(images), images.shape
    start = struct.pack(">HBB", 0, 8, 3) + struct.pack(">3I", n, height, width)
    (path / "train-images-idx3-ubyte").write_bytes(start + images.pixels.tobytes())
    labels = images.labels.astype(np.uint8).tobytes()
    (path / "train-labels-idx1-ubyte").write_bytes(
        struct.pack(">HBBI", 0, 8, 1, n) + labels
    )  # fmt: skip


@heavy
def test_the_example_measures_on_digits_that_are_not_shipped(tmp_path, capsys):
    known, new = digits().take(range(5)), 255 - digits().pixels[:3]
    pixels = np.concatenate([known.pixels, new])
    mnist_folder(tmp_path, Images(pixels, np.append(known.labels, [0, 1, 2])))
    example.main(["--steps", "1", "--quiet", "--mnist", str(tmp_path), "--out", str(tmp_path)])
    assert "of 3 digits of" in capsys.readouterr().out


def test_a_folder_without_mnist_is_refused_before_training(tmp_path, capsys):
    with pytest.raises(SystemExit):
        example.parse(["--mnist", str(tmp_path), "--out", str(tmp_path)])
    assert str(tmp_path) in capsys.readouterr().err


def test_everything_public_has_a_docstring():
    for module in (image_scores, __import__("tinygan.data.stacked", fromlist=["x"])):
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_"):
                assert value.__doc__, name


def test_scores_share_the_checks_of_metrics():
    assert image_scores._points is metrics._points


def test_a_report_does_not_mind_real_images_that_are_there_twice():
    pixels = digits().pixels
    once = image_scores.image_report(pixels[:30], pixels[30:60])
    twice = image_scores.image_report(pixels[:30], np.concatenate([pixels[30:60], pixels[30:60]]))
    assert twice["duplicate_distance"] == once["duplicate_distance"]
