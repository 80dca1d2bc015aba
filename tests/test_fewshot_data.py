"""Few-shot data: the episode sampler, Omniglot, the glyphs, and the storage below them."""

import contextlib
import dataclasses
import hashlib
import os
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from envs.fewshot.datasets import glyphs, omniglot, storage
from envs.fewshot.datasets.base import SPLITS, ImageClasses, with_rotations
from envs.fewshot.datasets.omniglot import Part
from envs.fewshot.datasets.registry import DATASETS, dataset_status, load_classes
from envs.fewshot.datasets.storage import DataError
from envs.fewshot.episodes import EpisodeSampler, distinct_integers, recombined, task_set_hash

Image = pytest.importorskip("PIL.Image")

SNAIL_DATA = os.environ.get("SNAIL_DATA")  # as given to the test run; the tests themselves see none


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """No test reads the user's data or writes the user's cache."""
    monkeypatch.delenv("SNAIL_DATA", raising=False)
    monkeypatch.setenv("SNAIL_CACHE", str(tmp_path / "cache"))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_uniform(counts: torch.Tensor) -> None:
    """Chi-squared statistic within six standard deviations of its mean under equal probabilities."""
    expected = counts.sum() / counts.numel()
    freedom = counts.numel() - 1
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    assert abs(statistic - freedom) < 6 * (2 * freedom) ** 0.5, counts


# ---------------------------------------------------------------- sampler


@pytest.mark.parametrize("count, population", [(2, 4), (3, 9), (3, 4), (4, 4)])
def test_distinct_integers_draws_every_ordered_row_equally_often(count, population):
    rows = distinct_integers(40_000, count, population, seeded())
    assert rows.shape == (40_000, count) and rows.min() == 0 and rows.max() == population - 1
    places = population ** torch.arange(count)
    codes, counts = (rows * places).sum(dim=1).unique(return_counts=True)
    arrangements = np.prod([population - i for i in range(count)])
    assert len(codes) == arrangements
    assert_uniform(counts.double())


