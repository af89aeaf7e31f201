import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from fcos_rpn.data.digits import scene as digits_scene
from fcos_rpn.data.digits.scene import Item, Scene, load_material, make_scene


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(0, split, index) for split in digits_scene.SPLITS for index in range(20)]


def ink_mask(item: Item) -> np.ndarray:
    """The (256, 320) pixels that the ink covers at least half, before anything is pasted over it."""
    x, y, width, height = item.box
    mask = np.zeros((256, 320), dtype=bool)
    mask[y : y + height, x : x + width] = np.asarray(item.ink.coverage) >= 128
    return mask


def test_numbers_of_digits_and_distractors(scenes):
    num_digits = [len(scene.digits) for scene in scenes]
    # All of 3 .. 12 are equally likely, so that 40 images have 7.5 on average, give or take 3 * 2.87 / sqrt(40).
    assert 3 <= min(num_digits) <= 4
    assert 11 <= max(num_digits) <= 12
    assert np.mean(num_digits) == pytest.approx(7.5, abs=1.4)
    assert all(len(scene.distractors) >= 3 for scene in scenes)
    assert all(len(scene.items) == len(scene.digits) + len(scene.distractors) for scene in scenes)


def test_longer_sides_are_log_uniform(scenes):
    sides = np.sort([max(digit.box[2:]) for scene in scenes for digit in scene.digits])
    assert sides[0] >= 12
    assert sides[-1] <= 160
    # Kolmogorov-Smirnov: the greatest distance of the two distribution functions; 1.63 / sqrt(n) rejects at 1 %.
    expected = np.log(sides / 12) / np.log(160 / 12)
    observed = np.arange(len(sides)) / len(sides)
    assert np.abs(expected - observed).max() < 1.63 / np.sqrt(len(sides))


def test_a_fifth_of_the_boxes_overlap_and_none_too_much(scenes):
    greatest = []
    for scene in scenes:
        boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (digit.box for digit in scene.digits)])
        greatest += box_iou(boxes, boxes).fill_diagonal_(0).amax(dim=1).tolist()
    assert np.mean(np.array(greatest) > 0.1) >= 0.2
    assert max(greatest) <= 0.5


def test_boxes_are_tight_around_the_ink_and_inside_the_image(scenes):
    for item in (item for scene in scenes for item in scene.items):
        x, y, width, height = item.box
        assert x >= 0
        assert y >= 0
        assert x + width <= 320
        assert y + height <= 256
        rows, columns = ink_mask(item).nonzero()
        assert (columns.min(), columns.max() + 1) == (x, x + width)
        assert (rows.min(), rows.max() + 1) == (y, y + height)


def test_the_picture_shows_the_ink_inside_the_box_only(scenes):
    # Nothing lies over the item that was pasted last: where its ink is full, the picture has its color.
    for scene in scenes:
        item = scene.items[-1]
        x, y, width, height = item.box
        has_color = np.all(np.asarray(scene.image) == item.color, axis=2)
        full = np.asarray(item.ink.coverage) == 255
        assert full.any()
        assert has_color[y : y + height, x : x + width][full].all()
        for earlier in scene.items[:-1]:
            has_color &= ~ink_mask(earlier)
        around = has_color[max(y - 2, 0) : y + height + 2, max(x - 2, 0) : x + width + 2]
        assert around.sum() == has_color[y : y + height, x : x + width].sum()


def test_three_quarters_of_the_ink_stay_visible(scenes):
    for scene in scenes:
        masks = [ink_mask(item) for item in scene.items]
        for index, mask in enumerate(masks):
            hidden = np.any([np.zeros_like(mask), *masks[index + 1 :]], axis=0)
            assert (mask & ~hidden).sum() >= 0.75 * mask.sum()


def test_the_splits_share_no_sample_and_no_part_of_a_photograph():
    train, val = load_material("train"), load_material("val")
    assert len(train.samples) + len(val.samples) == 1797
    assert not {sample.tobytes() for sample in train.samples} & {sample.tobytes() for sample in val.samples}
    assert set(train.digits) == set(val.digits) == set(range(10))
    # flower.jpg is 640 wide: columns 0 .. 383 train, 384 .. 639 validate.
    from sklearn.datasets import load_sample_image

    np.testing.assert_array_equal(np.asarray(train.photographs[1]), load_sample_image("flower.jpg")[:, :384])
    np.testing.assert_array_equal(np.asarray(val.photographs[1]), load_sample_image("flower.jpg")[:, 384:])
