import itertools

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from matplotlib.colors import to_hex

from fcos_rpn import FCOSAssigner, FCOSPredictions, compute_locations
from fcos_rpn.modeling.postprocess import FCOSPostProcessor
from fcos_rpn.visualization.draw import (
    MATCHES,
    PALETTE,
    draw_assignment,
    draw_centerness,
    draw_detections,
    draw_proposals,
    draw_target_centerness,
)
from fcos_rpn.visualization.sheet import GAP, Sheet
from tests.visualization.panels import outlines, texts

GREEN, AMBER, WHITE = (color for _, _, color in MATCHES)
STRIDES = [8, 16, 32, 64, 128]
RENDER = Sheet.render


@pytest.fixture(autouse=True)
def sheet_kept(monkeypatch):
    """Drawing returns the sheet itself, so that its panels can be read."""
    monkeypatch.setattr(Sheet, "render", lambda sheet: sheet)


def gray_image(height=300, width=400):
    return np.full((height, width, 3), 128, np.uint8)


def instances(**fields):
    return Instances((300, 400), **fields)


def boxes(*rows):
    return Boxes(torch.tensor(rows, dtype=torch.float32).view(-1, 4))


def ground_truth(*rows, classes=None):
    classes = [0] * len(rows) if classes is None else classes
    return instances(gt_boxes=boxes(*rows), gt_classes=torch.tensor(classes, dtype=torch.int64))


def detections(*rows, scores=(), classes=()):
    return instances(
        pred_boxes=boxes(*rows), scores=torch.tensor(scores), pred_classes=torch.tensor(classes, dtype=torch.int64)
    )


def proposals(*rows, logits=()):
    return instances(proposal_boxes=boxes(*rows), objectness_logits=torch.tensor(logits))


def test_panel_is_the_image_pixel_by_pixel():
    image = np.random.default_rng(0).integers(0, 255, (100, 800, 3), dtype=np.uint8)  # as wide as a panel can be
    picture = RENDER(draw_detections(image, detections(), None, []))
    np.testing.assert_array_equal(picture[-GAP - 100 : -GAP, GAP : GAP + 800], image)


@pytest.mark.parametrize(
    ("height", "width", "panel_size"),
    [
        (300, 400, (800, 600)),  # enlarged to the widest panel
        (3000, 2000, (720, 1080)),  # reduced to the highest
    ],
)
def test_panels_suit_a_screen(height, width, panel_size):
    sheet = draw_detections(gray_image(height, width), detections(), ground_truth(), [])
    assert [panel.bbox.size.round().tolist() for panel in sheet.figure.axes] == [list(panel_size)] * 2


def test_detections_stand_beside_ground_truth_in_the_colors_of_their_classes():
    gt_box, found_box, unsure_box = (50, 60, 150, 160), (200, 100, 300, 200), (20, 200, 60, 280)
    found = detections(found_box, unsure_box, scores=[0.9, 0.4], classes=[0, 2])

    sheet = draw_detections(gray_image(), found, ground_truth(gt_box, classes=[1]), ["cat", "dog", "cow"])

    left, right = sheet.figure.axes
    assert outlines(left) == {gt_box: PALETTE[1]}
    assert outlines(right) == {found_box: PALETTE[0]}  # the other's score is below .5
    assert texts(left) == ["Ground truth", "1 box", "dog"]
    assert texts(right) == ["Detections", "1 box with score ≥ 0.5", "cat 0.90"]


def test_classes_in_one_picture_differ_in_color_even_if_there_are_more_classes_than_colors():
    gt_box, found_box = (50, 60, 150, 160), (200, 100, 300, 200)
    names = [str(label) for label in range(2 * len(PALETTE))]
    # The second class has the color of the first, were colors counted over all classes.
    gt, found = ground_truth(gt_box, classes=[3]), detections(found_box, scores=[0.9], classes=[3 + len(PALETTE)])

    left, right = draw_detections(gray_image(), found, gt, names).figure.axes

    assert (outlines(left), outlines(right)) == ({gt_box: PALETTE[0]}, {found_box: PALETTE[1]})


def test_labels_neither_leave_the_panel_nor_hide_each_other():
    corners = [(0, 0, 60, 60), (340, 240, 400, 300), (0, 240, 60, 300), (340, 0, 400, 60)]
    rows = [*corners, *corners]  # each box twice

    panel, _ = draw_detections(gray_image(), detections(), ground_truth(*rows), ["elephant"]).figure.axes

    extents = [text.get_window_extent() for text in panel.texts if text.get_text() == "elephant"]
    assert len(extents) == 8
    for extent in extents:
        assert all(panel.bbox.padded(1).contains(*point) for point in extent.corners())
    assert not any(one.overlaps(other) for one, other in itertools.combinations(extents, 2))


