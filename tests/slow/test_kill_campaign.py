"""A run killed at any moment and resumed is the run that nobody killed: a hundred times, at random."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests import tiny

ROOT = tiny.SOURCE.parent
TRIALS = int(os.environ.get("FROMNOISE_KILLS", "100"))
LOG = os.environ.get("FROMNOISE_KILL_LOG")


@pytest.mark.slow
@pytest.mark.timeout(60 + 60 * TRIALS)
def test_killed_at_random_moments_every_run_ends_as_if_nobody_had_killed_it(tmp_path: Path) -> None:
    """FROMNOISE_KILLS says how many runs, FROMNOISE_KILL_LOG where the log goes."""
    log = Path(LOG) if LOG else tmp_path / "campaign.jsonl"
    result = subprocess.run(
        [sys.executable, "-m", "tests.slow.kill_campaign", "--trials", str(TRIALS), "--log", str(log)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tiny.SOURCE), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    print(result.stdout)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    trials, kills = ([line for line in lines if name in line] for name in ("identical", "kill"))
    assert [line for line in trials if not line["identical"]] == [], result.stderr
    assert result.returncode == 0, result.stderr
    assert len(trials) == TRIALS <= len(kills)
    assert not any(kill["damaged"] for kill in kills)  # A checkpoint is whole or absent.
    if TRIALS >= 100:  # Else chance may have missed some of it.
        assert sum(kill["kind"] == "command" for kill in kills) >= 20
        phases = Counter(kill["phase"] for kill in kills)
        assert len(phases) >= 5 and phases["step"] < len(kills), phases
        found = {kill["checkpoint"] for kill in kills}
        assert None in found and len(found) >= 6, found  # Before the first one, and all over the run.
