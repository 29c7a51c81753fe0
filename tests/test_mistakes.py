"""The mistakes that published code makes, each with the wrong number and the right one.

    python tests/test_mistakes.py

prints the table of docs/mistakes.md, which is compared with what is measured here.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tinygan import data, losses, nn, ops, penalties
from tinygan.backend import Stream
from tinygan.check import GradientError, check_gradients
from tinygan.engine import Tensor, grad, grad_values, primitive, stop_gradient, track, values
from tinygan.penalties import gradient_penalty
from tinygan.systems import ac_gan, ebgan

PAGE = Path(__file__).parent.parent / "docs" / "mistakes.md"


class Found(NamedTuple):
    """What a mistake makes of a number, and what the library does."""

    wrong: float
    right: float


def found(wrong, right):
    return Found(*(float(a.data if type(a) is Tensor else a) for a in (wrong, right)))


def text(x):
    """Six digits; what is only rounding is 0."""
    return "0" if abs(x) < 1e-12 else f"{x:.6g}"


def difference(wrong, right):
    """The ratio; where there is none, the difference itself."""
    if math.isnan(wrong):
        return "NaN"
    if "0" in (text(wrong), text(right)):
        return f"{wrong - right:+.6g}"
    return f"× {wrong / right:.4g}"


def agree(pair, wrong, right, apart, naive):
    """The pair against literals, the text of its difference, and an independent (wrong, right)."""
    assert pair.wrong == pytest.approx(wrong, rel=1e-6, abs=1e-12, nan_ok=True)
    assert pair.right == pytest.approx(right, rel=1e-6, abs=1e-12)
    assert difference(*pair) == apart
    assert pair.wrong == pytest.approx(naive[0], rel=1e-8, abs=1e-12, nan_ok=True)
    assert pair.right == pytest.approx(naive[1], rel=1e-8, abs=1e-12)


# Norms. Images of 2×3 pixels and 2 channels, and a critic whose slope at an image is the image.

SIZES = (1.0, 2.0, 3.0, 4.0)


def bowl(x):
    """½‖x‖², of slope x."""
    return ops.multiply(ops.sample_square_norm(x), 0.5)


def images():
    """Four images whose norms, and so their slopes, are 1, 2, 3 and 4."""
    return np.array([np.full((2, 3, 2), size / math.sqrt(12)) for size in SIZES])


def one_gp_over(axes, critic, points):
    x = track(points)
    slopes = grad(ops.sum(critic(x)), x)
    return ops.mean(ops.square(ops.subtract(ops.norm(slopes, axis=axes), 1.0)))


def wrong_norm(axes):
    """1-GP where norms are 1, 2, 3 and 4."""
    right = gradient_penalty(bowl, images(), centre=1.0)
    return found(one_gp_over(axes, bowl, images()), right)


def plane(slope):
    """A linear critic of slope ``slope`` everywhere."""
    return lambda x: ops.multiply(
        ops.sum(x, axis=tuple(range(1, x.ndim))), slope / math.sqrt(x.size / len(x))
    )


def slope_trained_for(axes):
    """The slope of a linear critic at which 1-GP is 0: from its values at two slopes.

    The root of P is |c·slope − 1|, and beyond 1/c a straight line.
    """

    def trained_for(penalty):
        low, high = (math.sqrt(float(penalty(plane(s)).data)) for s in (10.0, 20.0))
        return 10.0 - low * 10.0 / (high - low)

    return found(
        trained_for(lambda critic: one_gp_over(axes, critic, images())),
        trained_for(lambda critic: gradient_penalty(critic, images(), centre=1.0)),
    )


def naive_one_gp(group):
    """1-GP by loops; ``group(n, i, j, c)`` says to which norm a component belongs."""
    squares = {}
    for at in np.ndindex(4, 2, 3, 2):
        squares.setdefault(group(*at), []).append(images()[at] ** 2)
    return sum((math.sqrt(math.fsum(s)) - 1) ** 2 for s in squares.values()) / len(squares)


RIGHT_ONE_GP = naive_one_gp(lambda n, i, j, c: n)  # (0 + 1 + 4 + 9)/4


def test_the_norm_over_the_whole_batch():
    naive = naive_one_gp(lambda n, i, j, c: 0), RIGHT_ONE_GP
    assert naive == pytest.approx(((math.sqrt(30) - 1) ** 2, 3.5))
    agree(wrong_norm(None), 20.0455488, 3.5, "× 5.727", naive)
    agree(slope_trained_for(None), 0.5, 1, "× 0.5", (1 / math.sqrt(4), 1))


def test_the_norm_over_axis_1_of_an_image():
    naive = naive_one_gp(lambda n, i, j, c: (n, j, c)), RIGHT_ONE_GP
    agree(wrong_norm(1), 0.208758548, 3.5, "× 0.05965", naive)
    agree(slope_trained_for(1), 2.44948974, 1, "× 2.449", (math.sqrt(6), 1))


def test_the_norm_per_channel():
    naive = naive_one_gp(lambda n, i, j, c: (n, c)), RIGHT_ONE_GP
    agree(wrong_norm((1, 2)), 1.21446609, 3.5, "× 0.347", naive)
    agree(slope_trained_for((1, 2)), 1.41421356, 1, "× 1.414", (math.sqrt(2), 1))


# Points


def variance_of(values):
    mean = math.fsum(values) / len(values)
    return math.fsum((v - mean) ** 2 for v in values) / len(values)


BATCHES = 1000


def one_alpha_per_batch():
    """The variance over batches of a 0-GP whose slope is α, from fake 0 to real 1."""
    real, fake = np.ones((16, 1)), np.zeros((16, 1))
    wrong, right, stream = [], [], Stream(0)
    for _ in range(BATCHES):
        alpha = stream.uniform((1, 1), np.float64)
        wrong.append(gradient_penalty(bowl, alpha * real + (1 - alpha) * fake).data)
    for _ in range(BATCHES):
        penalty = penalties.zero_gp(1.0)
        right.append(penalty(bowl, real, fake, *penalty.draw(stream, real)).data)
    return found(variance_of(wrong), variance_of(right))


def test_one_alpha_per_batch():
    stream = Stream(0)
    naive = [
        variance_of([np.mean(stream.uniform((n, 1), np.float64) ** 2) for _ in range(BATCHES)])
        for n in (1, 16)
    ]
    assert naive == pytest.approx([4 / 45, 4 / 45 / 16], rel=0.1)  # Var α² = 1/5 − 1/9
    agree(one_alpha_per_batch(), 0.0841978186, 0.00545013063, "× 15.45", naive)
    with pytest.raises(ValueError, match="one number per sample"):
        penalties.interpolates(np.ones((16, 1)), np.zeros((16, 1)), np.full((1, 1), 0.5))


PAIRS = 512


def places(points):
    """Between images of zeros (fake) and ones (real): the place along the segment, from 0 to 1,
    and the distance from it, in its lengths."""
    flat = points.reshape(len(points), -1)
    along = flat.mean(1)
    return along, np.sqrt(((flat - along[:, None]) ** 2).mean(1))


def spread_alpha(parts):
    """Interpolates with an α of shape (N, *parts), and those of one per sample."""
    real, fake = np.ones((PAIRS, 4, 4, 3)), np.zeros((PAIRS, 4, 4, 3))
    alpha = Stream(0).uniform((PAIRS, *parts), np.float64)
    return (
        alpha * real + (1 - alpha) * fake,
        penalties.interpolates(real, fake, *penalties.one_gp().draw(Stream(0), real)),
    )


def spread_along(parts):
    """The standard deviation of the points' places along their segments."""
    return found(*(math.sqrt(variance_of(places(x)[0])) for x in spread_alpha(parts)))