@pytest.mark.parametrize("ways, shots, queries", [(5, 1, 1), (5, 3, 15), (4, 2, 6), (2, 1, 1), (20, 5, 7)])
def test_an_episode_is_well_formed(ways, shots, queries):
    classes, per_class, B = 40, 10, 50
    data = torch.arange(classes * per_class).view(classes, per_class)
    sampler = EpisodeSampler(data, ways, queries)
    episodes = sampler.sample(B, shots, seeded())
    assert episodes.support_x.shape == episodes.support_y.shape == (B, ways * shots)
    assert episodes.query_x.shape == episodes.query_y.shape == (B, queries)
    assert episodes.support_y.dtype == episodes.query_y.dtype == torch.int64

    items = torch.cat([episodes.support_x, episodes.query_x], dim=1)
    labels = torch.cat([episodes.support_y, episodes.query_y], dim=1)
    for row, row_labels, support_labels in zip(items, labels, episodes.support_y, strict=True):
        assert len(row.unique()) == len(row), "an image appears twice"
        assert support_labels.bincount(minlength=ways).tolist() == [shots] * ways
        # Label and class are in bijection, over support and queries together.
        pairs = {(int(c), int(y)) for c, y in zip(row // per_class, row_labels, strict=True)}
        assert len(pairs) == len({c for c, _ in pairs}) == len({y for _, y in pairs}) == ways
    most = episodes.query_y.new_tensor([y.bincount(minlength=ways).max() for y in episodes.query_y])
    assert (most <= -(-queries // ways)).all()
    if queries % ways == 0:
        assert (most == queries // ways).all()


def test_classes_labels_examples_and_order_are_uniform():
    classes, per_class, ways, shots = 12, 6, 3, 2
    data = torch.arange(classes * per_class).view(classes, per_class)
    episodes = EpisodeSampler(data, ways, 1).sample(20_000, shots, seeded(1))
    assert_uniform(episodes.support_x.flatten().bincount(minlength=classes * per_class).double())
    assert_uniform(episodes.query_x.flatten().bincount(minlength=classes * per_class).double())
    assert_uniform(episodes.query_y.flatten().bincount(minlength=ways).double())
    for position in (0, -1):  # each label is as likely first in the sequence as last
        assert_uniform(episodes.support_y[:, position].bincount(minlength=ways).double())
    # A class gets each label equally often.
    joint = (episodes.support_x // per_class * ways + episodes.support_y)[:, 0]
    assert_uniform(joint.bincount(minlength=classes * ways).double())
    assert (episodes.support_y.diff(dim=1) < 0).any(), "the support is sorted by label"


def test_the_generator_decides_everything():
    sampler = EpisodeSampler(torch.rand(50, 8, 3), 5, 7)
    one, same, other = (sampler.sample(4, 2, seeded(seed)) for seed in (3, 3, 4))
    for field in dataclasses.fields(one):
        assert torch.equal(getattr(one, field.name), getattr(same, field.name))
    assert not torch.equal(one.support_x, other.support_x)
    state = torch.get_rng_state()
    sampler.sample(4, 2, seeded())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("dtype, shape", [(torch.uint8, (1, 28, 28)), (torch.float32, (64,)), (torch.int64, ())])
def test_data_of_any_type_and_shape(dtype, shape):
    data = torch.zeros(8, 6, *shape, dtype=dtype)
    episodes = EpisodeSampler(data, 4, 5).sample(3, 2, seeded()).to("cpu")
    assert episodes.support_x.shape == (3, 8, *shape) and episodes.support_x.dtype == dtype
    assert episodes.query_x.shape == (3, 5, *shape)


def test_recombined_episodes_are_made_of_the_batchs_images():
    batch = EpisodeSampler(torch.arange(9 * 6).view(9, 6), ways=3, queries=6).sample(4, 2, seeded())
    images = torch.cat([batch.support_x, batch.query_x], dim=1).flatten().tolist()
    labels = torch.cat([batch.support_y, batch.query_y], dim=1)
    again = recombined(labels, ways=3, queries=6, shots=2, count=200, generator=seeded(1))
    assert again.support_x.shape == (200, 6) and again.query_x.shape == (200, 6)
    origins = set()
    for sx, sy, qx, qy in zip(*(x.tolist() for x in (*again.inputs, again.query_y)), strict=True):
        assert sorted(sy) == [0, 0, 1, 1, 2, 2] == sorted(qy)
        assert len({*sx, *qx}) == 12  # no image twice
        places = {(y, x // 12, images[x] // 6) for x, y in ((*zip(sx, sy, strict=True), *zip(qx, qy, strict=True)))}
        assert len(places) == 3  # each label is one class of one episode
        origins.add(tuple(episode for _, episode, _ in sorted(places)))
    assert len(origins) > 40  # of 64 combinations of episodes
    once = {int(x) for x in again.support_x.flatten()}, {int(x) for x in again.query_x.flatten()}
    assert once[0] == once[1] == set(range(48))  # any image may be shown, and asked for


def test_sampler_errors_quote_both_values():
    data = torch.zeros(10, 20)
    for ways in (1, 11):
        with pytest.raises(ValueError, match=f"ways must be between 2 and 10, .* got {ways}"):
            EpisodeSampler(data, ways, 1)
    for queries in (0, 96):
        with pytest.raises(ValueError, match=f"queries must be between 1 and 95, got {queries}"):
            EpisodeSampler(data, 5, queries)
    for queries, most in ((1, 19), (5, 19), (6, 18)):
        sampler = EpisodeSampler(data, 5, queries)
        assert sampler.sample(1, most, seeded()).support_x.shape == (1, 5 * most)
        for shots in (0, most + 1):
            with pytest.raises(ValueError, match=f"shots must be between 1 and {most}, got {shots}"):
                sampler.sample(1, shots, seeded())
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        sampler.sample(0, 1, seeded())
    with pytest.raises(ValueError, match="data must have shape"):
        EpisodeSampler(torch.zeros(10), 5, 1)


def test_task_set_hash_depends_on_tasks_and_data_but_not_on_batches():
    sampler = EpisodeSampler(torch.zeros(30, 6), 5, 4)
    tasks = sampler.sample_indices(6, 2, seeded())

    def part(first, last):
        return dataclasses.replace(
            tasks, **{f.name: getattr(tasks, f.name)[first:last] for f in dataclasses.fields(tasks)}
        )

    name = task_set_hash("data", [tasks])
    assert len(name) == 16
    assert task_set_hash("data", [part(0, 1), part(1, 6)]) == name
    assert task_set_hash("other", [tasks]) != name
    assert task_set_hash("data", [part(0, 5)]) != name
    assert task_set_hash("data", [dataclasses.replace(tasks, query_y=tasks.query_y.flip(1))]) != name
    assert task_set_hash("data", [sampler.sample_indices(6, 2, seeded(1))]) != name


def test_image_classes_checks_shape_and_fingerprints_pixels():
    images = torch.zeros(3, 2, 1, 4, 4, dtype=torch.uint8)
    one = ImageClasses(images, "glyphs", "train").to("cpu").fingerprint()
    other = images.clone()
    other[2, 1, 0, 3, 3] = 1
    assert one == ImageClasses(images.clone(), "glyphs", "train").fingerprint()
    assert one != ImageClasses(other, "glyphs", "train").fingerprint()
    assert one != ImageClasses(images.view(2, 3, 1, 4, 4), "glyphs", "train").fingerprint()
    for wrong in (images.float(), images[0]):
        with pytest.raises(ValueError, match="images must be uint8 of shape"):
            ImageClasses(wrong, "glyphs", "train")


def test_rotations_are_classes_of_their_own():
    images = torch.randint(256, (3, 2, 1, 5, 5), dtype=torch.uint8, generator=seeded())
    turned = with_rotations(images)
    assert turned.shape == (12, 2, 1, 5, 5)
    for c in range(3):
        for r in range(4):
            expected = np.rot90(images[c].numpy(), r, axes=(-2, -1))
            np.testing.assert_array_equal(turned[4 * c + r].numpy(), expected)


# ---------------------------------------------------------------- Omniglot, on a small tree

PART = "images_background"


def write_tree(folder: Path, characters: int = 3) -> Part:
    """A tree like Omniglot's, with random drawings. Returns its description, checksum included."""
    random, digest = np.random.RandomState(0), hashlib.sha256()
    for character in range(characters):
        home = folder / PART / f"Alphabet_{character // 2}" / f"character{character % 2 + 1:02d}"
        home.mkdir(parents=True)
        for drawer in range(omniglot.DRAWERS):
            ink = random.rand(105, 105) < 0.1
            Image.fromarray(~ink).save(home / f"{character + 1:04d}_{drawer + 1:02d}.png")
            digest.update(np.packbits(ink).tobytes())
    return Part(PART, characters, digest.hexdigest())


def zip_tree(folder: Path, archive: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for path in sorted((folder / PART).rglob("*"), reverse=True):  # in an order of its own, folders included
            name = prefix + path.relative_to(folder).as_posix()
            out.mkdir(name) if path.is_dir() else out.writestr(name, path.read_bytes())
        out.writestr(f"__MACOSX/{PART}/Alphabet_0/character01/._0001_01.png", b"no image")
    return archive


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "tree"
    return folder, write_tree(folder)


def test_zip_and_folder_give_the_same_images(tree, tmp_path):
    folder, part = tree
    from_folder = omniglot.build_images([(part, folder / PART)])
    from_zip = omniglot.build_images([(part, zip_tree(folder, tmp_path / "any.zip"))])
    assert from_folder.shape == (3, 20, 28, 28) and from_folder.dtype == np.uint8
    np.testing.assert_array_equal(from_folder, from_zip)
    drawing = np.asarray(Image.open(folder / PART / "Alphabet_1/character01/0003_20.png"))
    np.testing.assert_array_equal(from_folder[2, 19], omniglot.shrink(~drawing))


def test_shrinking_averages_areas():
    ink = np.random.RandomState(0).rand(105, 105) < 0.3
    quarters = ink.repeat(4, axis=0).repeat(4, axis=1).reshape(28, 15, 28, 15)
    np.testing.assert_array_equal(omniglot.shrink(ink), np.rint(255 * quarters.mean(axis=(1, 3))))
    assert omniglot.shrink(np.ones((105, 105), bool)).min() == 255
    assert omniglot.shrink(np.zeros((2, 105, 105), bool)).max() == 0


def first_drawing(folder: Path) -> Path:
    return folder / PART / "Alphabet_0" / "character01" / "0001_01.png"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    "damage, complaint",
    [
        (lambda f: first_drawing(f).unlink(), r"character01 .* holds 19 drawings, not 20"),
        (lambda f: first_drawing(f).write_bytes(b"GIF89a"), r"0001_01\.png .* is not a readable PNG"),
        (lambda f: truncate(first_drawing(f)), r"0001_01\.png .* is not a readable PNG"),
        (
            lambda f: Image.new("1", (28, 28)).save(first_drawing(f)),
            r"0001_01\.png .* 28 x 28 pixels, not 105",
        ),
        (lambda f: Image.new("1", (105, 105)).save(first_drawing(f)), r"are not those of Omniglot"),
        (lambda f: os.rename(f / PART / "Alphabet_1", f / "away"), r"holds 2 characters of \w+, not 3"),
    ],
)
def test_damaged_drawings_are_named(tree, tmp_path, damage, complaint):
    folder, part = tree
    damage(folder)
    for source in (folder / PART, zip_tree(folder, tmp_path / "damaged.zip")):
        with pytest.raises(DataError, match=complaint) as caught:
            omniglot.build_images([(part, source)])
        assert str(source) in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_archives_are_named(tree, tmp_path):
    folder, part = tree
    archive = zip_tree(folder, tmp_path / "whole.zip")
    truncated = tmp_path / "truncated.zip"
    truncated.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(DataError, match=r"truncated\.zip is not a whole zip archive"):
        omniglot.build_images([(part, truncated)])

    flipped = tmp_path / "flipped.zip"
    with zipfile.ZipFile(archive) as whole:
        offset = whole.getinfo(f"{PART}/Alphabet_0/character01/0001_07.png").header_offset + 300
    content = bytearray(archive.read_bytes())
    content[offset] ^= 0xFF
    flipped.write_bytes(content)
    with pytest.raises(DataError, match=r"0001_07\.png in .*flipped\.zip is damaged"):
        omniglot.build_images([(part, flipped)])


@pytest.mark.parametrize("prefix", ["../", "/", "a/../../", "C:/", "..\\"])
def test_members_that_lead_out_of_the_archive_are_refused(tree, tmp_path, prefix):
    folder, part = tree
    archive = zip_tree(folder, tmp_path / "hostile.zip", prefix)
    with pytest.raises(DataError, match="unsafe member"):
        omniglot.build_images([(part, archive)])


def test_data_is_searched_in_order(tree, tmp_path, monkeypatch):
    folder, part = tree

    def found(root=None):
        return omniglot.find_parts([part], root, download=False)[0][1]

    with pytest.raises(DataError, match=r"no images_background\.zip under .*SNAIL_DATA.*glyphs"):
        found()
    cached = storage.cache_dir() / "omniglot" / f"{PART}.zip"
    cached.parent.mkdir(parents=True)
    zip_tree(folder, cached)
    assert found() == cached
    monkeypatch.setenv("SNAIL_DATA", str(folder))
    assert found() == folder / PART
    (tmp_path / "empty").mkdir()
    assert found(tmp_path / "empty") == folder / PART
    other = tmp_path / "other"
    write_tree(other / "omniglot")
    assert found(other) == other / "omniglot" / PART
    with pytest.raises(DataError, match=r"data root .*nowhere .* is not a folder"):
        found(tmp_path / "nowhere")
    monkeypatch.setenv("SNAIL_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"gone \(from SNAIL_DATA\) is not a folder"):
        found()


@pytest.fixture
def small_omniglot(tree, monkeypatch):
    """The whole loader on a tree of three characters, two of them for training and validation."""
    folder, part = tree
    monkeypatch.setattr(omniglot, "PARTS", (part,))
    monkeypatch.setattr(omniglot, "TRAIN_CHARACTERS", 2)
    monkeypatch.setattr(omniglot, "VAL_CHARACTERS", 1)
    return folder, partial(omniglot.load_omniglot, val_characters=1)


def test_the_cache_is_used_and_rebuilt_when_damaged(small_omniglot):
    folder, load = small_omniglot
    expected = load("train", root=folder)
    cache = storage.cache_dir() / "omniglot-28x28-v1.npz"
    whole = cache.read_bytes()
    assert [path.name for path in cache.parent.iterdir()] == [cache.name], "temporary files are left"
    assert torch.equal(load("train").images, expected.images)  # from the cache: there is no source without a root

    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for broken in (whole[:-100], whole[: len(whole) // 2], b"", bytes(flipped)):
        cache.write_bytes(broken)
        assert not omniglot.omniglot_status(folder).cached
        with pytest.raises(DataError, match="found no images_background"):
            load("train")
        assert torch.equal(load("train", root=folder).images, expected.images)
        assert cache.read_bytes() == whole
    storage.save_arrays(cache, images=np.zeros((1, 20, 28, 28), np.uint8))  # whole, but of something else
    assert torch.equal(load("train", root=folder).images, expected.images)


def test_objects_are_not_unpickled_from_a_cache(tmp_path):
    path = tmp_path / "hostile.npz"
    np.savez(path, images=np.array([{"an": "object"}], dtype=object))
    assert storage.load_arrays(path, "images") is None


def test_builders_of_the_same_cache_do_not_disturb_each_other(small_omniglot):
    folder, load = small_omniglot
    with ThreadPoolExecutor(4) as pool:
        loaded = [job.result() for job in [pool.submit(load, "test", root=folder) for _ in range(4)]]
    assert all(torch.equal(one.images, loaded[0].images) for one in loaded)
    assert len(list(storage.cache_dir().iterdir())) == 1


def test_status_tells_source_and_cache(small_omniglot):
    folder, load = small_omniglot
    before = dataset_status("omniglot")
    assert (before.sources, before.cached, before.fingerprint) == ((), False, None)
    load("train", root=folder)
    after = dataset_status("omniglot", folder)
    assert after.sources == (folder / PART,) and after.cached and after.per_class == 20
    assert after.cache.is_file() and after.fingerprint is not None


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "folder" / "file"
    with storage.atomic_writer(path) as file:
        file.write(b"old")
    with pytest.raises(RuntimeError), storage.atomic_writer(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def test_an_unwritable_cache_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot write .*SNAIL_CACHE"):
        storage.save_arrays(tmp_path / "file" / "cache.npz", images=np.zeros(1))


def test_cache_dir(monkeypatch):
    assert storage.cache_dir() == Path(os.environ["SNAIL_CACHE"])
    monkeypatch.delenv("SNAIL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert storage.cache_dir() == Path("/xdg/snail")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert storage.cache_dir() == Path.home() / ".cache" / "snail"


# ---------------------------------------------------------------- download


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        if not self.path.endswith("short.zip"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"too little")


@contextlib.contextmanager
def serving(folder: Path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_missing_parts_are_downloaded_into_the_cache(small_omniglot, tmp_path, monkeypatch):
    folder, load = small_omniglot
    (tmp_path / "served").mkdir()
    zip_tree(folder, tmp_path / "served" / f"{PART}.zip")
    with serving(tmp_path / "served") as address:
        monkeypatch.setattr(Part, "url", property(lambda self: f"{address}/{self.name}.zip"))
        fetched = load("train", download=True)
    assert torch.equal(fetched.images, load("train", root=folder).images)
    assert omniglot.omniglot_status().sources == (storage.cache_dir() / "omniglot" / f"{PART}.zip",)


def test_failed_downloads_say_what_to_do_and_leave_nothing(tmp_path):
    target = tmp_path / "kept" / "images_background.zip"
    with serving(tmp_path) as address:
        urls = [f"{address}/missing.zip", f"{address}/short.zip"]
        for url, reason in zip(urls, ["ot found", "not a whole zip archive"], strict=True):
            with pytest.raises(DataError, match=f"cannot download {url} .*{reason}.*SNAIL_DATA.*glyphs"):
                storage.download(url, target)
    with pytest.raises(DataError, match=r"cannot download .*SNAIL_DATA.*glyphs"):
        storage.download(urls[0], target)  # nobody serves any more
    assert not target.parent.exists() or not list(target.parent.iterdir())


# ---------------------------------------------------------------- the real Omniglot


def test_omniglot_splits_partition_the_characters():
    train, val, test = (omniglot.split_characters(split) for split in SPLITS)
    assert (len(train), len(val), len(test)) == (1100, 100, 423)
    assert sorted([*train, *val, *test]) == list(range(1623))
    assert test[:5].tolist() == [7, 11, 23, 24, 25], "the split of published results has changed"
    everything = omniglot.split_characters("train", val_characters=0)
    np.testing.assert_array_equal(everything, np.sort([*train, *val]))
    np.testing.assert_array_equal(omniglot.split_characters("test", val_characters=0), test)
    for split, number in (("val", 0), ("train", -1), ("train", 1200)):
        with pytest.raises(ValueError, match=f"val_characters must be between .* got {number}"):
            omniglot.split_characters(split, number)


@pytest.fixture(scope="module")
def real_omniglot(tmp_path_factory):
    """A cache built from the Omniglot under $SNAIL_DATA."""
    if not SNAIL_DATA:
        pytest.skip("SNAIL_DATA is not set")
    if any(storage.find_source("omniglot", part.name, SNAIL_DATA) is None for part in omniglot.PARTS):
        pytest.skip("SNAIL_DATA holds no Omniglot")
    cache = tmp_path_factory.mktemp("omniglot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNAIL_CACHE", str(cache))
        omniglot.load_omniglot("test", root=SNAIL_DATA)
    return cache


@pytest.mark.slow
def test_real_omniglot(real_omniglot, monkeypatch):
    monkeypatch.setenv("SNAIL_CACHE", str(real_omniglot))
    shapes = {split: load_classes("omniglot", split).images.shape for split in SPLITS}
    assert shapes == {s: (n, 20, 1, 28, 28) for s, n in zip(SPLITS, (4400, 400, 423), strict=True)}
    upright = omniglot.load_omniglot("train", rotations=False, val_characters=0).images
    assert upright.shape == (1200, 20, 1, 28, 28)
    assert dataset_status("omniglot").fingerprint == "92520504d98e6d4b"  # the same on every machine
    ink = upright.float().mean() / 255
    assert 0.03 < ink < 0.15, "ink must be bright and the background dark"
    corners = upright[..., [0, 0, -1, -1], [0, -1, 0, -1]].float().mean() / 255
    assert corners < 0.01


# ---------------------------------------------------------------- glyphs

FEW = 60


@pytest.fixture(scope="module")
def few_glyphs(tmp_path_factory):
    """A cache of the first few glyphs."""
    pytest.importorskip("matplotlib")
    cache = tmp_path_factory.mktemp("glyphs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNAIL_CACHE", str(cache))
        glyphs.load_glyphs("train", max_classes=FEW)
    return cache


@pytest.fixture
def load_few(few_glyphs, monkeypatch):
    monkeypatch.setenv("SNAIL_CACHE", str(few_glyphs))
    return partial(glyphs.load_glyphs, max_classes=FEW)


@pytest.mark.slow
def test_glyphs_splits_and_rotations(load_few):
    sizes = {split: len(load_few(split, rotations=False).images) for split in SPLITS}
    assert sizes == {"train": 40, "val": 4, "test": 16}
    assert {split: len(load_few(split).images) for split in SPLITS} == {
        "train": 160,
        "val": 16,
        "test": 16,
    }
    train = load_few("train", rotations=False)
    assert train.images.shape[1:] == (20, 1, 28, 28) and (train.name, train.split) == ("glyphs", "train")
    assert torch.equal(load_few("train").images, with_rotations(train.images))
    assert glyphs.glyphs_status(FEW).classes == sizes
    assert sorted(np.concatenate([glyphs.split_classes(s, 999) for s in SPLITS])) == list(range(999))


def test_glyphs_are_bright_centred_varied_and_of_their_class(load_few):
    images = load_few("train", rotations=False).images[:, :, 0].float() / 255  # (classes, 20, 28, 28)
    assert (images.amax(dim=(2, 3)) > 0.7).all(), "an example without ink"
    assert (images.mean(dim=(2, 3)) < 0.6).all()
    border = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], dim=-1)
    assert border.mean() < 0.01, "glyphs leave the frame"
    flat = images.flatten(2)  # (classes, 20, 784)
    assert (torch.cdist(flat, flat) + 100 * torch.eye(20)).min() > 0, "two examples are the same"
    # The nearest of the class means, made without the example, is mostly its own: distinct, yet not trivial.
    means = flat[:, :10].mean(dim=1)
    nearest = torch.cdist(flat[:, 10:], means).argmin(dim=-1)
    accuracy = (nearest == torch.arange(len(flat))[:, None]).float().mean().item()
    assert 0.25 < accuracy < 0.95


def test_glyphs_are_the_same_every_time(load_few, few_glyphs):
    with np.load(few_glyphs / f"glyphs-28x28-v1-first{FEW}.npz") as kept:
        images, code_points = kept["images"], kept["code_points"]
    assert (np.diff(code_points) > 0).all()
    for i in (0, FEW - 1):
        np.testing.assert_array_equal(glyphs.draw_examples(int(code_points[i])), images[i])


def test_turned_similarity_finds_turned_and_equal_pictures():
    pytest.importorskip("matplotlib")
    picture = np.zeros((4, 28, 28), np.uint8)
    picture[0, 4:24, 5:8] = picture[0, 4:7, 5:20] = 255
    picture[1], picture[2] = np.rot90(picture[0]), np.rot90(picture[0], 2)
    picture[3, 10:18, 10:18] = 255
    similarity = glyphs.turned_similarity(picture)
    np.testing.assert_allclose(similarity[:3, :3], 1)
    np.testing.assert_allclose(similarity, similarity.T)
    assert similarity[3, :3].max() < 0.6


def test_glyph_arguments(monkeypatch):
    with pytest.raises(ValueError, match="max_classes must be at least 20, got 3"):
        glyphs.load_glyphs("train", max_classes=3)
    monkeypatch.setitem(sys.modules, "PIL", None)
    glyphs._characters.cache_clear()
    with pytest.raises(DataError, match=r"pip install 'snail-suite\[data\]'"):
        glyphs.load_glyphs("train")


# ---------------------------------------------------------------- front door


def test_unknown_names_list_the_known_ones():
    for call in (partial(load_classes, "mnist", "train"), partial(dataset_status, "mnist")):
        with pytest.raises(ValueError, match="must be one of omniglot, glyphs, mini-imagenet, got 'mnist'"):
            call()
    for name in DATASETS:
        with pytest.raises(ValueError, match="split must be one of train, val, test, got 'dev'"):
            load_classes(name, "dev")


def test_status_of_what_is_not_there_is_cheap_and_calm():
    status = dataset_status("glyphs")
    assert (status.cached, status.classes, status.fingerprint) == (False, None, None)
    assert not storage.cache_dir().exists()
