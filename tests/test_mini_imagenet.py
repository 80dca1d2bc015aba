"""mini-ImageNet: its layouts, the cache of large arrays, and pickles that are not to be trusted."""

from __future__ import annotations

import csv
import io
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from envs.fewshot.datasets import mini_imagenet, storage
from envs.fewshot.datasets.array_pickle import read_array_pickle
from envs.fewshot.datasets.base import SPLITS
from envs.fewshot.datasets.mini_imagenet import Layout, find_source, load_mini_imagenet, mini_imagenet_status
from envs.fewshot.datasets.registry import dataset_status, load_classes
from envs.fewshot.datasets.storage import DataError

Image = pytest.importorskip("PIL.Image")

SNAIL_DATA = os.environ.get("SNAIL_DATA")  # as given to the test run; the tests themselves see none
TINY = Layout(classes={"train": 3, "val": 2, "test": 2}, per_class=4, side=8)
CACHE = "mini-imagenet-8x8-v1-{}.npy"

load = partial(load_mini_imagenet, layout=TINY)


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """No test reads the user's data or writes the user's cache."""
    monkeypatch.delenv("SNAIL_DATA", raising=False)
    monkeypatch.setenv("SNAIL_CACHE", str(tmp_path / "cache"))


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def write_csv(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("filename", "label")) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


IMAGES = {
    split: {
        f"n{split}{9 - c}": [
            (
                f"n{split}{9 - c}_{9 - i}.jpg",
                jpeg(np.random.RandomState([s, c, i]).randint(256, size=(8, 8, 3), dtype="u1")),
            )
            for i in range(TINY.per_class)
        ]
        for c in range(TINY.classes[split])
    }
    for s, split in enumerate(SPLITS)
}


def rows(split: str) -> list[tuple[str, str]]:
    return [(name, label) for label, files in IMAGES[split].items() for name, _ in files]


