"""Whether a critic's value depends on other samples: against dense Jacobians, planted mixing."""

import numpy as np
import pytest

from tinygan import models, nn, ops
from tinygan.backend import Stream
from tinygan.engine import stop_gradient, track, values
from tinygan.models import perceptron
from tinygan.spectral import SpectralNorm
from tinygan.study.mixing import mixing

POINTS = Stream(1).normal((6, 3), np.float64)


def probed(critic, points=POINTS, **choices):
    return mixing(critic, points, Stream(2), **choices)


def of_net(net, points=POINTS, tracked=True):
    params = net.init(Stream(0), np.float64)
    params = track(params) if tracked else params
    return probed(lambda x: net(params, x), points)


def alone(x):
    """A critic of each sample by itself."""
    return ops.sum(ops.tanh(x), axis=1)


def test_batch_norm_mixes_and_is_named_with_its_layers():
    found = of_net(perceptron((3, 5, 4, 1), norm=nn.BatchNorm))
    assert found.mixes and found.slope > 0.01 and found.change > 0.01
    assert [call.layer for call in found.through] == ["at norm0", "at norm1"]
    assert str(found).startswith(
        "mixes samples: yes, through batch norm (standardise) at norm0, at norm1 (largest"
    )


def test_batch_norm_of_maps_is_named_by_the_layer_before_where_its_own_weights_have_no_name():
    conv = nn.Conv(1, 2, 2, 2)
    params = track({"conv1": conv.init(Stream(0), np.float64)}, "D")
    scale, shift = np.ones(2), np.zeros(2)
    norm = nn.BatchNorm(2)

    def critic(x):
        h = norm({"scale": scale, "shift": shift}, conv(params["conv1"], x))
        return ops.sum(ops.square(ops.reshape(h, shape=(h.shape[0], -1))[:, :3]), axis=1)

    found = probed(critic, Stream(3).normal((4, 4, 4, 1), np.float64))
    assert found.mixes and "batch norm (standardise) after D.conv1" in str(found)


@pytest.mark.parametrize("norm", [None, nn.LayerNorm])
def test_layer_norm_and_no_norm_do_not_mix(norm):
    found = of_net(perceptron((3, 5, 4, 1), norm=norm))
    assert not found.mixes and found.slope == 0 and found.own_slope > 0 and found.through == ()
    assert str(found).startswith("mixes samples: no (largest |∂D(xᵢ)/∂xⱼ| 0 beside")


def test_spectral_norm_does_not_mix():
    layer = SpectralNorm(nn.Linear(3, 1))
    params = layer.init(Stream(0), np.float64)
    assert not probed(lambda x: layer(params, x)).mixes


def test_batch_norm_by_standing_statistics_does_not_mix():
    net = perceptron((3, 5, 1), norm=nn.BatchNorm)
    params = net.init(Stream(0), np.float64)
    standing = models.standing_statistics(net, params, [POINTS])
    found = probed(lambda x: net(params, x, statistics=standing))
    assert not found.mixes and found.through == ()


def similar_samples(x):
    """Minibatch features: how many samples are near, by a product with the batch."""
    near = ops.exp(ops.multiply(ops.matmul(x, x, tb=True), 0.1))
    return ops.add(alone(x), ops.sum(near, axis=1))


def across_rows(x):
    """Samples and features taken for each other by a reshape."""
    h = ops.reshape(x, shape=(x.shape[1], x.shape[0]))
    return ops.sum(ops.tanh(ops.transpose(h)), axis=1)


@pytest.mark.parametrize("critic", [similar_samples, across_rows])
def test_mixing_without_a_mark_is_found_by_its_slopes(critic):
    found = probed(critic)
    assert found.mixes and found.slope > 0.01 and found.through == ()
    assert "yes, through ops without a mark" in str(found)


def test_the_slope_is_the_largest_off_the_diagonal_of_the_dense_jacobian():
    found = probed(similar_samples, samples=6)
    step, jacobian = 1e-6, np.empty((6, 6, 3))
    for j in range(6):
        for c in range(3):
            e = np.zeros_like(POINTS)
            e[j, c] = step
            difference = similar_samples(POINTS + e) - similar_samples(POINTS - e)
            jacobian[:, j, c] = difference / (2 * step)
    size = abs(jacobian).max(axis=2)
    own = np.eye(6, dtype=bool)
    assert found.slope == pytest.approx(size[~own].max(), rel=1e-6)
    assert found.own_slope == pytest.approx(size[own].max(), rel=1e-6)


