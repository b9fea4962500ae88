"""What holds for every test: no network, no screen, the same random numbers in any order, one thread a worker."""

import gc
import os
import signal
import tempfile
from collections.abc import Iterator

UNDER_XDIST = "PYTEST_XDIST_WORKER" in os.environ

# Before torch and matplotlib are imported, and so that the commands which tests start inherit them.
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
_kept = tempfile.TemporaryDirectory(prefix="fromnoise-tests-")  # what would be kept in somebody's home; goes at the end
os.environ["FROMNOISE_CACHE"] = os.path.join(_kept.name, "fromnoise")
os.environ["HF_HOME"] = os.path.join(_kept.name, "huggingface")
os.environ.pop("FROMNOISE_CACHE_LIMIT", None)
# A shell lets what it starts in the background ignore Ctrl-C, and so would all that is started from here.
signal.signal(signal.SIGINT, signal.default_int_handler)
if UNDER_XDIST:  # as many workers as cores: threads of one would only wait for those of another
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("fromnoise", derandomize=True, deadline=None, database=None)
settings.load_profile("fromnoise")

if UNDER_XDIST:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """A test draws the same numbers alone, in the suite, and on whichever worker it lands."""
    torch.manual_seed(0)


@pytest.fixture
def undisturbed() -> Iterator[None]:
    """For tests that send themselves Ctrl-C: no callback of the garbage collector (hypothesis has one) swallows it."""
    gc.disable()
    yield
    gc.enable()
