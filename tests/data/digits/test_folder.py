import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from fcos_rpn.data.digits import folder as digits
from fcos_rpn.data.digits import scene as digits_scene
from fcos_rpn.data.digits.folder import DigitsFolder, generate_digits
from fcos_rpn.data.digits.scene import load_material, make_scene
from fcos_rpn.errors import UserError


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> DigitsFolder:
    return generate_digits(tmp_path_factory.mktemp("reference"), num_train=3, num_val=2)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str, int]]:
    """The arguments of all calls of make_scene."""
    calls: list[tuple[int, str, int]] = []

    def spy(*args):
        calls.append(args)
        return make_scene(*args)

    monkeypatch.setattr(digits, "make_scene", spy)
    return calls


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_json_is_coco_and_agrees_with_the_scenes(reference):
    coco = COCO(reference.val_json)
    assert [coco.cats[category_id]["name"] for category_id in range(1, 11)] == list(digits.CATEGORIES)
    assert len(coco.imgs) == 2
    for index, (image_id, image) in enumerate(coco.imgs.items()):
        picture = Image.open(reference.val_images / image["file_name"])
        assert picture.size == (image["width"], image["height"]) == (320, 256)
        scene = make_scene(0, "val", index)
        # JPEG changes colors, but not what the picture shows.
        assert np.abs(np.asarray(picture, float) - np.asarray(scene.image)).mean() < 8
        annotations = coco.loadAnns(coco.getAnnIds([image_id]))
        assert [tuple(annotation["bbox"]) for annotation in annotations] == [digit.box for digit in scene.digits]
        assert [annotation["category_id"] for annotation in annotations] == [
            digit.ink.category_id for digit in scene.digits
        ]
        assert all(a["area"] == a["bbox"][2] * a["bbox"][3] and a["iscrowd"] == 0 for a in annotations)
    assert len(set(coco.anns)) == len(coco.dataset["annotations"])


def test_category_ids_are_the_digits_plus_one(monkeypatch):
    # Two samples: a horizontal bar, said to be a 3, and a vertical one, said to be a 5.
    samples = np.zeros((2, 8, 8), dtype=np.uint8)
    samples[0, 3:5, :] = samples[1, :, 3:5] = 255
    material = digits_scene.Material(samples, np.array([3, 5]), load_material("train").photographs)
    monkeypatch.setattr(digits_scene, "load_material", lambda split: material)
    found = {
        (digit.ink.category_id, digit.box[2] > digit.box[3])
        for i in range(3)
        for digit in make_scene(0, "train", i).digits
    }
    assert found == {(4, True), (6, False)}
    assert (digits.CATEGORIES[4 - 1], digits.CATEGORIES[6 - 1]) == ("three", "five")


def test_an_image_depends_on_its_seed_split_and_index_alone(reference, tmp_path):
    longer = generate_digits(tmp_path / "longer", num_train=4, num_val=1)
    other = generate_digits(tmp_path / "other", num_train=3, num_val=1, seed=1)
    for path in reference.train_images.iterdir():
        assert (longer.train_images / path.name).read_bytes() == path.read_bytes()
        assert (other.train_images / path.name).read_bytes() != path.read_bytes()
    first = "digits_000000.jpg"
    assert (longer.train_images / first).read_bytes() != (longer.val_images / first).read_bytes()


def test_an_interrupted_call_is_taken_up_and_what_is_complete_reused(reference, tmp_path, drawn, monkeypatch):
    def interrupted(seed, split, index):
        if (split, index) == ("val", 1):
            raise KeyboardInterrupt
        return make_scene(seed, split, index)

    with monkeypatch.context() as patch:
        patch.setattr(digits, "make_scene", interrupted)
        with pytest.raises(KeyboardInterrupt):
            generate_digits(tmp_path, num_train=3, num_val=2)
    assert not (tmp_path / "instances_val.json").exists()
    # Half a picture, as a kill leaves it.
    (tmp_path / "val" / "digits_000001.jpg").write_bytes(b"\xff\xd8")
    for _ in range(2):
        generate_digits(tmp_path, num_train=3, num_val=2)
        assert drawn == [(0, "val", 0), (0, "val", 1)]
    assert contents(tmp_path) == contents(reference.train_images.parent)


def test_pictures_of_two_seeds_never_mix(reference, tmp_path, monkeypatch):
    generate_digits(tmp_path, num_train=3, num_val=2)

    def killed(source, target):
        raise KeyboardInterrupt

    # All pictures of the other seed are written, its json is not.
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            generate_digits(tmp_path, num_train=3, num_val=2, seed=1)
    assert not (tmp_path / "instances_train.json").exists()
    generate_digits(tmp_path, num_train=3, num_val=2)
    assert contents(tmp_path) == contents(reference.train_images.parent)


@pytest.mark.parametrize("change", ["fewer images", "picture lost", "version"])
def test_what_differs_is_generated_anew(change, tmp_path, drawn, monkeypatch):
    generate_digits(tmp_path, num_train=2, num_val=1)
    drawn.clear()
    if change == "fewer images":
        generate_digits(tmp_path, num_train=1, num_val=1)
        assert drawn == [(0, "train", 0)]
        assert [path.name for path in (tmp_path / "train").iterdir()] == ["digits_000000.jpg"]
    elif change == "picture lost":
        (tmp_path / "train" / "digits_000001.jpg").unlink()
        generate_digits(tmp_path, num_train=2, num_val=1)
        assert drawn == [(0, "train", 0), (0, "train", 1)]
    else:
        monkeypatch.setattr(digits, "VERSION", digits.VERSION + 1)
        generate_digits(tmp_path, num_train=2, num_val=1)
        assert len(drawn) == 3


@pytest.mark.parametrize("text", ['{"images": []}', '{"info": {"generator": "mine"}}', "[]", "not json"])
def test_annotations_of_another_origin_are_refused_and_kept(text, tmp_path):
    path = tmp_path / "instances_val.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"instances_val\.json was not written by the digits generator"):
        generate_digits(tmp_path, num_train=1, num_val=1)
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("package", ["sklearn.datasets", "skimage"])
def test_a_missing_package_names_the_extra(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    load_material.cache_clear()
    with pytest.raises(UserError, match=r"pip install '\.\[quickstart\]' in the checkout"):
        generate_digits(tmp_path, num_train=1, num_val=1)


@pytest.mark.parametrize(
    ("folder", "numbers", "expected"),
    [
        ("new", {"num_train": 0}, "num_train >= 1, num_val >= 1 and seed >= 0"),
        ("new", {"num_val": -1}, "num_train >= 1, num_val >= 1 and seed >= 0"),
        ("new", {"seed": -1}, "num_train >= 1, num_val >= 1 and seed >= 0"),
        ("taken", {}, "cannot be written to .*taken"),
    ],
)
def test_wrong_arguments_are_refused(folder, numbers, expected, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=expected):
        generate_digits(tmp_path / folder, **numbers)
