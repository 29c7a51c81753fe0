"""What all tests share: Hypothesis profiles, read-only tracked arrays, the backends."""

import os
import sys

import fake_cupy
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tinygan import kernels
from tinygan.engine import Tensor
from tinygan.kernels import launch

_ALWAYS = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
settings.register_profile("dev", max_examples=50, **_ALWAYS)
settings.register_profile("ci", max_examples=200, derandomize=True, **_ALWAYS)
settings.register_profile("intense", max_examples=2000, **_ALWAYS)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_addoption(parser):
    parser.addoption(
        "--emulated",
        action="store_true",
        help="run every test as on a GPU: NumPy arrays go through our kernels in the emulator",
    )


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")


def read_only(array):
    """A view of ``array`` that refuses to be written to; the array itself stays as it is."""
    if type(array) is np.ndarray:
        array = array.view()
        array.flags.writeable = False
    elif type(array) is fake_cupy.ndarray:
        array = fake_cupy.wrap(read_only(array._host), array)
    return array


@pytest.fixture(scope="session", autouse=True)
def tracked_arrays_are_read_only():
    """Every array that a Tensor holds, leaf or result, is read-only: nobody may change one."""
    build = Tensor.__init__

    def __init__(self, data, *args, **kwargs):
        build(self, read_only(data), *args, **kwargs)

    Tensor.__init__ = __init__
    yield
    Tensor.__init__ = build


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--emulated"):
        return
    for item in items:
        marker = item.get_closest_marker("numpy_path")
        if marker:
            item.add_marker(pytest.mark.skip(reason=f"only NumPy's path has {marker.args[0]}"))


launches = {}  # with --emulated: how many kernels each test launched on NumPy arrays


@pytest.fixture(autouse=True)
def as_on_a_gpu(request, monkeypatch):
    """With ``--emulated``, every test runs inside ``kernels.emulated()``."""
    if not request.config.getoption("--emulated"):
        yield
        return
    run, name = launch.run_emulated, request.node.nodeid
    launches[name] = 0

    def counted(kernel, grid, block, args, shared, state=None):
        launches[name] += state is not None  # None: from the stand-in for CuPy
        run(kernel, grid, block, args, shared, state)

    monkeypatch.setattr(launch, "run_emulated", counted)
    with kernels.emulated():
        yield


@pytest.fixture
def nothing_emulated(as_on_a_gpu):
    """For tests that say themselves where NumPy arrays go: ``--emulated`` changes nothing here."""
    token = launch._emulation.set(None)
    yield
    launch._emulation.reset(token)


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--emulated"):
        used = sum(count > 0 for count in launches.values())
        terminalreporter.write_line(
            f"emulated: {used} of {len(launches)} tests launched kernels on NumPy arrays, "
            f"{sum(launches.values())} times in all"
        )


class Backend:
    """One kind of array: ``xp.asarray`` brings a NumPy array there, ``xp.get`` back."""

    def __init__(self, name, module):
        self.name = name
        self.module = module
        self.device = "cpu" if module is np else "gpu"
        self.ndarray = module.ndarray

    def __repr__(self):
        return self.name

    def asarray(self, a, dtype=None):
        return self.module.asarray(a, dtype=dtype)

    def get(self, a):
        assert type(a) is self.ndarray, f"{type(a)} is no array of {self.name}"
        return a if self.module is np else a.get()


@pytest.fixture
def stand_in(monkeypatch):
    """The stand-in installed as ``cupy``: whatever asks for device "gpu" gets it."""
    module = fake_cupy.module()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return Backend("stand-in", module)


@pytest.fixture(params=["numpy", "stand-in", "cupy"])
def xp(request):
    """NumPy; the strict stand-in for CuPy; and CuPy itself where a GPU is."""
    if request.param == "numpy":
        return Backend("numpy", np)
    if request.param == "stand-in":
        return request.getfixturevalue("stand_in")
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"CuPy finds no GPU: {error}")
    if count == 0:
        pytest.skip("CuPy finds no GPU")
    return Backend("cupy", cupy)
