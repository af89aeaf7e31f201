import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from fcos_rpn import UserError
from fcos_rpn.data import CheckedDatasetMapper, TrainLoader
from fcos_rpn.data.loader import SAMPLERS, ImageOrder, MappedImages, Place, are_wide, load_records
from fcos_rpn.engine.setup import use_datasets
from tests.tiny import tiny_config, write_coco_folder

WIDE, TALL = True, False


def first(iterable, count: int) -> list:
    return list(itertools.islice(iterable, count))


def positions(batches) -> list[list[int]]:
    return [[place.position for place in batch] for batch in batches]


# -- ImageOrder


def test_an_epoch_has_every_image_once_in_an_order_of_its_own():
    order = ImageOrder([TALL] * 20)
    epochs = [order.epoch(0, number).tolist() for number in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert order.epoch(0, 2).tolist() == epochs[2]  # of its number alone
    assert order.epoch(1, 2).tolist() != epochs[2]


def test_an_image_comes_as_often_as_its_factor_says():
    factors = torch.tensor([1.0, 2.0, 1.25, 3.5])
    order = ImageOrder([TALL] * 4, repeat_factors=factors)
    counts = [Counter(order.epoch(0, number).tolist()) for number in range(200)]
    assert {count[0] for count in counts} == {1}
    assert {count[1] for count in counts} == {2}
    assert {count[2] for count in counts} == {1, 2}
    assert {count[3] for count in counts} == {3, 4}
    # 200 draws of probability p: standard deviation sqrt(p (1 - p) / 200), .031 and .035
    assert sum(count[2] for count in counts) / 200 == pytest.approx(1.25, abs=0.1)
    assert sum(count[3] for count in counts) / 200 == pytest.approx(3.5, abs=0.11)
    assert counts[7] == Counter(order.epoch(0, 7).tolist())


def test_a_subset_is_the_same_in_every_epoch_and_another_of_another_seed():
    order = ImageOrder([TALL] * 20, subset_ratio=0.33)
    epochs = [order.epoch(0, number).tolist() for number in range(3)]
    assert [len(set(epoch)) for epoch in epochs] == [6, 6, 6]  # ⌊.33 · 20⌋
    assert len({frozenset(epoch) for epoch in epochs}) == 1
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert set(order.epoch(1, 0).tolist()) != set(epochs[0])


def test_grouping_worked_out_by_hand(monkeypatch):
    # Images 0, 1 and 3 are wide; every epoch is 0 1 2 3 4. By position, with w(ide) and t(all):
    #   0w 1w 2t 3w 4t  5w 6w 7t 8w 9t  10w ...
    monkeypatch.setattr(ImageOrder, "epoch", lambda *_: torch.arange(5))
    order = ImageOrder([WIDE, WIDE, TALL, WIDE, TALL])
    batches = first(order.batches(0, 2), 6)
    assert positions(batches) == [[0, 1], [2, 4], [3, 5], [6, 8], [7, 9], [10, 11]]
    assert [[place.image for place in batch] for batch in batches] == [[0, 1], [2, 4], [3, 0], [1, 3], [2, 4], [0, 1]]


# -- MappedImages


def drawing_mapper(record: dict) -> dict:
    return {**record, "drawn": (random.random(), np.random.rand(), torch.rand(()).item())}


def test_an_image_depends_on_its_place_alone():
    images = MappedImages([{"id": 0}, {"id": 1}], drawing_mapper, seed=3)
    before = torch.get_rng_state()
    at_five = images[Place(0, 5)]
    assert torch.equal(torch.get_rng_state(), before)
    assert images[Place(0, 6)]["drawn"] != at_five["drawn"]
    assert images[Place(1, 5)] == {"id": 1, "drawn": at_five["drawn"]}
    random.random()
    np.random.rand()
    torch.rand(3)
    assert images[Place(0, 5)] == at_five
    other_seed = MappedImages(images.records, drawing_mapper, seed=4)[Place(0, 5)]["drawn"]
    assert all(one != other for one, other in zip(at_five["drawn"], other_seed, strict=True))


def test_the_next_image_takes_the_place_of_one_that_is_skipped():
    def mapper(record: dict) -> dict | None:
        mapped = drawing_mapper(record)
        return mapped if record["id"] == 1 else None

    images = MappedImages([{"id": index} for index in range(4)], mapper, seed=3)
    assert [images[Place(index, 8)]["id"] for index in range(4)] == [1, 1, 1, 1]
    assert images[Place(2, 8)] == images[Place(1, 8)]  # drawn anew, not on
    images.mapper = lambda record: None
    with pytest.raises(UserError, match="skips every one of the data set's 4 images"):
        images[Place(2, 8)]


# -- TrainLoader


def of_records(start: int = 0) -> TrainLoader:
    records = [{"id": index, "width": 3 + index % 3, "height": 4} for index in range(10)]
    loader = TrainLoader(
        records,
        drawing_mapper,
        order=ImageOrder(are_wide(records)),
        batch_size=4,
        seed=1,
    )
    loader.start = start
    return loader


@pytest.mark.parametrize("start", [0, 1, 7])
def test_a_later_start_gives_the_tail(start):
    whole = first(of_records(), 12)
    assert first(of_records(start=start), 12 - start) == whole[start:]
    assert len({image["drawn"] for batch in whole for image in batch}) == 48


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_every_batch(monkeypatch, world_size):
    alone = first(of_records(start=2), 9)
    monkeypatch.setattr("fcos_rpn.data.loader.comm.get_world_size", lambda: world_size)
    shares = []
    for rank in range(world_size):
        monkeypatch.setattr("fcos_rpn.data.loader.comm.get_rank", lambda rank=rank: rank)
        shares.append(first(of_records(start=2), 9))
    assert all(len(batch) == 4 // world_size for share in shares for batch in share)
    assert [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == alone


# -- from a config


@pytest.fixture
def cfg(tmp_path, detectron2_restored):
    cfg = tiny_config()
    cfg.DATASETS.TRAIN_FOLDERS = [list(write_coco_folder(tmp_path / "coco", num_images=7))]
    cfg.INPUT.MIN_SIZE_TRAIN = (48, 64, 80)
    cfg.SEED = 2
    use_datasets(cfg)
    return cfg


def loader_of(cfg) -> TrainLoader:
    return TrainLoader(cfg, CheckedDatasetMapper(cfg, is_train=True))


def contents(batches) -> list:
    """What a batch consists of, such that == compares all of it."""
    return [
        [(image["image_id"], image["image"].tolist(), image["instances"].gt_boxes.tensor.tolist()) for image in batch]
        for batch in batches
    ]


def test_pictures_are_the_same_with_and_without_workers(cfg):
    before = torch.get_rng_state()
    alone = contents(first(loader_of(cfg), 6))
    cfg.DATALOADER.NUM_WORKERS = 2
    with_workers = loader_of(cfg)
    assert with_workers.num_workers == 2
    assert contents(first(with_workers, 6)) == alone
    with_workers.start = 4
    assert contents(first(with_workers, 2)) == alone[4:]
    assert torch.equal(torch.get_rng_state(), before)
    widths = {len(image[1][0][0]) for batch in alone for image in batch}
    assert len(widths) > 3  # else, nothing was augmented


def test_grouping_is_that_of_the_config(cfg):
    assert cfg.DATALOADER.ASPECT_RATIO_GROUPING
    for batch in first(loader_of(cfg), 10):
        assert len({image["width"] > image["height"] for image in batch}) == 1
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    batches = positions(first(loader_of(cfg).places(), 3))
    assert batches == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(cfg, sampler):
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    cfg.DATALOADER.REPEAT_THRESHOLD = 1.0  # a category in a share f of the images: sqrt(1 / f) times
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    epoch = loader_of(cfg).order.epoch(2, 0).tolist()
    assert len(set(epoch)) == (3 if sampler == "RandomSubsetTrainingSampler" else 7)
    factors = loader_of(cfg).order.repeat_factors
    assert (factors is not None) == (sampler == "RepeatFactorTrainingSampler")
    assert factors is None or factors.max() > 1


def test_images_without_boxes_are_filtered_as_in_detectron2(cfg, tmp_path):
    folder = list(write_coco_folder(tmp_path / "empty", num_images=2, boxes_per_image=0))
    cfg.DATASETS.TRAIN_FOLDERS = [*cfg.DATASETS.TRAIN_FOLDERS, folder]
    use_datasets(cfg)
    assert len(loader_of(cfg).records) == 9
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    assert len(loader_of(cfg).records) == 7


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"SAMPLER_TRAIN": "WeightedTrainingSampler"},
            r"SAMPLER_TRAIN 'WeightedTrainingSampler' .* Training",
        ),
        (
            {"SAMPLER_TRAIN": SAMPLERS[2], "RANDOM_SUBSET_RATIO": 0.1},
            r"RANDOM_SUBSET_RATIO 0\.1 of 7 images leaves none",
        ),
        ({"SAMPLER_TRAIN": SAMPLERS[2], "RANDOM_SUBSET_RATIO": 1.5}, r"RATIO 1\.5 of 7 images"),
    ],
)
def test_mistakes(cfg, changes, expected):
    cfg.DATALOADER.update(changes)
    with pytest.raises(UserError, match=expected):
        loader_of(cfg)