def test_proposals_and_ground_truth_are_colored_by_their_best_iou():
    exact, close, missed = (20, 20, 120, 120), (200, 20, 300, 120), (20, 180, 120, 280)
    shifted = (217.875, 20, 317.875, 120)  # 82.125 / 117.875 = .697, which is not yet .70
    useless, worst = (250, 200, 350, 280), (0, 0, 400, 300)
    found = proposals(exact, worst, shifted, useless, logits=[2.0, 0.0, 1.0, 30.0])

    left, right = draw_proposals(gray_image(), found, ground_truth(exact, close, missed), limit=3).figure.axes

    assert outlines(left) == {exact: GREEN, close: AMBER, missed: WHITE}
    assert texts(left) == ["Ground truth", "3 boxes", "1.00", "0.69", "0.00", "IoU ≥ 0.7: 1", "≥ 0.5: 1", "below: 1"]
    assert list(outlines(right).items()) == [(shifted, AMBER), (exact, GREEN), (useless, WHITE)]  # best on top
    assert texts(right) == ["Proposals", "best 3", "IoU ≥ 0.7: 1", "≥ 0.5: 1", "below: 1"]


def test_captions_of_tall_pictures_do_not_overlap():
    box = (10, 50, 30, 80)
    sheet = draw_proposals(gray_image(280, 60), proposals(box, logits=[0.0]), ground_truth(box))

    extents = [
        part.get_window_extent()
        for panel in sheet.figure.axes
        for part in (
            *[text for text in panel.texts if text.get_text() in ("Ground truth", "Proposals", "1 box", "best 1")],
            panel.get_legend(),
        )
    ]
    assert len(extents) == 6
    assert not any(one.overlaps(other) for one, other in itertools.combinations(extents, 2))
    assert all(extent.x0 >= 0 and extent.x1 <= sheet.size[0] for extent in extents)


@pytest.mark.parametrize("has_ground_truth", [False, True])
def test_the_best_proposals_are_on_top_and_the_others_fainter(has_ground_truth):
    best, other = (10, 10, 50, 40), (30, 20, 90, 60)
    found = proposals(best, other, logits=[23.0, 0.0])
    panel = draw_proposals(gray_image(), found, ground_truth(best) if has_ground_truth else None).figure.axes[-1]
    assert list(outlines(panel)) == [other, best]
    assert [outline.get_alpha() for outline in panel.patches] == pytest.approx([0.25 + 0.75 * 0.5, 1.0])


