"""What the tests keep, they keep to themselves: no test reads or fills the caches of whoever runs them."""

import os
import subprocess
import sys
from pathlib import Path

from datasets.config import HF_DATASETS_CACHE

from fromnoise.data.cache import LIMIT, Cache

_HOME = os.path.realpath(os.path.expanduser("~/.cache"))


def test_caches_are_temporary_here_and_in_commands_that_tests_start() -> None:
    code = "from fromnoise.data.cache import Cache; print(Cache.from_environment().path)"
    started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    own = Cache.from_environment()
    assert started.stdout.strip() == str(own.path) and own.limit == LIMIT
    for path in (own.path, Path(HF_DATASETS_CACHE)):
        assert not os.path.realpath(path).startswith(_HOME) and "fromnoise-tests-" in str(path)
