"""The moving average of a network by hand, step after step, with batch norm and without."""

import numpy as np
import pytest

import tinygan
from tinygan import ema, models, nn, ops, tree
from tinygan.backend import Stream

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def with_norms():
    return models.Net(
        "generator",
        (3,),
        {
            "hidden": nn.Linear(3, 5),
            "norm0": nn.BatchNorm(5),
            "tanh": ops.tanh,
            "dropout": nn.Dropout(0.4),
            "more": nn.Linear(5, 4),
            "norm1": nn.BatchNorm(4),
            "output": ops.tanh,
        },
    )


NETS = {
    "batch norm": with_norms(),
    "no norm": models.dcgan28(width=1 / 64, latent=3).generator,
    "MLP": models.MLP((3, 4, 2)),
}
each_net = pytest.mark.parametrize("name", NETS)


def steps(net, count, dtype):
    """(parameters, latent points, noise) of a network that moves at random."""
    params = net.init(Stream(1), dtype)
    for i in range(count):
        stream = Stream(10 + i)
        noise = net.draw(stream, 6, dtype) if hasattr(net, "draw") else None
        yield params, stream.normal((6, 3), dtype), noise
        params = tree.tree_map(lambda a: a + stream.normal(a.shape, dtype) / 5, params)  # noqa: B023


def moments(net, params, z, noise):
    """Means and biased variances before each batch norm of the first network, in NumPy."""
    h = z @ params["hidden"]["weight"] + params["hidden"]["bias"]
    found = {"norm0": {"mean": h.mean(0), "variance": h.var(0)}}
    h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)
    h = np.tanh(h * params["norm0"]["scale"] + params["norm0"]["shift"]) * noise["dropout"]
    h = h @ params["more"]["weight"] + params["more"]["bias"]
    return found | {"norm1": {"mean": h.mean(0), "variance": h.var(0)}}


@each_net
@each_dtype
def test_averages_are_those_of_a_loop(name, dtype):
    net, average, by_hand = NETS[name], None, None
    for params, z, noise in steps(net, 5, dtype):
        now = (params, moments(net, params, z, noise) if name == "batch norm" else ())
        if average is None:
            average, by_hand = ema.start(net, params, z, noise), now
        else:
            average = ema.moved(net, average, params, z, 0.9, noise)
            by_hand = tree.tree_map(lambda a, p: 0.9 * a + 0.1 * p, by_hand, now)
        assert (average.statistics == ()) == (name != "batch norm")
        for a, b in zip(tree.leaves(average), tree.leaves(by_hand), strict=True):
            assert a.dtype == dtype
            tolerance = 1e-4 if dtype == np.float32 else 1e-11
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@each_net
@each_dtype
def test_a_compiled_average_is_the_same(name, dtype):
    net = NETS[name]
    compiled = tinygan.compile(lambda *given: ema.moved(net, *given[:3], 0.7, *given[3:]))
    eager = replayed = None
    for params, z, noise in steps(net, 4, dtype):
        if eager is None:
            eager = replayed = ema.start(net, params, z, noise)
        eager = ema.moved(net, eager, params, z, 0.7, noise)
        replayed = compiled(replayed, params, z, noise)
        for a, b in zip(tree.leaves(replayed), tree.leaves(eager), strict=True):
            tolerance = 1e-5 if dtype == np.float32 else 1e-12
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@each_net
def test_samples_use_the_averages_each_by_itself(name):
    net = NETS[name]
    (first, z, noise), (second, y, more) = steps(net, 2, np.float64)
    average = ema.moved(net, ema.start(net, first, z, noise), second, y, 0.5, more)
    middle = tree.tree_map(lambda a, b: (a + b) / 2, first, second)
    given = ()
    if name == "batch norm":
        given = (
            tree.tree_map(
                lambda a, b: (a + b) / 2,
                moments(net, first, z, noise),
                moments(net, second, y, more),
            ),
        )
    expected = net(middle, y, *given)
    np.testing.assert_allclose(ema.sample(net, average, y), expected, rtol=1e-10, atol=1e-12)
    alone = ema.sample(net, average, y[:1])
    np.testing.assert_allclose(alone, expected[:1], rtol=1e-10, atol=1e-12)


def test_a_decay_of_zero_is_the_present_and_a_long_stay_ends_there():
    net = NETS["batch norm"]
    (first, z, noise), (second, y, more) = steps(net, 2, np.float64)
    start, there = ema.start(net, first, z, noise), ema.start(net, second, y, more)
    now = ema.moved(net, start, second, y, 0.0, more)
    for a, b in zip(tree.leaves(now), tree.leaves(there), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-15)
    average = start
    for _ in range(200):
        average = ema.moved(net, average, second, y, 0.8, more)
    for a, b in zip(tree.leaves(average), tree.leaves(there), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert start.params is first and not np.array_equal(
        start.params["hidden"]["weight"], average.params["hidden"]["weight"]
    )


def test_averages_stay_on_their_device(stand_in):
    net = NETS["batch norm"]
    there = net.init(Stream(1, device="gpu"))
    z, noise = Stream(2, device="gpu").normal((6, 3)), net.draw(Stream(3, device="gpu"), 6)
    average = ema.moved(net, ema.start(net, there, z, noise), there, z, 0.9, noise)
    assert all(type(a) is stand_in.ndarray for a in tree.leaves(average))


# Bad input


@pytest.mark.parametrize("decay", [-0.1, 1, 1.0, 2, float("nan")])
def test_a_decay_outside_zero_to_one_is_an_error(decay):
    net = NETS["MLP"]
    params, z = net.init(Stream(0)), np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="ema.moved: decay is .*0 or more and below 1"):
        ema.moved(net, ema.start(net, params, z), params, z, decay)


def test_averages_of_another_network_are_an_error():
    net, other = NETS["MLP"], models.MLP((3, 4, 4, 2))
    z = np.ones((2, 3), np.float32)
    average = ema.start(other, other.init(Stream(0)), z)
    with pytest.raises(ValueError, match="trees differ"):
        ema.moved(net, average, net.init(Stream(0)), z, 0.9)
