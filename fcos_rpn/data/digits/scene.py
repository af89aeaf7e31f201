"""One scene of the quick-start data set "digits": handwritten digits pasted with clutter onto a photograph.

Digits and photographs are those that scikit-learn and scikit-image carry, so nothing is downloaded. The difficulty is
fixed by the constants below. Coordinates are pixels of the image, x to the right, y down; a box is x, y, width, height
and covers whole pixels.
"""

import math
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
from pycocotools import mask as coco_mask

from ...errors import UserError, install_hint

WIDTH, HEIGHT = 320, 256
NUM_DIGITS = (3, 12)
"""Fewest and most digits of an image."""
NUM_DISTRACTORS = (3, 6)
"""Fewest and most letters and wavy strokes of an image; they carry no annotation."""
DIGIT_SIDES = (12, 160)
"""Range of the longer side of a digit's box; log-uniform."""
DISTRACTOR_SIDES = (16, 96)
OVERLAP_IOU = (0.1, 0.5)
"""Boxes overlap if their IoU is over the first. None in an image exceeds the second: NMS would take two for one."""
OVERLAP_PROBABILITY = 0.15
"""How often a digit is placed so that it overlaps an earlier one if it can; others overlap by chance."""
MIN_VISIBLE = 0.75
"""Share of the ink of a digit or distractor that stays visible under all that is pasted over it."""

_CELL = 20  # pixels that one of the 8 x 8 cells of a sample becomes before the ink is shrunk to its size
_SHEET = 12 * _CELL
_LETTERS = "AEFHKMNRVWXYkmrvwx"  # without those that resemble a digit
_COLORS_RGB = "ffffff ffec6e ffc400 ff8a00 ff5252 c81432 ff69b4 aa3cdc 5a3cc8 1e5aff 50c8ff 00beaa 00823c 8ce63c 191928"
_MIN_CONTRAST = 45  # CIELAB distance
_NUM_TRIES = 64  # random places for an item before the whole layout is begun anew

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
Box = tuple[int, int, int, int]
Color = tuple[int, int, int]


class Material(NamedTuple):
    """What the scenes of one split are made of; the splits share neither samples nor parts of a photograph."""

    samples: NDArray[np.uint8]  # (S, 8, 8), 0 to 255
    digits: NDArray[np.int64]  # (S,), 0 to 9
    photographs: list[Image.Image]


class Ink(NamedTuple):
    """The shape of a digit or distractor."""

    coverage: Image.Image  # mode L: how much of each pixel is covered; tight around the pixels covered at least half
    category_id: int | None  # None: a distractor


class Item(NamedTuple):
    """A digit or distractor as pasted."""

    ink: Ink
    box: Box
    color: Color


class Scene(NamedTuple):
    """One image and all that was pasted on it, in this order: later items lie over earlier ones."""

    image: Image.Image
    items: list[Item]

    @property
    def digits(self) -> list[Item]:
        return [item for item in self.items if item.ink.category_id is not None]

    @property
    def distractors(self) -> list[Item]:
        return [item for item in self.items if item.ink.category_id is None]


@cache
def load_material(split: Split) -> Material:
    """The first four fifths of the samples and the left three fifths of each photograph train; the rest validates.

    Raises:
        UserError: scikit-learn or scikit-image is missing.
    """
    try:
        from skimage import data
        from sklearn.datasets import load_digits, load_sample_image
    except ImportError as error:
        raise UserError(
            f"the digits data set needs scikit-learn and scikit-image ({error}): {install_hint('quickstart')}"
        ) from error
    samples, digits = load_digits().images, load_digits().target
    border = len(samples) * 4 // 5
    part = slice(border) if split == "train" else slice(border, None)
    photographs = [
        load_sample_image("china.jpg"),
        load_sample_image("flower.jpg"),
        data.astronaut(),
        data.chelsea(),
        data.coffee(),
        data.hubble_deep_field(),
        data.immunohistochemistry(),
        data.retina(),
        data.rocket(),
        data.stereo_motorcycle()[0],
    ]
    parts = []
    for photograph in map(Image.fromarray, photographs):
        middle = photograph.width * 3 // 5
        left, right = (0, middle) if split == "train" else (middle, photograph.width)
        parts.append(photograph.crop((left, 0, right, photograph.height)))
    return Material((samples[part] * (255 / 16)).astype(np.uint8), digits[part], parts)