@pytest.fixture
def mine(monkeypatch) -> Iterator[Callable[[Any], CfgNode]]:
    """Registers records, or anything else, as a data set of one class; returns the config that trains on it."""

    def register(records: Any) -> CfgNode:
        monkeypatch.setitem(DatasetCatalog.data, "mine", lambda: records)
        MetadataCatalog.data.pop("mine", None)
        MetadataCatalog.get("mine").thing_classes = ["cat"]
        cfg = tiny_config()
        cfg.DATASETS.TRAIN = ("mine",)
        return cfg

    yield register
    MetadataCatalog.data.pop("mine", None)


BOX = {"bbox": [1, 2, 3, 4], "bbox_mode": 1, "category_id": 0, "iscrowd": 0}


def test_data_sets_that_cannot_be_grouped_or_listed(mine):
    cfg = mine([{"file_name": "1.png", "annotations": [BOX]}])
    with pytest.raises(UserError, match=r"^1\.png: the data set does not say its width and height, .* set it False"):
        loader_of(cfg)
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    assert len(loader_of(cfg).records) == 1
    with pytest.raises(UserError, match="needs a list of dicts, not a tuple"):
        loader_of(mine(({}, {})))


@pytest.mark.parametrize("filter_empty", [True, False])
@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], "there are no annotations"),
        ([{"file_name": "1.png"}], "there are no annotations"),
        ([{"file_name": "1.png", "annotations": []}], "there are no annotations"),
        ([{"file_name": "1.png", "annotations": [BOX | {"iscrowd": 1}]}], r"1 crowd regions \(iscrowd 1\)"),
        (
            [{"file_name": "1.png", "annotations": [BOX | {"category_id": 1}]}],
            "1.png has an annotation of category_id 1",
        ),
    ],
)
def test_nothing_is_trained_on_nothing(mine, records, expected, filter_empty):
    cfg = mine(records)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filter_empty
    with pytest.raises(UserError, match=rf"'mine': .*{expected}|{expected}"):
        loader_of(cfg)


def test_dropped_boxes_are_named_as_the_cause(cfg, tmp_path):
    images, json_file = write_coco_folder(tmp_path / "flat", num_images=2)
    content = json.loads(Path(json_file).read_text())
    for annotation in content["annotations"]:
        annotation["bbox"][2] = 0
    Path(json_file).write_text(json.dumps(content))
    cfg.DATASETS.TRAIN_FOLDERS = [[images, json_file]]
    cfg.DATASETS.TEST_FOLDERS = []
    use_datasets(cfg)
    with pytest.raises(UserError, match=rf"^{json_file}: there is no box to learn: \d+ boxes of zero size dropped$"):
        loader_of(cfg)


def test_images_with_too_few_keypoints(mine):
    mine([{"file_name": "1.png", "annotations": [BOX | {"keypoints": [1, 1, 0]}]}])
    with pytest.raises(UserError, match=r"no image has MODEL\.ROI_KEYPOINT_HEAD\.MIN_KEYPOINTS_PER_IMAGE 1 visible"):
        load_records(["mine"], min_keypoints=1)
