"""Every system of the papers as a user trains it: its settings, its files, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image
from test_examples import load, read_history

import tinygan as tg
from tinygan import loop, losses, metrics, models, nn, ops, optim, penalties, spectral
from tinygan.train import normal_prior, uniform_prior
from tinygan.tree import leaves

train = load("train")
points = load("epsilon_optimal")
every = load("all_systems")
games, PRESETS = train.games, train.PRESETS

FILES = {
    "samples.npy", "samples.png", "curves.png", "history.csv", "metrics.json", "generator.npz"
}  # fmt: skip
SMALL = {"hidden": "8", "width": ".0625", "batch": "8", "filters": "8", "pieces": "2"}
KINDS = {p.kind: name for name, p in reversed(PRESETS.items())}  # the first of each kind
DRAWN = {*KINDS.values(), "dirac-gan", "p4-dcgan"}


@pytest.fixture
def quick(monkeypatch):
    """Fewer samples, no pictures by matplotlib, no scores of images: for tests of all else."""
    for name in ("columns", "points", "trajectory"):
        monkeypatch.setattr(train.plots, name, lambda file, **kwargs: None)
    monkeypatch.setattr(train, "POINTS", 200)
    monkeypatch.setattr(train, "JUDGED", 10)
    score = train.scores
    monkeypatch.setattr(train, "scores", lambda what, a: {} if what.images else score(what, a))


@pytest.fixture
def runs(monkeypatch):
    """What every training was given and what came of it; it goes on as it would."""
    found = []

    def watched(game, players, data, steps, stream, **kwargs):
        done = loop.run(game, players, data, steps, stream, **kwargs)
        found.append({"game": game, "start": players, "steps": steps, "done": done, **kwargs})
        return done

    monkeypatch.setattr(train, "run", watched)
    return found


@pytest.fixture
def idle(monkeypatch):
    """Training is an error: whatever is refused must be refused before it."""

    def no(*args, **kwargs):
        raise AssertionError("training was not to begin")

    monkeypatch.setattr(train, "run", no)


def small(name, *options):
    """Options for a run of two iterations of small networks, where none are given."""
    preset = PRESETS[name]
    changes = {"steps": "2"} | ({"threads": "1"} if preset.data == "digits" else {})
    takes = train.options(preset)
    for setting, value in SMALL.items():
        if setting in takes and (setting in ("hidden", "width", "batch") or (
            preset.settings.get(setting) is not None
        )):  # fmt: skip
            changes[setting] = value
    if preset.data in games.POINTS:
        changes.pop("batch", None)
    given = [x for k, v in changes.items() if f"--{k}" not in options for x in (f"--{k}", v)]
    return ["--system", name, "--quiet", *given, *options]


def trained(out, name, *options):
    train.main([*small(name, *options), "--out", str(out)])
    return json.loads((out / "metrics.json").read_text())


def refused(capsys, *options):
    """The message with which the options are refused."""
    with pytest.raises(SystemExit) as stop:
        train.main([*options, "--quiet"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and said.count("error:") == 1
    return said.partition("error: ")[2]


def built(name, **changes):
    """The game of a preset as its source has it."""
    preset = PRESETS[name]
    what = games.open_data(preset.data, **{**games.DATA, **preset.opened})
    settings = {**games.settings_of(preset.kind), **preset.settings, **changes}
    return games.build(preset.kind, what, settings, preset.steps)


def counts(*nets):
    return tuple(models.count_parameters(net.init(tg.Stream(0))) for net in nets)


# Every system, small


@pytest.mark.parametrize("name", PRESETS)
def test_every_system_runs_and_writes_its_files(tmp_path, request, monkeypatch, name, runs):
    monkeypatch.setattr(train, "JUDGED", 50)
    if name not in DRAWN:
        request.getfixturevalue("quick")
    preset = PRESETS[name]
    report = trained(tmp_path, name, "--short", "--seed", "5")
    extra = {"average.npz"} if "ema" in preset.settings else set()
    assert {path.name for path in tmp_path.iterdir()} == FILES | extra
    game, players = runs[0]["game"], runs[0]["done"].players
    rows = read_history(tmp_path)
    assert list(rows[0]) == ["step", *game.names]
    assert [row["step"] for row in rows] == ["1", "2"]
    assert report["last"] == {k: float(v) for k, v in rows[-1].items()}
    assert (report["system"], report["seed"], report["source"]) == (name, 5, preset.source)
    assert report["steps_done"] == report["steps"] == 2 and report["stopped"] is None
    assert report["short"] is True and report["mode"] == "compiled"
    assert set() < report["settings"].keys() <= set(train.options(preset))
    if name in DRAWN:
        for file in ("samples.png", "curves.png"):
            with Image.open(tmp_path / file) as picture:
                assert picture.format == "PNG" and len(picture.convert("L").getcolors()) > 20

    samples = np.load(tmp_path / "samples.npy")
    what = games.open_data(preset.data, **{**games.DATA, **preset.opened})
    assert samples.shape == (100 if what.images else train.POINTS, *what.shape)
    assert np.isfinite(samples).all()
    if what.images and what.scaling.name == "signed":
        assert abs(samples).max() <= 1

    stream = tg.Stream(5)  # the saved weights make the samples
    start = game.init(stream.child(0), samples.dtype)
    for a, b in zip(leaves(start), leaves(runs[0]["start"]), strict=True):
        np.testing.assert_array_equal(a, b)
    saved, made_by = tg.load_weights(tmp_path / "generator.npz", like=start.generator)
    assert made_by["system"] == name and made_by["settings"] == report["settings"]
    for a, b in zip(leaves(saved), leaves(players.generator), strict=True):
        np.testing.assert_array_equal(a, b)
    again = start._replace(generator=saved)
    if extra:
        average, _ = tg.load_weights(tmp_path / "average.npz", like=start.average._asdict())
        again = again._replace(average=type(start.average)(**average))
    with tg.threads(1):
        made = train.generated(game, again, len(samples), stream.child(2))
    np.testing.assert_array_equal(made, samples)


@pytest.mark.parametrize("name", [*KINDS.values(), "dirac-gan", "p4-wgan", "p3-mnist"])
def test_an_eager_run_is_the_compiled_one_to_rounding(tmp_path, quick, name, runs):
    reports = [trained(tmp_path / "a", name), trained(tmp_path / "b", name, "--eager")]
    assert [report["mode"] for report in reports] == ["compiled", "eager"]
    assert [run["compiled"] for run in runs] == [True, False]
    a, b = (np.load(tmp_path / folder / "samples.npy") for folder in "ab")
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=3e-3)  # Adam: a tiny slope takes a whole step
    for x, y in zip(*(report["last"].values() for report in reports), strict=True):
        assert x == pytest.approx(y, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("name", ["gan", "gan-instance-noise", "dcgan28", "ac-gan", "mdgan"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path, quick, name):
    for folder, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        trained(tmp_path / folder, name, "--seed", seed)
    for file in ("samples.npy", "history.csv"):
        a, b, c = ((tmp_path / folder / file).read_bytes() for folder in "abc")
        assert a == b != c


@pytest.mark.parametrize("data", games.PLANE)
def test_a_system_of_the_plane_learns_every_set_of_it(tmp_path, quick, data):
    assert trained(tmp_path, "gan", "--data", data)["scores"]["sliced_w1"] > 0


def test_a_system_on_its_own_images(tmp_path, quick):
    """Grey ones become colour ones, and get a border, as far as the networks ask for it."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    np.save(tmp_path / "mine.npy", pixels)
    trained(tmp_path / "out", "p4-dcgan", "--data", str(tmp_path / "mine.npy"))
    assert np.load(tmp_path / "out" / "samples.npy").shape == (100, 32, 32, 3)


