"""Glyphs: a stand-in for Omniglot that needs no download, drawn from the fonts that matplotlib ships.

A class is one character of the DejaVu fonts (https://dejavu-fonts.github.io): letters, digits and signs of
Latin, Greek, Cyrillic, Armenian, Hebrew, Arabic, N'Ko, Lao, Georgian, Ogham, Canadian syllabics, Tifinagh,
Lisu, Braille, mathematics and more. An example of it is drawn with a random face among those that have the
character (sans, mono or serif; regular, bold or oblique), a random weight of its strokes and a random affine
distortion.

All randomness has fixed seeds. The same versions of Python, Pillow and matplotlib give the same pixels; other
ones may change some (the font renderer) or the choice of characters (Unicode's tables), which the fingerprint
of the images tells.
"""

import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from envs.fewshot.datasets import storage
from envs.fewshot.datasets.base import SPLITS, DatasetStatus, ImageClasses, check_split, fingerprint, with_rotations
from envs.fewshot.datasets.storage import DataError

if TYPE_CHECKING:
    from PIL import Image, ImageFont

EXAMPLES = 20  # images of each class
SIDE = 28  # pixels
TEST_SHARE = 423 / 1623  # of the classes: the proportions of Omniglot
VAL_SHARE = 100 / 1623

_SEED = 0
_CACHE_VERSION = "v1"

# The first face has every candidate, and decides which are blank or alike.
_FACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
)  # fmt: skip
_FONT_SIZE = 96  # pixels per em of the masters, over three times what an example shows
_CATEGORIES = {"Lu", "Ll", "Lo", "Nd", "Nl", "No", "Po", "Ps", "Pe", "Sc", "Sm", "So"}  # of Unicode
# Signs too intricate for 28 x 28 pixels: hexagrams, and all from tetragrams to playing cards and faces.
_INTRICATE = (range(0x4DC0, 0x4E00), range(0x1D000, 0x20000))
_LEAST_EXTENT = 30  # pixels of a master; whatever is smaller is punctuation or a modifier
_ALIKE = 0.94  # cosine similarity of blurred pictures from which on two of them are easily mixed up

# Ranges of the distortions, each drawn uniformly.
_EXTENT = (17.0, 23.0)  # pixels, of the longer side of the distorted glyph
_TURN = (-15.0, 15.0)  # degrees
_SHEAR = (-0.2, 0.2)
_STRETCH = (-0.2, 0.2)  # natural logarithm of width over height, relative to the font's
_SHIFT = (-2.0, 2.0)  # pixels from the centre, along each axis
_WEIGHT = (0.2, 0.5)  # level at which the blurred master is cut: the lower, the thicker the strokes


def load_glyphs(split: str, *, rotations: bool | None = None, max_classes: int | None = None) -> ImageClasses:
    """Load one split of the glyphs: uint8 (classes, 20, 1, 28, 28), ink 255 on background 0.

    Drawn on first use (about 20 seconds) and kept in the cache folder. Classes are split at random with a
    fixed seed, in the proportions of Omniglot's 1100 characters for "train", 100 for "val" and 423 for
    "test"; within a split they are in the order of their code points.

    ``rotations``: quarter turns as new classes, class ``4 * c + r`` being character ``c`` turned ``r`` times;
    None means yes for "train" and "val", no for "test". No character is a turned copy of another.
    ``max_classes``: draw only the first so many characters, for a quick trial; at least 20.

    Raises DataError if Pillow or matplotlib is not installed, ValueError for wrong arguments.
    """
    check_split(split)
    if max_classes is not None and max_classes < 20:
        raise ValueError(f"max_classes must be at least 20, got {max_classes}")
    arrays = _read_cache(max_classes)
    if arrays is None:
        arrays = draw_glyphs(max_classes)
        storage.save_arrays(_cache_path(max_classes), images=arrays[0], code_points=arrays[1])
    chosen = split_classes(split, len(arrays[0]))
    images = torch.from_numpy(arrays[0])[chosen].unsqueeze(2)  # (classes, 20, 1, 28, 28)
    if rotations if rotations is not None else split != "test":
        images = with_rotations(images)  # (4 * classes, 20, 1, 28, 28)
    return ImageClasses(images, "glyphs", split)


