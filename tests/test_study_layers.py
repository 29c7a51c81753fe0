"""Gradients layer by layer: counts against naive loops, and a recorder that leaves no trace."""

import csv
import io
import math

import numpy as np
import pytest

from tinygan import data, losses, models, nn, optim, penalties, tree
from tinygan.algorithms import Simultaneous
from tinygan.backend import Stream
from tinygan.engine import track
from tinygan.game import Streams
from tinygan.loop import run
from tinygan.study.layers import (
    EDGES,
    SIDES,
    SWEEP,
    Recorder,
    by_layer,
    gradient_summary,
    joined,
    layer_gradients,
    leaf_gradients,
    threshold_sweep,
)
from tinygan.study.plots import as_bytes, gradient_histograms
from tinygan.train import GAN, Alternating, critic_gradients, generator_gradients, train

TREE = {
    "conv0": {"weight": np.array([[0.0, 0.01], [-0.02, 0.003]]), "bias": np.array([-0.5])},
    "norm0": {"scale": np.array([1e-30, 0.0, 200.0]), "shift": np.array([0.0099999])},
}
"""At the threshold itself, at 0, and beyond both ends of the histogram."""


def counted(entries, thresholds):
    """The counts of a summary by a loop over Python floats."""
    sizes = [abs(float(g)) for g in entries]
    histogram = [0] * (len(EDGES) - 1)
    for size in sizes:
        if size > 0:
            place = sum(math.log10(size) >= edge for edge in EDGES[1:-1])
            histogram[place] += 1
    below = tuple(sum(size < t for size in sizes) for t in thresholds)
    return below, sizes.count(0.0), tuple(histogram)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counts_are_those_of_a_naive_loop(dtype):
    thresholds = (0.01, 1e-6, 3.0)
    g = Stream(0).normal((7, 5, 3), dtype) ** 9  # over many decades
    g[0, 0], g[1, 1, 1] = 0, -0.01
    found = gradient_summary("w", g, thresholds)
    below, zeros, histogram = counted(g.ravel(), thresholds)
    assert (found.below, found.zeros, found.histogram) == (below, zeros, histogram)
    assert sum(found.histogram) + found.zeros == found.size == 105
    assert found.norm == pytest.approx(np.linalg.norm(g.astype(np.float64)), rel=1e-14)
    assert found.rms == pytest.approx(math.sqrt(np.mean(np.square(g, dtype=np.float64))), rel=1e-14)
    assert found.largest == abs(g).max() and found.fractions == tuple(n / 105 for n in below)


def test_layers_join_what_their_parameters_have():
    leaves = leaf_gradients(TREE, (0.01, 1.0))
    assert [each.name for each in leaves] == [
        "conv0.weight", "conv0.bias", "norm0.scale", "norm0.shift",
    ]  # fmt: skip
    for name, layer in zip(TREE, layer_gradients(TREE, (0.01, 1.0)), strict=True):
        entries = np.concatenate([a.ravel() for a in TREE[name].values()])
        whole = gradient_summary(name, entries, (0.01, 1.0))
        assert layer._replace(norm=whole.norm) == whole
        assert layer.norm == pytest.approx(whole.norm, rel=1e-15)
    # |g| < .01 is strict: the entry .01 is not below.
    assert [each.below[0] for each in leaves] == [2, 0, 2, 1]
    assert leaves[2].histogram[0] == leaves[2].histogram[-1] == 1  # the ends are open
    assert [each.name for each in by_layer(leaf_gradients([{"weight": np.ones(2)}]))] == ["0"]
    assert [each.name for each in layer_gradients({"theta": np.ones(1)})] == ["theta"]
    spectral = {"a": {"weight": np.ones(2), "left": np.zeros(9), "right": np.zeros(9)}}
    assert layer_gradients(spectral)[0].below == (0,)  # the vectors are nobody's gradients


