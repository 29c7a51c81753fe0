"""The image example as a user runs it: every option, every kind of data, every way to stop."""

import json
import struct
import sys

import numpy as np
import pytest
from PIL import Image
from test_examples import load, read_history

import tinygan
from tinygan import losses, models, nn, optim, penalties, tree
from tinygan.backend import Stream
from tinygan.data import SIGNED, Shuffled, digits
from tinygan.train import Diverged, Record, normal_prior, train, uniform_prior

dcgan = load("dcgan")

SMALL = ["--width", ".0625", "--batch", "8", "--steps", "2", "--threads", "1", "--quiet"]
COLOUR = ["--model", "dcgan32", "--penalty", "none"]  # batch norm, and nothing that forbids it
FILES = {
    "samples.npy", "curves.png", "history.csv", "generator.npz", "critic.npz", "metrics.json"
}  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    """No curves: for tests of everything else."""
    monkeypatch.setattr(dcgan, "training_curves", lambda file, **kwargs: None)


@pytest.fixture
def idle(monkeypatch):
    """Training is an error: whatever is refused must be refused before it."""

    def train(*args, **kwargs):
        raise AssertionError("training was not to begin")

    monkeypatch.setattr(dcgan, "train", train)


@pytest.fixture
def calls(monkeypatch):
    """The arguments of every training that the example starts, which goes on as it would."""
    found = []

    def watched(gan, players, sample, steps, stream, **kwargs):
        found.append({"gan": gan, "steps": steps, **kwargs})
        return train(gan, players, sample, steps, stream, **kwargs)

    monkeypatch.setattr(dcgan, "train", watched)
    return found


def run(out, *options):
    dcgan.main([*SMALL, *options, "--out", str(out)])
    return json.loads((out / "metrics.json").read_text())


def parsed(out, *options):
    return dcgan.parse([*SMALL, *options, "--out", str(out)])


def refused(capsys, *options):
    """The message with which the options are refused."""
    with pytest.raises(SystemExit) as stop:
        dcgan.main([*SMALL, *options])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and said.count("error:") == 1
    return said.partition("error: ")[2]


def grids(folder):
    return sorted(path.name for path in folder.glob("samples_*"))


def grid_of(file, size, channels):
    """The 100 images of a picture, and the picture's size."""
    with Image.open(file) as picture:
        assert picture.format == "PNG" and picture.mode == ("L" if channels == 1 else "RGB")
        sides, pixels = picture.size, np.asarray(picture)
    pixels = pixels.reshape(*pixels.shape[:2], channels)
    assert np.array_equal(pixels[::2, ::2].repeat(2, 0).repeat(2, 1), pixels)  # each pixel 2×2
    step = size + 2
    images = [
        pixels[::2, ::2][row * step : row * step + size, column * step : column * step + size]
        for row in range(10)
        for column in range(10)
    ]
    return np.stack(images), sides


def write_npz(path, pixels, **more):
    np.savez(path, images=pixels, **more)
    return path


def random_pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


# The files


def test_a_run_writes_its_files_and_nothing_else(tmp_path):
    report = run(tmp_path, "--steps", "3", "--every", "2")
    written = {path.name for path in tmp_path.iterdir()}
    assert written == FILES | {"samples_000002.png", "samples_000003.png"}
    samples = np.load(tmp_path / "samples.npy")
    assert samples.shape == (100, 28, 28, 1) and samples.dtype == np.uint8
    assert samples.std() > 1
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG" and picture.size == (1170, 468)
        assert len(picture.convert("L").getcolors()) > 20

    rows = read_history(tmp_path)
    assert list(rows[0]) == list(Record._fields)
    assert [int(row["step"]) for row in rows] == [1, 2, 3]
    for name in ("critic_loss", "penalty", "generator_loss", "critic_gradient"):
        assert report[name] == float(rows[-1][name])
    assert report["generator_gradient"] == float(rows[-1]["generator_gradient"])


def test_the_report_has_its_keys(tmp_path, quick):
    report = run(tmp_path, "--seed", "5", "--critic-steps", "2")
    assert list(report) == [
        "critic_loss", "penalty", "generator_loss", "critic_gradient", "generator_gradient",
        "seconds", "seconds_per_iteration", "steps_done", "epochs_done", "stopped", "mode",
        "data", "parameters", "settings", "versions",
    ]  # fmt: skip
    assert report["steps_done"] == 2 and report["stopped"] is None
    assert report["epochs_done"] == 2 * 8 * 2 / 5000
    assert report["mode"] == "compiled"
    assert 0 < report["seconds"] == pytest.approx(2 * report["seconds_per_iteration"])
    assert report["data"] == {"name": "digits", "images": 5000, "shape": [28, 28, 1]}
    pair = models.dcgan28(1, 0.0625, latent=100)
    assert report["parameters"] == {
        "generator": models.count_parameters(pair.generator.init(Stream(0))),
        "critic": models.count_parameters(pair.critic.init(Stream(0))),
    }
    settings = report["settings"]
    assert settings.keys() == vars(dcgan.parse(["--out", str(tmp_path)])[0]).keys()
    assert (settings["seed"], settings["width"], settings["critic_steps"]) == (5, 0.0625, 2)
    assert settings["out"] == str(tmp_path) and settings["betas"] == [0.5, 0.999]
    assert report["versions"]["tinygan"] == tinygan.__version__
    assert report["versions"]["numpy"] == np.__version__


