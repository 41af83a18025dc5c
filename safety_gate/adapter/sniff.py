"""What a file is by its bytes, whatever it is called. Nothing is executed or unpacked."""

import io
import pickletools
import struct
from dataclasses import dataclass

HEAD_BYTES = 64 * 1024  # read from the start; a pickle whose opcodes go on beyond is still one
TAIL_BYTES = 64 * 1024 + 22  # a zip ends with 22 bytes and a comment of at most 64 KiB

PICKLE, CODE, ARCHIVE, WEIGHTS = "file-pickle", "file-code", "file-archive", "weights-unexpected"

# Opcodes that call, import or restore an object. GLOBAL alone is not enough evidence in a text.
CALLS = frozenset({"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"})
MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", PICKLE, "a zip archive, as torch.save and numpy.savez write it"),
    (b"\x93NUMPY", PICKLE, "a numpy array file, which can hold pickled objects"),
    (b"\x89HDF\r\n\x1a\n", PICKLE, "an HDF5 file, as Keras writes it with code inside"),
    (b"\x7fELF", CODE, "a native program or library (ELF)"),
    (b"MZ", CODE, "a native program or library (Windows)"),
    (b"\xfe\xed\xfa\xce", CODE, "a native program or library (macOS)"),
    (b"\xfe\xed\xfa\xcf", CODE, "a native program or library (macOS)"),
    (b"\xce\xfa\xed\xfe", CODE, "a native program or library (macOS)"),
    (b"\xcf\xfa\xed\xfe", CODE, "a native program or library (macOS)"),
    (b"\xca\xfe\xba\xbe", CODE, "a native program or Java class"),
    (b"\x00asm", CODE, "a WebAssembly program"),
    (b"#!", CODE, "a script"),
    (b"\x1f\x8b", ARCHIVE, "a gzip archive"),
    (b"BZh", ARCHIVE, "a bzip2 archive"),
    (b"\xfd7zXZ\x00", ARCHIVE, "an xz archive"),
    (b"\x28\xb5\x2f\xfd", ARCHIVE, "a zstd archive"),
    (b"\x04\x22\x4d\x18", ARCHIVE, "an lz4 archive"),
    (b"7z\xbc\xaf\x27\x1c", ARCHIVE, "a 7z archive"),
    (b"Rar!", ARCHIVE, "a rar archive"),
    (b"GGUF", WEIGHTS, "weights in GGUF format"),
    (b"lmgg", WEIGHTS, "weights in GGML format"),
    (b"tjgg", WEIGHTS, "weights in GGML format"),
)
IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF")
ZLIB = (b"x\x01", b"x\x9c", b"x\xda")  # joblib's compressed pickles
ZIP_END = b"PK\x05\x06"
TAR_AT = 257  # offset of "ustar" in a tar header
MAX_HEADER = 100_000_000  # bytes, of a safetensors header: the library's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Danger:
    """Why a file must not lie in an adapter repository."""

    rule: str
    words: str  # what the file is, in our own words


def sniff(head: bytes, tail: bytes) -> Danger | None:
    """Return what is dangerous in a file, judged by its first and last bytes; None if nothing is.

    Args:
        head: the first HEAD_BYTES, or the whole file.
        tail: the last TAIL_BYTES, or the whole file.
    """
    for magic, rule, words in MAGIC:
        if head.startswith(magic):
            return Danger(rule=rule, words=words)
    if head[TAR_AT : TAR_AT + 5] == b"ustar":
        return Danger(rule=ARCHIVE, words="a tar archive")
    if is_pickle(head):
        return Danger(rule=PICKLE, words="a pickle, which runs code when it is loaded")
    if _ends_as_zip(tail):
        return Danger(rule=PICKLE, words="a zip archive behind other bytes; torch.load reads it")
    if not is_text(head) and (head[:2] in ZLIB or head[2:4] == b"\r\n"):
        return Danger(rule=PICKLE, words="compressed or compiled Python objects")
    if is_safetensors(head):
        return Danger(rule=WEIGHTS, words="weights in safetensors format")
    return None


def is_pickle(head: bytes) -> bool:
    """Tell whether ``head`` starts a pickle that restores objects, or one that does not end.

    Reads opcodes as pickletools does, without a stack: nothing is built or imported.
    """
    stream = io.BytesIO(head)
    opcodes: list[str] = []
    try:
        for opcode, _, _ in pickletools.genops(stream):
            opcodes.append(opcode.name)
    except (ValueError, IndexError, OverflowError, struct.error):
        # An unknown opcode stops in the middle: no unpickler comes further. Protocol 2 and later
        # announce themselves, so two good opcodes are enough there.
        announced = head[:1] == b"\x80" and len(opcodes) > 1
        return announced or (stream.tell() == len(head) and len(opcodes) > 1)
    return head[:1] == b"\x80" or not CALLS.isdisjoint(opcodes)


def _ends_as_zip(tail: bytes) -> bool:
    """Tell whether a zip's end record stands where its comment reaches exactly the end."""
    at = tail.rfind(ZIP_END)
    while at >= 0:
        comment = tail[at + 20 : at + 22]
        if len(comment) == 2 and at + 22 + int.from_bytes(comment, "little") == len(tail):
            return True
        at = tail.rfind(ZIP_END, 0, at)
    return False


def is_safetensors(head: bytes) -> bool:
    """Tell whether the bytes begin like a safetensors file."""
    length = int.from_bytes(head[:8], "little")
    return 2 <= length <= MAX_HEADER and head[8:9] == b"{"


def is_text(head: bytes) -> bool:
    """Tell whether the bytes are UTF-8 text without control characters."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as err:
        if len(head) < HEAD_BYTES or err.start < len(head) - 3:  # else: cut inside a character
            return False
        text = head[: err.start].decode("utf-8")
    return not any(char < " " and char not in "\t\n\r\f" for char in text)


def is_image(head: bytes) -> bool:
    """Tell whether the bytes begin like a PNG, JPEG, GIF or WebP."""
    return head.startswith(IMAGES)