def test_a_run_on_the_stand_in_for_a_gpu_equals_the_run_on_the_cpu(tmp_path, quick, stand_in):
    for device in ("gpu", "cpu"):
        trained(tmp_path / device, "gan", "--device", device)
    gpu, cpu = (np.load(tmp_path / device / "samples.npy") for device in ("gpu", "cpu"))
    np.testing.assert_allclose(gpu, cpu, rtol=1e-4, atol=1e-5)


def test_infogan_without_continuous_codes_trains_and_shows_its_categories(tmp_path, quick, runs):
    report = trained(tmp_path, "infogan", "--continuous", "0")
    assert runs[0]["game"].continuous == 0 == report["settings"]["continuous"]
    assert np.load(tmp_path / "samples.npy").shape == (100, 28, 28, 1)


@pytest.mark.parametrize(
    "name, options, there, not_there",
    [
        ("gan", "", "hidden init betas loss penalty", "weight penalise width filters same_batch"),
        ("gan", "--penalty 1-gp --critic-steps 2", "weight penalise same_batch", "clip_everything"),
        ("wgan", "", "clip clip_everything same_batch", "betas weight model"),
        ("p4-dcgan", "", "width norm average betas filters", "init hidden depth pieces model"),
        ("p4-dcgan", "--generator perceptron", "generator width", "filters"),
        ("dirac-gan", "", "loss lr_g lr_d critic_steps", "batch prior same_batch latent hidden"),
        ("gan-simultaneous", "", "hidden batch", "critic_steps instance_noise anneal"),
    ],
)
def test_only_the_settings_that_are_used_are_reported(
    tmp_path, quick, name, options, there, not_there
):
    settings = trained(tmp_path, name, *options.split())["settings"]
    assert settings.keys() >= set(there.split()) and not settings.keys() & set(not_there.split())


def test_the_data_are_reported_as_they_were_opened(tmp_path, quick):
    assert trained(tmp_path / "a", "gan-0gp")["data"] == {"name": "8gaussians", "scale": 10.0}
    assert trained(tmp_path / "b", "gan-0gp", "--data", "ring")["data"] == {"name": "ring"}


# Their settings


@pytest.mark.parametrize("name", PRESETS)
def test_every_setting_of_a_system_is_known_to_it(name):
    preset = PRESETS[name]
    known = games.settings_of(preset.kind)
    assert preset.settings.keys() <= known.keys()
    assert preset.short.keys() - {"steps"} <= set(train.options(preset))
    assert preset.opened.keys() <= games.DATA.keys()
    assert preset.about and preset.source and preset.kind in games.SYSTEMS


def test_every_option_belongs_to_a_system_and_every_setting_has_one():
    taken = {setting for preset in PRESETS.values() for setting in train.options(preset)}
    assert taken == train.OPTIONS.keys()
    known = {setting for kind in games.SYSTEMS for setting in games.settings_of(kind)}
    assert known == train.OPTIONS.keys() | {"model"}
    assert {p.kind for p in PRESETS.values()} == games.SYSTEMS.keys()


