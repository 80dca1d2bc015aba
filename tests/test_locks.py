"""Locks between processes: one holder at a time, asked about without disturbing anybody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runs.results.folder import RunFolder
from runs.system.errors import Taken
from runs.system.locks import Held, holder, lock

ROOT = Path(__file__).parents[1]


def test_one_holder_at_a_time(tmp_path):
    path = tmp_path / "deep" / ".lock"
    assert holder(path) is None
    with lock(path):
        assert holder(path).startswith(f"process {os.getpid()} on ")
        with pytest.raises(Held, match=f"process {os.getpid()}"), lock(path):
            pass
        assert holder(path)  # the one who was refused has changed nothing
    assert holder(path) is None and not path.exists()
    with lock(path):
        pass


HOLD = """
import sys, time
from pathlib import Path
from runs.system.locks import lock

with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_released_by_an_error_and_by_death(tmp_path):
    path = tmp_path / ".lock"
    with pytest.raises(ZeroDivisionError), lock(path):
        raise ZeroDivisionError
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    assert holder(path).startswith(f"process {other.pid} on ")
    with pytest.raises(Held), lock(path):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert path.exists() and holder(path) is None  # the file is left, the lock is not
    with lock(path):
        pass


CONTENDER = """
import sys, time
from pathlib import Path
from runs.system.locks import Held, holder, lock

path, counter, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
done = 0
while done < rounds:
    holder(path)
    try:
        with lock(path):
            seen = int(counter.read_text())
            time.sleep(0.0005)
            counter.write_text(str(seen + 1))
            done += 1
    except Held:
        pass
"""


@pytest.mark.slow
def test_nothing_is_lost_between_contenders(tmp_path):
    """The file is removed each time: a contender that has just opened it then holds a lock that nobody else sees."""
    counter, rounds = tmp_path / "counter", 150
    counter.write_text("0")
    words = [sys.executable, "-c", CONTENDER, str(tmp_path / "deep" / ".lock"), str(counter), str(rounds)]
    contenders = [subprocess.Popen(words, cwd=ROOT) for _ in range(3)]
    assert [c.wait() for c in contenders] == [0, 0, 0]
    assert int(counter.read_text()) == 3 * rounds


ASK = """
import sys
from pathlib import Path
from runs.system.locks import holder

print("asking", flush=True)
while True:
    holder(Path(sys.argv[1]))
"""


def test_asking_never_refuses_anybody(tmp_path):
    """Whoever asks takes nothing, not even for a moment, that a run which begins could stumble over."""
    path = tmp_path / ".lock"
    path.touch()
    asking = subprocess.Popen([sys.executable, "-c", ASK, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert asking.stdout.readline()
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            with lock(path):
                pass
    finally:
        asking.kill()
        asking.wait()


def test_a_run_tells_who_trains_it(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.holder() is None and not folder.path.exists()
    with folder.lock():
        assert f"process {os.getpid()}" in folder.holder()
        with pytest.raises(Taken, match=f"another process is training into .*process {os.getpid()}"), folder.lock():
            pass
        assert folder.holder()
    assert folder.holder() is None and not folder.path.exists()