def test_what_has_no_derivative_is_found_by_replacement():
    held = probed(lambda x: ops.add(alone(x), stop_gradient(ops.mean(x))))
    assert held.mixes and held.slope == 0 and held.change > 0.01
    largest = probed(lambda x: ops.add(alone(x), ops.equal(x, ops.max(x, axis=0))[:, 0]))
    assert largest.mixes and largest.change == pytest.approx(1)


def test_a_critic_of_numpys_is_probed_by_replacement_alone():
    ranks = probed(lambda x: np.argsort(np.argsort(np.sum(x, axis=1))).astype(np.float64))
    assert ranks.mixes and ranks.slope is ranks.own_slope is None
    assert "no derivative" in str(ranks)
    plain = probed(lambda x: np.tanh(values(x)).sum(axis=1))
    assert not plain.mixes and plain.slope is None and plain.change == 0


def test_two_samples_suffice():
    """The other is then the only one: it has to be replaced by something else."""
    held = probed(lambda x: ops.add(alone(x), stop_gradient(ops.mean(x))), POINTS[:2])
    assert held.mixes


def test_a_scale_of_zero_spares_the_samples():
    net = perceptron((3, 5, 1), norm=nn.BatchNorm)
    params = net.init(Stream(0), np.float64)
    params["norm0"]["scale"] = np.zeros(5)
    found = probed(lambda x: net(params, x))
    assert not found.mixes and "no, though batch norm (standardise) can" in str(found)


def test_a_slope_of_any_size_counts_unless_the_tolerance_takes_it_for_rounding():
    """1e-16 of the batch's mean: no value shows it."""

    def critic(x):
        return ops.add(alone(x), ops.multiply(ops.mean(x), 1e-16))

    found = probed(critic)
    assert found.mixes and found.change < 1e-14
    assert found.slope == pytest.approx(1e-16 / POINTS.size)
    assert not probed(critic, tolerance=1e-12).mixes


def test_it_works_where_the_critic_lives(stand_in):
    assert mixing(similar_samples, stand_in.asarray(POINTS), Stream(0, device="gpu")).mixes


def test_the_points_are_left_as_they_are():
    points = POINTS.copy()
    points.flags.writeable = False
    assert probed(similar_samples, points).mixes


@pytest.mark.parametrize(
    "critic, points, complaint",
    [
        (alone, [[1.0, 2.0]], r"points is a list; expected an array of floats, \(N, ...\)"),
        (alone, np.ones((3, 2), int), r"mixing: points is int64\[3, 2\]; expected an array"),
        (alone, track(POINTS), "points is a Tensor; expected an array of floats"),
        (alone, np.float64(1), r"points is float64\[\]"),
        (alone, POINTS[:1], r"points of shape \(1, 3\); expected a batch of two"),
        (lambda x: ops.sum(x), POINTS, r"gave \(\) for points \(6, 3\); expected one logit"),
        (lambda x: x, POINTS, r"gave \(6, 3\)"),
        (lambda x: ops.sum(ops.reshape(x, shape=(3, 6)), axis=1), POINTS, r"several samples"),
        (lambda x: ops.divide(alone(x), 0.0), POINTS, "not finite"),
        (lambda x: ops.sum(ops.sqrt(ops.multiply(x, 0.0)), axis=1), POINTS, "slope of D.* finite"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_input_is_one_clear_error(critic, points, complaint):
    with pytest.raises(ValueError, match=complaint):
        probed(critic, points)


def test_a_critic_that_is_wrong_says_so_itself():
    with pytest.raises(TypeError, match="argument of type str"):
        probed(lambda x: ops.add(x, "1"))


def test_it_looks_at_as_many_samples_as_it_was_asked_for():
    seen = []

    def critic(x):
        seen.append(len(x))
        return alone(x)

    probed(critic, samples=2)
    assert seen == [6] * (1 + 2 * 2)  # recorded once, replaced twice for each