def glyphs_status(max_classes: int | None = None) -> DatasetStatus:
    """Where the fonts and the cache are and what the cache holds, without drawing anything."""
    arrays = _read_cache(max_classes)
    try:
        sources: tuple[Path, ...] = (_font_folder(),)
    except DataError:
        sources = ()
    return DatasetStatus(
        name="glyphs",
        sources=sources,
        cache=_cache_path(max_classes),
        cached=arrays is not None,
        classes=None if arrays is None else {s: len(split_classes(s, len(arrays[0]))) for s in SPLITS},
        per_class=EXAMPLES,
        fingerprint=None if arrays is None else fingerprint(torch.from_numpy(arrays[0])),
    )


def split_classes(split: str, classes: int) -> np.ndarray:
    """Which of the classes make a split: sorted int64."""
    # RandomState and not Generator: NumPy promises that its stream never changes (NEP 19).
    order = np.random.RandomState(_SEED).permutation(classes)
    test, val = round(TEST_SHARE * classes), round(VAL_SHARE * classes)
    chosen = {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}
    return np.sort(chosen[split])


def _cache_path(max_classes: int | None) -> Path:
    limit = "" if max_classes is None else f"-first{max_classes}"
    return storage.cache_dir() / f"glyphs-{SIDE}x{SIDE}-{_CACHE_VERSION}{limit}.npz"


def _read_cache(max_classes: int | None) -> tuple[np.ndarray, np.ndarray] | None:
    arrays = storage.load_arrays(_cache_path(max_classes), "images", "code_points")
    if arrays is None:
        return None
    images, code_points = arrays
    if images.shape != (len(code_points), EXAMPLES, SIDE, SIDE) or images.dtype != np.uint8:
        return None
    return images, code_points


def draw_glyphs(max_classes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Choose the characters and draw all examples, with a progress bar.

    Returns the images, uint8 (classes, 20, 28, 28), and the code points, int64 (classes,), ascending.
    Raises DataError if Pillow or matplotlib is not installed.
    """
    code_points = choose_characters()[:max_classes]
    images = np.empty((len(code_points), EXAMPLES, SIDE, SIDE), np.uint8)
    for i, code_point in enumerate(tqdm(code_points, desc="glyphs", unit="char", disable=None)):
        images[i] = draw_examples(code_point)
    return images, np.array(code_points, np.int64)


def choose_characters() -> list[int]:
    """The code points that make classes, ascending: visible, not too small, and no two alike.

    Mere variants of other characters (by Unicode: ligatures, styled letters, letters joined or in circles)
    are left out. Of characters that look alike, be it after scaling or a quarter turn, only the first is
    kept: size does not tell c from C in an example, and a turned class must not be another class.
    """
    candidates, pictures = [], []
    for code_point in sorted(_characters(_FACES[0])):
        char = chr(code_point)
        if unicodedata.category(char) not in _CATEGORIES or unicodedata.decomposition(char).startswith("<"):
            continue
        if any(code_point in block for block in _INTRICATE):
            continue
        master = _master(_FACES[0], code_point)
        if master is not None and max(master.size) >= _LEAST_EXTENT:
            candidates.append(code_point)
            pictures.append(_distort(master, extent=20.0))
    similarity = turned_similarity(np.stack(pictures))  # (candidates, candidates)
    kept: list[int] = []
    for i in range(len(candidates)):
        if not (similarity[i, kept] > _ALIKE).any():
            kept.append(i)
    return [candidates[i] for i in kept]


def turned_similarity(pictures: np.ndarray) -> np.ndarray:
    """Cosine similarity of every two pictures, blurred a little, at the quarter turn where it is greatest.

    ``pictures``: uint8 (n, side, side). Returns float64 (n, n), 1 on the diagonal.
    """
    blurred = np.pad(pictures.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    for axis in (1, 2):  # the kernel 1 2 1 along each axis
        before, after = np.roll(blurred, 1, axis), np.roll(blurred, -1, axis)
        blurred = before + 2 * blurred + after
    flat = blurred.reshape(len(pictures), -1)  # (n, pixels); integers, so that the sums below are exact
    best = flat @ flat.T  # (n, n)
    norm = np.sqrt(best.diagonal())
    for turns in (1, 2):
        turned = flat @ np.rot90(blurred, turns, (1, 2)).reshape(len(pictures), -1).T
        # That i is like j turned once means that j is like i turned thrice.
        best = np.maximum(best, np.maximum(turned, turned.T))
    return best / np.outer(norm, norm)


def draw_examples(code_point: int) -> np.ndarray:
    """The 20 examples of one character, uint8 (20, 28, 28). They depend on the code point alone."""
    random = np.random.RandomState([_SEED, code_point])
    faces = [face for face in _FACES if code_point in _characters(face)]
    examples = []
    for _ in range(EXAMPLES):
        master = _master(faces[random.randint(len(faces))], code_point)
        if master is None:
            master = _master(_FACES[0], code_point)
            assert master is not None, "the first face shows every character chosen"
        examples.append(
            _distort(
                _thicken(master, random.uniform(*_WEIGHT)),
                extent=random.uniform(*_EXTENT),
                turn=random.uniform(*_TURN),
                shear=random.uniform(*_SHEAR),
                stretch=random.uniform(*_STRETCH),
                shift=(random.uniform(*_SHIFT), random.uniform(*_SHIFT)),
            )
        )
    return np.stack(examples)


def _font_folder() -> Path:
    try:
        import matplotlib
    except ImportError as error:
        raise storage.missing_package("matplotlib") from error
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@lru_cache
def _characters(face: str) -> frozenset[int]:
    """The code points that a face has."""
    path = _font_folder() / f"{face}.ttf"
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"cannot read the font {path} ({error}); run: pip install --force-reinstall matplotlib"
        ) from error


def _master(face: str, code_point: int) -> "Image.Image | None":
    """A large drawing of a character, cropped to its ink; None if it is blank."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise storage.missing_package("pillow") from error

    font, text = _font(face), chr(code_point)
    left, top, right, bottom = (round(side) for side in font.getbbox(text))
    image = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=font)
    box = image.getbbox()
    return image.crop(box) if box else None


