"""Names what a file holds in place of a picture or of annotations, and what to do about it."""

SIGNATURES = (
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself; run git lfs pull"),
    (0, b"PK\3\4", "a zip archive; unpack it"),
    (0, b"\x1f\x8b", "a gzip archive; unpack it"),
    (0, b"Rar!", "a rar archive; unpack it"),
    (0, b"%PDF", "a PDF; save its pages as JPEG or PNG"),
    (0, b"\x93NUMPY", "a numpy array; save it as PNG"),
    (0, b"\x89HDF", "an HDF5 file; save its pictures as PNG"),
    (0, b"\0\5\x16\7", "what macOS keeps beside a file (AppleDouble); use the one whose name lacks the ._"),
    (128, b"DICM", "a DICOM file; save it as PNG"),
    (4, b"ftyphei", "a HEIC picture, which is not read; save it as JPEG or PNG"),
    (4, b"ftypmif", "a HEIF picture, which is not read; save it as JPEG or PNG"),
    (4, b"ftypavif", "an AVIF picture, which is not read; save it as JPEG or PNG"),
    (4, b"ftyp", "a video; save its frames as JPEG or PNG"),
)
"""Place and bytes by which kinds of files are known -> the kind, and what to do."""
HEAD = 512  # bytes, which are enough for all of them


def what_else(head: bytes) -> str | None:
    """The kind of a file by its first `HEAD` bytes, with the remedy; None if it is none of those known here."""
    if not head.strip(b"\0 \t\r\n"):
        return "an empty file; copy or export it again" if not head else "a file of zeros or spaces; copy it again"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, so its download failed; download it again"
    if b"<svg" in text:
        return "an SVG drawing; save it as PNG"
    return next((kind for start, magic, kind in SIGNATURES if head[start : start + len(magic)] == magic), None)
