"""Windows by libfusefs (fusefs_pin(3)), as Python sees them, and the programs that have them."""
import ctypes, json
from mounts import *
from windows import PAGE, no_windows

BUILD = os.path.dirname(os.path.abspath(FUSEFS))
library = ctypes.CDLL(BUILD + "/libfusefs.so", use_errno=True)
WRITE, SOCKET = 1, 2
KERNEL_WRITES = "writeback=kernel" in OPTIONS  # what write() writes comes with a flush, as with mmap
for name in ("fusefs_pin", "fusefs_map"):
    getattr(library, name).restype = ctypes.c_void_p
    getattr(library, name).argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_size_t, ctypes.c_uint]
library.fusefs_size.restype = ctypes.c_size_t
library.fusefs_io.restype = ctypes.c_ssize_t
library.fusefs_io.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_long, ctypes.c_uint]
library.fusefs_error.restype = ctypes.c_char_p
for name in ("fusefs_size", "fusefs_flush", "fusefs_unmap"):
    getattr(library, name).argtypes = [ctypes.c_void_p]


def checked(result):
    if result is None or result == -1:
        raise OSError(ctypes.get_errno(), library.fusefs_error().decode())
    return result


class Window:
    """with Window(fd, kind="pin" or "map") as w: w[pos:end], w[pos:end] = bytes"""
    def __init__(self, fd, kind="pin", pos=0, length=0, flags=WRITE):
        opener = library.fusefs_pin if kind == "pin" else library.fusefs_map
        self.at = checked(opener(fd, pos, length, flags))
        self.bytes = library.fusefs_size(self.at)

    def __getitem__(self, where):
        return ctypes.string_at(self.at + where.start, where.stop - where.start)

    def __setitem__(self, where, data):
        same(len(data), where.stop - where.start)
        ctypes.memmove(self.at + where.start, data, len(data))

    def io(self, pos, length, fd, offset, flags=0):
        return checked(library.fusefs_io(self.at + pos, length, fd, offset, flags))

    def flush(self):
        checked(library.fusefs_flush(self.at))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        checked(library.fusefs_unmap(self.at))


KINDS = (("pin", WRITE), ("pin", WRITE | SOCKET), ("map", WRITE))


def data(*keys):
    found = json.loads(run(FUSEFS, "stats", MNT, "--json"))["data"]
    for key in keys:
        found = found[key]
    return found


def child(function):
    """A process that runs function() and ends without another word; its number."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def ended(pid):
    """0; the exit status, or minus the signal."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def each_kind(check):
    for kind, flags in KINDS:
        try:
            check(kind, flags)
        except BaseException as problem:
            raise AssertionError(f"{kind}, flags {flags}: {problem!r}") from problem
        no_windows()