def _background(photographs: list[Image.Image], rng: np.random.Generator) -> Image.Image:
    photograph = photographs[rng.integers(len(photographs))]
    scale = rng.uniform(0.6, 1.0) * min(photograph.width / WIDTH, photograph.height / HEIGHT)
    left = rng.uniform(0, photograph.width - scale * WIDTH)
    top = rng.uniform(0, photograph.height - scale * HEIGHT)
    crop = (left, top, left + scale * WIDTH, top + scale * HEIGHT)
    image = photograph.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS, crop, reducing_gap=2.0)
    return ImageOps.mirror(image) if rng.random() < 0.5 else image


def _digit_sheet(sample: NDArray[np.uint8]) -> Image.Image:
    sheet = ImageOps.expand(Image.fromarray(sample), 2).resize((_SHEET, _SHEET), Image.Resampling.BICUBIC)
    # Samples are so coarse that without sharpening holes would close or thin strokes break, whatever the threshold.
    return sheet.filter(ImageFilter.GaussianBlur(_CELL * 0.3)).filter(ImageFilter.UnsharpMask(_CELL * 0.8, 250, 0))


def _letter_sheet(rng: np.random.Generator) -> Image.Image:
    sheet = Image.new("L", (_SHEET, _SHEET))
    font = ImageFont.load_default(size=8 * _CELL)
    letter = _LETTERS[rng.integers(len(_LETTERS))]
    center = (_SHEET / 2, _SHEET / 2)
    ImageDraw.Draw(sheet).text(center, letter, 255, font, anchor="mm", stroke_width=int(rng.integers(_CELL // 3)))
    return sheet


def _wave_sheet(rng: np.random.Generator) -> Image.Image:
    """A wavy or zigzag stroke, too long and flat to be read as a digit."""
    sheet = Image.new("L", (_SHEET, _SHEET))
    x = np.linspace(-4 * _CELL, 4 * _CELL, 201)
    phase = np.linspace(0, rng.uniform(1.75, 3.5), 201) + rng.random()
    wave = np.sin(2 * np.pi * phase) if rng.random() < 0.5 else 4 * np.abs(phase % 1 - 0.5) - 1
    y = wave * rng.uniform(0.5, 1.2) * _CELL
    radius = rng.uniform(0.35, 0.6) * _CELL
    draw = ImageDraw.Draw(sheet)
    for point in zip(_SHEET / 2 + x, _SHEET / 2 + y, strict=True):
        draw.circle(point, radius, 255)
    return sheet


def is_ink(coverage: Image.Image) -> NDArray[np.bool_]:
    """(h, w) pixels that are covered at least half."""
    return np.asarray(coverage) >= 128


def _coverage(sheet: Image.Image, sides: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Rotate, shear and stretch a sheet and shrink its ink, so that the longer side of the tight box is log-uniform."""
    angle = math.radians(rng.uniform(-15, 15))
    stretch = math.exp(rng.uniform(-0.2, 0.2))
    matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = matrix @ [[1, rng.uniform(-0.2, 0.2)], [0, 1]] @ np.diag([stretch, 1 / stretch])
    shift = _SHEET / 2 - matrix @ (_SHEET / 2, _SHEET / 2)
    affine = (*matrix[0], shift[0], *matrix[1], shift[1])
    sheet = sheet.transform(sheet.size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    ink = sheet.point([min(255, max(0, 128 + 6 * (level - 128))) for level in range(256)])
    ink = ink.crop(Image.fromarray(is_ink(ink)).getbbox())

    longer = side = int(math.exp(rng.uniform(*np.log(sides))))
    while True:
        scale = longer / max(ink.size)
        size = (max(1, round(ink.width * scale)), max(1, round(ink.height * scale)))
        coverage = ink.resize(size, Image.Resampling.BOX)
        coverage = coverage.crop(Image.fromarray(is_ink(coverage)).getbbox())
        if max(coverage.size) >= side:
            return coverage
        longer += 1  # rows and columns that ink covers less than half were cropped away


def _candidate_corners(
    width: int, height: int, boxes: list[Box], wants_overlap: bool, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Random (T, 2) upper left corners that respect the greatest IoU; if wanted, those that overlap come first."""
    corners = rng.integers(0, (WIDTH - width + 1, HEIGHT - height + 1), (_NUM_TRIES, 2))
    if not boxes:
        return corners
    candidates = np.column_stack([corners, np.full_like(corners, (width, height))])
    iou = coco_mask.iou(candidates.astype(float), np.array(boxes, float), [False] * len(boxes)).max(axis=1)
    if wants_overlap:
        order = np.argsort(iou <= OVERLAP_IOU[0], kind="stable")
        corners, iou = corners[order], iou[order]
    return corners[iou <= OVERLAP_IOU[1]]


def _lay_out(inks: list[Ink], rng: np.random.Generator) -> list[Box] | None:
    """Choose a box for each ink, in the order of pasting; None if one found no place."""
    owner = np.zeros((HEIGHT, WIDTH), dtype=np.int64)  # of each pixel: 0 the background, i + 1 ink i
    masks = [is_ink(ink.coverage) for ink in inks]
    num_visible = num_ink = np.array([mask.sum() for mask in masks])
    boxes: list[Box] = []
    digit_boxes: list[Box] = []
    for index, mask in enumerate(masks):
        height, width = mask.shape
        is_digit = inks[index].category_id is not None
        wants_overlap = rng.random() < OVERLAP_PROBABILITY
        for x, y in _candidate_corners(width, height, digit_boxes if is_digit else [], wants_overlap, rng).tolist():
            window = owner[y : y + height, x : x + width]
            num_left = num_visible - np.bincount(window[mask], minlength=len(inks) + 1)[1:]
            if np.all(num_left >= MIN_VISIBLE * num_ink):
                break
        else:
            return None
        num_visible = num_left
        window[mask] = index + 1
        boxes.append((x, y, width, height))
        if is_digit:
            digit_boxes.append(boxes[-1])
    return boxes


def _pick_color(surroundings: NDArray[np.uint8], rng: np.random.Generator) -> Color:
    """A random one of the colors that stand out against almost all pixels (P, 3), as far as there are such."""
    from skimage.color import rgb2lab

    colors = np.frombuffer(bytes.fromhex(_COLORS_RGB), np.uint8).reshape(-1, 3)
    distances = np.linalg.norm(rgb2lab(colors)[:, None] - rgb2lab(surroundings), axis=2)
    contrast = np.percentile(distances, 5, axis=1)
    good = contrast >= min(_MIN_CONTRAST, 0.8 * contrast.max())
    red, green, blue = rng.choice(colors[good]).tolist()
    return red, green, blue


def _paste(image: Image.Image, coverage: Image.Image, box: Box, rng: np.random.Generator) -> Color:
    """Paste ink in a color that stands out, over a soft halo; return the color."""
    margin = 2 + max(coverage.size) // 20
    padded = ImageOps.expand(coverage, margin)
    halo = padded.filter(ImageFilter.GaussianBlur(margin / 2))
    corner = (box[0] - margin, box[1] - margin)
    window = image.crop((*corner, corner[0] + padded.width, corner[1] + padded.height))
    surroundings = np.asarray(window)[np.asarray(halo) > 32]
    color = _pick_color(surroundings[:: 1 + len(surroundings) // 256], rng)
    shade = "black" if sum(color) > 330 else "white"
    image.paste(shade, corner, halo.point([min(140, level) for level in range(256)]))
    image.paste(color, corner, padded)
    return color


def make_scene(seed: int, split: Split, index: int) -> Scene:
    """Draw one image of the data set; equal arguments give an equal scene.

    Raises:
        UserError: scikit-learn or scikit-image is missing.
    """
    material = load_material(split)
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    inks = []
    for _ in range(rng.integers(*NUM_DIGITS, endpoint=True)):
        sample = rng.integers(len(material.samples))
        coverage = _coverage(_digit_sheet(material.samples[sample]), DIGIT_SIDES, rng)
        inks.append(Ink(coverage, int(material.digits[sample]) + 1))
    for _ in range(rng.integers(*NUM_DISTRACTORS, endpoint=True)):
        sheet = _letter_sheet(rng) if rng.random() < 0.6 else _wave_sheet(rng)
        inks.append(Ink(_coverage(sheet, DISTRACTOR_SIDES, rng), None))

    # Large ones tend to lie under small ones; otherwise the small ones would rarely stay visible.
    inks.sort(key=lambda ink: math.log(max(ink.coverage.size)) + rng.normal(0, 0.4), reverse=True)
    boxes = None
    while boxes is None:
        boxes = _lay_out(inks, rng)

    image = _background(material.photographs, rng)
    items = [Item(ink, box, _paste(image, ink.coverage, box, rng)) for ink, box in zip(inks, boxes, strict=True)]
    return Scene(image, items)
