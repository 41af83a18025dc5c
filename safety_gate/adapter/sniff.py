"""What a file is by its bytes, whatever it is called. Nothing is executed or unpacked."""

import pickletools
from dataclasses import dataclass

HEAD_BYTES = 64 * 1024  # read from the start; a pickle whose opcodes go on beyond is still one
TAIL_BYTES = 64 * 1024 + 22  # a zip ends with 22 bytes and a comment of at most 64 KiB

PICKLE, CODE, ARCHIVE, WEIGHTS = "file-pickle", "file-code", "file-archive", "weights-unexpected"

# Opcodes that import something, or ask the loader for an object by name: without one of these a
# pickle holds plain lists and numbers.
IMPORTS = frozenset({"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "PERSID"})
LENGTHS = {  # how pickletools writes "the argument's first bytes are its length"
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
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
PROTOCOL = 0x80  # first byte of every pickle since protocol 2
OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
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
    # First: a header of 376 bytes begins like zlib (78 01). What is both begins with a stored block
    # of length 0 and complement 0, which no inflater takes, so nothing is missed.
    if is_safetensors(head):
        return Danger(rule=WEIGHTS, words="weights in safetensors format")
    if not is_text(head) and (head[:2] in ZLIB or head[2:4] == b"\r\n"):
        return Danger(rule=PICKLE, words="compressed or compiled Python objects")
    return None


def is_pickle(head: bytes) -> bool:
    """Tell whether ``head`` starts a pickle that imports something, or one that does not end.

    Only steps over opcodes and their arguments: nothing is decoded, built or imported.
    """
    seen: list[str] = []
    at = 0
    while at < len(head):
        opcode = OPCODES.get(head[at])
        if opcode is None:
            # No unpickler comes further. Protocol 2 and later announce themselves, so one good
            # opcode behind the announcement is enough there.
            return head[0] == PROTOCOL and len(seen) > 1
        seen.append(opcode.name)
        if opcode.name == "STOP":
            return head[0] == PROTOCOL or not IMPORTS.isdisjoint(seen)
        at = _behind_argument(head, at + 1, opcode)
    # The opcodes go on behind what was read, or the file is cut off.
    return len(seen) > 1 and (head[0] == PROTOCOL or len(head) >= HEAD_BYTES)


def _behind_argument(head: bytes, at: int, opcode: pickletools.OpcodeInfo) -> int:
    """Return the offset behind the argument that starts at ``at``; the end if it is cut off."""
    if opcode.arg is None:
        return at
    size = opcode.arg.n
    if size >= 0:
        return at + size
    if width := LENGTHS.get(size):
        return at + width + int.from_bytes(head[at : at + width], "little")
    for _ in range(2 if opcode.name in ("GLOBAL", "INST") else 1):
        at = head.find(b"\n", at) + 1 or len(head)
    return at


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
