"""What one picture's file says of itself, read from its header without decoding the pixels.

`data.decode` makes every kind of file into the same bytes; what the file was before that (format, bits, rotation, an
animation of which one frame is taken) is lost there, and a person who wonders about a data set wants to know it. Where
a source has no files (an array, the embedded pictures), there is nothing to survey.

Pillow reads the header; how many bits a sample has it forgets, so of PNG and TIFF that is read from the file.
"""

import io
from dataclasses import dataclass

from PIL import ExifTags, Image, UnidentifiedImageError

from fromnoise.data.decode import FORMATS
from fromnoise.data.folder import Folder
from fromnoise.data.quiet import pillow_quiet
from fromnoise.data.source import Files, Source, Unreadable

_PNG = b"\x89PNG\r\n\x1a\n"
_MAGIC = {
    _PNG: "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_KINDS = {
    **{"1": "black and white", "L": "grey", "LA": "grey and alpha", "La": "grey and alpha", "I": "grey", "F": "grey"},
    **{"P": "palette", "PA": "palette and alpha", "RGB": "RGB", "RGBX": "RGB", "RGBA": "RGBA", "RGBa": "RGBA"},
}
_SUFFIXES = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "PPM": ".ppm",
}
_BITS = {"1": 1, "I": 32, "F": 32}
_BITS_PER_SAMPLE = 258  # TIFF 6.0
_MAY_TURN = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")  # the only places where a PNG keeps an orientation


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """What a file's header says."""

    format: str
    """As Pillow calls it: PNG, JPEG, MPO …"""

    mode: str = ""
    """As Pillow calls it: L, RGBA, P, CMYK …; "" if it refused the header."""

    bits: int = 0
    """Of one sample, or of one palette index; 0 if not known."""

    orientation: int = 1
    """EXIF's, 1 … 8; 1 is upright."""

    animated: bool = False
    """More than one frame or page; the first is what is read."""

    profile: bool = False
    """With a colour profile (ICC)."""

    bomb: bool = False
    """More pixels than one picture may have."""

    nbytes: int
    """The size of the file."""

    @property
    def kind(self) -> str:
        """Mode and bits in words: "RGBA, 8 bit"."""
        mode = "grey" if self.mode.startswith("I;16") else _KINDS.get(self.mode, self.mode)
        return f"{mode}, {self.bits} bit" if self.bits else mode or "not known"

    @property
    def turned(self) -> bool:
        """Whether it is stored in another orientation than it is shown in."""
        return 2 <= self.orientation <= 8


def raw_bytes(source: Source, index: int) -> bytes | None:
    """The file of picture ``index``, where ``source`` has files and lets go of them."""
    try:
        return source.raw(index) if isinstance(source, Files) else None
    except (Unreadable, MemoryError):  # reading the picture will say why
        return None


def file_path(source: Source, index: int) -> str | None:
    """The absolute path of the file of picture ``index``; None where it is no file of a folder, or is missing."""
    if not isinstance(source, Folder):
        return None
    path, *found = source.identity(index).split("\0")  # path, size, time; or path, "missing"
    return path if len(found) == 2 else None


def survey(data: bytes) -> FileFacts | None:
    """What the header of a picture file says; None if it is of no kind that is read here."""
    try:
        with pillow_quiet(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            return FileFacts(
                format=image.format or "",
                mode=image.mode,
                bits=_bits(image, data),
                orientation=_orientation(image, data),
                animated=_animated(image),
                profile=bool(image.info.get("icc_profile")),
                bomb=limit is not None and image.width * image.height > limit,
                nbytes=len(data),
            )
    except Image.DecompressionBombError:
        return FileFacts(format=_begins_as(data) or "PPM", bomb=True, nbytes=len(data))
    except UnidentifiedImageError:
        return None
    except Exception:  # a damaged header can raise anything in a decoder: struct.error, KeyError, SyntaxError …
        return None


def usual_suffix(data: bytes) -> str:
    """How the name of a picture file with this content ends; ".png" if it is of no kind that is read here."""
    facts = survey(data)
    return _SUFFIXES.get(facts.format if facts else "", ".png")


def ailment(data: bytes | None, facts: FileFacts | None, why: str) -> str:
    """What kind of trouble an unreadable picture has, in a word or two.

    Args:
        data: its file, if there is one.
        facts: what that says.
        why: what the decoder said.
    """
    if data is None:
        return "cut short" if _says_cut_short(why) else "broken or missing"
    if not data:
        return "empty"
    kind = _begins_as(data) if facts is None else facts.format
    if not kind:
        return "not a picture"
    if facts is not None and facts.bomb:
        return "too large"
    if facts is not None and facts.bits >= 32:
        return "unknown range"
    return "cut short" if _cut_short(data, kind) or _says_cut_short(why) else "damaged"


def _begins_as(data: bytes) -> str:
    """The format whose mark the file begins with, where formats have one; else nothing."""
    if data.startswith(b"RIFF"):
        return "WEBP" if data[8:12] == b"WEBP" else ""
    return next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "")


def _says_cut_short(why: str) -> bool:
    return "truncated" in why or "cut short" in why


def _cut_short(data: bytes, kind: str) -> bool:
    """Whether the mark is missing that such a file ends with, or there are fewer bytes than it declares."""
    tail = data[-1024:]  # something may follow the end
    if kind == "PNG":
        return b"IEND" not in tail
    if kind in ("JPEG", "MPO"):
        return b"\xff\xd9" not in tail
    if kind == "GIF":
        return b";" not in tail[-1:]
    if kind == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    return kind == "BMP" and int.from_bytes(data[2:6], "little") > len(data)


def _bits(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG" and data.startswith(_PNG) and data[12:16] == b"IHDR":
        return data[24]
    if image.format == "TIFF":
        found = image.getexif().get(_BITS_PER_SAMPLE, 1)
        return int(max(found) if isinstance(found, tuple) else found)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return 16
    return _BITS.get(image.mode, 8)


def _orientation(image: Image.Image, data: bytes) -> int:
    # A PNG without EXIF before its pixels would be decoded in search of one behind them: only if there is one.
    if image.format == "PNG" and not any(mark in data for mark in _MAY_TURN):
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # any kind of nonsense in the block; the picture itself may be whole
        return 1


def _animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))  # only Pillow's formats with frames have it
    except Exception:  # damaged behind the first frame
        return True