def test_a_sweep_is_the_distribution_function():
    sweep = threshold_sweep(TREE, (1e-9, 0.01, 0.1, 1e3))
    assert sweep.names == ("conv0", "norm0") and sweep.sizes.tolist() == [5, 4]
    np.testing.assert_array_equal(sweep.counts, [[1, 2, 4, 5], [2, 3, 3, 4]])
    np.testing.assert_array_equal(sweep.fractions, sweep.counts / sweep.sizes[:, None])


def test_norms_neither_overflow_nor_vanish():
    for scale in (1e-300, 1e300):
        assert gradient_summary("w", np.full(4, scale)).norm == pytest.approx(2 * scale)
    large = np.full(4, 1e30, np.float32)
    assert gradient_summary("w", large).norm == pytest.approx(2e30)
    assert gradient_summary("w", np.zeros(3)).norm == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_told_and_not_counted(bad):
    with pytest.raises(ValueError, match=r"1 of the 3 entries of b\.w are not finite"):
        layer_gradients({"a": np.ones(2), "b": {"w": np.array([0.0, bad, 1.0], np.float32)}})


def test_bad_input_is_refused():
    for given, kind, words in [
        ({}, ValueError, "without arrays"),
        ({"a": np.zeros(0)}, ValueError, "no entries"),
        ({"a": track(np.ones(2))}, TypeError, "Tensor.*\\.data"),
        ({"a": np.ones(2, int)}, TypeError, "array of floats"),
    ]:
        with pytest.raises(kind, match=words):
            layer_gradients(given)
    for thresholds in [(), (0.0,), (math.nan,), (-1,), ("a",), (True,), 0.01, None]:
        with pytest.raises(ValueError, match="expected a tuple of one or more numbers above 0"):
            layer_gradients(TREE, thresholds)
    with pytest.raises(ValueError, match=r"thresholds are 0\.01; expected a tuple"):
        Recorder(game(), plane, Stream(7), thresholds=0.01)
    found = layer_gradients(TREE, (np.float32(0.5), np.int64(1)))[0].thresholds
    assert found == (0.5, 1.0) and {type(t) for t in found} == {float}
    one, other = (gradient_summary("w", np.ones(2), (t,)) for t in (0.1, 0.2))
    with pytest.raises(ValueError, match="the same thresholds"):
        joined("w", [one, other])


# The recorder

PAIR = models.Pair(
    models.perceptron((3, 6, 2), norm=nn.BatchNorm, title="G"),
    models.perceptron((2, 6, 1), title="D"),
)


def game(**choices):
    """A small game in the plane; its penalty draws noise."""
    penalty = penalties.zero_gp(1.0)
    gan = GAN(*PAIR, optim.Adam(0.01), optim.Adam(0.01), losses.NON_SATURATING, penalty)
    return Alternating(gan, 8, 3, **choices)


def plane(n, stream):
    return stream.normal((n, 2))


def same(one, other):
    return [a.tobytes() for a in tree.leaves(one)] == [b.tobytes() for b in tree.leaves(other)]


