from fcos_rpn.data.coco.findings import Finding, annotation_place, image_place, printable


def test_a_finding_is_one_line():
    finding = Finding("error", "wrong box", "annotation 17 of image 5 (a\nb.jpg)", "bad \ud800 name", 5, 17)
    assert str(finding) == r"error: annotation 17 of image 5 (a\nb.jpg): bad \ud800 name"
    assert finding.to_json() == {
        "level": "error",
        "kind": "wrong box",
        "place": r"annotation 17 of image 5 (a\nb.jpg)",
        "text": r"bad \ud800 name",
        "image_id": 5,
        "annotation_id": 17,
    }
    assert printable("größe √ 图 ok") == "größe √ 图 ok"


def test_places_whatever_the_entries_hold():
    named, renamed, nameless = (
        {"id": 5, "file_name": "a.jpg"},
        {"id": 1, "original_id": "007"},
        {"id": 6, "file_name": 3},
    )
    assert [image_place(image) for image in (named, renamed, nameless)] == ["image 5 (a.jpg)", "image 007", "image 6"]
    assert annotation_place({"id": 17, "image_id": 5}, 3, named) == "annotation 17 of image 5 (a.jpg)"
    assert annotation_place({"image_id": 6}, 3, nameless) == "annotations[3] of image 6"
    assert annotation_place({"id": 17, "image_id": [1]}, 3, None) == "annotation 17 of image [1]"
    assert annotation_place({"id": 17}, 3, None) == "annotation 17"
