"""Whatever is done to files of runs: commands end with a line, other runs are shown, no number changes unsaid."""

from __future__ import annotations

import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import BANDIT, CPU, go, quicken

from runs.cli import run
from runs.results.folder import RunFolder, run_path

MUTATIONS = 150
STRANGE: list[Any] = [
    None,
    True,
    -1,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "x",
    "",
    "a\nb\x1b[2J",
    [],
    {},
    [1],
    {"a": 1},
]


def flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 5])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def garbage(rng: random.Random, data: bytes) -> bytes:
    return rng.choice([b"", b"[" * 100_000, b"{}", b"[]", b"null", b"\xff\xfe", rng.randbytes(200), b'{"step": 1}\n'])


def retype(rng: random.Random, data: bytes) -> bytes:
    """One value of JSON becomes another, without a digest that would tell."""
    lines = data.decode().splitlines() if data.count(b'"step"') > 1 else [data.decode()]
    i = rng.randrange(len(lines))
    try:
        found = json.loads(lines[i])
    except ValueError:
        return garbage(rng, data)
    found.pop("digest", None)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                walk(value[key])

    walk(found)
    holder, key = rng.choice(places)
    if rng.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
    else:
        holder[key] = rng.choice(STRANGE)
    lines[i] = json.dumps(found)
    return ("\n".join(lines) + "\n").encode()


def odd_archive(rng: random.Random, data: bytes) -> bytes:
    buffer = io.BytesIO()
    kind = rng.randrange(4)
    if kind == 0:
        array = rng.choice(
            [np.array(["x", "y"]), np.array(["2020-01-01"], "M8[D]"), np.zeros(2, "f4,i2"), np.zeros((2, 2))]
        )
        np.savez(buffer, **{"return": array})
    elif kind == 1:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(
                "return.npy", rng.choice([b"", b"no array", b"\x93NUMPY\x01\x00\xff\xff{", rng.randbytes(80)])
            )
    elif kind == 2:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }" % 10**15
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("return.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    else:
        torch.save(rng.choice([[1], {"config": 3}, {"config": "{}", "progress": 1}, torch.zeros(2)]), buffer)
    return buffer.getvalue()


MUTATORS: list[Callable[[random.Random, bytes], bytes]] = [flip, truncate, garbage, retype, odd_archive]


def mutate(rng: random.Random, path: Path) -> str:
    """Do something to a file; returns what."""
    if rng.random() < 0.1:
        path.unlink()
        if rng.random() < 0.5:
            path.mkdir()
            return f"{path.name}: a folder"
        return f"{path.name}: gone"
    choices = MUTATORS[:4] if path.suffix in (".json", ".jsonl") else [flip, truncate, garbage, odd_archive]
    how = rng.choice(choices)
    path.write_bytes(how(rng, path.read_bytes()))
    return f"{path.name}: {how.__name__}"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A finished run, one that failed, an unfinished one with two checkpoints, and a finished one left alone."""
    from dataclasses import replace

    top = tmp_path_factory.mktemp("fuzz") / "results"
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        for seed in (1, 2):
            config = replace(BANDIT, seed=seed)
            go(config, run_path(top, config))
        stopped = replace(BANDIT, seed=3)
        folder = RunFolder(run_path(top, stopped))
        write, kept = RunFolder.save_checkpoint, []

        def stop(self: RunFolder, *args: Any) -> None:
            write(self, *args)
            kept.append(1)
            if len(kept) == 3:
                raise KeyboardInterrupt

        patch.setattr(RunFolder, "save_checkpoint", stop)
        with pytest.raises(BaseException):  # noqa: B017
            go(stopped, folder.path)
    folder.write_failure("it was stopped", "")
    return top


def numbers(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(MUTATIONS))
def test_files_of_runs(results, tmp_path, seed, capsys, monkeypatch):
    rng = random.Random(seed)
    top = shutil.copytree(results, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    quicken(monkeypatch)
    runs = sorted(p for p in top.rglob("*-seed*") if p.is_dir())
    hurt = rng.choice([r for r in runs if "seed2" not in r.name])
    (other,) = (r for r in runs if "seed2" in r.name)
    what = mutate(rng, rng.choice(sorted(p for p in hurt.iterdir() if p.is_file() and p.name != ".lock")))
    unfinished = "seed3" in hurt.name
    commands = [
        ["status", "--results", str(top)],
        ["compare", str(other), str(hurt)],
        ["table", "3", "--agents", "gru", "--cells", "N=10 K=5", "--results", str(top)],
        ["dashboard", "--results", str(top), "--output", str(tmp_path / "page.html"), "--no-serve"],
        ["evaluate", str(hurt)],
    ]
    for words in commands:
        code = run(words)
        out, err = capsys.readouterr()
        assert code in (0, 2), (what, words, code, err)
        assert "Traceback" not in err, (what, words, err)
        if code == 2:
            assert err.strip().splitlines()[-1].startswith("error: "), (what, words, err)
        if words[0] == "status":
            assert code == 0 and other.name in out, (what, out, err)
        if words[0] == "dashboard":
            assert code == 0 and other.name in (tmp_path / "page.html").read_text(), (what, err)
    if unfinished and not what.startswith(("config", "failed")):
        whole = RunFolder(sorted(p for p in results.rglob("*-seed1*") if p.is_dir())[0])
        assert whole.result() is not None
        try:
            record = go(RunFolder(sorted(results.rglob("*-seed3*"))[0]).config(), hurt, resume=True)
        except Exception as e:
            assert type(e).__module__ == "runs.system.errors" or type(e).__name__ == "Damaged", (what, e)
        else:
            expected = EXPECTED.get("record")
            if expected is None:
                clean = tmp_path / "clean"
                shutil.copytree(sorted(p for p in results.rglob("*-seed3*") if p.is_dir())[0], clean)
                expected = EXPECTED["record"] = go(RunFolder(clean).config(), clean, resume=True)["results"]
            assert record["results"] == expected, what
    assert CPU.group.single


EXPECTED: dict[str, Any] = {}
