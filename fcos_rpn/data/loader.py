"""Batches of training images that a resumed run goes on with as if it had never been killed.

Detectron2's samplers begin anew in every process, its groups of one aspect ratio lose the images that wait in them,
and its augmentation draws from generators of a worker. Here, everything follows from the seed and a number:

    epoch      -> order of its images
    position   -> the image there, in the endless sequence of epochs, and how it is augmented
    iteration  -> IMS_PER_BATCH positions; images are grouped by what their records say, before any is loaded

so that any iteration's batch can be made again, by any number of workers.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog, DatasetFromList, MetadataCatalog
from detectron2.data.build import (
    filter_images_with_few_keypoints,
    filter_images_with_only_crowd_annotations,
    print_instances_class_histogram,
    trivial_batch_collator,
)
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError
from .coco.repairs import nothing_to_learn
from .datasets import shown_name
from .proposals import records_with_proposals
from .seeding import Purpose, mix, seeded_generators

SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler")
"""Values of `DATALOADER.SAMPLER_TRAIN`; they mean what they mean to Detectron2, in another order."""

Record = dict[str, Any]
"""An image and its annotations in Detectron2's data set format."""


class Place(NamedTuple):
    """An image in the training."""

    image: int
    """Index of its record in the data set."""
    position: int
    """In the endless sequence of epochs; an image has another one in every epoch."""


class ImageOrder:
    """Which images are trained on when, epoch after epoch."""

    def __init__(
        self, is_wide: Sequence[bool], *, repeat_factors: Tensor | None = None, subset_ratio: float = 1.0
    ) -> None:
        """
        Args:
            is_wide: (S,) of each image of the data set; a batch has images of one kind only.
            repeat_factors: (S,) how often an image comes in an epoch, on average: what is behind the point is the
                probability of one more time, drawn anew for each epoch. None for once.
            subset_ratio: share of the images that are trained on at all, above 0 and up to 1.
        """
        self.is_wide = is_wide
        self.repeat_factors = repeat_factors
        self.subset_ratio = subset_ratio

    def epoch(self, seed: int, number: int) -> Tensor:
        """
        Returns:
            (E,) int64, indices of the images in the order of the epoch of this number, from 0.
        """
        indices = torch.arange(len(self.is_wide))
        if self.subset_ratio < 1:
            generator = torch.Generator().manual_seed(mix(Purpose.SUBSET, seed))
            shuffled = torch.randperm(len(indices), generator=generator)
            indices = shuffled[: int(len(indices) * self.subset_ratio)]
        generator = torch.Generator().manual_seed(mix(Purpose.EPOCH, seed, number))
        if self.repeat_factors is not None:
            is_once_more = torch.rand(len(indices), generator=generator) < self.repeat_factors.frac()
            indices = indices.repeat_interleave(self.repeat_factors.long() + is_once_more.long())
        return indices[torch.randperm(len(indices), generator=generator)]

    def batches(self, seed: int, size: int) -> Iterator[list[Place]]:
        """Batches of all processes together, from the first on, without end. An image that waits for others of its
        kind is in a later batch than those behind it."""
        waiting: dict[bool, list[Place]] = {False: [], True: []}
        position = 0
        for number in itertools.count():
            for index in self.epoch(seed, number).tolist():
                group = waiting[self.is_wide[index]]
                group.append(Place(index, position))
                position += 1
                if len(group) == size:
                    yield group[:]
                    group.clear()


class MappedImages(Dataset[Any]):
    """Model inputs by place: an image's augmentation depends on nothing but the seed and its position."""

    def __init__(self, records: Dataset[Record], mapper: Callable[[Record], Any], seed: int) -> None:
        """
        Args:
            records: of the data set; each comes as a copy that the mapper may change.
            mapper: record -> input of the model, with Python's, numpy's or torch's global generator. None for an image
                that it skips: the data set's next one takes that place.
            seed: of the training.
        """
        self.records = records
        self.mapper = mapper
        self.seed = seed

    def __getitem__(self, place: Place) -> Any:
        size = len(self.records)  # type: ignore[arg-type]
        for index in range(place.image, place.image + size):
            with seeded_generators(mix(Purpose.IMAGE, self.seed, place.position)):
                mapped = self.mapper(self.records[index % size])
            if mapped is not None:
                return mapped
        raise UserError(f"the mapper skips every one of the data set's {size} images: there is nothing to train on")