def distance_off(parts):
    """The points' distance from their segments, a root mean square."""
    return found(*(math.sqrt((places(x)[1] ** 2).mean()) for x in spread_alpha(parts)))


def naive_places(count):
    """The same from count numbers per pair: (spread along, distance off)."""
    alphas = Stream(0).uniform((PAIRS, count), np.float64).tolist()
    along = [sum(row) / count for row in alphas]
    off = [sum((a - m) ** 2 for a in row) / count for row, m in zip(alphas, along, strict=True)]
    return math.sqrt(variance_of(along)), math.sqrt(sum(off) / PAIRS)


def check_spread(parts, along, off):
    count = math.prod(parts)
    wrong, right = naive_places(count), naive_places(1)
    assert wrong == pytest.approx(
        (math.sqrt(1 / 12 / count), math.sqrt((1 - 1 / count) / 12)), rel=0.06
    )
    assert right == pytest.approx((math.sqrt(1 / 12), 0), rel=0.06)
    agree(spread_along(parts), *along, (wrong[0], right[0]))
    agree(distance_off(parts), *off, (wrong[1], right[1]))
    images = np.ones((2, 4, 4, 3))
    with pytest.raises(ValueError, match="one number per sample"):
        penalties.interpolates(images, images, np.full((2, *parts), 0.5))


