import pickle

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from fcos_rpn.data.proposals import records_with_proposals
from fcos_rpn.errors import UserError


@pytest.fixture
def proposals(tmp_path, detectron2_restored):
    """Of the images "a" and 1, which the loader has numbered 1 and 2."""
    DatasetCatalog.register("numbered", lambda: [{"image_id": 1, "height": 9}, {"image_id": 2, "height": 8}])
    MetadataCatalog.get("numbered").original_image_ids = {1: "a", 2: 1}
    boxes = [np.full((2, 4), float(number)) for number in (10, 20)]
    content = {"ids": [1, "a"], "boxes": boxes, "objectness_logits": [np.array([0.5, 1.5]), np.array([2.5, 3.5])]}

    def write(**changes):
        (tmp_path / "proposals.pkl").write_bytes(pickle.dumps({**content, **changes}))
        return str(tmp_path / "proposals.pkl")

    return write


def test_images_are_found_by_the_ids_of_the_data(proposals):
    first, second = records_with_proposals("numbered", proposals())
    assert (first["image_id"], first["height"], second["image_id"], second["height"]) == (1, 9, 2, 8)
    assert first["proposal_boxes"].tolist() == [[20] * 4] * 2
    assert first["proposal_objectness_logits"].tolist() == [3.5, 2.5]
    assert second["proposal_objectness_logits"].tolist() == [1.5, 0.5]


def test_a_file_of_other_images_is_refused(proposals):
    with pytest.raises(UserError, match=r"proposals\.pkl has no 'a': .* that an evaluation on 'numbered' wrote"):
        records_with_proposals("numbered", proposals(ids=[1, "b"]))