def pyramid_locations():
    """Of an image of 400 x 300 pixels: on P3 at 4 + 8·k, on P5 at 16 + 32·k."""
    return compute_locations([(-(-300 // stride), -(-400 // stride)) for stride in STRIDES], STRIDES)


def assigned(*rows):
    locations, gt = pyramid_locations(), ground_truth(*rows)
    return locations, FCOSAssigner(num_classes=1, sizes_of_interest=[64, 128, 256, 512])(locations, [gt]), gt


def test_dots_lie_on_the_locations_that_learn_a_box():
    box = (96, 48, 136, 88)

    all_boxes, p3 = draw_assignment(gray_image(), *assigned(box)).figure.axes

    assert outlines(all_boxes) == outlines(p3) == {box: PALETTE[0]}
    dots = p3.collections[-1]
    sizes = dict(zip(map(tuple, dots.get_offsets().tolist()), dots.get_sizes(), strict=True))
    # Within 1.5 strides of the center (116, 68).
    assert sizes.keys() == {(x, y) for x in (108, 116, 124) for y in (60, 68, 76)}
    # Centerness 1 against √(12/28 · 12/28).
    assert sizes[116, 68] / sizes[108, 60] == pytest.approx(28 / 12)
    assert {to_hex(color) for color in dots.get_facecolors()} == {PALETTE[0]}


def test_there_is_a_panel_for_each_level_that_learns():
    # The first box holds no location. Nothing is nearer than 128 to both ends of the last, so that P5 alone learns it:
    # within 1.5 strides of its center (258, 148), at x in 240, 272, 304 and y in 112, 144, 176.
    sheet = draw_assignment(gray_image(), *assigned((1, 1, 3, 3), (96, 48, 136, 88), (130, 20, 386, 276)))

    all_boxes, p3, p5 = sheet.figure.axes
    assert texts(all_boxes)[:2] == ["Ground truth", "3 boxes, 1 unassigned"]
    assert texts(p3) == ["P3", "stride 8, 9 positives"]
    assert texts(p5) == ["P5", "stride 32, 9 positives"]
    assert [outline.get_linestyle() for outline in all_boxes.patches] == ["dashed", "solid", "solid"]
    assert [len(panel.patches) for panel in (p3, p5)] == [1, 1]


def test_dots_of_ambiguous_locations_are_ringed():
    # Within 1.5 strides of the centers (116, 68) and (132, 68): both could be learned at x = 124, not at 108 or 140.
    locations, targets, gt = assigned((96, 48, 136, 88), (104, 40, 160, 96))
    num_candidates = torch.zeros(len(locations.points), dtype=torch.int64)
    for x in (108, 116, 124, 132, 140):
        num_candidates[(locations.points[:, 0] == x) & (locations.strides == 8)] = 2 if x == 124 else 1

    sheet = draw_assignment(gray_image(), locations, targets, gt, num_candidates=num_candidates)

    _, p3 = sheet.figure.axes
    assert texts(p3) == ["P3", "stride 8, 15 positives, 3 ambiguous"]
    dots = p3.collections[-1]
    is_ringed = (dots.get_edgecolors()[:, :3] == 1).all(axis=1)
    assert is_ringed.tolist() == [x == 124 for x in dots.get_offsets()[:, 0]]


def heat_of(panel):
    """The center of each cell -> its value."""
    heat = panel.images[1]
    left, right, bottom, top = heat.get_extent()
    rows, columns = heat.get_array().shape
    xs, ys = (np.linspace(low, high, 2 * n + 1)[1::2] for low, high, n in ((left, right, columns), (top, bottom, rows)))
    cells = zip(itertools.product(ys, xs), heat.get_array().ravel(), strict=True)
    return {(x, y): value for (y, x), value in cells if value is not np.ma.masked}


def test_target_centerness_is_shown_on_the_locations_that_learn():
    _, p3 = draw_target_centerness(gray_image(), *assigned((96, 48, 136, 88))).figure.axes
    found = heat_of(p3)
    assert found.keys() == {(x, y) for x in (108, 116, 124) for y in (60, 68, 76)}
    # The center, beside it and toward a corner of the box, whose distances are 20 and 12 or 28.
    assert [found[116, 68], found[124, 68], found[108, 60]] == pytest.approx([1.0, (12 / 28) ** 0.5, 12 / 28])


def test_heat_maps_glow_where_the_network_is_sure():
    locations = pyramid_locations()
    both, class_only, centerness_only = (200, 200), (56, 56), (200, 56)
    logits, centerness = torch.full((1, len(locations.points), 2), -10.0), torch.full((1, len(locations.points)), -10.0)

    def on_p4(x, y):
        is_there = (locations.points == torch.tensor([x, y])).all(dim=1) & (locations.strides == 16)
        return int(is_there.nonzero())

    logits[0, [on_p4(*both), on_p4(*class_only)], 1] = 10.0
    centerness[0, [on_p4(*both), on_p4(*centerness_only)]] = 10.0
    predictions = FCOSPredictions(logits.requires_grad_(), torch.zeros(1, len(locations.points), 4), centerness)

    panels = draw_centerness(gray_image(), predictions, locations, postprocessor()).figure.axes

    glowing = [{point for point, value in heat_of(panel).items() if value > 0.5} for panel in panels]
    expected = [{both, class_only}, {both, centerness_only}, {both}]
    assert glowing == [points if level == 1 else set() for points in expected for level in range(5)]


def postprocessor(**kwargs):
    return FCOSPostProcessor(score_thresh=None, pre_nms_topk=9, nms_thresh=0.5, post_nms_topk=9, **kwargs)


@pytest.mark.parametrize(
    ("predicted", "kwargs", "centerness", "score"),
    [
        (True, {}, ("of the location in its box", 0.9), ("geometric mean of both", 0.6)),
        (True, {"score_fusion": "product"}, ("of the location in its box", 0.9), ("product of both", 0.36)),
        # Of distances 1, 2, 4, 4: √(1/4 · 2/4).
        (
            False,
            {"computes_centerness": True, "score_fusion": "product"},
            ("of the location in its box", 0.125**0.5),
            ("product of both", 0.4 * 0.125**0.5),
        ),
        (False, {}, None, None),
    ],
)
def test_heat_maps_show_the_models_own_score(predicted, kwargs, centerness, score):
    locations = compute_locations([(4, 5), (2, 3)], [64, 128])
    logits = torch.tensor([0.1, 0.4, 0.2]).logit().expand(1, 26, 3)
    ltrb = torch.tensor([1.0, 2, 4, 4]).expand(1, 26, 4)
    predictions = FCOSPredictions(logits, ltrb, torch.full((1, 26), 0.9).logit() if predicted else None)

    panels = draw_centerness(gray_image(), predictions, locations, postprocessor(**kwargs)).figure.axes

    rows = {"Class probability": ("of the likeliest class", 0.4), "Centerness": centerness, "Score": score}
    expected = [(title, *row) for title, row in rows.items() if row]
    assert [texts(panel)[:2] for panel in panels[::2]] == [[title, detail] for title, detail, _ in expected]
    for first, second, (*_, value) in zip(panels[::2], panels[1::2], expected, strict=True):
        assert texts(first)[2:] == ["P6"]
        assert texts(second) == ["P7", "0", "0.25", "0.5", "0.75", "1"]
        for panel in (first, second):
            np.testing.assert_allclose(panel.images[1].get_array(), value, rtol=1e-5)


def test_nothing_to_draw():
    image, nothing, box = gray_image(), ground_truth(), (20, 20, 120, 120)
    _, right = draw_proposals(image, proposals(box, logits=[30.0]), nothing).figure.axes
    left, _ = draw_proposals(image, proposals(), ground_truth(box)).figure.axes
    assert outlines(right) == outlines(left) == {box: WHITE}
    for draw in (draw_assignment, draw_target_centerness):
        (panel,) = draw(image, *assigned()).figure.axes
        assert outlines(panel) == {}