COLUMN, PIXEL = (1, 4, 1), (4, 4, 1)


def test_one_alpha_per_image_column():
    check_spread(COLUMN, (0.143714273, 0.297638155, "× 0.4828"), (0.25436255, 0, "+0.254363"))


def test_one_alpha_per_pixel():
    check_spread(PIXEL, (0.0732409839, 0.297638155, "× 0.2461"), (0.279651824, 0, "+0.279652"))


# Gradients of the penalty


def root_at_zero():
    """1-GP's gradient in w = 2, D = w·relu(x), with one sample of four on the flat side."""
    points, w = np.array([[-1.0], [1.0], [2.0], [3.0]]), track(np.array([[2.0]]))

    def critic(x):
        return ops.multiply(ops.relu(x), w)

    x = track(points)
    slopes = grad(ops.sum(critic(x)), x)
    rooted = ops.sqrt(ops.sum(ops.square(slopes), axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        wrong = grad_values(ops.mean(ops.square(ops.subtract(rooted, 1.0))), w)
    right = grad_values(gradient_penalty(critic, points, centre=1.0), w)
    return found(wrong.item(), right.item())


def test_a_root_at_a_zero_gradient():
    def penalty(w):  # slopes are 0, w, w, w
        return (1 + 3 * (abs(w) - 1) ** 2) / 4

    naive = (penalty(2 + 1e-4) - penalty(2 - 1e-4)) / 2e-4
    agree(root_at_zero(), math.nan, 1.5, "NaN", (math.nan, naive))


def cut_graph(cut):
    """The norm in w of the gradient of 1-GP, D = w·x with w = (3, 4)."""
    w, points = track(np.array([[3.0], [4.0]])), np.ones((5, 2))

    def critic(x):
        return ops.matmul(x, w)

    x = track(points)
    slopes = cut(ops.sum(critic(x)), x)
    wrong = ops.mean(ops.square(ops.subtract(ops.sample_norm(slopes), 1.0)))
    right = gradient_penalty(critic, points, centre=1.0)
    assert float(wrong) == pytest.approx(16) and right.data == pytest.approx(16)
    with pytest.raises(TypeError, match="a constant"):
        grad_values(wrong, w)
    score = ops.mean(critic(points))  # what else is in the loss
    alone, cut, whole = (
        grad_values(loss, w) for loss in (score, ops.add(score, wrong), ops.add(score, right))
    )
    return found(*(np.linalg.norm(g - alone) for g in (cut, whole)))


@pytest.mark.parametrize(
    "cut",
    [grad_values, lambda y, x: grad(y, x).data, lambda y, x: stop_gradient(grad(y, x))],
    ids=["grad_values", "data", "stop_gradient"],
)
def test_the_graph_cut(cut):
    def penalty(a, b):
        return (math.hypot(a, b) - 1) ** 2

    h = 1e-4
    naive = math.hypot(
        (penalty(3 + h, 4) - penalty(3 - h, 4)) / (2 * h),
        (penalty(3, 4 + h) - penalty(3, 4 - h)) / (2 * h),
    )
    assert naive == pytest.approx(8, rel=1e-8)  # 2(‖w‖ − 1)
    agree(cut_graph(cut), 0, 8, "-8", (0, 8))


# Batch norm

POINTS = np.sin(np.arange(12.0)).reshape(6, 2)
WEIGHT = np.array([[2.0], [-1.0]])


def behind_batch_norm(x):
    return ops.matmul(nn.batch_norm(x, np.ones(2), np.zeros(2)), WEIGHT)


def batch_norm_in_the_critic():
    """1-GP of a linear critic behind batch norm; the right one moves one sample at a time."""
    wrong = gradient_penalty(behind_batch_norm, POINTS, centre=1.0, insist=True)
    alone = []
    for i in range(len(POINTS)):

        def own(x, i=i):
            batch = ops.concatenate(POINTS[:i], x, POINTS[i + 1 :])
            return ops.index(behind_batch_norm(batch), at=slice(i, i + 1))

        alone.append(gradient_penalty(own, POINTS[i : i + 1], centre=1.0, insist=True).data)
    return found(wrong, np.mean(alone))


def test_batch_norm_in_a_penalised_critic():
    def logit(i, x):
        batch = POINTS.copy()
        batch[i] = x
        unit = (batch[i] - batch.mean(0)) / np.sqrt(batch.var(0) + 1e-5)
        return unit @ WEIGHT[:, 0]

    def slope(i, k):
        move = np.eye(2)[k] * 1e-4
        sides = [logit(i, POINTS[i] + s * move) for s in (1, -1, 2, -2)]
        return (8 * (sides[0] - sides[1]) - (sides[2] - sides[3])) / 12e-4

    naive = np.mean([(math.hypot(slope(i, 0), slope(i, 1)) - 1) ** 2 for i in range(6)])
    agree(batch_norm_in_the_critic(), 1, 1.49469858, "× 0.669", (1, naive))
    with pytest.raises(ValueError, match="mixes the samples of a batch"):
        gradient_penalty(behind_batch_norm, POINTS, centre=1.0)


def clipped_scale():
    """The deviation of a batch norm's output after the critic's weights were clipped to .01."""
    params = {"norm": {"scale": np.ones(2), "shift": np.zeros(2)}}

    def deviation(params):
        norm = params["norm"]
        return nn.batch_norm(100 * POINTS, norm["scale"], norm["shift"]).std(0).mean()

    return found(
        deviation(penalties.clip_weights(params, 0.01, everything=True)),
        deviation(penalties.clip_weights(params, 0.01)),
    )


def test_clipping_batch_norms_scale():
    def deviation(scale):
        return scale * np.mean([s / math.sqrt(s**2 + 1e-5) for s in (100 * POINTS).std(0)])

    agree(clipped_scale(), 0.01, 1, "× 0.01", (deviation(0.01), deviation(1.0)))


# Losses


def slope_at(loss, logit):
    x = track(np.array([logit]))
    return grad_values(loss(x), x).item()


def sigma(x):
    return 1 / (1 + math.exp(-x))


def sigmoid_twice_loss():
    """The discriminator's loss where it is sure and right: logits 10 and −10."""
    real, fake = np.array([10.0]), np.array([-10.0])
    return found(
        losses.logistic_critic(ops.sigmoid(real), ops.sigmoid(fake)),
        losses.logistic_critic(real, fake),
    )


def sigmoid_twice_slope():
    """The non-saturating generator's gradient at a logit of −10."""
    once = losses.non_saturating_generator
    return found(slope_at(lambda x: once(ops.sigmoid(x)), -10.0), slope_at(once, -10.0))


def test_sigmoid_twice():
    a, b = sigma(10), sigma(-10)
    wrong = math.log1p(math.exp(-a)) + math.log1p(math.exp(b))
    naive = wrong, 2 * math.log1p(math.exp(-10))
    agree(sigmoid_twice_loss(), 1.00644369, 9.07977984e-05, "× 1.108e+04", naive)
    naive = -sigma(-b) * b * a, -sigma(10)
    agree(sigmoid_twice_slope(), -2.26973886e-05, -0.999954602, "× 2.27e-05", naive)


def patched(x):
    """−E ln(σ + 10⁻⁸), for −E ln σ."""
    return ops.negative(ops.mean(ops.log(ops.add(ops.sigmoid(x), 1e-8))))


def log_of_sigma_plus_eps_loss():
    """The non-saturating generator's loss at a logit of −30."""
    x = np.array([-30.0])
    return found(patched(x), losses.non_saturating_generator(x))


def log_of_sigma_plus_eps_slope():
    """Its gradient at a logit of −30."""
    return found(slope_at(patched, -30.0), slope_at(losses.non_saturating_generator, -30.0))


def test_log_of_sigma_plus_1e_8():
    naive = -math.log(sigma(-30) + 1e-8), math.log1p(math.exp(-30)) + 30
    agree(log_of_sigma_plus_eps_loss(), 18.4206714, 30, "× 0.614", naive)
    naive = -sigma(-30) * sigma(30) / (sigma(-30) + 1e-8), -sigma(30)
    agree(log_of_sigma_plus_eps_slope(), -9.3575354e-06, -1, "× 9.358e-06", naive)


def class_logits(winner):
    """Ten classes: 10 for the winner, 0 for the others."""
    return np.eye(10)[[winner]] * 10.0


TRUE = np.eye(10)[[0]]  # the true class is the first


def cross_entropy(logits):
    return ops.negative(ops.sum(ops.multiply(ops.log_softmax(logits), TRUE)))


def softmax_twice_loss():
    """The cross-entropy of ten classes where the true one has 10 and the others 0."""
    sure = class_logits(0)
    return found(cross_entropy(ops.softmax(sure)), cross_entropy(sure))


def slope_of_true_class(loss):
    x = track(class_logits(1))
    return grad_values(loss(x), x)[0, 0]


def softmax_twice_slope():
    """Its gradient in the true class's logit where another has 10 and the others 0."""
    return found(
        slope_of_true_class(lambda x: cross_entropy(ops.softmax(x))),
        slope_of_true_class(cross_entropy),
    )


def naive_softmax(logits):
    terms = [math.exp(a) for a in logits]
    return [t / math.fsum(terms) for t in terms]


def five_points(f, x, h=1e-3):
    return (8 * (f(x + h) - f(x - h)) - (f(x + 2 * h) - f(x - 2 * h))) / (12 * h)


def test_softmax_before_a_loss_that_applies_it():
    sure = [10.0] + [0.0] * 9
    once, twice = naive_softmax(sure), naive_softmax(naive_softmax(sure))
    naive = -math.log(twice[0]), -math.log(once[0])
    agree(softmax_twice_loss(), 1.46149873, 4.08515924e-04, "× 3578", naive)

    def logits(a):
        return [a, 10.0] + [0.0] * 8

    naive = (
        five_points(lambda a: -math.log(naive_softmax(naive_softmax(logits(a)))[0]), 0.0),
        five_points(lambda a: -math.log(naive_softmax(logits(a))[0]), 0.0),
    )
    agree(softmax_twice_slope(), -5.20269245e-05, -0.999954619, "× 5.203e-05", naive)


# AC-GAN: a critic of logits (source, ten classes) that is sure of a wrong class


LABELS = np.eye(10)[[0]]
LOGITS = np.array([[0.0, 0.0, 5.0] + [0.0] * 8])


def ac_gan_of_probabilities(real, fake, real_classes, fake_classes):
    """The critic's loss with −E P(C = c) for −E ln P(C = c)."""

    def chance(logits, classes):
        p = ops.softmax(ac_gan.split_heads(logits)[1])
        return ops.mean(ops.sum(ops.multiply(p, classes), axis=1))

    classes = ops.add(chance(real, real_classes), chance(fake, fake_classes))
    return ops.negative(ops.add(ac_gan.source_log_likelihood(real, fake), classes))


def ac_gan_loss():
    """The critic's loss; ln 4 of it is of the source."""
    given = LOGITS, LOGITS, LABELS, LABELS
    return found(ac_gan_of_probabilities(*given), ac_gan.critic_loss(*given))


def ac_gan_slope():
    """Its gradient in the real sample's logit of the true class."""

    def slope(loss):
        real = track(LOGITS)
        return grad_values(loss(real, LOGITS, LABELS, LABELS), real)[0, 1]

    return found(slope(ac_gan_of_probabilities), slope(ac_gan.critic_loss))


def test_an_ac_gan_loss_of_p_and_not_log_p():
    def p(a):
        return naive_softmax([a, 5.0] + [0.0] * 8)[0]

    naive = math.log(4) - 2 * p(0), math.log(4) - 2 * math.log(p(0))
    agree(ac_gan_loss(), 1.37358894, 11.5040422, "× 0.1194", naive)
    naive = five_points(lambda a: -p(a), 0.0), five_points(lambda a: -math.log(p(a)), 0.0)
    agree(ac_gan_slope(), -0.00631235214, -0.993647291, "× 0.006353", naive)


# EBGAN's pulling-away term. Codes: two on one line, the third across it


CODES = np.array([[3.0, 0.0], [-1.0, 0.0], [0.0, 2.0]])


def cosines(codes):
    unit = ops.divide(codes, ops.norm(codes, axis=1, keepdims=True))
    return ops.matmul(unit, unit, tb=True)


def pulling_away_not_squared():
    """PT, where two of three codes are opposite."""
    n = len(CODES)
    wrong = (ops.sum(cosines(CODES)) - n) / (n * (n - 1))
    return found(wrong, ebgan.pulling_away(CODES))


def pulling_away_with_diagonal():
    """The same."""
    return found(ops.mean(ops.square(cosines(CODES))), ebgan.pulling_away(CODES))


def naive_cosine(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


PAIRS_OF_CODES = [(a, b) for i, a in enumerate(CODES) for j, b in enumerate(CODES) if i != j]
NAIVE_PULLING_AWAY = sum(naive_cosine(a, b) ** 2 for a, b in PAIRS_OF_CODES) / 6


def test_pulling_away_not_squared():
    naive = sum(naive_cosine(a, b) for a, b in PAIRS_OF_CODES) / 6, NAIVE_PULLING_AWAY
    agree(pulling_away_not_squared(), -1 / 3, 1 / 3, "× -1", naive)


def test_pulling_away_with_its_diagonal_kept():
    naive = sum(naive_cosine(a, b) ** 2 for a in CODES for b in CODES) / 9, NAIVE_PULLING_AWAY
    agree(pulling_away_with_diagonal(), 5 / 9, 1 / 3, "× 1.667", naive)

    def gradient(pulling_away):
        codes = track(np.array([[3.0, 1.0], [-1.0, 0.5], [0.2, 2.0]]))
        return grad_values(pulling_away(codes), codes)

    kept = gradient(lambda codes: ops.mean(ops.square(cosines(codes))))
    right = gradient(ebgan.pulling_away)
    assert abs(right).max() > 0.01
    np.testing.assert_allclose(kept, right * 2 / 3, rtol=1e-10)  # (n − 1)/n of the push


# A ring


def distinct(centres):
    return len({(round(x, 9), round(y, 9)) for x, y in centres.tolist()})


def ring_with_endpoint():
    angle = np.linspace(0, 2 * np.pi, 8)
    return data.Mixture(np.stack([np.cos(angle), np.sin(angle)], axis=1), 0.01)


def modes_of_the_ring():
    """Distinct modes."""
    return found(distinct(ring_with_endpoint().centres), distinct(data.ring(modes=8).centres))


def mass_of_the_first_mode():
    """The share of 20,000 samples in the mode at (1, 0)."""

    def share(mixture):
        points = mixture.sample(20_000, Stream(0), np.float64)
        return (np.hypot(points[:, 0] - 1, points[:, 1]) < 0.1).mean()

    return found(share(ring_with_endpoint()), share(data.ring(modes=8)))


def test_a_seven_mode_eight_mode_ring():
    agree(modes_of_the_ring(), 7, 8, "× 0.875", (7, 8))
    stream = Stream(0)
    stream.normal((20_000, 2), np.float64)  # drawn before the modes
    mode = stream.integers(20_000, 8).tolist()
    naive = (mode.count(0) + mode.count(7)) / 20_000, mode.count(0) / 20_000
    assert naive == pytest.approx((2 / 8, 1 / 8), abs=0.01)
    agree(mass_of_the_first_mode(), 0.254, 0.12405, "× 2.048", naive)


# Ops whose rules keep an array: the next derivative takes it for a constant


@primitive
def half_kept_cube(a):
    return a * a * a


@primitive
def kept_slope_cube(a):
    return a * a * a


@primitive
def three_squares(a):
    return 3 * a * a


half_kept_cube.vjp(lambda g, y, a: ops.multiply(g, ops.multiply(a, 3 * values(a))))
kept_slope_cube.vjp(lambda g, y, a: ops.multiply(g, three_squares(a)))
three_squares.vjp(lambda g, y, a: ops.multiply(g, 6 * values(a)))


def derivative(f, order, at=2.0):
    x = track(np.array(at))
    y = f(x)
    for _ in range(order):
        y = grad(y, x)
    return y


def kept_array_second():
    """The second derivative of a³ at 2, the rule 3·a·a with one a an array."""
    return found(derivative(half_kept_cube, 2), derivative(lambda a: ops.power(a, 3), 2))


def kept_array_third():
    """The third derivative of a³ at 2, where only the rule of the rule has an array."""
    return found(derivative(kept_slope_cube, 3), derivative(lambda a: ops.power(a, 3), 3))


def test_a_rule_that_kept_a_raw_array():
    agree(kept_array_second(), 6, 12, "× 0.5", (3 * 2, 6 * 2))
    agree(kept_array_third(), 0, 6, "-6", (0, 6))
    x = np.array([2.0, -0.7, 1.1])
    for op, right_to in ((half_kept_cube, 1), (kept_slope_cube, 2)):
        for order in range(1, right_to + 1):
            assert derivative(op, order).data == pytest.approx({1: 12, 2: 12}[order])
        assert check_gradients(op, x, order=right_to).passed
        with pytest.raises(GradientError, match="WRONG") as error:
            check_gradients(op, x, order=right_to + 1)
        wrong = [line.split()[0] for line in str(error.value).splitlines() if "WRONG" in line]
        assert set(wrong) == {str(right_to + 1)}
    assert check_gradients(lambda a: ops.power(a, 3), x, order=3).passed


# The page

MISTAKES = {  # a test: what it is called, and its numbers
    test_the_norm_over_the_whole_batch: (
        "the norm over the whole batch",
        {
            "1-GP where norms are 1, 2, 3, 4": lambda: wrong_norm(None),
            "the norm it trains for": lambda: slope_trained_for(None),
        },
    ),
    test_the_norm_over_axis_1_of_an_image: (
        "the norm over axis 1 of an image",
        {
            "1-GP, the same norms": lambda: wrong_norm(1),
            "the norm it trains for": lambda: slope_trained_for(1),
        },
    ),
    test_the_norm_per_channel: (
        "the norm per channel",
        {
            "1-GP, the same norms": lambda: wrong_norm((1, 2)),
            "the norm it trains for": lambda: slope_trained_for((1, 2)),
        },
    ),
    test_one_alpha_per_batch: (
        "one α per batch",
        {"variance of 0-GP between batches of 16": one_alpha_per_batch},
    ),
    test_one_alpha_per_image_column: (
        "one α per image column",
        {
            "spread along the segments": lambda: spread_along(COLUMN),
            "distance from them": lambda: distance_off(COLUMN),
        },
    ),
    test_one_alpha_per_pixel: (
        "one α per pixel",
        {
            "spread along the segments": lambda: spread_along(PIXEL),
            "distance from them": lambda: distance_off(PIXEL),
        },
    ),
    test_a_root_at_a_zero_gradient: (
        "√ at a zero gradient",
        {"1-GP's gradient, one slope of four 0": root_at_zero},
    ),
    test_the_graph_cut: (
        "the penalty's graph cut",
        {"the norm of 1-GP's gradient": lambda: cut_graph(grad_values)},
    ),
    test_batch_norm_in_a_penalised_critic: (
        "batch norm in a penalised critic",
        {"1-GP of a linear critic behind it": batch_norm_in_the_critic},
    ),
    test_sigmoid_twice: (
        "sigmoid twice",
        {
            "D's loss, sure and right": sigmoid_twice_loss,
            "G's gradient at D = −10": sigmoid_twice_slope,
        },
    ),
    test_log_of_sigma_plus_1e_8: (
        "log(σ + 1e-8)",
        {
            "G's loss at D = −30": log_of_sigma_plus_eps_loss,
            "G's gradient at D = −30": log_of_sigma_plus_eps_slope,
        },
    ),
    test_softmax_before_a_loss_that_applies_it: (
        "softmax before a loss that applies it",
        {
            "the loss, sure and right": softmax_twice_loss,
            "the true class's gradient, sure and wrong": softmax_twice_slope,
        },
    ),
    test_clipping_batch_norms_scale: (
        "clipping batch norm's scale",
        {"the deviation behind it": clipped_scale},
    ),
    test_an_ac_gan_loss_of_p_and_not_log_p: (
        "an AC-GAN loss of −p and not −log p",
        {
            "D's loss, sure of a wrong class": ac_gan_loss,
            "the true class's gradient": ac_gan_slope,
        },
    ),
    test_pulling_away_not_squared: (
        "PT not squared",
        {"PT, two codes of three opposite": pulling_away_not_squared},
    ),
    test_pulling_away_with_its_diagonal_kept: (
        "PT with its diagonal kept",
        {"PT, the same codes": pulling_away_with_diagonal},
    ),
    test_a_seven_mode_eight_mode_ring: (
        "a 7-mode 8-mode ring",
        {"modes": modes_of_the_ring, "the first mode's share": mass_of_the_first_mode},
    ),
    test_a_rule_that_kept_a_raw_array: (
        "a rule that kept a raw array",
        {
            "the second derivative of a³ at 2": kept_array_second,
            "the third derivative, of another op": kept_array_third,
        },
    ),
}


def table():
    lines = [
        "| mistake | the number | wrong | right | difference | test |",
        "|---|---|---|---|---|---|",
    ]
    for test, (mistake, numbers) in MISTAKES.items():
        for number, measure in numbers.items():
            pair = measure()
            cells = mistake, number, *map(text, pair), difference(*pair), f"`{test.__name__}`"
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_page_has_the_numbers_that_are_measured():
    page = PAGE.read_text(encoding="utf-8")
    there = [line for line in page.splitlines() if line.startswith("|")]
    assert "\n".join(there) == table()


def test_the_page_has_a_paragraph_on_every_mistake():
    page = PAGE.read_text(encoding="utf-8")
    starts = [line for line in page.splitlines() if line.startswith("**")]
    titles = [title for title, _ in MISTAKES.values()]
    assert [start.split(".**")[0].removeprefix("**").lower() for start in starts] == [
        title.lower() for title in titles
    ]


def test_every_mistake_is_in_the_table():
    tests = {f for name, f in globals().items() if name.startswith("test_")}
    assert tests - set(MISTAKES) == {
        test_the_page_has_the_numbers_that_are_measured,
        test_the_page_has_a_paragraph_on_every_mistake,
        test_every_mistake_is_in_the_table,
    }


if __name__ == "__main__":
    print(table())