def expected(split: str) -> torch.Tensor:
    """uint8 (classes, 4, 3, 8, 8), made the plain way."""
    classes = [[decoded(content) for _, content in files] for _, files in sorted(IMAGES[split].items())]
    return torch.tensor(np.array(classes)).permute(0, 1, 4, 2, 3)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A root whose folder mini-imagenet holds the csv files and the folder images."""
    home = tmp_path / "data" / "mini-imagenet"
    (home / "images").mkdir(parents=True)
    for split, classes in IMAGES.items():
        write_csv(home / f"{split}.csv", rows(split))
        for files in classes.values():
            for name, content in files:
                (home / "images" / name).write_bytes(content)
    return home


def zip_images(home: Path) -> None:
    """Move the images into one zip for each split, but two for train, in an order of their own."""
    for split in SPLITS:
        parts = 2 if split == "train" else 1
        for part in range(parts):
            with zipfile.ZipFile(home / (f"{split}-{part}.zip" if parts > 1 else f"{split}.zip"), "w") as out:
                for name, _ in rows(split)[part::parts][::-1]:
                    out.write(home / "images" / name, f"images/{name}")
                out.writestr("__MACOSX/images/._x.jpg", b"no image")
    for path in (home / "images").iterdir():
        path.unlink()
    (home / "images").rmdir()


def pickled(split: str) -> dict:
    """What learn2learn keeps of a split, the images of all classes interleaved."""
    order = sorted(range(len(rows(split))), key=lambda i: i % TINY.per_class)
    place = {i: n for n, i in enumerate(order)}
    contents = [content for files in IMAGES[split].values() for _, content in files]
    class_dict: dict[str, list[int]] = {}
    for i, (_, label) in enumerate(rows(split)):
        class_dict.setdefault(label, []).append(place[i])
    return {"image_data": np.stack([decoded(contents[i]) for i in order]), "class_dict": class_dict}


def write_pickle(home: Path, split: str = "val", protocol: int = 4, **changes) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    path = home / mini_imagenet._PICKLES[split][0]
    path.write_bytes(pickle.dumps(pickled(split) | changes, protocol))
    return path


def complaint(call: Callable) -> str:
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def assert_no_cache() -> None:
    cache = storage.cache_dir()
    assert not cache.exists() or not list(cache.iterdir()), "something is left in the cache"


# ---------------------------------------------------------------- layouts


def test_folder_zips_and_pickles_give_the_same_images_of_the_same_files(folder, tmp_path, monkeypatch):
    for layout, cache in (("folder", "a"), ("zips", "b"), ("pickles", "c")):
        monkeypatch.setenv("SNAIL_CACHE", str(tmp_path / cache))
        if layout == "zips":
            zip_images(folder)
        if layout == "pickles":
            folder = tmp_path / "pickles"
            for split in SPLITS:
                write_pickle(folder, split)
        for split in SPLITS:
            loaded = load(split, root=folder)
            assert (loaded.name, loaded.split) == ("mini-imagenet", split)
            assert torch.equal(loaded.images, expected(split)), (layout, split)


def test_the_root_and_its_folder_are_searched_and_csv_files_go_first(folder, tmp_path, monkeypatch):
    assert find_source("val", folder.parent) == find_source("val", folder) == folder / "val.csv"
    pickle_file = write_pickle(folder)
    assert find_source("val", folder) == folder / "val.csv"
    zip_images(folder)
    assert find_source("val", folder) == folder / "val.csv"
    for archive in folder.glob("*.zip"):
        archive.unlink()
    assert find_source("val", folder) == pickle_file  # a table without any images is none
    short = pickle_file.rename(folder / "mini-imagenet-cache-val.pkl")
    monkeypatch.setenv("SNAIL_DATA", str(folder.parent))
    assert find_source("val") == short
    assert find_source("train") is None


@pytest.mark.parametrize("download", [False, True])
def test_data_that_is_nowhere_is_asked_for_in_both_layouts(tmp_path, download):
    message = complaint(lambda: load("val", root=tmp_path, download=download))
    assert f"found no val split of mini-imagenet under {tmp_path}" in message
    for word in ("val.csv", "images/FILE.jpg", "mini-imagenet-cache-train.pkl", "--data-root", "SNAIL_DATA"):
        assert word in message
    assert "nowhere (from --data-root) is not a folder" in complaint(lambda: load("val", root=tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'dev'"):
        load("dev")


def test_grey_jpegs_become_rgb(folder):
    name, label = rows("val")[0]
    Image.new("L", (8, 8), 77).save(folder / "images" / name)
    images = load("val", root=folder).images
    assert (images[sorted(IMAGES["val"]).index(label), 0] == 77).all()


# ---------------------------------------------------------------- split files


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r[1:], r"class 'nval9' has 3 images in .*val\.csv, not 4"),
        (lambda r: [*r, ("more.jpg", "nval9")], r"class 'nval9' has 5 images in .*val\.csv, not 4"),
        (lambda r: r[:4], r"val\.csv has 1 classes, not the 2 of the val split"),
        (lambda r: [*r, ("more.jpg", "n0")], r"val\.csv has 3 classes, not the 2"),
        (lambda r: [*r[:-1], r[0]], r"line 9 of .*val\.csv names 'nval9_9\.jpg' a second time"),
        (lambda r: [("gone.jpg", "nval9"), ("g2.jpg", "nval9"), *r[2:]], r"2 of the 8 .*val\.csv names, 'gone\.jpg' "),
        (lambda r: [("x.jpg",), *r[1:]], r"line 2 of .*val\.csv is 'x\.jpg', not a file name and a label"),
        (lambda r: [("", "nval9"), *r[1:]], r"line 2 of .*val\.csv is ',nval9', not a file name and a label"),
        (lambda r: [], r"val\.csv has 0 classes, not the 2"),
        *(
            (lambda r, name=name: [(name, "nval9"), *r[1:]], r"line 2 of .* names .* which is a path")
            for name in ("../x.jpg", "/etc/passwd", "a/b.jpg", "..", "..\\x.jpg", "C:x.jpg")
        ),
    ],
)
def test_a_wrong_split_file_is_named(folder, edit, message):
    write_csv(folder / "val.csv", edit(rows("val")))
    with pytest.raises(DataError, match=message) as caught:
        load("val", root=folder)
    assert "\n" not in str(caught.value)
    assert_no_cache()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with '', not with 'filename,label'"),
        (b"x.jpg,nval9\n", "begins with 'x.jpg,nval9', not with 'filename,label'"),
        (b"filename,label\n\xff\xfe,n", "val.csv is not a readable csv file"),
    ],
)
def test_a_split_file_of_another_kind_is_named(folder, content, message):
    (folder / "val.csv").write_bytes(content)
    assert message in complaint(lambda: load("val", root=folder))


def test_a_byte_order_mark_and_other_line_ends_are_no_mistake(folder):
    table = folder / "val.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\r\n", b"\n"))
    assert torch.equal(load("val", root=folder).images, expected("val"))


# ---------------------------------------------------------------- images


def bomb() -> bytes:
    """A JPEG whose header promises 65500 x 65500 pixels."""
    content = bytearray(IMAGES["val"]["nval9"][0][1])
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = (65500).to_bytes(2, "big") * 2
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda whole: whole[:-60], "is not a readable JPEG"),
        (lambda whole: whole[:20], "is not a readable JPEG"),
        (lambda whole: b"", "is not a readable JPEG"),
        (lambda whole: b"\x89PNG\r\n\x1a\n", "is not a readable JPEG"),
        (lambda whole: bomb(), "is not a readable JPEG"),
        (lambda whole: jpeg(np.zeros((9, 8, 3), np.uint8)), "has 8 x 9 pixels, not 8 x 8; nothing is resized here"),
    ],
)
def test_a_damaged_image_is_named(folder, content, message):
    name, _ = rows("val")[5]
    path = folder / "images" / name
    path.write_bytes(content(path.read_bytes()))
    for source in ("images", "val.zip"):
        found = complaint(lambda: load("val", root=folder))
        assert f"images/{name} in {folder / source} {message}" in found
        assert_no_cache()
        if source == "images":
            zip_images(folder)


def test_a_truncated_zip_is_named_unless_it_is_of_another_split(folder):
    zip_images(folder)
    archive = folder / "train-1.zip"
    archive.write_bytes(archive.read_bytes()[:-100])
    assert f"{archive} is not a whole zip archive" in complaint(lambda: load("train", root=folder))
    assert_no_cache()
    assert torch.equal(load("val", root=folder).images, expected("val"))


def test_a_flipped_byte_in_a_zip_is_named(folder):
    zip_images(folder)
    archive, (name, _) = folder / "val.zip", rows("val")[2]
    with zipfile.ZipFile(archive) as whole:
        offset = whole.getinfo(f"images/{name}").header_offset + 200
    content = bytearray(archive.read_bytes())
    content[offset] ^= 0xFF
    archive.write_bytes(content)
    assert f"images/{name} in {archive} is damaged" in complaint(lambda: load("val", root=folder))


def test_without_pillow_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "pip install 'snail-suite[data]'" in complaint(lambda: load("val", root=folder))


# ---------------------------------------------------------------- cache and memory


def test_the_cache_is_used_and_rebuilt_when_damaged(folder):
    load("val", root=folder)
    cache = storage.cache_dir() / CACHE.format("val")
    assert [path.name for path in cache.parent.iterdir()] == [cache.name], "temporary files are left"
    assert np.array_equal(np.load(cache), expected("val"))  # an ordinary .npy file
    assert torch.equal(load("val").images, expected("val"))  # there is no source without a root

    whole = cache.read_bytes()
    flipped, zeroed = bytearray(whole), bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    zeroed[-4:] = bytes(4)
    objects = io.BytesIO()
    np.save(objects, np.array([{}], object))
    other = io.BytesIO()
    np.save(other, np.zeros((1, 4, 3, 8, 8), np.uint8))
    broken = [whole[:-1], whole[:-4], whole + b"x", whole[:200], b"", b"PK\x03\x04", flipped, zeroed]
    for content in (*broken, objects.getvalue(), other.getvalue()):
        cache.write_bytes(content)
        assert not mini_imagenet_status(folder, TINY).cached
        assert "found no val split" in complaint(lambda: load("val"))
        assert torch.equal(load("val", root=folder).images, expected("val"))
        assert cache.read_bytes() == whole


def test_an_interrupted_build_leaves_nothing(folder, monkeypatch):
    decode, calls = storage.decode_image, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 7:  # in the second class, when the first is written
            assert [path.suffix for path in storage.cache_dir().iterdir()] == [".part"]
            raise KeyboardInterrupt
        return decode(*args)

    monkeypatch.setattr(storage, "decode_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load("val", root=folder)
    assert_no_cache()


def test_what_a_killed_build_leaves_is_not_taken_for_a_cache(folder):
    load("val", root=folder)
    cache = storage.cache_dir() / CACHE.format("val")
    cache.rename(cache.with_name(f".{cache.name}.0123.part"))
    assert not mini_imagenet_status(folder, TINY).cached
    assert torch.equal(load("val", root=folder).images, expected("val"))


def test_a_full_disk_is_named_and_leaves_nothing(folder, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    message = complaint(lambda: load("val", root=folder))
    assert "cannot write" in message and "No space left" in message and "SNAIL_CACHE" in message
    assert_no_cache()


def test_builders_of_the_same_cache_do_not_disturb_each_other(folder):
    with ThreadPoolExecutor(4) as pool:
        loaded = [job.result() for job in [pool.submit(load, "train", root=folder) for _ in range(4)]]
    assert all(torch.equal(one.images, expected("train")) for one in loaded)
    assert len(list(storage.cache_dir().iterdir())) == 1


def test_too_little_memory_leaves_the_images_in_the_file(folder, capsys, monkeypatch):
    in_memory = load("val", root=folder).images
    assert capsys.readouterr().err == ""
    cache = storage.cache_dir() / CACHE.format("val")
    before = cache.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of arrays that it must not write to
        mapped = load("val", available_memory=lambda: in_memory.nbytes).images
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{cache} is read from disk as needed" in err and "free memory" in err
    assert torch.equal(mapped, in_memory)
    for images in (mapped, in_memory):
        images.fill_(7)  # a mistake of some caller
    assert cache.read_bytes() == before
    assert torch.equal(load("val").images, expected("val"))

    assert torch.equal(load("val", available_memory=lambda: None).images, expected("val"))
    assert capsys.readouterr().err == ""  # where it is not known, it is tried

    def refuse(array):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "array", refuse)
        mapped = load("val").images
    assert torch.equal(mapped, expected("val")) and "do not fit into memory" in capsys.readouterr().err


def test_available_memory_is_known_on_linux():
    free = storage.available_memory()
    assert free is None if not Path("/proc/meminfo").exists() else 1 << 20 < free < 1 << 50


def test_status_tells_sources_and_cache(folder):
    before = mini_imagenet_status(layout=TINY)
    assert (before.sources, before.cached, before.fingerprint) == ((), False, None)
    assert before.obtain and not storage.cache_dir().exists()
    for split in ("train", "val"):
        load(split, root=folder)
    assert not mini_imagenet_status(folder, TINY).cached  # the third is missing
    load("test", root=folder)
    after = mini_imagenet_status(folder, TINY)
    assert after.sources == tuple(folder / f"{split}.csv" for split in SPLITS)
    assert after.cached and after.classes == TINY.classes and after.per_class == 4
    assert after.fingerprint and len(after.fingerprint) == 16
    assert len(list(after.cache.parent.glob(after.cache.name))) == 3


# ---------------------------------------------------------------- pickles


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", ["C", "F"])
def test_pickles_of_every_protocol_are_read(tmp_path, protocol, order):
    images = np.asarray(pickled("val")["image_data"], order=order)
    path = write_pickle(tmp_path, "val", protocol, image_data=images)
    array, classes = read_array_pickle(path, "image_data", "class_dict")
    np.testing.assert_array_equal(array, images)
    assert array.dtype == np.uint8 and classes == pickled("val")["class_dict"]
    assert torch.equal(load("val", root=tmp_path).images, expected("val"))


def test_pickles_of_python_2_and_numpy_1_are_read(tmp_path):
    """Byte strings as Python 2 wrote them, where they were the type of all strings."""

    def string(content: bytes) -> bytes:
        return b"T" + len(content).to_bytes(4, "little") + content  # BINSTRING

    pixels = bytes(range(256)) * 3
    dtype = b"cnumpy\ndtype\n(" + string(b"u1") + b"I00\nI01\ntR(I3\n" + string(b"|") + b"NNNI-1\nI-1\nI0\ntb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\nt" + string(b"b") + b"tR"
        b"(I1\n(I4\nI8\nI8\nI3\nt" + dtype + b"I00\n" + string(pixels) + b"tb"
    )
    content = b"\x80\x02}" + string(b"image_data") + array + b"s"
    content += string(b"class_dict") + b"}" + string(b"n1") + b"(lI0\naI1\nas" + b"s."
    (tmp_path / "old.pkl").write_bytes(content)
    assert pickle.loads(content, encoding="latin1")["image_data"].tobytes() == pixels, "the test's pickle is wrong"
    images, classes = read_array_pickle(tmp_path / "old.pkl", "image_data", "class_dict")
    assert images.shape == (4, 8, 8, 3) and images.tobytes() == pixels and classes == {"n1": [0, 1]}


class Calls:
    """Pickles to a call of a function."""

    def __init__(self, function: Callable, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("function", [os.system, eval, np.load, np.frombuffer, io.open, getattr])
def test_pickles_that_call_anything_else_are_refused(tmp_path, protocol, function):
    mark = tmp_path / "mark"
    path = write_pickle(tmp_path, "val", protocol, more=Calls(function, f"touch {mark}"))
    message = complaint(lambda: load("val", root=tmp_path))
    name = "system" if function is os.system else function.__name__
    assert f"{path} is refused: it names " in message and f".{name}'" in message
    assert not mark.exists()
    assert_no_cache()


def test_dotted_names_do_not_lead_from_what_is_allowed_to_what_is_not(tmp_path):
    path = tmp_path / "val.pkl"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.")
    assert "names 'numpy.ndarray.__class__'" in complaint(lambda: read_array_pickle(path, "a", "b"))
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x09a\n\x1b[2Jbbb\x93.")
    assert "\\n\\x1b" in complaint(lambda: read_array_pickle(path, "a", "b"))  # nothing for the terminal to obey


class Strange(np.ndarray):
    """An array that pickles with a state of our choice."""

    state: tuple

    def __reduce__(self):
        return (*np.zeros(1, np.uint8).__reduce__()[:2], self.state)


def strange(*state) -> Strange:
    array = np.zeros(1, np.uint8).view(Strange)
    array.state = state
    return array


U1 = np.dtype("u1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_data": np.array([{"an": "object"}], object)}, "'image_data' in .* is an array of type 'O8'"),
        ({"image_data": np.zeros((8, 8, 8, 3))}, "'image_data' in .* is an array of type 'f8'"),
        ({"image_data": "images"}, "'image_data' in .* is no array"),
        ({"image_data": U1}, "'image_data' in .* is no array"),
        ({"image_data": strange(1, (8, 8, 8, 3), U1, False, b"few")}, r"shape \(8, 8, 8, 3\) with 3 bytes"),
        ({"image_data": strange(1, (10**12, 8, 8, 3), U1, False, b"few")}, "with 3 bytes"),
        ({"image_data": strange(1, (-1, -1), U1, False, b"f")}, "is an array without a shape"),
        ({"image_data": strange(1, "shape", U1, False, b"f")}, "is an array without a shape"),
        ({"image_data": strange(1, (1,), U1, False, [object])}, "is refused|without content"),
        ({"image_data": strange(1, (1,), U1, False, [7])}, "is an array without content"),
        ({"image_data": strange(1, (1,), U1, False, "\u20ac")}, "is 'latin-1' codec can't encode"),
        ({"image_data": np.zeros((8, 8, 9, 3), np.uint8)}, r"of shape \(8, 8, 9, 3\), not \(n, 8, 8, 3\)"),
        ({"image_data": np.zeros((7, 8, 8, 3), np.uint8)}, "names an image twice or one that it does not hold"),
        ({"class_dict": {"n1": [0, 1, 2, 3], "n2": [0, 4, 5, 6]}}, "names an image twice"),
        ({"class_dict": {"n1": [0, 1, 2, 3], "n2": [-1, 4, 5, 6]}}, "one that it does not hold"),
        ({"class_dict": {"n1": [0, 1, 2], "n2": [4, 5, 6, 7]}}, "class 'n1' has 3 images in .*, not 4"),
        ({"class_dict": {"n1": [0, 1, 2, 3]}}, "has 1 classes, not the 2"),
        ({"class_dict": {"n1": [0.5], "n2": ["x"]}}, "'class_dict' in .* is not a dictionary of lists of integers"),
        ({"class_dict": [1]}, "'class_dict' in .* is not a dictionary"),
    ],
)
def test_pickles_of_something_else_are_named(tmp_path, changes, message):
    path = write_pickle(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as caught:
        load("val", root=tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert_no_cache()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda whole: whole[:-50], "is not a whole pickle"),
        (lambda whole: b"", "is not a whole pickle"),
        (lambda whole: b"<html>quota exceeded</html>", "is not a whole pickle"),
        (lambda whole: b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "is not a whole pickle"),  # 2**63 bytes follow
        (lambda whole: b"\x80\x04c_codecs\nencode\n)\x81}b.", "is not a pickle of a dictionary"),
        (lambda whole: pickle.dumps([1]), "is not a pickle of a dictionary with 'image_data' and 'class_dict'"),
        (lambda whole: pickle.dumps({"data": 1}), "is not a pickle of a dictionary with 'image_data' and 'class_dict'"),
    ],
)
def test_damaged_pickles_are_named(tmp_path, content, message):
    path = write_pickle(tmp_path)
    path.write_bytes(content(path.read_bytes()))
    assert f"{path} {message}" in complaint(lambda: load("val", root=tmp_path))


# ---------------------------------------------------------------- front door


def test_the_front_door(tmp_path):
    assert "found no val split of mini-imagenet" in complaint(lambda: load_classes("mini-imagenet", "val"))
    with pytest.raises(ValueError, match="rotations must be None or False"):
        load_classes("mini-imagenet", "val", rotations=True)
    status = dataset_status("mini-imagenet", tmp_path)
    assert status.classes == {"train": 64, "val": 16, "test": 20} and status.per_class == 600


def test_the_real_one():
    """The first validation class of the files under $SNAIL_DATA."""
    source = find_source("val", SNAIL_DATA) if SNAIL_DATA else None
    if source is None:
        pytest.skip("SNAIL_DATA names no folder that holds mini-imagenet")
    images = next(mini_imagenet.read_classes(source, "val"))
    assert images.shape == (600, 3, 84, 84) and images.dtype == np.uint8
    mean, deviation = images.mean(axis=(0, 2, 3)) / 255, images.std(axis=(0, 2, 3)) / 255
    assert (mean > 0.3).all() and (mean < 0.6).all() and (deviation > 0.15).all()  # photographs, not noise
    assert np.abs(np.diff(images.astype(int), axis=-1)).mean() < 30  # neighbours along a row are alike