@pytest.mark.parametrize("name", PRESETS)
def test_the_settings_reach_the_game(name):
    """In full size, and each where it belongs: rates, steps and weights are easily exchanged."""
    game, preset = built(name), PRESETS[name]
    settings = {**games.settings_of(preset.kind), **preset.settings}
    gan = getattr(game, "gan", game)
    by_name = (
        "batch", "critic_steps", "generator_steps", "same_batch", "generator_first", "unroll",
        "zero_sum", "average", "clip", "clip_everything", "ema", "continuous", "saturating",
        "distance_weight", "margin", "pulling_weight", "gamma", "balance_rate",
    )  # fmt: skip
    for setting in settings.keys() & set(by_name):
        holder = game if hasattr(game, setting) else gan
        assert getattr(holder, setting) == settings[setting], setting
    if preset.kind == "mdgan":
        rates = game.generator_optimizer, game.encoder_optimizer
        assert [x.rate for x in rates] == [settings["lr_g"]] * 2
        rates = game.manifold_critic_optimizer, game.diffusion_critic_optimizer
        assert [x.rate for x in rates] == [settings["lr_d"]] * 2
    else:
        rates = gan.generator_optimizer.rate, gan.critic_optimizer.rate
        assert rates == (settings["lr_g"], settings["lr_d"])
    if "prior" in settings:
        assert game.prior is games.PRIORS[settings["prior"]]
    if "regulariser" in settings:
        assert game.weight == settings["regulariser"]
    if settings.get("penalty", "none") not in ("none", "two-term"):
        make = games.PENALTIES[settings["penalty"]]
        of = ops.sigmoid if settings["penalise"] == "probability" else None
        assert gan.penalty == make(settings["weight"], of)
    if settings.get("penalty") == "none":
        assert gan.penalty is None


def test_the_networks_have_the_papers_numbers_of_parameters():
    for name in ("p4-dcgan", "p4-wgan"):
        gan = built(name).gan
        assert counts(gan.critic, gan.generator) == (694_656, 12_140_032)
    game = built("ac-gan")
    assert counts(game.critic, game.generator) == (1_663_867, 2_993_760)
    assert counts(built("ac-gan-variant").generator) == (1_593_888,)
    gan = built("dcgan28", latent=128).gan  # P0 says 100, WGAN-GP's networks have 128
    assert counts(gan.generator, gan.critic) == (1_554_177, 1_030_145)
    assert counts(built("dcgan28").gan.generator) == (1_554_177 - 28 * 4096,)
    gan = built("gan-0gp").gan
    assert (gan.generator, gan.critic) == tuple(models.zero_gp_toy(512))
    gan = built("wgan-gp").gan
    assert (gan.generator, gan.critic) == tuple(models.wgan_gp_toy())
    gan = built("p3-mnist").gan
    hidden = 2 * (512 * 512 + 512)
    assert counts(gan.generator) == (50 * 512 + 512 + hidden + 512 * 784 + 784,)
    assert counts(gan.critic) == (784 * 512 + 512 + hidden + 512 + 1,)
    for name in ("unrolled-ring", "gan-unrolled"):
        gan = built(name).gan
        assert (gan.generator, gan.critic) == tuple(models.unrolled_ring())