def test_a_recorder_leaves_no_trace_in_the_run():
    """Not in the run's streams, and not in shuffled images, which keep their place."""
    images = data.digits().take(range(40))
    net = models.Pair(
        models.image_perceptron(3, (28, 28, 1), 4), models.row_perceptron((28, 28, 1), 4)
    )
    small = Alternating(GAN(*net, optim.Adam(0.01), optim.Adam(0.01)), 8, 3, critic_steps=2)
    players = small.init(Stream(0))

    def trained(watched):
        shuffled = data.Shuffled(images, data.SIGNED, 5)
        stream = Stream(1)  # the same, at worst
        seen = Recorder(small, shuffled.sample, stream, every=2) if watched else None
        done = run(small, players, shuffled.sample, 5, stream, watch=seen)
        return done, seen, shuffled.state

    (with_one, seen, place), (without, _, expected) = trained(True), trained(False)
    assert same(with_one.players, without.players) and place == expected
    assert [record.step for record in seen.records] == [0, 2, 4]
    one, other = (small.generate(d.players, 9, Stream(3)) for d in (with_one, without))
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_record_holds_the_gradients_of_both_sides(dtype):
    """Of players of the run, on a batch that the same streams draw by hand."""
    kept = {}
    here = game(critic_steps=3)

    def sample(n, stream):
        return stream.normal((n, 2), dtype)

    seen = Recorder(here, sample, Stream(7), every=2, batch=16, thresholds=(0.01, 0.1))

    def watch(step, players):
        kept[step] = players
        seen(step, players)

    run(here, here.init(Stream(0), dtype), sample, 4, Stream(1), watch=watch)
    own = Stream(7).child(2)
    points = own.child(1)
    real, z, after = sample(16, own.child(0)), *(points.normal((16, 3), dtype) for _ in range(2))
    noise = here.gan.penalty.draw(own.child(2), real)
    d = critic_gradients(here.gan, kept[2], real, z, noise)
    g = generator_gradients(here.gan, kept[2], after)
    record = seen.at(2)
    assert record.critic == leaf_gradients(d.tree, (0.01, 0.1))
    assert record.generator == leaf_gradients(g.tree, (0.01, 0.1))
    assert (record.critic_loss, record.generator_loss) == (float(d.loss), float(g.loss))
    assert record.critic != seen.at(0).critic
    assert seen.look(2, kept[2]) == record  # a batch depends on the iteration alone
    for side in ("critic", "generator"):
        alone = Recorder(here, sample, Stream(7), batch=16, thresholds=(0.01, 0.1), sides=(side,))
        one = alone.look(2, kept[2])
        other = {"critic": "generator", "generator": "critic"}[side]
        assert getattr(one, side) == getattr(record, side)
        assert (getattr(one, other), getattr(one, f"{other}_loss")) == ((), None)


def test_courses_and_tables_tell_what_was_recorded():
    seen = Recorder(game().gan, plane, Stream(7), every=2, batch=8, thresholds=(0.01, 1e9))
    gan = game().gan
    train(gan, gan.init(Stream(0)), plane, 4, Stream(1), batch=8, latent=3, watch=seen)
    steps, names, fractions = seen.course("generator")
    assert steps.tolist() == [0, 2, 4] and names == ("linear0", "norm0", "linear1")
    assert fractions[1, 0] == by_layer(seen.records[1].generator)[0].fractions[0]
    assert (seen.course(threshold=1e9)[2] == 1).all()
    rows = list(csv.DictReader(io.StringIO(seen.csv())))
    assert len(rows) == 3 * (3 + 2) and rows[0]["side"] == "critic"
    assert {row["fraction below 1e+09"] for row in rows} == {"1.0"}
    norm = float(rows[0]["norm"])
    assert norm == by_layer(seen.records[0].critic)[0].norm
    assert len(seen.table(layers=False)) == 3 * (6 + 4)


def test_a_recorder_refuses_what_it_cannot_see():
    gan = game().gan
    with pytest.raises(TypeError, match="is a Simultaneous; expected .*Alternating"):
        Recorder(Simultaneous(gan, 8), plane, Stream(7))
    with pytest.raises(TypeError, match="of the recorder's own"):
        Recorder(gan, plane, 7)
    with pytest.raises(ValueError, match="every is 0"):
        Recorder(gan, plane, Stream(7), every=0)
    for sides in [(), ("D",)]:
        with pytest.raises(ValueError, match="sides are"):
            Recorder(gan, plane, Stream(7), sides=sides)
    with pytest.raises(ValueError, match="one of the sides"):
        Recorder(gan, plane, Stream(7), sides=("critic",)).course("generator")
    seen = Recorder(gan, plane, Stream(7), every=2, batch=4)
    with pytest.raises(ValueError, match="one of the sides"):
        seen.histograms("D")
    for ask in (seen.course, seen.csv, seen.histograms):
        with pytest.raises(ValueError, match="nothing recorded yet"):
            ask()
    with pytest.raises(TypeError, match="with .generator and .critic"):
        seen(0, ({},))
    players = gan.init(Stream(0))
    seen(0, players)
    seen(1, players)
    with pytest.raises(ValueError, match="no record of iteration 1; recorded: 0"):
        seen.at(1)
    with pytest.raises(ValueError, match="thresholds"):
        seen.course(threshold=0.5)
    broken = {name: dict(p) for name, p in players.critic.items()}
    broken["linear1"]["weight"] = np.full_like(broken["linear1"]["weight"], np.nan)
    with pytest.raises(ValueError, match="at iteration 2: .* not finite"):
        seen(2, players._replace(critic=broken))
    assert len(seen.records) == 1


