"""AC-GAN: losses by hand, steps against their composition, draws, errors, and a small training."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tinygan import data, loop, models, nn, ops, optim, tree
from tinygan.backend import Stream
from tinygan.check import check_gradients
from tinygan.engine import grad_values, track
from tinygan.game import Streams
from tinygan.replay import compile
from tinygan.systems import ac_gan
from tinygan.systems.ac_gan import ACGAN, critic_loss, generator_loss, split_heads
from tinygan.systems.codes import accuracy

K = 4
CENTRES = np.array([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]])


def net(title, sizes, between):
    """A Net of linear layers, with ``between`` (named layers) after each but the last."""
    layers = {}
    for i, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers[f"linear{i}"] = nn.Linear(inputs, outputs)
        if i < len(sizes) - 2:
            layers |= {f"{name}{i}": make(outputs) for name, make in between.items()}
    return models.Net(title, sizes[:1], layers)


SMOOTH = {"tanh": lambda n: ops.tanh}
NOISY = {"norm": nn.BatchNorm, "tanh": lambda n: ops.tanh, "dropout": lambda n: nn.Dropout(0.5)}


def game(between=SMOOTH, **choices):
    """Four classes in the plane, by networks of a few units."""
    given = dict(
        generator=net("G", (3 + K, 6, 2), between),
        critic=net("D", (2, 6, 1 + K), between),
        generator_optimizer=optim.SGD(0.2),
        critic_optimizer=optim.SGD(0.05),
        classes=K,
        batch=8,
    )
    return ACGAN(**(given | choices))


def four(dtype=np.float32, spread=0.1):
    """Labelled data: four narrow Gaussians, the label being the Gaussian's number."""

    def draw(n, stream):
        labels = stream.integers(n, K)
        x = CENTRES[labels] + spread * stream.normal((n, 2), np.float64)
        return x.astype(dtype), labels

    return draw


def streams(key=3):
    stream = Stream(key)
    return Streams(stream.child(0), stream.child(1), stream.child(2))


def drawn(gan, dtype=np.float64, key=3):
    return gan.draw(four(dtype), streams(key), 0, dtype)


def close(one, other, rtol=1e-11, atol=1e-13):
    for (path, a), b in zip(tree.paths(one), tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=path)


