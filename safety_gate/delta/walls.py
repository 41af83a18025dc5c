"""What the child process may do: compute, and touch files in its own folder. Nothing else.

Defence in depth, not a sandbox: audit hooks see what Python does, not what a native library could
be tricked into. The limits on memory and file size are the kernel's; the parent limits the time and
strips the environment.
"""

import resource
import sys
from pathlib import Path

# Events of Python's audit hooks (docs.python.org/3/library/audit_events.html) that PEFT does not
# need to merge a matrix: the network, other programs, native code, other processes, pickles.
FORBIDDEN = (
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "socket.sendto",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.kill",
    "os.chmod",
    "os.chown",
    "os.link",
    "os.symlink",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "shutil.rmtree",
    "pickle.find_class",
    "urllib.Request",
    "http.client.connect",
    "webbrowser.open",
    "ctypes.dlopen",
)
# Code that PEFT may still load when it first needs it. All else that a config could name is not.
MAY_IMPORT = frozenset({"torch", "peft", "transformers", "numpy", "safetensors", "accelerate"})


BASE_MEMORY = 12 * 2**30  # bytes of address space: the libraries map about 6 GiB without using them
COPIES = 16  # of the weight in float32 that the slowest kinds (SVD, OSF) hold at the same time


def limit(weight_bytes: int) -> None:
    """Limit this process for good: address space, size of files, open files, no core dump.

    Args:
        weight_bytes: of the largest weight in float32, or of all that are needed at once.
    """
    for kind, most in (
        (resource.RLIMIT_AS, BASE_MEMORY + COPIES * weight_bytes),
        (resource.RLIMIT_FSIZE, max(weight_bytes, 2**20)),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 256),
    ):
        hard = resource.getrlimit(kind)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (value, value))


class WallError(RuntimeError):
    """The child tried to do what it must not."""


class ImportWallError(WallError, ImportError):
    """The child tried to import what it must not; optional imports go on without it."""


def close(folder: Path) -> None:
    """Load what is needed, then let nothing else in; cannot be undone in this process."""
    import peft
    import torch
    import transformers.pytorch_utils
    from safetensors import safe_open

    used = (peft.PeftModel, safe_open, torch.linalg.qr, transformers.pytorch_utils.Conv1D)
    if not all(used):
        raise AssertionError("the libraries are not whole")
    own = str(folder.resolve())
    standard = sys.stdlib_module_names | {"safety_gate"}

    def judge(event: str, args: tuple[object, ...]) -> None:
        if event in FORBIDDEN:
            raise WallError(f"{event} is not allowed here")
        if event == "import":
            root = str(args[0]).partition(".")[0]
            if root not in MAY_IMPORT and root not in standard:
                raise ImportWallError(f"importing {root} is not allowed here")
        if event == "open" and _writes(args) and not str(args[0]).startswith(own):
            raise WallError("writing outside of the private folder is not allowed here")

    sys.addaudithook(judge)


def _writes(args: tuple[object, ...]) -> bool:
    """Tell whether an open event asks for more than reading."""
    mode, flags = args[1], args[2]
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & 0o3)  # O_WRONLY or O_RDWR
