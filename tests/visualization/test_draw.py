import itertools

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from fcos_rpn import FCOSAssigner, FCOSPredictions, compute_locations
from fcos_rpn.modeling.postprocess import FCOSPostProcessor
from fcos_rpn.visualization import draw as pictures
from fcos_rpn.visualization import sheet
from fcos_rpn.visualization.draw import (
    MATCHES,
    PALETTE,
    SOLID_HEAT,
    draw_assignment,
    draw_centerness,
    draw_detections,
    draw_proposals,
    draw_target_centerness,
)

GREEN, AMBER, WHITE = (color for _, _, color in MATCHES)
STRIDES = [8, 16, 32, 64, 128]


@pytest.fixture
def sheet_kept(monkeypatch):
    """Drawing returns the sheet itself, so that its texts can be read."""
    monkeypatch.setattr(sheet.Sheet, "render", lambda sheet: sheet)


def texts(panel):
    return [text.get_text() for text in panel.findobj(Text) if text.get_text()]


def gray_image(height=300, width=400):
    return np.full((height, width, 3), 128, np.uint8)


def instances(**fields):
    return Instances((300, 400), **fields)


def boxes(*rows):
    return Boxes(torch.tensor(rows, dtype=torch.float32).view(-1, 4))


def ground_truth(*rows, classes=None):
    classes = [0] * len(rows) if classes is None else classes
    return instances(gt_boxes=boxes(*rows), gt_classes=torch.tensor(classes, dtype=torch.int64))


def detections(*rows, scores, classes):
    return instances(
        pred_boxes=boxes(*rows), scores=torch.tensor(scores), pred_classes=torch.tensor(classes, dtype=torch.int64)
    )


def proposals(*rows, logits):
    return instances(proposal_boxes=boxes(*rows), objectness_logits=torch.tensor(logits))