@lru_cache
def _font(face: str) -> "ImageFont.FreeTypeFont":
    from PIL import ImageFont

    # The basic layout draws a code point as it is, where a shaping engine might join or reorder.
    return ImageFont.truetype(str(_font_folder() / f"{face}.ttf"), _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


def _thicken(master: "Image.Image", level: float) -> "Image.Image":
    """Make the strokes of a master thicker by some pixels, the more the lower ``level`` (0 ... 0.5) is."""
    from PIL import ImageChops, ImageFilter, ImageOps

    wide = ImageOps.expand(master, border=6)
    blurred = wide.filter(ImageFilter.GaussianBlur(2))
    cut = blurred.point([255 * (value >= 255 * level) for value in range(256)])
    thick = ImageChops.lighter(wide, cut)  # hairlines do not survive the blur, but stay as they were
    return thick.crop(thick.getbbox())


def _distort(
    master: "Image.Image",
    extent: float,
    turn: float = 0.0,
    shear: float = 0.0,
    stretch: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Draw a master stretched, sheared and turned (degrees), then scaled to ``extent`` pixels across.

    Returns uint8 (28, 28): centred but for ``shift`` (right, down; pixels), which is cut to what fits.
    """
    from PIL import Image

    angle = np.deg2rad(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag(np.exp([stretch / 2, -stretch / 2]))
    centre = np.array(master.size) / 2
    matrix *= extent / (2 * np.abs(matrix) @ centre).max()  # |matrix| @ size bounds the distorted glyph
    room = SIDE / 2 - np.abs(matrix) @ centre
    target = SIDE / 2 + np.clip(shift, -room, room)

    # Pillow wants the inverse map. Drawn at twice the size and averaged, as the map alone does not antialias.
    inverse = np.linalg.inv(2 * matrix)
    offset = centre - inverse @ (2 * target)
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    drawn = master.transform((2 * SIDE, 2 * SIDE), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(drawn.reduce(2))
