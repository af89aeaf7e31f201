"""Reads a json in COCO's instances format, or says what the file is instead."""

import codecs
import json
import locale
import re
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..file_kinds import HEAD, what_else
from .rules import LISTS, Entry, similar_key

CONVERT = "convert it with fcos-rpn convert-dataset INPUT --output FOLDER"
EXPORT = "export it in COCO's instances format"
TEXT_FORMATS = (
    (r"\s*(<\?.*?\?>\s*)?<annotations", f"an XML of CVAT's; {CONVERT} --images FOLDER"),
    (r"\s*(<\?.*?\?>\s*)?<annotation", f"an annotation of Pascal VOC; {CONVERT}"),
    (r"\s*<", f"an XML file; {EXPORT}"),
    (r"(?:\d+(?:\s+[-\d.eE+]+){4,}\s*)+$", f"labels of YOLO; {CONVERT}"),
    (r"(?s).*?^(?:names|nc)\s*:", f"the data.yaml of YOLO; {CONVERT}"),
    (r"\s*[{\[]\s*'", "written by Python's print, not by json.dump; write it with json.dump"),
    (r"\s*(\{[^\n]*\}\s*\n)+\s*\{", f"a json on every line (JSON Lines); {EXPORT}"),
    (r"[^\n{\[<]+[,;\t][^\n{\[<]+(\n|$)", f"a CSV table; {EXPORT} from the tool that wrote it"),
)
"""Patterns at the beginning of a text that is no json -> what it is, and what to do."""
JSON_FORMATS = (
    (("shapes",), "LabelMe"),
    (("_via_img_metadata",), "VIA"),
    (("regions",), "VIA"),
    (("image", "annotations"), "CreateML"),
    (("data", "annotations"), "Label Studio"),
    (("data_row",), "Labelbox"),
    (("labels", "name"), "BDD100K"),
    (("features", "type"), "GeoJSON"),
)
"""Keys of a json, or of its first entry -> whose format it is."""


def read_json(json_file: Path) -> tuple[Entry, bool]:
    """
    Returns:
        COCO's dictionary; its lists are there, except that of the annotations, and what they hold is unchecked. And
        whether pycocotools reads the same from the file.

    Raises:
        UserError: names the file, and says why it cannot be read, what it is instead, or which list is missing.
    """
    text, is_plain = _read_text(json_file)
    content = _parse(json_file, text)
    if (found := _format_of(content)) is not None:
        raise UserError(f"{json_file}: {found}")
    if not isinstance(content, dict):
        raise UserError(f"{json_file}: holds no object with the keys {', '.join(LISTS)}; {EXPORT}")
    for key in LISTS:
        if key not in content:
            if (similar := similar_key(content, key)) is not None:
                raise UserError(f"{json_file}: the key is {similar!r}; rename it {key!r}")
            if key != "annotations":  # which the list of images of a test set does without
                raise UserError(f"{json_file}: the key {key!r} is missing; {EXPORT}")
        elif not isinstance(content[key], list):
            raise UserError(f"{json_file}: {key!r} is no list; {EXPORT}")
        elif not content[key] and key != "annotations":
            raise UserError(f"{json_file}: {key!r} is empty; add at least one entry")
    return content, is_plain


def _read_text(json_file: Path) -> tuple[str, bool]:
    """The text of a file in UTF-8, and whether `open(json_file)` reads the same: it does not know the byte order mark,
    and takes letters beyond ASCII to be in the encoding of the locale."""
    if json_file.is_dir():
        raise UserError(f"{json_file}: {_folder_kind(json_file)}")
    try:
        data = json_file.read_bytes()
    except OSError as error:
        raise UserError(f"{json_file}: cannot be read ({error.strerror}); give the path of a COCO json") from error
    if (found := what_else(data[:HEAD])) is not None:
        raise UserError(f"{json_file}: is {found}")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:4]:
        raise UserError(f"{json_file}: its text is UTF-16; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
        is_utf_8_read = codecs.lookup(locale.getpreferredencoding(False)).name == "utf-8"
        return text, not data.startswith(codecs.BOM_UTF8) and (is_utf_8_read or text.isascii())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{json_file}: not a readable json: line {line} is not UTF-8; save it as UTF-8") from error


def _parse(json_file: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{json_file}: {_why(text, error)}") from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, lists in lists without an end
        raise UserError(f"{json_file}: not a readable json: {error}; export it again") from error


def _why(text: str, error: json.JSONDecodeError) -> str:
    """What is wrong with a text that is no json."""
    for pattern, kind in TEXT_FORMATS:
        if re.match(pattern, text[:4096], re.MULTILINE):
            return f"is {kind}"
    before, after = text[: error.pos].rstrip(), text[error.pos :].lstrip()
    if before.endswith(",") and after[:1] in ("]", "}"):
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n") - 1
        return f"not a readable json: a comma too much in line {line}, column {column}; delete it"
    if not after:
        return f"not a readable json: it ends in line {error.lineno}, so it is cut off; copy or export it again"
    return f"not a readable json: {error}; correct it there, or copy or export the file again"


def _format_of(content: Any) -> str | None:
    """Names another known format of annotations, and what to do."""
    first = next(
        iter(content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()), 0
    )
    if isinstance(content, dict) and {*LISTS[:2]} <= content.keys():
        annotations = content.get("annotations")
        example = annotations[0] if isinstance(annotations, list) and annotations else None
        if isinstance(example, dict) and "segments_info" in example:
            return f"holds COCO's panoptic segments; {EXPORT}"
        if isinstance(example, dict) and "caption" in example and "bbox" not in example:
            return f"holds COCO's captions; {EXPORT}"
        return None
    for keys, name in JSON_FORMATS:
        if any(isinstance(entry, dict) and {*keys} <= entry.keys() for entry in (content, first)):
            return f"is in the format of {name}; {EXPORT} from that tool"
    if isinstance(content, list) and isinstance(first, dict) and {"image_id", "category_id"} <= first.keys():
        kind = "results (detections with scores)" if "score" in first else "annotations without images and categories"
        return f"holds no object, but a list of COCO's {kind}; give the json of the annotations"
    return None


def _folder_kind(folder: Path) -> str:
    suffixes = {path.suffix.lower() for path in folder.iterdir()}
    for suffix, kind in ((".xml", "Pascal VOC's annotations"), (".txt", "YOLO's labels")):
        if suffix in suffixes:
            return f"is a folder of {kind}; {CONVERT}"
    return "is a folder; give the path of a COCO json"