ADAM = optim.Adam(2e-4, (0.5, 0.999))
PAPER = {  # what docs say of the runs: both optimisers (G, D), batch, critic steps, and more
    "gan-0gp": (optim.SGD(3e-3), optim.SGD(3e-3), 128, 1, {"weight": 10.0}),
    "gan-0gp-100": (optim.SGD(3e-3), optim.SGD(3e-3), 128, 1, {"weight": 100.0}),
    "gan-1gp": (optim.SGD(3e-3), optim.SGD(3e-3), 128, 1, {"weight": 10.0}),
    "gan-0gp-sample": (optim.SGD(3e-3), optim.SGD(3e-3), 128, 1, {"weight": 10.0}),
    "gan-ttur": (optim.SGD(3e-3), optim.SGD(9e-3), 128, 1, {"weight": 10.0}),
    "p3-mnist": (*[optim.Adam(3e-4, (0.5, 0.9))] * 2, 64, 5, {"weight": 100.0}),
    "wgan-gp": (*[optim.Adam(1e-4, (0.5, 0.9))] * 2, 256, 5, {"weight": 0.1}),
    "wgan": (
        *[optim.RMSProp(5e-5)] * 2, 64, 5,
        {"clip": 0.01, "clip_everything": False, "same_batch": False, "loss": losses.WASSERSTEIN},
    ),
    "wgan-same-batch": (
        *[optim.RMSProp(5e-5)] * 2, 64, 5,
        {"clip": 0.01, "clip_everything": False, "same_batch": True, "loss": losses.WASSERSTEIN},
    ),
    "p4-wgan": (
        *[optim.RMSProp(5e-5)] * 2, 64, 5,
        {"clip": 0.01, "clip_everything": True, "same_batch": False, "loss": losses.WASSERSTEIN},
    ),
    "p4-dcgan": (ADAM, ADAM, 128, 1, {"average": True, "loss": losses.NON_SATURATING}),
    "dcgan28": (
        ADAM, ADAM, 64, 1,
        {"average": False, "penalty": penalties.one_gp(1.0), "prior": uniform_prior,
         "loss": losses.NON_SATURATING},
    ),
    "dcgan28-0gp": (
        *[optim.Adam(5e-4, (0.5, 0.999))] * 2, 64, 1,
        {"average": False, "penalty": penalties.zero_gp(1.0), "prior": normal_prior},
    ),
    "dcgan64": (
        ADAM, ADAM, 128, 1,
        {"average": False, "penalty": None, "prior": uniform_prior, "loss": losses.NON_SATURATING},
    ),
    "gan-d-inner": (
        *[optim.Adam(r, (0.5, 0.9)) for r in (1e-3, 2e-3)], 128, 10,
        {"generator_steps": 1, "penalty": None, "clip": None},
    ),
    "gan-g-inner": (
        *[optim.Adam(r, (0.5, 0.9)) for r in (1e-3, 2e-3)], 128, 1,
        {"generator_steps": 10, "penalty": None, "clip": None},
    ),
    "wgan-lp": (*[optim.Adam(1e-4, (0.5, 0.9))] * 2, 256, 5, {"weight": 10.0}),
    "dragan": (*[optim.Adam(r, (0.5, 0.9)) for r in (1e-3, 2e-3)], 128, 1, {"weight": 10.0}),
    "unrolled-ring": (
        optim.Adam(1e-3, (0.5, 0.999)), optim.Adam(1e-4, (0.5, 0.999)), 512, None,
        {"loss": losses.MINIMAX, "prior": normal_prior},
    ),
    "gan-unrolled": (
        optim.Adam(1e-3, (0.5, 0.999)), optim.Adam(1e-4, (0.5, 0.999)), 512, None,
        {"loss": losses.MINIMAX, "unroll": 5, "zero_sum": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAPER)
def test_the_settings_are_the_papers(name):
    g, d, batch, critic_steps, more = PAPER[name]
    game = built(name)
    assert (game.gan.generator_optimizer, game.gan.critic_optimizer) == (g, d)
    assert game.batch == batch and getattr(game, "critic_steps", None) == critic_steps
    holders = (game, game.gan, game.gan.penalty)
    for setting, value in more.items():
        found = [getattr(holder, setting) for holder in holders if hasattr(holder, setting)]
        assert found == [value], setting


def test_the_settings_of_the_other_games_are_the_papers():
    game = built("ac-gan")
    assert (game.generator_optimizer, game.critic_optimizer) == (ADAM, ADAM)
    assert (game.batch, game.classes) == (100, 10)
    assert game.critic.layers["dropout0"] == nn.Dropout(0.5)
    assert built("regularized-gan").mode_weight == 0.4
    assert built("mdgan").weight == 0.01 and built("ebgan").pulling_weight == 0.1
    game = built("began")
    assert game.balance_rate == 0.001 and 0.3 <= game.gamma <= 0.7
    game = built("infogan")  # Chen et al. for MNIST: 62 of noise, a category of ten, two numbers
    assert (game.latent, game.categories, game.continuous, game.batch) == (62, (10,), 2, 128)
    assert game.generator_optimizer == optim.Adam(1e-3, (0.5, 0.999))
    assert game.critic_optimizer == optim.Adam(2e-4, (0.5, 0.999))


# Of P2's ablation and P0's variants: what there is in D and in G, with the numbers of channels.
D32 = "conv32 leaky_relu conv64 {0}leaky_relu conv128 {0}leaky_relu conv256 {0}leaky_relu conv1 row"
D32_NORM, D32_PLAIN = D32.format("batch "), D32.format("")
D28 = "conv64 leaky_relu conv128 leaky_relu conv256 leaky_relu row linear1"
G32 = "image up1024 batch relu up512 batch relu up256 batch relu up3 tanh"
G32_SAME = "image up256 relu up256 relu up256 relu up3 tanh"
FOUR = "linear512 relu " * 4
MLP32, MLP28 = FOUR + "linear3072 image tanh", FOUR + "linear784 image tanh"
VARIANTS = {
    "ablation-gan-dcgan": (D32_NORM, G32),
    "ablation-gan-no-norm": (D32_PLAIN, G32_SAME),
    "ablation-gan-mlp": (D32_NORM, MLP32),
    "ablation-wgan-dcgan": (D32_NORM, G32),
    "ablation-wgan-no-norm": (D32_PLAIN, G32_SAME),
    "ablation-wgan-mlp": (D32_NORM, MLP32),
    "p0-constant-filters": (D28, "linear2048 image relu up128 relu up128 relu up1 tanh"),
    "p0-mlp": (D28, MLP28),
    "p0-tanh": (
        D28.replace("leaky_relu", "tanh"), "linear4096 image tanh up128 tanh up64 tanh up1 tanh",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_the_ablation_and_p0s_variants_are_what_their_names_say(name):
    words = {
        nn.Conv: "conv", nn.ConvTranspose: "up", nn.Linear: "linear", nn.BatchNorm: "batch",
        nn.Flatten: "row", nn.Reshape: "image",
    }  # fmt: skip

    def told(net):
        kinds = [words[type(x)] if type(x) in words else x.__name__ for x in net.layers.values()]
        sizes = [str(getattr(x, "outputs", "")) for x in net.layers.values()]
        return " ".join(map("".join, zip(kinds, sizes, strict=True)))

    game = built(name)
    gan = game.gan
    assert (told(gan.critic), told(gan.generator)) == VARIANTS[name]
    assert gan.generator.output == gan.critic.input and game.batch == 64
    sides = gan.generator_optimizer, gan.critic_optimizer
    if "wgan" in name:
        assert sides == (optim.RMSProp(5e-5),) * 2 and gan.loss == losses.WASSERSTEIN
        assert gan.clip == 0.01 and gan.clip_everything is ("no-norm" not in name)
        assert (game.critic_steps, gan.average, gan.penalty) == (5, False, None)
    else:
        assert sides == (ADAM, ADAM) and gan.loss == losses.NON_SATURATING
        assert gan.clip is None and game.critic_steps == 1
        p0 = name.startswith("p0")
        assert (gan.average, gan.penalty) == (not p0, penalties.one_gp(1.0) if p0 else None)
        assert game.prior is (uniform_prior if p0 else normal_prior)


@pytest.mark.parametrize("name", ["gan-0gp", "gan-1gp", "gan-0gp-sample", "p3-mnist"])
def test_p3s_penalty_is_on_the_probability(name):
    assert built(name).gan.penalty.of is ops.sigmoid
    assert built("dcgan28").gan.penalty.of is None


def test_p3s_ring_has_its_scale_unless_other_data_are_asked_for(tmp_path, idle):
    for options, radius in (([], 7.071), (["--data", "ring"], 1.0)):
        _, _, _, _, what, _ = train.parse(["--system", "gan-0gp", *options, "--out", str(tmp_path)])
        assert what.plane.radius == pytest.approx(radius, rel=1e-3)


@pytest.mark.parametrize("name, radius", [("dirac-gan", 1.4210189), ("dirac-gan-r1", 2.30091e-7)])
def test_the_dirac_gan_ends_where_theory_says(tmp_path, quick, name, radius, runs):
    trained(tmp_path, name, "--steps", "500")
    players = runs[0]["done"].players
    (theta,), (psi,) = leaves(players.generator)[0], leaves(players.critic)[0]
    assert np.hypot(theta, psi) == pytest.approx(radius, rel=1e-4)


def test_an_option_goes_before_short_and_short_before_the_system(tmp_path):
    name, preset = "p3-mnist", PRESETS["p3-mnist"]
    short = preset.short["hidden"], preset.short["steps"]
    own = preset.settings["hidden"], preset.steps

    def parsed(*options):
        out = ["--system", name, *options, "--out", str(tmp_path)]
        _, _, settings, steps, _, game = train.parse(out)
        assert settings["hidden"] == game.gan.critic.layers["linear0"].outputs
        return settings["hidden"], steps

    assert parsed() == own != short and short[0] < own[0]
    assert parsed("--short") == short
    assert parsed("--short", "--hidden", "16") == (16, short[1])
    assert parsed("--short", "--steps", "7") == (short[0], 7)
    assert parsed("--hidden", "16") == (16, own[1])


def test_a_flag_can_be_taken_back(tmp_path):
    for options, expected in (([], True), (["--no-average"], False)):
        game = train.parse(["--system", "p4-dcgan", *options, "--out", str(tmp_path)])[-1]
        assert game.gan.average is expected


def test_options_reach_the_networks(tmp_path):
    def gan(name, *options):
        return train.parse(["--system", name, *options, "--out", str(tmp_path)])[-1].gan

    found = gan("gan", "--ema", ".9", "--norm", "layer", "--critic-norm", "none")
    assert found.ema == 0.9
    norms = [
        [layer for layer in net.layers.values() if isinstance(layer, nn.LayerNorm)]
        for net in (found.generator, found.critic)
    ]
    assert [len(layers) for layers in norms] == [3, 0]
    both = gan("gan", "--norm", "layer")
    assert sum(isinstance(x, nn.LayerNorm) for x in both.critic.layers.values()) == 3
    assert spectral.has_spectral_norm(gan("gan", "--spectral-norm").critic)
    noisy = gan("gan", "--instance-noise", ".5", "--layer-noise", ".1").critic.layers
    deviations = [x.deviation for x in noisy.values() if isinstance(x, nn.Noise)]
    assert deviations == [0.5, 0.1, 0.1, 0.1]
    noisy = gan("gan", "--layer-noise", ".1").generator.layers
    assert sum(isinstance(x, nn.Noise) for x in noisy.values()) == 3
    assert gan("p4-dcgan", "--generator", "perceptron", "--latent", "7").generator.input == (7,)
    channels = [x.outputs for x in gan("dcgan28", "--filters", "9").generator.layers.values()
                if isinstance(x, nn.ConvTranspose)]  # fmt: skip
    assert channels == [9, 9, 1]
    found = train.parse(["--system", "infogan", "--continuous", "0", "--out", str(tmp_path)])[-1]
    assert found.generator.input == (62 + 10,) and found.critic.output == (1 + 10,)
    smooth = gan("gan", "--label-smoothing", ".1").loss
    one = np.zeros((1, 1))
    expected = losses.label_smoothed(0.9, 0.0).critic(one + 1, one)
    assert smooth.critic(one + 1, one) == expected != losses.NON_SATURATING.critic(one + 1, one)


def test_noise_and_rates_fall_over_the_run(tmp_path, quick, runs):
    trained(tmp_path, "gan-instance-noise", "--steps", "10")
    game, schedule = runs[0]["game"], runs[0]["schedule"]
    levels = [game.noise_level(step) for step in (0, 5, 10)]
    assert levels == [1.0, 0.5, 0.0]
    assert [schedule(step) for step in (0, 5, 10)] == [1.0, 1.0, 0.0]
    trained(tmp_path, "gan-instance-noise", "--no-decay")
    assert runs[1]["schedule"] is None


def test_a_generator_that_cannot_reach_the_images_is_refused():
    """A tanh never makes 2.82, the full brightness of normalised digits."""
    preset = PRESETS["dcgan28"]
    what = games.open_data("digits", scaling="normalised")
    settings = {**games.settings_of(preset.kind), **preset.settings}
    with pytest.raises(ValueError, match="cannot reach them all"):
        games.build(preset.kind, what, settings, 10)
    signed = games.open_data("digits")
    assert games.build(preset.kind, signed, settings, 10).gan.generator.reach == (-1, 1)


# What is printed and reported


def test_the_list_names_every_system_with_its_source(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["--list"])
    assert not stop.value.code
    lines = capsys.readouterr().out.splitlines()
    told = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert list(told) == list(PRESETS)
    for name, preset in PRESETS.items():
        assert preset.about in told[name] and told[name].endswith(preset.source)
    rows = (
        "gan-minimax", "gan", "wgan", "lsgan", "hinge-gan", "ac-gan", "regularized-gan", "mdgan",
        "ebgan", "began", "infogan", "linear-game", "dirac-gan",
    )  # fmt: skip
    assert told.keys() >= set(rows)  # every objective that the papers name
    wanted = [losses.MINIMAX, losses.NON_SATURATING, losses.WASSERSTEIN, losses.LEAST_SQUARES]
    assert [built(name).gan.loss for name in rows[:5]] == [*wanted, losses.HINGE]


def test_the_scores_are_those_of_the_samples(tmp_path, quick):
    found = trained(tmp_path, "gan", "--steps", "20")["scores"]
    samples = np.load(tmp_path / "samples.npy")
    ring = games.open_data("8gaussians").plane
    offsets = np.linalg.norm(samples[:, None] - ring.centres, axis=2).min(axis=1)
    assert found["share within 5%"] == np.mean(offsets <= 0.05 * ring.radius)
    assert found["share within 3σ"] == np.mean(offsets <= 3 * ring.deviation)
    assert found["modes within 3σ"] == metrics.mode_coverage(samples, ring).modes


def test_pictures_of_digits_are_judged_without_their_border():
    small, large = games.open_data("digits").images, games.open_data("digits", size=64).images
    colour = games.open_data("digits", size=32, channels=3).images
    for images in (small, large, colour):
        np.testing.assert_array_equal(train.as_digits(images.pixels[:20]), small.pixels[:20])


def test_a_run_says_what_it_does_and_what_came_of_it(tmp_path, capsys):
    options = [x for x in small("gan") if x != "--quiet"]
    train.main([*options, "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "gan: the standard GAN, non-saturating" in said and "2 iterations" in said
    assert "sliced_w1" in said and str(tmp_path) in said


# How a run ends


def test_ctrl_c_keeps_what_was_done(tmp_path, quick, monkeypatch):
    stopping = {"at": 4}

    def interrupted(*args, watch, **kwargs):
        def stop(step, players):
            watch(step, players)
            if step == stopping["at"]:
                raise KeyboardInterrupt

        return loop.run(*args, watch=stop, **kwargs)

    monkeypatch.setattr(train, "run", interrupted)
    report = trained(tmp_path / "a", "gan", "--steps", "9")
    assert report["steps_done"] == 4 and report["steps"] == 9 and report["stopped"] == "Ctrl-C"
    assert len(read_history(tmp_path / "a")) == 4
    assert {path.name for path in (tmp_path / "a").iterdir()} == FILES
    stopping["at"] = 0
    with pytest.raises(SystemExit, match="nothing was learned: Ctrl-C"):
        trained(tmp_path / "b", "gan")
    assert not list((tmp_path / "b").iterdir())


def test_a_run_that_diverges_says_why_and_keeps_what_was_finite(tmp_path, quick):
    options = ["--loss", "wasserstein", "--optimizer", "sgd", "--lr-d", "1000", "--steps", "60"]
    with np.errstate(all="ignore"), pytest.raises(SystemExit) as stop:
        trained(tmp_path, "gan", *options)
    assert stop.value.code.startswith("stopped early: ") and "finite" in stop.value.code
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert "Lower the" in report["stopped"] and 0 < report["steps_done"] < 60
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert np.isfinite(np.load(tmp_path / "samples.npy")).all()


# What it refuses


def write_images(folder):
    """Files of images that some systems cannot use."""
    rng = np.random.default_rng(0)
    for name, shape in {"grey": (28, 28), "colour": (28, 28, 3), "large": (40, 40)}.items():
        np.save(folder / f"{name}.npy", rng.integers(0, 256, (20, *shape), np.uint8))
    few = np.arange(20) % 3
    np.save(folder / "floats.npy", rng.random((20, 28, 28)))
    labels = {"negative": few - 1, "gap": few + 10 * (few == 2), "one": 0 * few, "part": few / 2}
    pixels = rng.integers(0, 256, (20, 28, 28), np.uint8)
    for name, row in labels.items():
        np.savez(folder / f"{name}.npz", images=pixels, labels=row)
    (folder / "file").write_text("")


@pytest.mark.parametrize(
    "options, messages",
    [
        ("--seed 3", "--system is missing: which one? --list names them"),
        ("--system gann", "--system: invalid choice: 'gann' (choose from"),
        ("--system ac-gan --unroll 3",
         "--system ac-gan: --unroll is nothing that this system has; systems that have it: "
         "gan-unrolled\n"),
        ("--system gan --width .5",
         "--width is nothing that | systems that have it: ac-gan, | more\n"),
        ("--system p4-dcgan --hidden 8", "--hidden is nothing that this system has"),
        ("--system gan-simultaneous --critic-steps 2", "--critic-steps is nothing that"),
        ("--system dirac-gan --instance-noise .1", "--instance-noise is nothing that"),
        ("--system dirac-gan --batch 5", "--batch is nothing that this system has"),
        ("--system dirac-gan --prior one", "--prior is nothing that this system has"),
        ("--system dirac-gan --same-batch", "--same-batch is nothing that this system has"),
        ("--system mdgan --width 1", "--width is nothing that this system has"),
        ("--system gan --norm batch --penalty 1-gp",
         "--penalty 1-gp with batch norm in the critic | Use --critic-norm layer or none"),
        ("--system p4-dcgan --penalty 0-gp", "--penalty 0-gp with batch norm | --penalty none"),
        ("--system gan --data digits",
         "--data digits is nothing that this system can learn; expected a set of the plane: 8gau"),
        ("--system p4-dcgan --data 8gaussians",
         "--data 8gaussians is nothing that | expected images: 'digits', or a path"),
        ("--system infogan --data ring", "--data ring is nothing that | expected images"),
        ("--system mdgan --data vector", "--data vector is nothing that | expected images"),
        ("--system gan --data point", "--data point is nothing that | a set of the plane"),
        ("--system dirac-gan --data 8gaussians", "expected point, which its networks are made"),
        ("--system linear-game --data point", "expected vector, which its networks are made for"),
        ("--system ac-gan --data {}/grey.npy",
         "grey.npy has no labels, which this system needs; expected MNIST's"),
        ("--system dcgan28 --data {}/colour.npy",
         "images of (28, 28, 3); this system expects (28, 28, 1). Take another --system"),
        ("--system dcgan28 --data {}/large.npy", "images of (40, 40, 1); this system expects"),
        ("--system dcgan28 --data {}/floats.npy",
         "--data | floats.npy: images of float64; expected bytes, uint8 from 0 to 255 | rint"),
        ("--system dcgan28 --data {}/none.npy", "none.npy: no such file or folder"),
        ("--system ac-gan --data {}/negative.npz",
         "labels from -1 to 1 for 3 classes; expected 0 to 2, each at least once. Number"),
        ("--system ac-gan --data {}/gap.npz", "labels from 0 to 12 for 3 classes; expected 0 to 2"),
        ("--system ac-gan --data {}/one.npz",
         "--data | one.npz has one class, 0, in all its labels; expected two or more. Take a"),
        ("--system ac-gan --data {}/part.npz", "labels is an array of float64 | whole numbers"),
        ("--system wgan --spectral-norm", "--clip with --spectral-norm | Take one of them"),
        ("--system original-gan --spectral-norm",
         "--pieces 5 with --spectral-norm, which | Take one of them"),
        ("--system gan --anneal", "--anneal lets noise fall to 0; expected --instance-noise or"),
        ("--system wgan --label-smoothing .1",
         "--label-smoothing with --loss wasserstein, which has no labels; expected minimax or"),
        ("--system dcgan28 --norm batch",
         "--norm batch with images of 28×28, whose networks have no norms; expected --norm none"),
        ("--system dcgan28 --norm layer", "--norm layer with images of 28×28"),
        ("--system dcgan28 --critic-norm layer", "expected --critic-norm none, or a --system"),
        ("--system p4-dcgan --latent 50", "--latent 50 with images of 32×32 | --latent 100, or"),
        ("--system gan-unrolled --optimizer rmsprop",
         "--optimizer rmsprop with --unroll | expected adam or sgd"),
        ("--system gan --weight 3",
         "--weight changes nothing without --penalty; expected a --penalty, or no --weight"),
        ("--system gan --penalise logit", "--penalise changes nothing without --penalty; expected"),
        ("--system gan --clip-everything", "--clip-everything changes nothing without --clip;"),
        ("--system wgan --betas .5 .9",
         "--betas changes nothing with --optimizer rmsprop; expected --optimizer adam, or no --be"),
        ("--system dirac-gan --betas .5 .9", "--betas changes nothing with --optimizer sgd"),
        ("--system gan --same-batch",
         "--same-batch changes nothing with --critic-steps 1; expected --critic-steps 2 or more"),
        ("--system p0-mlp --filters 8",
         "--filters changes nothing with --generator perceptron; expected a --system whose"),
        ("--system p4-dcgan --activation leaky-relu",
         "--activation leaky-relu with convolutions; expected relu, which is leaky in the critic"),
        ("--system gan --threads 2",
         "--threads 2 changes nothing without images: points take one thread. Leave it out"),
        ("--system gan --ema 0", "--ema: 0 is not in (0, 1)"),
        ("--system gan --ema much", "--ema: invalid float value: 'much'"),
        ("--system gan --label-smoothing .5", "--label-smoothing: .5 is not in [0, 0.5)"),
        ("--system began --gamma 3", "--gamma: 3 is not in (0, 1]"),
        ("--system began --gamma 0", "--gamma: 0 is not in (0, 1]"),
        ("--system infogan --continuous -1", "--continuous: -1 is not a whole number of at least"),
        ("--system ebgan --batch 1",
         "--batch 1 with the pulling-away term | expected --batch 2 or more"),
        ("--system mdgan --batch 1", "--batch 1 with batch norm | expected --batch 2 or more"),
        ("--system gan --norm batch --batch 1", "--batch 1 with batch norm, which compares"),
        ("--system gan-consensus --layer-noise .1", "--layer-noise is nothing that this system"),
        ("--system gan --out {}/file", "--out | file cannot be written | name another"),
        ("--system gan --steps 0", "--steps: 0 is not a number above 0"),
        ("--system gan --batch -1", "--batch: -1 is not a number above 0"),
        ("--system gan --lr-g nan", "--lr-g: nan is not a number above 0"),
        ("--system gan --instance-noise -1", "--instance-noise: -1 is not a number of at least 0"),
        ("--system gan --hidden 2.5", "--hidden: invalid int value"),
        ("--system gan --betas 0.5 1", "--betas: 1 is not in [0, 1)"),
        ("--system gan --seed -1", "--seed: -1 is no seed"),
        ("--system gan --loss gan", "--loss: invalid choice: 'gan'"),
        ("--system gan --optimiser sgd", "unrecognized arguments: --optimiser sgd"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error_before_any_work(tmp_path, capsys, idle, options, messages):
    write_images(tmp_path)
    given = options.format(tmp_path).split()
    out = [] if "--out" in given else ["--out", str(tmp_path / "out")]
    said = refused(capsys, *given, *out)
    for message in messages.split(" | "):
        assert message in said


def test_asking_for_a_gpu_without_one_is_a_clear_error(tmp_path, capsys, idle, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)  # an import of it fails
    said = refused(capsys, "--system", "gan", "--device", "gpu", "--out", str(tmp_path))
    assert "pip install 'tinygan[cuda13]'" in said


@pytest.mark.parametrize(
    "options, message",
    [
        ("--out {}/file", "file cannot be written: "),
        ("--page {}/new.md --out {}/none", "no run of "),
        ("--page {}/file/new.md", "file/new.md: {}/file/images/systems cannot be written: "),
        ("--page {}", "--page {} is a folder; expected a file"),
        ("--page {}/new.md --only gan", "--page with --only, which the page does not read"),
        ("--only gann", "--only: invalid choice: 'gann'"),
        ("--onl gan", "unrecognized arguments: --onl gan"),
    ],
)
def test_running_all_systems_refuses_bad_input_with_one_clear_error(
    tmp_path, capsys, monkeypatch, options, message
):
    def no(*args):
        raise AssertionError("training was not to begin")

    monkeypatch.setattr(every.train, "main", no)
    (tmp_path / "file").write_text("")
    given = options.replace("{}", str(tmp_path)).split()
    with pytest.raises(SystemExit) as stop:
        every.main([*given, *([] if "--out" in given else ["--out", str(tmp_path / "out")])])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("error:") == 1
    assert message.replace("{}", str(tmp_path)) in said
    assert not (tmp_path / "new.md").exists()


# The ε-optimal discriminator


def epsilon_optimal(out, *options):
    points.main([*options, "--out", str(out)])
    return json.loads((out / "epsilon_optimal.json").read_text())


def test_the_epsilon_optimal_discriminator_is_what_its_proof_says(tmp_path, capsys):
    found = epsilon_optimal(tmp_path, "--real", "3", "--fake", "4", "--seed", "2")
    real, fake = (np.array(found["points"][kind]) for kind in ("real", "fake"))
    assert real.shape == (3, 2) and fake.shape == (4, 2)
    np.testing.assert_allclose(np.linalg.norm([*real, *fake], axis=1), 1)
    assert found["parameters"] == (2 + 1) * (3 + 4)
    assert found["k"] == models.sufficient_k(np.concatenate([real, fake]), 0.6, 0.1)
    model, params = models.epsilon_optimal(real, fake, 0.6, 0.1)
    assert found["margin_real"] == model(params, real).min() - 0.8 >= 0
    assert found["margin_fake"] == 0.2 - model(params, fake).max() >= 0
    assert [(pair["real"], pair["fake"]) for pair in found["pairs"]] == [
        (i, j) for i in range(3) for j in range(4)
    ]
    t = np.linspace(0, 1, 20001)[:, None]
    for pair in found["pairs"]:
        x, y = real[pair["real"]], fake[pair["fake"]]
        assert pair["bound"] == 0.6 / np.linalg.norm(x - y)
        assert pair["slope"] >= pair["bound"]
        v = tg.track(x + t * (y - x))
        slopes = np.linalg.norm(tg.grad_values(ops.sum(model(params, v)), v), axis=1)
        assert pair["slope"] == pytest.approx(slopes.max(), rel=1e-2)
    told = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert told["parameters"] == "21" and told["k"] == f"{found['k']:.6g}"
    steepest = max(pair["slope"] for pair in found["pairs"])
    assert told["largest slope between any two"] == f"{steepest:.6g}"


def test_the_steepest_place_is_found_however_narrow():
    """A logistic of height 1 in a thousandth, ten-thousandth, … of the way."""
    x, y = np.array([0.0, 0.0]), np.array([1.0, 0.3])
    for sharpness in (1e2, 1e4, 1e6):
        found = points.steepest(
            lambda v, k=sharpness: ops.sigmoid(
                ops.matmul(v, np.array([[k], [0.0]])) - np.array(0.3217 * k)
            ),
            x,
            y,
        )
        assert found == pytest.approx(sharpness / 4, rel=1e-3)


def test_its_picture_shows_both_kinds_where_they_are(tmp_path):
    found = epsilon_optimal(tmp_path)
    with Image.open(tmp_path / "epsilon_optimal.png") as picture:
        assert picture.format == "PNG" and picture.size == (1170, 520)
        land = np.asarray(picture.convert("RGB"))[:, :585].reshape(-1, 3)
    for color in ("#56B4E9", "#D55E00"):
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (land == wanted).all(axis=1).sum() > 50
    assert {path.name for path in tmp_path.iterdir()} == {
        "epsilon_optimal.png", "epsilon_optimal.json"
    }  # fmt: skip
    again = epsilon_optimal(tmp_path / "again")
    assert again["points"] == found["points"] and again["pairs"] == found["pairs"]
    assert epsilon_optimal(tmp_path / "other", "--seed", "1")["points"] != found["points"]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--epsilon", "1"], "epsilon is 1.0; expected a gap above 0 and below 1"),
        (["--epsilon", "0"], "epsilon is 0.0; expected a gap above 0 and below 1"),
        (["--epsilon", "nan"], "epsilon is nan"),
        (["--alpha", "0"], "alpha is 0.0; expected it above 0 and at most (1 − ε)/2 = 0.2"),
        (["--alpha", "0.3"], "alpha is 0.3; expected it above 0 and at most (1 − ε)/2 = 0.2"),
        (["--real", "0"], "--real: 0 is not a number above 0"),
        (["--seed", "-1"], "--seed: -1 is no seed"),
    ],
)
def test_choices_outside_their_ranges_are_one_clear_error(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        points.main([*options, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