def runs(is_inside):
    """Starts and ends of the runs of more than 50 pixels."""
    edges = np.flatnonzero(np.diff([0, *is_inside.astype(int), 0]))
    return [slice(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if end - start > 50]


def find_panels(picture):
    """The panels of a picture, row by row: what is not the white of the sheet."""
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    is_drawn = (picture != 255).any(axis=2)
    rows, columns = runs(is_drawn.mean(axis=1) > 0.4), runs(is_drawn.mean(axis=0) > 0.4)
    panels = [picture[row, column] for row, column in itertools.product(rows, columns)]
    return [panel for panel in panels if (panel != 255).any(axis=2).mean() > 0.9]


def rgb(color):
    return np.rint(255 * np.array(to_rgb(color))).astype(np.uint8)


def has_color(pixels, color):
    return bool((pixels == rgb(color)).all(axis=-1).any())


def side_colors(panel, box, scale):
    """Which of the palette's and the matches' colors are to be seen halfway along the four sides of a box."""
    x0, y0, x1, y1 = (round(scale * value) for value in box)
    x, y = (x0 + x1) // 2, (y0 + y1) // 2
    sides = [panel[y - 2 : y + 2, side - 2 : side + 2] for side in (x0, x1)]
    sides += [panel[side - 2 : side + 2, x - 2 : x + 2] for side in (y0, y1)]
    colors = {*PALETTE, GREEN, AMBER, WHITE}
    return [[color for color in colors if has_color(side, color)] for side in sides]


def test_panel_is_the_image_pixel_by_pixel():
    image = np.random.default_rng(0).integers(0, 255, (100, 800, 3), dtype=np.uint8)  # as wide as a panel can be

    (panel,) = find_panels(draw_detections(image, detections(scores=[], classes=[]), None, []))

    np.testing.assert_array_equal(panel, image)


@pytest.mark.parametrize(
    ("height", "width", "panel_size"),
    [
        (300, 400, (600, 800)),  # enlarged to the widest panel
        (3000, 2000, (1080, 720)),  # reduced to the highest
    ],
)
def test_panels_suit_a_screen(height, width, panel_size):
    picture = draw_detections(gray_image(height, width), detections(scores=[], classes=[]), ground_truth(), [])

    panels = find_panels(picture)

    assert [panel.shape[:2] for panel in panels] == [panel_size, panel_size]


def test_detections_stand_beside_ground_truth_in_the_colors_of_their_classes():
    gt_box, found_box, unsure_box = (50, 60, 150, 160), (200, 100, 300, 200), (20, 200, 60, 280)
    found = detections(found_box, unsure_box, scores=[0.9, 0.4], classes=[0, 2])

    picture = draw_detections(gray_image(), found, ground_truth(gt_box, classes=[1]), ["cat", "dog", "cow"])

    left, right = find_panels(picture)
    assert side_colors(left, gt_box, 2) == [[PALETTE[1]]] * 4
    assert side_colors(left, found_box, 2) == [[]] * 4
    assert side_colors(right, found_box, 2) == [[PALETTE[0]]] * 4
    assert side_colors(right, gt_box, 2) == [[]] * 4
    assert side_colors(right, unsure_box, 2) == [[]] * 4  # a score below .5


def test_detections_are_labelled(sheet_kept):
    found = detections((200, 100, 300, 200), (20, 200, 60, 280), scores=[0.9, 0.4], classes=[0, 1])

    sheet = draw_detections(gray_image(), found, ground_truth((50, 60, 150, 160)), ["cat", "dog"], score_thresh=0.4)

    left, right = sheet.figure.axes
    assert texts(left) == ["Ground truth", "1 box", "cat"]
    assert texts(right) == ["Detections", "2 boxes with score ≥ 0.4", "cat 0.90", "dog 0.40"]


def test_classes_in_one_picture_differ_in_color_even_if_there_are_more_classes_than_colors():
    gt_box, found_box = (50, 60, 150, 160), (200, 100, 300, 200)
    names = [str(label) for label in range(2 * len(PALETTE))]
    # The second class has the color of the first, were colors counted over all classes.
    gt, found = ground_truth(gt_box, classes=[3]), detections(found_box, scores=[0.9], classes=[3 + len(PALETTE)])

    left, right = find_panels(draw_detections(gray_image(), found, gt, names))

    assert side_colors(left, gt_box, 2) == [[PALETTE[0]]] * 4
    assert side_colors(right, found_box, 2) == [[PALETTE[1]]] * 4


def test_labels_neither_leave_the_panel_nor_hide_each_other(sheet_kept):
    corners = [(0, 0, 60, 60), (340, 240, 400, 300), (0, 240, 60, 300), (340, 0, 400, 60)]
    rows = [*corners, *corners]  # each box twice

    sheet = draw_detections(gray_image(), detections(scores=[], classes=[]), ground_truth(*rows), ["elephant"])

    panel = sheet.figure.axes[0]
    extents = [text.get_window_extent() for text in panel.texts if text.get_text() == "elephant"]
    assert len(extents) == 8
    for extent in extents:
        assert all(panel.bbox.padded(1).contains(*point) for point in extent.corners())
    assert not any(one.overlaps(other) for one, other in itertools.combinations(extents, 2))


def test_proposals_and_ground_truth_are_colored_by_their_best_iou():
    exact, close, missed = (20, 20, 120, 120), (200, 20, 300, 120), (20, 180, 120, 280)
    shifted = (225, 20, 325, 120)  # 75 · 100 / (2 · 100 · 100 - 75 · 100) = .6
    useless = (250, 200, 350, 280)
    sure = 30.0

    picture = draw_proposals(
        gray_image(), proposals(exact, shifted, useless, logits=[sure] * 3), ground_truth(exact, close, missed)
    )

    left, right = find_panels(picture)
    assert side_colors(left, exact, 2) == [[GREEN]] * 4
    assert side_colors(left, close, 2) == [[AMBER]] * 4
    assert side_colors(left, missed, 2) == [[WHITE]] * 4
    assert side_colors(right, exact, 2) == [[GREEN]] * 4
    assert side_colors(right, shifted, 2) == [[AMBER]] * 4
    assert side_colors(right, useless, 2) == [[WHITE]] * 4


def test_only_the_best_proposals_are_looked_at(sheet_kept):
    exact, other = (20, 20, 120, 120), (250, 200, 350, 280)

    sheet = draw_proposals(gray_image(), proposals(exact, other, logits=[0.0, 1.0]), ground_truth(exact), limit=1)

    left, right = sheet.figure.axes
    assert texts(left) == ["Ground truth", "1 box", "0.00", "IoU ≥ 0.7: 0", "≥ 0.5: 0", "below: 1"]
    assert texts(right) == ["Proposals", "best 1", "IoU ≥ 0.7: 0", "≥ 0.5: 0", "below: 1"]


def test_labels_of_iou_are_rounded_down(sheet_kept):
    box = (0, 0, 1000, 10)
    sheet = draw_proposals(gray_image(), proposals((0, 0, 699, 10), logits=[0.0]), ground_truth(box))

    assert "0.69" in texts(sheet.figure.axes[0])  # which is not colored as .7


def test_captions_of_tall_pictures_do_not_overlap(sheet_kept):
    box = (10, 50, 30, 80)
    image = np.full((280, 60, 3), 127, np.uint8)
    sheet = draw_proposals(image, proposals(box, logits=[0.0]), ground_truth(box))

    extents = [
        part.get_window_extent()
        for panel in sheet.figure.axes
        for part in (
            *[t for t in panel.texts if t.get_text() in ("Ground truth", "Proposals", "1 box", "best 1")],
            panel.get_legend(),
        )
    ]
    assert len(extents) == 6
    for one, other in itertools.combinations(extents, 2):
        assert not one.overlaps(other)
    assert all(extent.x0 >= 0 and extent.x1 <= sheet.size[0] for extent in extents)


def test_less_objectness_is_fainter():
    box = (20, 20, 120, 120)

    _, sure = find_panels(draw_proposals(gray_image(), proposals(box, logits=[30.0]), ground_truth(box)))
    _, unsure = find_panels(draw_proposals(gray_image(), proposals(box, logits=[-30.0]), ground_truth(box)))

    assert has_color(sure, GREEN)
    assert not has_color(unsure, GREEN)
    assert not (unsure == unsure[-1, -1]).all()


def pyramid_locations():
    """Of an image of 400 x 300 pixels: on P3 at 4 + 8·k, on P5 at 16 + 32·k."""
    return compute_locations([(-(-300 // stride), -(-400 // stride)) for stride in STRIDES], STRIDES)


def assigned(*rows):
    locations, gt = pyramid_locations(), ground_truth(*rows)
    return locations, FCOSAssigner(num_classes=1, sizes_of_interest=[64, 128, 256, 512])(locations, [gt]), gt


def test_dots_lie_on_the_locations_that_learn_a_box():
    box = (96, 48, 136, 88)

    picture = draw_assignment(gray_image(), *assigned(box))

    all_boxes, p3 = find_panels(picture)
    assert side_colors(all_boxes, box, 2) == [[PALETTE[0]]] * 4
    assert side_colors(p3, box, 2) == [[PALETTE[0]]] * 4
    is_colored = (p3 == rgb(PALETTE[0])).all(axis=2)
    dots = {
        (x, y): is_colored[2 * y - 8 : 2 * y + 8, 2 * x - 8 : 2 * x + 8]
        for x in (100, 108, 116, 124, 132)
        for y in (52, 60, 68, 76, 84)
    }
    # Within 1.5 strides of the center (116, 68).
    positives = {(x, y) for x in (108, 116, 124) for y in (60, 68, 76)}
    assert {point for point, dot in dots.items() if dot[7:9, 7:9].all()} == positives
    # Centerness 1 against √(12/28 · 12/28) = .43, by which the areas go, black outlines included.
    assert dots[116, 68].sum() > 2 * dots[108, 60].sum()


def test_there_is_a_panel_for_each_level_that_learns(sheet_kept):
    # The first box holds no location. Nothing is nearer than 128 to both ends of the last, so that P5 alone learns it:
    # within 1.5 strides of its center (258, 148), at x in 240, 272, 304 and y in 112, 144, 176.
    sheet = draw_assignment(gray_image(), *assigned((1, 1, 3, 3), (96, 48, 136, 88), (130, 20, 386, 276)))

    all_boxes, p3, p5 = sheet.figure.axes
    assert texts(all_boxes)[:2] == ["Ground truth", "3 boxes, 1 unassigned"]
    assert texts(p3) == ["P3", "stride 8, 9 positives"]
    assert texts(p5) == ["P5", "stride 32, 9 positives"]
    assert [outline.get_linestyle() for outline in all_boxes.patches] == ["dashed", "solid", "solid"]
    assert [len(panel.patches) for panel in (p3, p5)] == [1, 1]


def test_dots_of_ambiguous_locations_are_ringed(sheet_kept):
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


def test_target_centerness_is_shown_on_the_locations_that_learn():
    box = (96, 48, 136, 88)

    _, p3 = find_panels(draw_target_centerness(gray_image(), *assigned(box)))

    muted = p3[-1, -1].astype(float)  # as it is far from the box
    # The center, beside it and toward a corner of the box, whose distances are 20 and 12 or 28.
    for x, y, centerness in [(116, 68, 1.0), (124, 68, (12 / 28) ** 0.5), (108, 60, 12 / 28)]:
        red, green, blue, alpha = SOLID_HEAT(centerness)
        expected = 255 * alpha * np.array([red, green, blue]) + (1 - alpha) * muted
        cell = p3[2 * y - 6 : 2 * y + 6, 2 * x - 6 : 2 * x + 6].astype(float)
        np.testing.assert_allclose(cell, np.broadcast_to(expected, cell.shape), atol=3)
    outside = p3[2 * 68 - 6 : 2 * 68 + 6, 2 * 132 - 6 : 2 * 132 + 2]  # two strides from the center
    assert (outside == muted).all()


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

    panels = find_panels(draw_centerness(gray_image(), predictions, locations, postprocessor()))

    assert len(panels) == 15
    is_glowing = [np.ptp(panel.astype(int), axis=2) > 50 for panel in panels]
    for row, points in enumerate([{both, class_only}, {both, centerness_only}, {both}]):
        expected = np.zeros((270, 360), dtype=bool)  # 400 x 300 pixels at a scale of .9
        for x, y in points:
            left, top, right, bottom = np.rint(0.9 * np.array([x - 8, y - 8, x + 8, y + 8])).astype(int)
            expected[top:bottom, left:right] = True
        p3, p4, *coarser = is_glowing[5 * row : 5 * row + 5]
        assert (p4 != expected).sum() <= 4 * 15 * len(points)  # a cell's border may fall on either side of a pixel
        assert not any(panel.any() for panel in (p3, *coarser))


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
def test_heat_maps_show_the_models_own_score(sheet_kept, predicted, kwargs, centerness, score):
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
    image, nothing = gray_image(), ground_truth()
    box = (20, 20, 120, 120)

    assert len(find_panels(draw_detections(image, detections(scores=[], classes=[]), None, ["cat"]))) == 1
    assert len(find_panels(draw_detections(image, detections(scores=[], classes=[]), nothing, ["cat"]))) == 2
    assert len(find_panels(draw_proposals(image, proposals(logits=[]), nothing))) == 2
    _, right = find_panels(draw_proposals(image, proposals(box, logits=[30.0]), nothing))
    assert side_colors(right, box, 2) == [[WHITE]] * 4
    left, _ = find_panels(draw_proposals(image, proposals(logits=[]), ground_truth(box)))
    assert side_colors(left, box, 2) == [[WHITE]] * 4
    assert len(find_panels(draw_assignment(image, *assigned()))) == 1
    assert len(find_panels(draw_target_centerness(image, *assigned()))) == 1


def test_the_best_proposals_are_on_top_and_the_others_fainter(monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "draw_boxes", lambda panel, boxes, colors, alphas: drawn.append((boxes, alphas)))
    best, other = [10.0, 10, 50, 40], [30.0, 20, 90, 60]
    proposals = Instances(
        (64, 96), proposal_boxes=Boxes(torch.tensor([best, other])), objectness_logits=torch.tensor([23.0, 0.0])
    )
    pictures.draw_best_proposals(np.zeros((64, 96, 3), np.uint8), proposals)
    ((boxes, alphas),) = drawn
    assert boxes.tolist() == [other, best]
    assert alphas == pytest.approx([0.25 + 0.75 * 0.5, 1.0])