@pytest.mark.parametrize("options, size, channels", [([], 28, 1), (COLOUR, 32, 3)])
def test_the_last_picture_shows_the_samples(tmp_path, quick, options, size, channels):
    run(tmp_path, *options)
    samples = np.load(tmp_path / "samples.npy")
    assert samples.shape == (100, size, size, channels)
    images, sides = grid_of(tmp_path / "samples_000002.png", size, channels)
    assert sides == (2 * (10 * (size + 2) - 2),) * 2
    np.testing.assert_array_equal(images, samples)


def test_a_picture_on_the_way_shows_the_samples_of_its_iteration(tmp_path, quick):
    run(tmp_path / "long", "--steps", "4", "--every", "2")
    run(tmp_path / "short", "--steps", "2")
    assert (tmp_path / "long" / "samples_000002.png").read_bytes() == (
        tmp_path / "short" / "samples_000002.png"
    ).read_bytes()
    images, _ = grid_of(tmp_path / "long" / "samples_000002.png", 28, 1)
    assert not np.array_equal(images, np.load(tmp_path / "long" / "samples.npy"))


@pytest.mark.parametrize(
    "options, steps",
    [
        (["--steps", "1"], [1]),
        (["--steps", "5", "--every", "2"], [2, 4, 5]),
        (["--steps", "4", "--every", "2"], [2, 4]),
        (["--steps", "3", "--every", "9"], [3]),
        (["--steps", "9"], [2, 4, 6, 8, 9]),  # eight in all, or a few less
        (["--steps", "8"], [1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_pictures_are_written_at_their_iterations_and_always_at_the_end(
    tmp_path, quick, options, steps
):
    report = run(tmp_path, *options)
    assert grids(tmp_path) == [f"samples_{step:06d}.png" for step in steps]
    assert report["steps_done"] == steps[-1]


@pytest.mark.parametrize("prior", [normal_prior, uniform_prior])
def test_saved_weights_make_the_samples_again(tmp_path, quick, prior):
    name = {normal_prior: "normal", uniform_prior: "uniform"}[prior]
    options = ["--seed", "7", "--prior", name]
    run(tmp_path, *options)
    args, _, gan = parsed(tmp_path, *options)
    start = gan.init(Stream(7).child(0))
    players = {}
    for side in ("generator", "critic"):
        like = getattr(start, side)
        params, config = tinygan.load_weights(tmp_path / f"{side}.npz", like=like)
        assert config["seed"] == 7 and config["model"] == "dcgan28" and config["prior"] == name
        assert config["lr_g"] == args.lr_g and config["out"] == str(tmp_path)
        pairs = list(zip(tree.leaves(params), tree.leaves(like), strict=True))
        assert not all(np.array_equal(a, b) for a, b in pairs)  # trained
        players[side] = params
    probe = prior(Stream(7).child(2), (100, 100), np.float32)
    with tinygan.threads(1):
        made = SIGNED.invert(gan.generator(players["generator"], probe))
    np.testing.assert_array_equal(made, np.load(tmp_path / "samples.npy"))


def test_the_samples_with_standing_statistics(tmp_path, quick):
    """Those of 20 batches of latent points of their own; they change the samples, not a weight."""
    run(tmp_path / "plain", *COLOUR)
    run(tmp_path / "standing", *COLOUR, "--standing")
    files = [(tmp_path / name / "generator.npz") for name in ("plain", "standing")]
    _, _, gan = parsed(tmp_path, *COLOUR)
    params, again = (tinygan.load_weights(file)[0] for file in files)
    for a, b in zip(tree.leaves(params), tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    points, probe = Stream(0).child(3), Stream(0).child(2).normal((100, 100))
    with tinygan.threads(1):
        batches = [points.normal((8, 100)) for _ in range(20)]
        statistics = models.standing_statistics(gan.generator, params, batches)
        made = SIGNED.invert(gan.generator(params, probe, statistics))
    samples = np.load(tmp_path / "standing" / "samples.npy")
    np.testing.assert_array_equal(made, samples)
    assert not np.array_equal(samples, np.load(tmp_path / "plain" / "samples.npy"))
    saved, _ = tinygan.load_weights(tmp_path / "standing" / "statistics.npz", like=statistics)
    for a, b in zip(tree.leaves(saved), tree.leaves(statistics), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not (tmp_path / "plain" / "statistics.npz").exists()
    images, _ = grid_of(tmp_path / "standing" / "samples_000002.png", 32, 3)
    np.testing.assert_array_equal(images, samples)


def test_standing_without_batch_norm_changes_nothing(tmp_path, quick):
    run(tmp_path / "a", "--standing")
    run(tmp_path / "b")
    a, b = ((tmp_path / name / "samples.npy").read_bytes() for name in "ab")
    assert a == b


# Seeds


@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path, quick, threads):
    """Wide enough that the convolutions are cut into parts."""
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        run(tmp_path / name, "--seed", seed, "--threads", threads, "--width", "0.25")
    for file in ("samples.npy", "history.csv", "samples_000001.png"):
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b != c


# The choices


@pytest.mark.parametrize("loss", ["minimax", "non-saturating", "wasserstein", "least-squares",
                                  "hinge"])  # fmt: skip
def test_every_loss_runs(tmp_path, quick, calls, loss):
    report = run(tmp_path, "--loss", loss)
    assert calls[0]["gan"].loss is getattr(losses, loss.replace("-", "_").upper())
    assert report["steps_done"] == 2 and report["settings"]["loss"] == loss


def test_all_losses_and_penalties_are_tested():
    assert len(dcgan.LOSSES) == 5 and len(dcgan.PENALTIES) == 8


@pytest.mark.parametrize(
    "name, penalty",
    [
        ("none", None),
        ("1-gp", penalties.one_gp(3.0)),
        ("0-gp", penalties.zero_gp(3.0)),
        ("lp", penalties.lp(3.0)),
        ("r1", penalties.r1(3.0)),
        ("dragan", penalties.dragan(3.0)),
    ],
)
def test_every_penalty_runs(tmp_path, quick, calls, name, penalty):
    run(tmp_path, "--penalty", name, "--weight", "3")
    assert calls[0]["gan"].penalty == penalty
    held = [float(row["penalty"]) > 0 for row in read_history(tmp_path)]
    # A slope never above 1 costs nothing with LP, whose side is the other.
    assert name == "lp" or held == [penalty is not None] * 2


def test_a_weight_of_zero_is_no_penalty(tmp_path, quick, calls):
    report = run(tmp_path / "a", "--weight", "0")
    run(tmp_path / "b", "--penalty", "none")
    assert calls[0]["gan"].penalty is None and report["settings"]["penalty"] == "none"
    assert [float(row["penalty"]) for row in read_history(tmp_path / "a")] == [0, 0]
    a, b = ((tmp_path / name / "samples.npy").read_bytes() for name in "ab")
    assert a == b
    run(tmp_path / "c", "--weight", "0", "--model", "dcgan32")  # so batch norm is no objection


@pytest.mark.parametrize("norm, layer", [("batch", nn.BatchNorm), ("layer", nn.LayerNorm),
                                         ("none", type(None))])  # fmt: skip
def test_every_norm_runs_on_its_side(tmp_path, quick, calls, norm, layer):
    def norms(net):
        kinds = (nn.BatchNorm, nn.LayerNorm)
        return {type(layer) for layer in net.layers.values() if isinstance(layer, kinds)} or {
            type(None)
        }

    report = run(tmp_path, *COLOUR, "--norm", norm, "--steps", "1")
    gan = calls[0]["gan"]
    assert norms(gan.generator) == norms(gan.critic) == {layer}
    assert report["steps_done"] == 1 and gan.one_batch == (norm != "batch")
    run(tmp_path, *COLOUR, "--norm", "batch", "--critic-norm", norm, "--steps", "1")
    gan = calls[1]["gan"]
    assert norms(gan.generator) == {nn.BatchNorm} and norms(gan.critic) == {layer}


@pytest.mark.parametrize(
    "model, kernel, size, channels",
    [("dcgan28", 5, 28, 1), ("dcgan32", 4, 32, 3), ("dcgan32", 5, 32, 3), ("dcgan64", 4, 64, 3)],
)
def test_every_model_runs(tmp_path, quick, calls, model, kernel, size, channels):
    options = ["--penalty", "none", "--batch", "4"]
    options += [] if model == "dcgan28" else ["--kernel", str(kernel)]
    report = run(tmp_path, "--model", model, *options, "--steps", "1")
    gan = calls[0]["gan"]
    assert gan.generator.input == (100,) and gan.critic.input == (size, size, channels)
    assert gan.critic.layers["conv0"].kernel == kernel
    assert report["data"]["shape"] == [size, size, channels]
    samples = np.load(tmp_path / "samples.npy")
    assert samples.shape == (100, size, size, channels)
    assert np.unique(samples).size > 10


@pytest.mark.parametrize("options", [[], COLOUR], ids=["0-gp", "batch norm"])
def test_an_eager_run_is_the_compiled_one_to_rounding(tmp_path, quick, calls, options):
    compiled = run(tmp_path / "compiled", *options)
    eager = run(tmp_path / "eager", *options, "--eager")
    assert [call["compiled"] for call in calls] == [True, False]
    assert (compiled["mode"], eager["mode"]) == ("compiled", "eager")
    for name in ("critic_loss", "penalty", "generator_loss", "critic_gradient"):
        assert compiled[name] == pytest.approx(eager[name], rel=1e-3)


@pytest.mark.parametrize("name, prior", [("normal", normal_prior), ("uniform", uniform_prior)])
def test_every_prior_draws_training_points_too(tmp_path, quick, calls, name, prior):
    run(tmp_path, "--prior", name)
    assert calls[0]["prior"] is prior and calls[0]["latent"] == 100


def test_numbers_reach_the_training(tmp_path, quick, calls):
    run(
        tmp_path, "--batch", "3", "--critic-steps", "2", "--generator-steps", "4", "--lr-g", "1e-3",
        "--lr-d", "2e-3", "--betas", "0.1", "0.9", "--clip", "0.05", "--average",
    )  # fmt: skip
    call, gan = calls[0], calls[0]["gan"]
    assert (call["batch"], call["critic_steps"], call["generator_steps"]) == (3, 2, 4)
    assert gan.generator_optimizer == optim.Adam(1e-3, (0.1, 0.9))
    assert gan.critic_optimizer == optim.Adam(2e-3, (0.1, 0.9))
    assert gan.clip == 0.05 and gan.average and not gan.clip_everything
    run(tmp_path, "--optimizer", "rmsprop", "--lr-g", "1e-3", "--lr-d", "2e-3")
    gan = calls[1]["gan"]
    assert gan.generator_optimizer == optim.RMSProp(1e-3)
    assert gan.critic_optimizer == optim.RMSProp(2e-3)
    assert gan.clip is None and not gan.average


def test_clipping_holds_for_the_saved_critic(tmp_path, quick):
    run(tmp_path, "--preset", "p4-wgan", "--steps", "1", "--critic-steps", "1")
    params, _ = tinygan.load_weights(tmp_path / "critic.npz")
    weights = [a for path, a in tree.paths(params) if path.endswith("weight")]
    assert weights and max(abs(a).max() for a in weights) == np.float32(0.01)


@pytest.mark.parametrize(
    "epochs, critic_steps, steps", [("2", 1, 5), ("2", 2, 3), ("0.01", 1, 1), ("1.2", 3, 1)]
)
def test_epochs_are_counted_in_images_that_the_critic_saw(
    tmp_path, quick, calls, epochs, critic_steps, steps
):
    """⌈epochs·N/(batch·critic_steps)⌉ iterations of N = 20 images in batches of 8."""
    file = write_npz(tmp_path / "few.npz", random_pixels(20, 28, 28))
    options = ["--epochs", epochs, "--critic-steps", str(critic_steps), "--steps", "9"]
    report = run(tmp_path, "--data", str(file), *options)
    assert calls[0]["steps"] == report["steps_done"] == report["settings"]["steps"] == steps
    assert report["epochs_done"] == steps * 8 * critic_steps / 20
    assert grids(tmp_path)[-1] == f"samples_{steps:06d}.png"


def test_progress_and_the_networks_are_shown_unless_quiet(tmp_path, quick, capsys):
    run(tmp_path)
    said = capsys.readouterr()
    assert said.out == said.err == ""
    dcgan.main([*(o for o in SMALL if o != "--quiet"), "--out", str(tmp_path)])
    said = capsys.readouterr()
    assert "generator 100 to 28×28" in said.out and "critic of 28×28" in said.out
    assert "5,000 images of digits, 2 iterations" in said.out
    assert f"results in {tmp_path}" in said.out and "2/2" in said.err


# The presets


@pytest.mark.parametrize("preset", ["digits", "p0", "p4-dcgan", "p4-wgan", "wgan-gp"])
def test_every_preset_runs(tmp_path, quick, preset):
    report = run(tmp_path, "--preset", preset, "--steps", "1")
    assert report["steps_done"] == 1 and report["settings"]["preset"] == preset


def test_all_presets_are_tested():
    assert [*dcgan.PRESETS] == ["digits", "p0", "p4-dcgan", "p4-wgan", "wgan-gp"]


def of_preset(tmp_path, *options):
    return dcgan.parse(["--preset", *options, "--out", str(tmp_path)])


def of_adam(gan, rate, betas):
    return gan.generator_optimizer == gan.critic_optimizer == optim.Adam(rate, betas)


def size_of(net):
    return models.count_parameters(net.init(Stream(0)))


def test_an_option_goes_before_the_preset_and_the_preset_before_the_default(tmp_path):
    args, _, gan = of_preset(tmp_path, "p0", "--lr-d", "1e-3", "--weight", "10")
    assert (args.lr_d, args.lr_g, args.prior, args.critic_steps) == (1e-3, 2e-4, "uniform", 1)
    assert gan.critic_optimizer.rate == 1e-3 and gan.penalty.weight == 10


def test_the_preset_of_p0(tmp_path):
    args, images, gan = of_preset(tmp_path, "p0")
    assert of_adam(gan, 2e-4, (0.5, 0.999))
    assert (args.batch, args.prior, args.critic_steps, args.steps) == (64, "uniform", 1, 4000)
    assert gan.penalty == penalties.one_gp(1.0) and gan.penalty.of is None  # on the logit
    assert gan.loss is losses.NON_SATURATING and gan.clip is None
    pair = models.dcgan28(1, latent=100, output=tinygan.ops.tanh)
    assert size_of(gan.generator) == size_of(pair.generator)
    assert size_of(gan.critic) == 1_030_145 and images.shape == (28, 28, 1)


def test_the_preset_of_p4_for_dcgan(tmp_path):
    args, images, gan = of_preset(tmp_path, "p4-dcgan")
    assert of_adam(gan, 2e-4, (0.5, 0.999))
    assert (args.batch, args.prior, args.critic_steps, args.steps) == (128, "normal", 1, 39000)
    assert gan.average and gan.penalty is None and gan.clip is None
    assert gan.loss is losses.NON_SATURATING
    assert images.shape == (32, 32, 3)
    g, d = gan.generator.init(Stream(0)), gan.critic.init(Stream(0))
    assert models.count_parameters(g) == 12_140_032 and models.count_parameters(d) == 694_656
    for params in (g, d):
        for path, a in tree.paths(params):
            if path.endswith("weight"):
                assert a.std() == pytest.approx(0.02, rel=0.1), path
                assert abs(a.mean()) < 0.002, path


def test_the_preset_of_p4_for_wgan(tmp_path):
    args, images, gan = of_preset(tmp_path, "p4-wgan")
    assert gan.generator_optimizer == gan.critic_optimizer == optim.RMSProp(5e-5)
    assert (args.batch, args.prior, args.critic_steps, args.steps) == (64, "normal", 5, 15625)
    assert gan.loss is losses.WASSERSTEIN and gan.clip == 0.01 and gan.penalty is None
    assert gan.clip_everything
    assert not of_preset(tmp_path, "p4-wgan", "--no-clip-everything")[2].clip_everything
    assert not gan.average and images.shape == (32, 32, 3)
    assert size_of(gan.critic) == 694_656 and gan.critic.mixes_samples


def test_the_preset_of_wgan_gp(tmp_path):
    args, images, gan = of_preset(tmp_path, "wgan-gp")
    assert of_adam(gan, 1e-4, (0.5, 0.9))
    assert (args.batch, args.prior, args.critic_steps) == (64, "normal", 5)
    assert gan.loss is losses.WASSERSTEIN and gan.clip is None
    assert gan.penalty == penalties.one_gp(10.0)
    assert gan.generator.mixes_samples and not gan.critic.mixes_samples and gan.one_batch
    assert isinstance(gan.critic.layers["norm1"], nn.LayerNorm)


# The data


def test_digits_are_padded_with_black_and_repeated(tmp_path):
    _, images, _ = parsed(tmp_path, *COLOUR)
    assert images.shape == (32, 32, 3) and len(images) == 5000
    np.testing.assert_array_equal(images.pixels[:, 2:30, 2:30], digits().pixels.repeat(3, 3))
    middle = images.pixels[:, 2:30, 2:30].sum(dtype=np.int64)
    assert images.pixels.sum(dtype=np.int64) == middle > 0


def test_images_of_an_npz_file(tmp_path, quick):
    pixels = random_pixels(12, 28, 28, 1)
    file = write_npz(tmp_path / "set.npz", pixels, labels=np.zeros(12, int))
    _, images, _ = parsed(tmp_path, "--data", str(file))
    np.testing.assert_array_equal(images.pixels, pixels)
    report = run(tmp_path, "--data", str(file))
    assert report["data"] == {"name": "set.npz", "images": 12, "shape": [28, 28, 1]}


def test_images_of_an_idx_file(tmp_path, quick):
    pixels = random_pixels(11, 28, 28)
    file = tmp_path / "some-idx3-ubyte"
    file.write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 11, 28, 28) + pixels.tobytes())
    _, images, _ = parsed(tmp_path, "--data", str(file))
    np.testing.assert_array_equal(images.pixels, pixels[..., None])
    assert run(tmp_path, "--data", str(file))["data"]["images"] == 11


def test_images_of_a_folder_of_cifar(tmp_path, quick):
    pixels = random_pixels(10, 3, 32, 32)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for i in range(5):
        rows = [b"\x07" + image.tobytes() for image in pixels[2 * i : 2 * i + 2]]
        (folder / f"data_batch_{i + 1}.bin").write_bytes(b"".join(rows))
    options = [*COLOUR, "--data", str(folder)]
    _, images, _ = parsed(tmp_path, *options)
    np.testing.assert_array_equal(images.pixels, pixels.transpose(0, 2, 3, 1))
    report = run(tmp_path, *options)
    assert report["data"] == {"name": "cifar10 train", "images": 10, "shape": [32, 32, 3]}


def test_images_of_a_folder_are_cut_and_resized(tmp_path, quick):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(9):
        picture = np.zeros((40, 50, 3), np.uint8)
        picture[:, 5:45] = (20 * i, 100, 200)  # the square in the middle
        Image.fromarray(picture).save(folder / f"{i}.png")
    options = [*COLOUR, "--data", str(folder)]
    _, images, _ = parsed(tmp_path, *options)
    colours = np.array([(20 * i, 100, 200) for i in range(9)], np.uint8)
    expected = np.broadcast_to(colours[:, None, None], (9, 32, 32, 3))
    np.testing.assert_array_equal(images.pixels, expected)
    report = run(tmp_path, *options)
    assert report["data"] == {"name": "pictures", "images": 9, "shape": [32, 32, 3]}


def test_training_is_served_the_images_between_minus_one_and_one(tmp_path, quick, monkeypatch):
    seen = []

    def watched(gan, players, sample, *args, **kwargs):
        def kept(n, stream):
            seen.append(sample(n, stream))
            return seen[-1]

        return train(gan, players, kept, *args, **kwargs)

    monkeypatch.setattr(dcgan, "train", watched)
    run(tmp_path, "--seed", "6")
    order = Shuffled(digits(), SIGNED, Stream(6).child(4).key)
    assert len(seen) == 2 and seen[0].min() == -1 and seen[0].max() == 1
    for batch in seen:
        np.testing.assert_array_equal(batch, order.sample(8))


# Bad input


@pytest.mark.parametrize(
    "options, message",
    [
        (["--preset", "p9"], "--preset: invalid choice: 'p9'"),
        (["--model", "dcgan16"], "--model: invalid choice: 'dcgan16'"),
        (["--loss", "gan"], "--loss: invalid choice: 'gan'"),
        (["--penalty", "gp"], "--penalty: invalid choice: 'gp'"),
        (["--norm", "instance"], "--norm: invalid choice: 'instance'"),
        (["--prior", "cauchy"], "--prior: invalid choice: 'cauchy'"),
        (["--optimizer", "sgd"], "--optimizer: invalid choice: 'sgd'"),
        (["--kernel", "3"], "--kernel: invalid choice: 3"),
        (["--lr-g", "-0.1"], "--lr-g: -0.1 is not a number above 0"),
        (["--lr-d", "0"], "--lr-d: 0 is not a number above 0"),
        (["--lr-d", "nan"], "--lr-d: nan is not a number above 0"),
        (["--weight", "nan"], "--weight: nan is not a number of at least 0"),
        (["--weight", "inf"], "--weight: inf is not a number of at least 0"),
        (["--weight", "-1"], "--weight: -1 is not a number of at least 0"),
        (["--width", "0"], "--width: 0 is not a number above 0"),
        (["--clip", "-0.1"], "--clip: -0.1 is not a number above 0"),
        (["--betas", "0.5", "1"], "--betas: 1 is not in [0, 1)"),
        (["--batch", "0"], "--batch: 0 is not a number above 0"),
        (["--steps", "0"], "--steps: 0 is not a number above 0"),
        (["--epochs", "0"], "--epochs: 0 is not a number above 0"),
        (["--every", "0"], "--every: 0 is not a number above 0"),
        (["--critic-steps", "-2"], "--critic-steps: -2 is not a number above 0"),
        (["--generator-steps", "0"], "--generator-steps: 0 is not a number above 0"),
        (["--threads", "0"], "--threads: 0 is not a number above 0"),
        (["--seed", "-1"], "--seed: -1 is no seed"),
        (["--device", "tpu"], "--device: invalid choice: 'tpu'"),
        (["--lamda", "1"], "unrecognized arguments: --lamda"),
    ],
)
def test_bad_options_are_one_clear_error_before_any_work(tmp_path, capsys, idle, options, message):
    out = tmp_path / "out"
    assert message in refused(capsys, *options, "--out", str(out))
    assert not out.exists()


def test_a_missing_path_is_a_clear_error(tmp_path, capsys, idle):
    missing = str(tmp_path / "nothing")
    said = refused(capsys, "--data", missing, "--out", str(tmp_path / "out"))
    assert f"{missing}: no such file or folder" in said


def test_a_file_of_no_known_kind_is_a_clear_error(tmp_path, capsys, idle):
    file = tmp_path / "notes.txt"
    file.write_text("no pictures here")
    said = refused(capsys, "--data", str(file), "--out", str(tmp_path / "out"))
    assert f"{file}: a file of no known kind" in said


@pytest.mark.parametrize(
    "shape, model, words",
    [
        ((4, 64, 64, 3), "dcgan32", ["(64, 64, 3)", "dcgan32 expects (32, 32, 1 or 3)"]),
        ((4, 32, 32, 1), "dcgan28", ["(32, 32, 1)", "dcgan28 expects (28, 28, 1 or 3)"]),
        ((4, 28, 32, 3), "dcgan32", ["(28, 32, 3)", "dcgan32 expects (32, 32, 1 or 3)"]),
        ((4, 31, 31, 3), "dcgan32", ["size is 32 for images of 31×31", "even difference"]),
    ],
)
def test_images_of_another_size_are_a_clear_error(tmp_path, capsys, idle, shape, model, words):
    file = write_npz(tmp_path / "set.npz", random_pixels(*shape))
    options = ["--data", str(file), "--model", model, "--penalty", "none"]
    said = refused(capsys, *options, "--out", str(tmp_path / "out"))
    assert all(word in said for word in words), said


def test_dcgan28_takes_colour_too(tmp_path, quick, calls):
    file = write_npz(tmp_path / "set.npz", random_pixels(20, 28, 28, 3))
    run(tmp_path / "out", "--data", str(file))
    assert calls[0]["gan"].critic.input == calls[0]["gan"].generator.output == (28, 28, 3)
    assert np.load(tmp_path / "out" / "samples.npy").shape == (100, 28, 28, 3)


@pytest.mark.parametrize(
    "option", [("--kernel", "5"), ("--norm", "none"), ("--critic-norm", "layer")]
)
def test_what_dcgan28_does_not_have_is_a_clear_error(tmp_path, capsys, idle, option):
    said = refused(capsys, *option, "--out", str(tmp_path / "out"))
    assert f"{option[0]} is not for dcgan28" in said


def test_settings_that_do_not_apply_are_reported_as_none(tmp_path, quick):
    settings = run(tmp_path / "a", "--weight", "0")["settings"]
    assert settings["penalty"] == "none" and settings["weight"] is None
    assert settings["kernel"] is None and settings["norm"] is None
    settings = run(tmp_path / "b", *COLOUR, "--optimizer", "rmsprop")["settings"]
    assert settings["betas"] is None
    assert (settings["kernel"], settings["norm"], settings["critic_norm"]) == (4, "batch", "batch")


def test_constant_filters_and_tanh_everywhere(tmp_path, quick, calls):
    run(tmp_path, "--filters", "6", "--tanh")
    gan = calls[0]["gan"]
    kinds = {layer.__name__ for layer in gan.critic.layers.values() if hasattr(layer, "__name__")}
    assert kinds == {"tanh"} and gan.generator.layers["conv2"].outputs == 6
    assert gan.critic.layers["conv2"].outputs != 6


@pytest.mark.parametrize("options", [["--norm", "batch"], ["--norm", "none", "--critic-norm",
                                                           "batch"], []])  # fmt: skip
def test_a_penalty_with_batch_norm_in_the_critic_is_a_clear_error(tmp_path, capsys, idle, options):
    options = ["--model", "dcgan32", "--penalty", "1-gp", *options]
    said = refused(capsys, *options, "--out", str(tmp_path / "out"))
    assert "--penalty 1-gp with batch norm in the critic" in said
    assert "--critic-norm layer or none" in said


def test_a_penalty_with_batch_norm_in_the_generator_alone_is_none(tmp_path):
    _, _, gan = parsed(tmp_path, "--model", "dcgan32", "--critic-norm", "none")
    assert gan.generator.mixes_samples and gan.penalty == penalties.zero_gp(1.0)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path, capsys, idle):
    (tmp_path / "file").write_text("")
    said = refused(capsys, "--out", str(tmp_path / "file"))
    assert f"--out {tmp_path / 'file'} cannot be written" in said


def test_asking_for_a_gpu_without_one_is_a_clear_error(tmp_path, capsys, idle, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # an import of it fails
    said = refused(capsys, "--device", "gpu", "--out", str(tmp_path))
    assert "pip install 'tinygan[cuda13]'" in said


def test_a_weight_that_is_no_number_is_named_as_others_are(tmp_path, capsys, idle):
    said = refused(capsys, "--weight", "much", "--out", str(tmp_path))
    assert "--weight: invalid float value: 'much'" in said


def test_help_shows_the_defaults(capsys):
    with pytest.raises(SystemExit) as stop:
        dcgan.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert "iterations (default: 3000)" in said and "default: non-saturating" in said


@pytest.mark.parametrize("options", [[], [*COLOUR, "--standing"]], ids=["dcgan28", "dcgan32"])
def test_a_run_on_the_stand_in_for_a_gpu_equals_the_run_on_the_cpu(
    tmp_path, quick, stand_in, options
):
    small = [*options, "--width", "0.02", "--batch", "4", "--steps", "1"]
    run(tmp_path / "gpu", *small, "--device", "gpu")
    run(tmp_path / "cpu", *small, "--device", "cpu")
    gpu, cpu = (np.load(tmp_path / name / "samples.npy").astype(int) for name in ("gpu", "cpu"))
    assert abs(gpu - cpu).max() <= 1 and np.mean(gpu != cpu) < 0.01
    rows = [read_history(tmp_path / name)[0] for name in ("gpu", "cpu")]
    np.testing.assert_allclose(*([float(x) for x in row.values()] for row in rows), rtol=1e-3)


# Stopping early


def test_ctrl_c_keeps_what_was_done(tmp_path, monkeypatch):
    """In the third of 50 iterations: the files are those of a run of two."""
    sample, served = Shuffled.sample, []

    def interrupted(self, n, stream=None):
        served.append(n)
        if len(served) == 3:
            raise KeyboardInterrupt
        return sample(self, n, stream)

    monkeypatch.setattr(Shuffled, "sample", interrupted)
    report = run(tmp_path / "stopped", "--steps", "50")
    monkeypatch.undo()
    assert report["steps_done"] == 2 and report["stopped"] == "Ctrl-C"
    stopped = tmp_path / "stopped"
    assert {path.name for path in stopped.iterdir()} == FILES | {"samples_000002.png"}
    assert [int(row["step"]) for row in read_history(stopped)] == [1, 2]
    run(tmp_path / "whole", "--steps", "2")
    for file in ("samples.npy", "history.csv", "samples_000002.png"):
        assert (stopped / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    for file in ("generator.npz", "critic.npz"):
        ours, theirs = (tinygan.load_weights(tmp_path / name / file)[0] for name in
                        ("stopped", "whole"))  # fmt: skip
        for a, b in zip(tree.leaves(ours), tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(a, b)


def test_ctrl_c_before_the_first_iteration_is_over_says_so(tmp_path, quick, monkeypatch):
    def interrupted(self, n, stream=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(Shuffled, "sample", interrupted)
    with pytest.raises(SystemExit, match="nothing was learned: Ctrl-C"):
        run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_diverges_says_why_and_keeps_the_last_good_state(tmp_path, quick, monkeypatch):
    caught = []

    def watched(*args, **kwargs):
        try:
            return train(*args, **kwargs)
        except Diverged as error:
            caught.append(error)
            raise

    monkeypatch.setattr(dcgan, "train", watched)
    options = ["--loss", "wasserstein", "--penalty", "none", "--lr-d", "1e3", "--steps", "50"]
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, *options)
    (error,) = caught
    assert stop.value.code == f"stopped early: {error}" and "no longer finite" in str(error)
    report = json.loads((tmp_path / "metrics.json").read_text())
    done = report["steps_done"]
    assert report["stopped"] == str(error) and 0 < done < 50
    assert {path.name for path in tmp_path.iterdir()} == FILES | {f"samples_{done:06d}.png"}
    assert len(read_history(tmp_path)) == len(error.history.records) == done
    for side in ("generator", "critic"):
        params, _ = tinygan.load_weights(tmp_path / f"{side}.npz")
        good = getattr(error.players, side)
        for a, b in zip(tree.leaves(params), tree.leaves(good), strict=True):
            np.testing.assert_array_equal(a, b)
    probe = Stream(0).child(2).normal((100, 100))
    with tinygan.threads(1):
        made = SIGNED.invert(parsed(tmp_path)[2].generator(error.players.generator, probe))
    np.testing.assert_array_equal(np.load(tmp_path / "samples.npy"), made)


def test_a_run_that_diverges_at_once_says_why(tmp_path, quick):
    with pytest.raises(SystemExit, match="nothing was learned: iteration 1: the generator's step"):
        run(tmp_path, "--lr-d", "1e6")


@pytest.mark.parametrize("options", [["--every", "1"], ["--every", "50"]])
def test_a_generator_that_overflows_is_an_error_that_says_why(tmp_path, quick, options):
    """Its weights are finite and its samples are not: the files are written all the same."""
    with np.errstate(all="ignore"), pytest.raises(SystemExit, match="stopped early: iteration 2"):
        run(tmp_path, "--lr-g", "1e20", "--steps", "50", *options)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["steps_done"] == 1 and "the generator's rate" in report["stopped"]
    assert {path.name for path in tmp_path.iterdir()} == FILES | {"samples_000001.png"}