class TrainLoader:
    """Endless iterable of lists of model inputs, this process' share of every batch.

    Of W processes, each takes a W-th of the batch's images, so an iteration has the same images whatever W is.

    Attributes:
        seed: of order and augmentation.
        start: number of the batch that the next iterator begins with; earlier ones are passed over unloaded.
    """

    @configurable
    def __init__(
        self,
        records: Sequence[Record],
        mapper: Callable[[Record], Any],
        *,
        order: ImageOrder,
        batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            records: of the data set.
            mapper: as in `MappedImages`.
            order: of these records.
            batch_size: images of all processes together; a multiple of their number.
            num_workers: processes that load images, for each process that trains; 0: it loads them itself.
            seed: see above.
        """
        self.records = DatasetFromList(list(records), copy=False)  # serialized: workers share its memory
        self.mapper = mapper
        self.order = order
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.start = 0

    @classmethod
    def from_config(cls, cfg: CfgNode, mapper: Callable[[Record], Any]) -> dict[str, Any]:
        """
        Raises:
            UserError: if the sampler is none of `SAMPLERS`, the subset is empty, images cannot be grouped, or there is
                no box to learn.
        """
        sampler = cfg.DATALOADER.SAMPLER_TRAIN
        if sampler not in SAMPLERS:
            raise UserError(
                f"DATALOADER.SAMPLER_TRAIN {sampler!r} cannot be resumed where it was; choose {', '.join(SAMPLERS)}"
            )
        records = load_records(
            cfg.DATASETS.TRAIN,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
            proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else (),
        )
        repeat_factors, subset_ratio = None, 1.0
        if sampler == "RepeatFactorTrainingSampler":
            repeat_factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
                records, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
            )
        elif sampler == "RandomSubsetTrainingSampler":
            subset_ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
            if not 0 < subset_ratio <= 1 or int(len(records) * subset_ratio) == 0:
                raise UserError(
                    f"DATALOADER.RANDOM_SUBSET_RATIO {subset_ratio:g} of {len(records)} images leaves none, or more "
                    "than there are: it must be above 0 and at most 1.0"
                )
        is_wide = are_wide(records) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else [False] * len(records)
        return {
            "records": records,
            "mapper": mapper,
            "order": ImageOrder(is_wide, repeat_factors=repeat_factors, subset_ratio=subset_ratio),
            "batch_size": cfg.SOLVER.IMS_PER_BATCH,
            "num_workers": cfg.DATALOADER.NUM_WORKERS,
            "seed": max(0, cfg.SEED),
        }

    def __iter__(self) -> Iterator[list[Any]]:
        loader: DataLoader[Any] = DataLoader(
            MappedImages(self.records, self.mapper, self.seed),
            batch_sampler=self.places(),
            num_workers=self.num_workers,
            collate_fn=trivial_batch_collator,
            generator=torch.Generator(),  # else it would draw from the global one
        )
        return iter(loader)

    def places(self) -> Iterator[list[Place]]:
        """This process' share of the batches from number `start` on."""
        share = self.batch_size // comm.get_world_size()
        own = slice(comm.get_rank() * share, (comm.get_rank() + 1) * share)
        for batch in itertools.islice(self.order.batches(self.seed, self.batch_size), self.start, None):
            yield batch[own]


def load_records(
    names: Sequence[str], *, filter_empty: bool = False, min_keypoints: int = 0, proposal_files: Sequence[str] = ()
) -> list[Record]:
    """The images of registered data sets that are to be trained on.

    Args:
        filter_empty: leave images without boxes out.
        min_keypoints: leave images with fewer visible keypoints out.
        proposal_files: one for each data set, or none.

    Raises:
        UserError: a data set is no list, is empty or has wrong classes, or nothing is left to learn.
    """
    if proposal_files and len(proposal_files) != len(names):
        raise UserError(f"DATASETS.PROPOSAL_FILES_TRAIN: {len(proposal_files)} files for {len(names)} data sets")
    records: list[Record] = []
    for name, file in itertools.zip_longest(names, proposal_files):
        loaded = records_with_proposals(name, file) if file else DatasetCatalog.get(name)
        if not isinstance(loaded, list):
            raise UserError(
                f"DATASETS.TRAIN {name}: training needs a list of dicts, not a {type(loaded).__name__}; give the "
                "Trainer a loader of your own for it"
            )
        _require_known_classes(loaded, name)
        records += loaded
    require_boxes(records, names)
    if filter_empty:
        records = filter_images_with_only_crowd_annotations(records)
    if min_keypoints:
        records = filter_images_with_few_keypoints(records, min_keypoints)
        if not records:
            raise UserError(
                f"DATASETS.TRAIN {', '.join(names)}: no image has MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE "
                f"{min_keypoints} visible keypoints"
            )
    if classes := MetadataCatalog.get(names[0]).get("thing_classes"):
        print_instances_class_histogram(records, classes)
    return records


def _require_known_classes(records: Sequence[Record], name: str) -> None:
    classes = MetadataCatalog.get(name).get("thing_classes")
    for record in records if classes else ():
        for annotation in record.get("annotations", ()):
            if annotation.get("category_id") not in range(len(classes)):
                raise UserError(
                    f"data set {name!r}: {record.get('file_name', 'an image')} has an annotation of category_id "
                    f"{annotation.get('category_id')}, but there are {len(classes)} classes, from 0; correct it, or "
                    "add the class to thing_classes of its metadata"
                )


def require_boxes(records: Sequence[Record], names: Sequence[str]) -> None:
    """
    Raises:
        UserError: not one record has a box to learn; says why.
    """
    crowds = [a.get("iscrowd", 0) for record in records for a in record.get("annotations", ())]
    if all(crowds):
        dropped: Counter[str] = Counter()
        for name in names:
            dropped.update(MetadataCatalog.get(name).get("repairs", {}))
        hint = ""
        if not crowds and any(
            {"json_file"} == {"json_file", "source"} & MetadataCatalog.get(n).as_dict().keys() for n in names
        ):
            hint = "; if the json has some, Detectron2's reader drops them: give it as --train IMAGES JSON"
        raise UserError(f"{', '.join(map(shown_name, names))}: {nothing_to_learn(len(crowds), dropped)}{hint}")


def are_wide(records: Sequence[Record]) -> list[bool]:
    """Detectron2's two groups of images: wider than tall, or not.

    Raises:
        UserError: if a record does not say its size.
    """
    for record in records:
        if "width" not in record or "height" not in record:
            raise UserError(
                f"{record.get('file_name', 'an image')}: the data set does not say its width and height, by which "
                "DATALOADER.ASPECT_RATIO_GROUPING groups; add them, or set it False"
            )
    return [record["width"] > record["height"] for record in records]