# Over the training


def test_histograms_and_sweeps_over_a_run_are_those_of_its_gradients():
    here = game()
    seen = Recorder(here, plane, Stream(7), every=2, thresholds=SWEEP)
    kept = {}

    def watch(step, players):
        seen(step, players)
        kept[step] = players

    run(here, here.init(Stream(0)), plane, 4, Stream(1), watch=watch)
    for side, gradients, layers in [
        ("critic", critic_gradients, ("linear0", "linear1")),
        ("generator", generator_gradients, ("linear0", "norm0", "linear1")),
    ]:
        steps, names, counts = seen.histograms(side)
        assert steps.tolist() == [0, 2, 4] and names == layers
        assert counts.shape == (3, len(layers), len(EDGES) - 1)
        sweep = np.stack([seen.course(side, t)[2] for t in SWEEP], axis=-1)
        for i, step in enumerate(steps):
            own = Stream(7).child(step)
            streams = Streams(own.child(0), own.child(1), own.child(2))
            batch = dict(zip(SIDES, here.draw(plane, streams, step, np.float32), strict=True))
            tree = gradients(here.gan, kept[step], *batch[side][0]).tree
            for j, params in enumerate(tree.values()):
                entries = np.concatenate([g.ravel() for g in params.values()])
                np.testing.assert_array_equal(counts[i, j], counted(entries, ())[2])
            np.testing.assert_array_equal(sweep[i], threshold_sweep(tree).fractions)


def test_a_picture_of_histograms_holds_the_shares_of_every_layer(monkeypatch):
    from matplotlib.axes import Axes

    drawn, plain = [], Axes.pcolormesh

    def watched(axes, x, y, c, **kwargs):
        if len(y) == len(EDGES):  # the bar of colours is drawn by it too
            drawn.append((axes, np.array(x), np.array(y), c))
        return plain(axes, x, y, c, **kwargs)

    monkeypatch.setattr(Axes, "pcolormesh", watched)
    counts = np.zeros((3, 2, len(EDGES) - 1), int)
    counts[:, 0, 5], counts[:, 0, 20], counts[2, 1, 8] = 1, [3, 7, 0], 4
    png = as_bytes(
        gradient_histograms, title="a run", steps=[0, 10, 40], names=("a", "b"), counts=counts
    )
    assert png[:4] == b"\x89PNG" and len(drawn) == 2
    for (axes, x, y, shares), layer in zip(drawn, (0, 1), strict=True):
        assert x.tolist() == [-5, 5, 25, 55] and y.tolist() == list(EDGES)
        assert axes.get_ylim() == (EDGES[5], EDGES[21])  # of both layers
        assert axes.get_title() == f"layer {'ab'[layer]}"
        size = np.maximum(counts[:, layer].sum(axis=1), 1)
        np.testing.assert_array_equal(shares.filled(0), (counts[:, layer] / size[:, None]).T)
        np.testing.assert_array_equal(shares.mask, counts[:, layer].T == 0)
    one = counts[:1, :1] * 0  # nothing but zeros, at one record
    as_bytes(gradient_histograms, title="", steps=[7], names=("a",), counts=one)
    assert drawn[-1][1].tolist() == [6.5, 7.5] and drawn[-1][3].mask.all()
    for steps, names in [([0, 1], "ab"), ([0, 10, 40], "abc"), ([0, 10, 10], "ab")]:
        with pytest.raises(ValueError, match=r"counts of shape \(3, 2, 28\) .* rising steps"):
            gradient_histograms(io.BytesIO(), title="", steps=steps, names=names, counts=counts)
