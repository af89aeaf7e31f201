import pytest
import torch

from fcos_rpn.analysis.report import figures_table, unlearned_ids, unlearned_table
from fcos_rpn.analysis.statistics import Analysis, PerImage, UnlearnedBox


@pytest.fixture
def locations() -> Analysis:
    return Analysis(
        best_possible_recall=75.0,
        ambiguous=12.345,
        ambiguous_across_classes=5.0,
        num_images=1234,
        num_boxes=4,
        num_positives=20,
        positives_per_level={"p3": 15, "p4": 5},
        positives_per_box={0: 1, 3: 1, 8: 1, 9: 1},
        unlearned_boxes=[UnlearnedBox(7, 1, 2.0, 3.0, 4.5, 6.75)],
        samples_per_image=PerImage(100.4, 50, 2000),
        outputs_per_image=PerImage(8534.0, 4250, 170000),
        best_possible_recall_by_rule={},
        input_shorter_sides=torch.tensor([4.5, 4.0, 7.9, 64.0]),
        is_learned=torch.tensor([False, True, True, True]),
    )


def cells(table: str) -> dict[str, list[str]]:
    """Title -> cells of each row, which two blanks or more part."""
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in table.splitlines()]
    return {row[0]: row[1:] for row in rows if row}


def test_figures(locations):
    found = cells(figures_table({"given": locations}))
    assert found["images"] == ["1,234"]
    assert found["best possible recall, %"] == ["75.00"]
    assert found["boxes that nothing learns"] == ["1 (25.00 %)"]
    assert found["ambiguous positives, %"] == ["12.35"]
    assert found["- on p3"] == ["15 (75.0 %)"]
    assert found["boxes of 0 positives"] == ["25.00 %"]
    assert found["boxes of 2-3 positives"] == ["25.00 %"]
    assert found["boxes of 8-15 positives"] == ["50.00 %"]
    assert found["boxes of 64 or more positives"] == ["0.00 %"]
    assert found["locations an image"] == ["100 (50 to 2,000)"]
    assert found["output variables an image"] == ["8,534 (4,250 to 170,000)"]
    assert not any("low-quality" in title for title in found)


def test_two_analyses_side_by_side(locations):
    finer = locations._replace(positives_per_level={"p2": 10, "p3": 10}, ambiguous=1.0)
    table = figures_table({"given": locations, "suggested": finer})
    assert table.splitlines()[0].split() == ["given", "suggested"]
    found = cells(table)
    assert found["ambiguous positives, %"] == ["12.35", "1.00"]
    assert found["- on p2"] == ["10 (50.0 %)"]
    assert found["- on p3"] == ["15 (75.0 %)", "10 (50.0 %)"]
    titles = list(found)
    assert titles.index("- on p2") < titles.index("- on p3") < titles.index("- on p4")


def test_anchors(locations):
    anchors = locations._replace(best_possible_recall_by_rule={"none": 60.0, "all": 75.0})
    found = cells(figures_table({"given": anchors}))
    assert found["- low-quality matches: none"] == ["60.00"]
    assert found["- low-quality matches: all"] == ["75.00"]
    assert "anchors an image" in found


def test_unlearned_by_size(locations):
    found = cells(unlearned_table({"given": locations}))
    assert found["0 to 4 px"] == ["0 of 0 (0.00 %)"]
    assert found["4 to 8 px"] == ["1 of 3 (33.33 %)"]
    assert found["64 or more px"] == ["0 of 1 (0.00 %)"]


def test_unlearned_ids(locations):
    assert unlearned_ids(locations) == "Unlearned annotations (input pixels): 7 (4.5 x 6.75)"
    many = locations._replace(unlearned_boxes=locations.unlearned_boxes * 11)
    assert unlearned_ids(many).endswith("7 (4.5 x 6.75), ...")
    assert unlearned_ids(many).count("(4.5 x 6.75)") == 10
    assert unlearned_ids(locations._replace(unlearned_boxes=[])) == ""
