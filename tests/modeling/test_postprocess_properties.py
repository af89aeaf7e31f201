import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchvision.ops import box_iou

from fcos_rpn import FCOSPostProcessor, FCOSPredictions, compute_locations
from fcos_rpn.modeling.postprocess import SCORE_FUSIONS, THRESHOLDED

LOCATIONS = compute_locations([(2, 3), (1, 2)], [8, 16])
NUM_LOCATIONS = len(LOCATIONS.points)
LEVELS = torch.tensor([0] * 6 + [1] * 2)

options = st.fixed_dictionaries(
    {
        "score_thresh": st.none() | st.floats(0, 1),
        "pre_nms_topk": st.integers(1, 10),
        "nms_thresh": st.floats(0, 1),
        "post_nms_topk": st.integers(1, 10),
        "min_box_size": st.floats(0, 10),
        "nms_per_level": st.booleans(),
        "score_fusion": st.sampled_from(SCORE_FUSIONS),
        "thresh_on": st.sampled_from(THRESHOLDED),
        "computes_centerness": st.booleans(),
    }
)


@st.composite
def predictions(draw):
    """Of one or two images, with what a network that diverges predicts: infinite values and NaN."""
    num_images, num_classes = draw(st.integers(1, 2)), draw(st.integers(1, 3))

    def tensor(*shape, usual, unusual):
        return torch.from_numpy(draw(arrays(np.float32, (num_images, NUM_LOCATIONS, *shape), elements=usual | unusual)))

    anything = st.floats(width=32)
    scores = st.floats(-5, 5, width=32)
    return FCOSPredictions(
        logits=tensor(num_classes, usual=scores, unusual=anything),
        ltrb=tensor(4, usual=st.floats(0, 3, width=32), unusual=st.floats(min_value=0, width=32) | st.just(np.nan)),
        centerness=tensor(usual=scores, unusual=anything) if draw(st.booleans()) else None,
    )


@given(predictions(), options, st.tuples(st.integers(1, 20), st.integers(1, 30)))
def test_contract(found, settings, image_size):
    postprocessor = FCOSPostProcessor(**settings)
    height, width = image_size
    results = postprocessor(found, LOCATIONS, [image_size] * len(found.logits))
    assert len(results) == len(found.logits)
    for image, instances in enumerate(results):
        boxes, scores, classes = instances.pred_boxes.tensor, instances.scores, instances.pred_classes
        where = instances.location_idxs
        assert boxes.dtype == scores.dtype == torch.float32
        assert len(instances) <= settings["post_nms_topk"]
        assert (LEVELS[where].bincount(minlength=2) <= settings["pre_nms_topk"]).all()
        assert torch.isfinite(boxes).all()
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
        assert (boxes[:, 2:] - boxes[:, :2] > settings["min_box_size"]).all()
        assert ((scores >= 0) & (scores <= 1)).all()
        assert (scores[:-1] >= scores[1:]).all()
        assert ((classes >= 0) & (classes < found.logits.shape[2])).all()
        assert len({*zip(where.tolist(), classes.tolist(), strict=True)}) == len(instances)  # no pair twice
        if settings["score_thresh"] is not None:
            thresholded = found.logits[image, where, classes].sigmoid() if settings["thresh_on"] == "class" else scores
            assert (thresholded > settings["score_thresh"]).all()
        groups = LEVELS[where] if settings["nms_per_level"] else classes
        is_rival = (groups[:, None] == groups[None, :]) & ~torch.eye(len(groups), dtype=torch.bool)
        assert (box_iou(boxes, boxes)[is_rival] <= settings["nms_thresh"] + 1e-4).all()