def same(one, other):
    pairs = zip(tree.leaves(one), tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def logits_of(n=5, outputs=11, key=0, scale=2.0):
    return scale * Stream(key).normal((n, outputs), np.float64)


def one_hot(labels, classes=10):
    return ops.one_hot(np.array(labels), classes, np.float64)


# The losses, by hand

LABELS, FAKE_LABELS = [0, 3, 9, 3, 1], [2, 0, 0, 7, 9]


def log_probability(row, label):
    """ln softmax(row)[label], one number at a time."""
    return float(row[label]) - math.log(sum(math.exp(float(a)) for a in row))


def by_hand(real, fake, labels, fake_labels):
    """L_S and L_C, sample by sample: sums over python floats."""
    source = classes = 0.0
    for row, label in zip(real, labels, strict=True):
        source += math.log(1 / (1 + math.exp(-row[0]))) / len(real)
        classes += log_probability(row[1:], label) / len(real)
    for row, label in zip(fake, fake_labels, strict=True):
        source += math.log(1 - 1 / (1 + math.exp(-row[0]))) / len(fake)
        classes += log_probability(row[1:], label) / len(fake)
    return source, classes


def test_the_heads_are_the_first_column_and_the_rest():
    logits = np.arange(33.0).reshape(3, 11)
    source, classes = split_heads(logits)
    np.testing.assert_array_equal(source, [0, 11, 22])
    np.testing.assert_array_equal(classes, logits[:, 1:])
    assert classes.shape == (3, 10)


def test_the_critics_loss_is_the_negative_sum_of_both_log_likelihoods():
    real, fake = logits_of(key=0), logits_of(key=1)
    source, classes = by_hand(real, fake, LABELS, FAKE_LABELS)
    found = critic_loss(real, fake, one_hot(LABELS), one_hot(FAKE_LABELS))
    assert found == pytest.approx(-(source + classes), rel=1e-13)
    assert ac_gan.source_log_likelihood(real, fake) == pytest.approx(source, rel=1e-13)
    halves = [
        ac_gan.class_log_likelihood(real, one_hot(LABELS)),
        ac_gan.class_log_likelihood(fake, one_hot(FAKE_LABELS)),
    ]
    assert sum(halves) == pytest.approx(classes, rel=1e-13)
    average = critic_loss(real, fake, one_hot(LABELS), one_hot(FAKE_LABELS), average=True)
    assert average == pytest.approx(found / 2, rel=1e-13)


def test_the_generators_losses():
    fake = logits_of(key=1)
    classes = sum(log_probability(r[1:], c) for r, c in zip(fake, FAKE_LABELS, strict=True)) / 5
    says_real = sum(math.log(1 / (1 + math.exp(-row[0]))) for row in fake) / 5
    says_fake = sum(math.log(1 - 1 / (1 + math.exp(-row[0]))) for row in fake) / 5
    codes = one_hot(FAKE_LABELS)
    assert generator_loss(fake, codes) == pytest.approx(-classes - says_real, rel=1e-13)
    saturating = generator_loss(fake, codes, saturating=True)
    assert saturating == pytest.approx(-(classes - says_fake), rel=1e-13)


def test_saturating_is_what_depends_on_the_generator_in_the_printed_objective():
    real, codes = logits_of(key=0), one_hot(FAKE_LABELS)

    def printed(fake):
        """−(L_C − L_S) whole, as P4 has it."""
        source = ac_gan.source_log_likelihood(real, fake)
        classes = ac_gan.class_log_likelihood(real, one_hot(LABELS))
        classes = ops.add(classes, ac_gan.class_log_likelihood(fake, codes))
        return ops.negative(ops.subtract(classes, source))

    fake = track(logits_of(key=1))
    close(
        grad_values(generator_loss(fake, codes, saturating=True), fake),
        grad_values(printed(fake), fake),
    )


def test_the_class_term_is_minus_log_p_and_not_minus_p():
    """Where the critic is sure of a wrong class, −ln p pulls with all its force, −p not at all."""
    logits = np.zeros((1, 11))
    assert -ac_gan.class_log_likelihood(logits, one_hot([7])) == pytest.approx(math.log(10))
    logits[0, 1] = 20.0  # sure of class 0; it is class 7

    def minus_p(a):
        return ops.negative(ops.mean(ops.sum(ops.softmax(a[:, 1:]) * one_hot([7]), axis=1)))

    a = track(logits)
    gradient = grad_values(generator_loss(a, one_hot([7])), a)
    np.testing.assert_allclose(gradient[0, [1, 8]], [1.0, -1.0], atol=1e-7)
    assert np.abs(grad_values(minus_p(a), a)).max() < 1e-8


def test_the_gradient_in_the_logits_is_probability_minus_label():
    real, fake = logits_of(key=0), logits_of(key=1)
    tracked = track([real, fake])
    got = grad_values(critic_loss(*tracked, one_hot(LABELS), one_hot(FAKE_LABELS)), tracked)
    for found, logits, labels, target in zip(
        got, (real, fake), (LABELS, FAKE_LABELS), (1.0, 0.0), strict=True
    ):
        for i, label in enumerate(labels):
            p = np.exp(logits[i, 1:]) / np.exp(logits[i, 1:]).sum()
            expected = [1 / (1 + np.exp(-logits[i, 0])) - target, *(p - np.eye(10)[label])]
            np.testing.assert_allclose(found[i], np.array(expected) / 5, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("saturating, force", [(True, 0.0), (False, 1.0)])
def test_where_the_critic_is_sure_only_one_form_still_has_a_gradient(saturating, force):
    a = track(np.full((1, 11), [-40.0] + 10 * [0.0]))
    gradient = grad_values(generator_loss(a, one_hot([0]), saturating), a)
    assert gradient[0, 0] == pytest.approx(-force, abs=1e-12)


def test_extreme_logits_stay_finite():
    logits = np.array([[1e4, *(10 * [-1e4])], [-1e4, 1e4, *(9 * [-1e4])]], np.float32)
    codes = ops.one_hot(np.array([3, 5]), 10)
    a = track(logits)
    for loss in (
        critic_loss(a, a, codes, codes),
        generator_loss(a, codes),
        generator_loss(a, codes, saturating=True),
    ):
        assert np.isfinite(loss.data) and np.isfinite(grad_values(loss, a)).all()


def test_the_losses_derivatives():
    real, fake = logits_of(3, key=0), logits_of(3, key=1)
    codes, others = one_hot([0, 9, 4]), one_hot([1, 1, 8])
    for average in (False, True):
        check_gradients(lambda x, a=average: critic_loss(*x, codes, others, a), [real, fake], 3)
    for saturating in (False, True):
        check_gradients(lambda x, s=saturating: generator_loss(x, others, s), fake, 3)


def test_accuracy_is_the_share_of_right_guesses():
    logits = np.array([[0.0, 2, 1], [5, 4, 3], [1, 2, 3], [0, 1, 0]])
    assert accuracy(logits, one_hot([1, 0, 0, 2], 3)) == 0.5
    assert accuracy(np.zeros((6, 3)), one_hot([0, 1, 2, 0, 0, 0], 3)) == pytest.approx(1 / 3)


# One step against its composition


@pytest.mark.parametrize("between", [SMOOTH, NOISY], ids=["smooth", "batch norm and dropout"])
@pytest.mark.parametrize("choices", [{}, {"average": True, "saturating": True}], ids=["", "other"])
def test_a_step_is_a_descent_of_the_critic_and_then_of_the_generator(between, choices):
    gan = game(between, **choices)
    players, batch = gan.init(Stream(0), np.float64), drawn(gan)
    before = [a.copy() for a in tree.leaves((players, batch))]
    now, numbers = gan.step(players, batch, 1.0)
    assert same((players, batch), before)

    def fake(g, points):
        z_and_class = np.concatenate([points.z, points.classes], 1)
        return gan.generator(g, z_and_class, noise=points.noise)

    def critics(d):
        on_real = gan.critic(d, batch.real, noise=batch.real_noise)
        x = fake(players.generator, batch.critic_points)
        on_fake = gan.critic(d, x, noise=batch.fake_noise)
        classes = batch.real_classes, batch.critic_points.classes
        return critic_loss(on_real, on_fake, *classes, gan.average)

    def generators(g):
        points = batch.generator_points
        logits = gan.critic(now.critic, fake(g, points), noise=batch.generator_noise)
        return generator_loss(logits, points.classes, gan.saturating)

    for f, side, rate, loss, norm in (
        (critics, "critic", 0.05, 0, 4),
        (generators, "generator", 0.2, 1, 5),
    ):
        old = getattr(players, side)
        check_gradients(f, old, 1, tolerance=1e-5)
        tracked = track(old)
        value = f(tracked)
        gradient = grad_values(value, tracked)
        close(getattr(now, side), tree.tree_map(lambda p, g, r=rate: p - r * g, old, gradient))
        flat = np.concatenate([a.reshape(-1) for a in tree.leaves(gradient)])
        assert numbers[loss] == pytest.approx(float(value.data), rel=1e-12)
        assert (
            numbers[norm] == pytest.approx(np.linalg.norm(flat), rel=1e-12) and numbers[norm] > 0.01
        )


def test_the_accuracies_are_those_of_the_critic_before_its_step():
    gan = game(batch=64)
    players, batch = gan.init(Stream(0), np.float64), drawn(gan)
    numbers = gan.step(players, batch, 1.0)[1]
    points = batch.critic_points
    fake = gan.generator(players.generator, np.concatenate([points.z, points.classes], 1))
    for i, x, classes in ((2, batch.real, batch.real_classes), (3, fake, points.classes)):
        guessed = gan.critic(players.critic, x)[:, 1:].argmax(1)
        assert numbers[i] == pytest.approx(np.mean(guessed == classes.argmax(1)))


def test_batch_norm_sees_real_and_fake_apart():
    gan = game({"norm": nn.BatchNorm, "tanh": lambda n: ops.tanh})
    players, batch = gan.init(Stream(0), np.float64), drawn(gan)
    points = batch.critic_points
    fake = gan.generator(players.generator, np.concatenate([points.z, points.classes], 1))
    apart = gan.critic(players.critic, batch.real), gan.critic(players.critic, fake)
    both = gan.critic(players.critic, np.concatenate([batch.real, fake]))
    classes = batch.real_classes, points.classes
    found = gan.step(players, batch, 1.0)[1][0]
    assert found == pytest.approx(float(critic_loss(*apart, *classes)), rel=1e-12)
    assert abs(found - critic_loss(both[:8], both[8:], *classes)) > 1e-3


def test_the_factor_multiplies_both_rates():
    gan = game()
    players, batch = gan.init(Stream(0), np.float64), drawn(gan)
    half = gan.step(players, batch, 0.5)[0]
    slow = replace(gan, generator_optimizer=optim.SGD(0.1), critic_optimizer=optim.SGD(0.025))
    assert same(half, slow.step(players, batch, 1.0)[0])


WAYS = {
    "batch norm and dropout": (NOISY, optim.SGD(0.05, momentum=0.5)),
    "dropout, by Adam": ({"tanh": SMOOTH["tanh"], "dropout": NOISY["dropout"]}, optim.Adam(1e-2)),
}


@pytest.mark.parametrize("between, optimizer", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_compiled_steps_are_eager_ones(between, optimizer, dtype):
    gan = game(between, generator_optimizer=optimizer, critic_optimizer=optimizer)
    step, source = compile(gan.step), streams()
    eager = quick = start = gan.init(Stream(0), dtype)
    tight = dict(rtol=1e-9, atol=1e-12) if dtype == np.float64 else dict(rtol=1e-3, atol=1e-5)
    for i in range(6):
        batch = gan.draw(four(dtype), source, i, dtype)
        eager, numbers = gan.step(eager, batch, 0.9**i)
        quick, others = step(quick, batch, 0.9**i)
        assert numbers.dtype == dtype and numbers.shape == (len(gan.names),)
        close([eager, numbers], [quick, others], **tight)
    assert not same(start.critic, quick.critic) and not same(start.generator, quick.generator)


def test_it_runs_on_the_device_of_its_streams(stand_in):
    gan = game(NOISY)

    def on_device(n, stream):
        x, labels = four(np.float64)(n, Stream(7))
        return stand_in.asarray(x), stand_in.asarray(labels)

    here = gan.draw(lambda n, _: four(np.float64)(n, Stream(7)), streams(), 0, np.float64)
    source = Streams(*[Stream(3, device="gpu").child(i) for i in range(3)])
    there = gan.draw(on_device, source, 0, np.float64)
    players = gan.init(Stream(0, device="gpu"), np.float64)
    now, numbers = gan.step(players, there, 1.0)
    assert type(numbers) is stand_in.ndarray
    expected = gan.step(gan.init(Stream(0), np.float64), here, 1.0)
    close([expected[1]], [stand_in.get(numbers)], rtol=1e-9)
    samples = gan.generate(now, 5, Stream(1, device="gpu"))
    assert type(samples) is stand_in.ndarray
    close([gan.generate(expected[0], 5, Stream(1))], [stand_in.get(samples)], rtol=1e-9)


# Draws


def test_what_is_drawn():
    gan = game(NOISY, batch=400)
    batch = drawn(gan)
    x, labels = four(np.float64)(400, streams().data)
    np.testing.assert_array_equal(batch.real, x)
    np.testing.assert_array_equal(batch.real_classes, np.eye(K)[labels])
    both = batch.critic_points, batch.generator_points
    for points in both:
        assert points.z.shape == (400, 3) and points.classes.shape == (400, K)
        assert set(np.unique(points.classes)) == {0.0, 1.0}
        np.testing.assert_array_equal(points.classes.sum(1), 1)
        assert abs(points.z.mean()) < 0.1 and abs(points.z.std() - 1) < 0.1
    assert not np.array_equal(both[0].z, both[1].z)
    assert not np.array_equal(both[0].classes, both[1].classes)
    masks = [n["dropout0"] for n in (batch.real_noise, batch.fake_noise, batch.generator_noise)]
    masks += [points.noise["dropout0"] for points in both]
    for i, mask in enumerate(masks):
        assert set(np.unique(mask)) == {0.0, 2.0} and mask.shape == (400, 6)
        assert not any(np.array_equal(mask, other) for other in masks[:i])


def test_classes_are_uniform_and_independent_of_the_datas():
    gan = game(batch=4000)
    batch = drawn(gan)
    for points in (batch.critic_points, batch.generator_points):
        counts = points.classes.sum(0)
        assert ((counts - 1000) ** 2 / 1000).sum() < 16.3  # χ², 3 degrees: one in a thousand
        agree = (points.classes * batch.real_classes).sum() / 4000
        assert abs(agree - 0.25) < 0.03


def test_classes_and_noise_come_from_their_own_streams():
    gan, other = game(NOISY), streams(9)
    ours = streams()
    first = drawn(gan)
    second = gan.draw(four(np.float64), ours._replace(noise=other.noise), 0, np.float64)
    assert same(first.critic_points[:2], second.critic_points[:2]) and same(first[:2], second[:2])
    assert not same(first.real_noise, second.real_noise)
    third = gan.draw(four(np.float64), streams()._replace(points=other.points), 0, np.float64)
    assert same(first[:2], third[:2]) and same(first.real_noise, third.real_noise)
    assert not same(first.critic_points.classes, third.critic_points.classes)


# Samples


def reader():
    """A game whose generator gives its own inputs: what it is told can be read off."""
    g = models.Net("G", (3 + K,), {"copy": nn.Linear(3 + K, 3 + K)})
    d = models.Net("D", (3 + K,), {"logits": nn.Linear(3 + K, 1 + K)})
    gan = ACGAN(g, d, optim.SGD(0.1), optim.SGD(0.1), classes=K, batch=8)
    players = gan.init(Stream(0), np.float64)
    same_as_input = {"copy": {"weight": np.eye(3 + K), "bias": np.zeros(3 + K)}}
    return gan, players._replace(generator=same_as_input)


def test_the_generator_is_told_noise_and_then_the_class():
    gan, players = reader()
    x = gan.generate(players, 6, Stream(1), classes=[3, 0, 1, 1, 2, 3])
    np.testing.assert_array_equal(x[:, :3], Stream(1).normal((6, 3), np.float64))
    np.testing.assert_array_equal(x[:, 3:], np.eye(K)[[3, 0, 1, 1, 2, 3]])
    x = gan.generate(players, 6, Stream(1))
    np.testing.assert_array_equal(x[:, 3:], np.eye(K)[[0, 1, 2, 3, 0, 1]])
    assert x.dtype == np.float64


@pytest.mark.parametrize(
    "classes, error, message",
    [
        ([0, 1, 4], ValueError, "ACGAN: labels from 0 to 4 for 4 classes; expected 0 to 3"),
        ([0, 1, -1], ValueError, "ACGAN: labels from -1 to 1 for 4 classes; expected 0 to 3"),
        ([0, 1], ValueError, r"ACGAN: labels of shape \(2,\); expected \(3,\)"),
        ([0.0, 1.0, 2.0], TypeError, "ACGAN: labels are float64; expected an array of integers"),
    ],
)
def test_classes_that_cannot_be_made(classes, error, message):
    gan, players = reader()
    with pytest.raises(error, match=message):
        gan.generate(players, 3, Stream(1), classes)


# Errors


def test_data_without_labels():
    with pytest.raises(TypeError, match=r"gave a ndarray; expected a pair .* needs labelled data"):
        game().draw(lambda n, s: np.zeros((n, 2)), streams(), 0, np.float64)


@pytest.mark.parametrize(
    "x, labels, error, message",
    [
        (np.zeros((8, 2)), np.full(8, 12), ValueError, "labels from 12 to 12 for 4 classes"),
        (np.zeros((8, 2)), np.full(8, -1), ValueError, "labels from -1 to -1 for 4 classes"),
        (np.zeros((8, 2)), np.zeros(8), TypeError, "labels are float64; expected an array of int"),
        (np.zeros((8, 2)), [0] * 8, TypeError, "labels are list; expected an array of integers"),
        (np.zeros((8, 2)), np.zeros((8, 1), int), ValueError, r"labels of shape \(8, 1\)"),
        (
            np.zeros((8, 2), np.float32),
            np.zeros(8, int),
            TypeError,
            "gave float32; expected an array of float64",
        ),
        (np.zeros((7, 2)), np.zeros(8, int), ValueError, r"gave shape \(7, 2\); expected \(8, 2\)"),
    ],
)
def test_data_that_do_not_fit(x, labels, error, message):
    with pytest.raises(error, match=f"ACGAN: .*{message}"):
        game().draw(lambda n, s: (x, labels), streams(), 0, np.float64)


NARROW = net("D", (2, 6, 1), SMOOTH)
OF_THREE = net("D", (3, 6, 5), SMOOTH)
UNTOLD = net("G", (4, 6, 2), SMOOTH)


@pytest.mark.parametrize(
    "choices, error, message",
    [
        (dict(classes=1), ValueError, "classes is 1; expected at least 2"),
        (dict(batch=0), ValueError, "batch is 0; expected at least 1"),
        (dict(critic=NARROW), ValueError, r"shape \(1,\); expected \(5,\): 1 for the source and 4"),
        (dict(critic=OF_THREE), ValueError, "the generator gives samples of shape"),
        (dict(generator=UNTOLD), ValueError, r"shape \(4,\); expected \(4 \+ noise,\)"),
        (dict(critic=models.MLP((2, 6, 5))), TypeError, "the critic is a MLP; expected a .*Net"),
    ],
)
def test_networks_that_do_not_fit(choices, error, message):
    with pytest.raises(error, match=f"ACGAN: .*{message}"):
        game(**choices)


# Training


def test_the_same_seed_gives_the_same_bits():
    gan = game(NOISY)

    def run(key):
        return loop.run(gan, gan.init(Stream(0)), four(), 4, Stream(key))

    one, two, other = run(1), run(1), run(2)
    assert same(one.players, two.players) and one.history.csv() == two.history.csv()
    assert not same(one.players, other.players)
    assert one.history.csv().splitlines()[0] == "step," + ",".join(ACGAN.names)


def test_a_small_p4_network_takes_a_step():
    pair = models.ac_gan(width=1 / 16)
    adam = optim.Adam(2e-4, (0.5, 0.999))
    gan = ACGAN(pair.generator, pair.critic, adam, adam, batch=4)
    assert gan.latent == 100

    def images(n, stream):
        x = stream.uniform((n, 32, 32, 3)) * 2 - 1
        return x, stream.integers(n, 10)

    players = gan.init(Stream(0))
    step, source = compile(gan.step), streams()
    batch = gan.draw(images, source, 0, np.float32)
    quick, numbers = step(players, batch, 1.0)
    eager, expected = gan.step(players, batch, 1.0)
    np.testing.assert_allclose(numbers, expected, rtol=1e-3)
    assert all(np.isfinite(a).all() for a in tree.leaves(quick))
    assert gan.generate(players, 3, Stream(0)).shape == (3, 32, 32, 3)


def test_an_image_set_serves_its_labels():
    digits = data.digits()
    shape = digits.shape
    size = int(np.prod(shape))
    g = {"image": nn.Linear(5 + 10, size), "tanh": ops.tanh, "shape": nn.Reshape(shape)}
    d = {"row": nn.Flatten(), "logits": nn.Linear(size, 11)}
    gan = ACGAN(
        models.Net("G", (15,), g), models.Net("D", shape, d), optim.SGD(0.1), optim.SGD(0.1)
    )
    served = data.Shuffled(digits, data.SIGNED, key=4)
    again = served.at(served.state)
    seen = loop.run(gan, gan.init(Stream(0)), served.sample_with_labels, 2, Stream(1))
    assert len(seen.history.records) == 2 and served.state == (0, 200)
    batch = gan.draw(again.sample_with_labels, streams(), 0, np.float32)
    np.testing.assert_array_equal(
        batch.real_classes.argmax(1),
        digits.labels[Stream(4).child(0).permutation(len(digits))[:100]],
    )


def test_after_a_small_training_each_class_is_at_its_place():
    """Four Gaussians: samples of a class lie about its own centre, and the critic tells classes."""
    leaky = {"leaky_relu": lambda n: ops.leaky_relu}
    adam = optim.Adam(2e-3, (0.5, 0.999))
    gan = game(
        generator=net("G", (3 + K, 32, 2), leaky),
        critic=net("D", (2, 32, 1 + K), leaky),
        generator_optimizer=adam,
        critic_optimizer=adam,
        batch=64,
    )
    run = loop.run(gan, gan.init(Stream(0)), four(spread=0.2), 1500, Stream(1), record_every=500)
    labels = np.repeat(np.arange(K), 200)
    samples = gan.generate(run.players, len(labels), Stream(2), labels)
    far = np.linalg.norm(samples[:, None] - CENTRES[None], axis=2)
    assert (far.argmin(1) == labels).mean() > 0.99
    for k in range(K):
        assert np.linalg.norm(samples[labels == k].mean(0) - CENTRES[k]) < 0.5
    last = run.history.records[-1]
    assert last.real_accuracy > 0.99 and last.fake_accuracy > 0.95
