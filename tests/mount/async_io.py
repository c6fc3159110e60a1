"""Asynchronous writes from Python: the kernel's own AIO (libaio's calls) and io_uring.

Both queues have the same shape: submit(fd, buffer, pos, length), wait(count) -> [(tag, result)],
close(). `buffer` is a page-aligned mmap and stays with the caller; a result is a count or -errno.
"""
import struct
from mounts import *

_machine = os.uname().machine
_AIO = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}.get(_machine)
_URING_SETUP, _URING_ENTER = 425, 426
_URING_REGISTER, _REGISTER_BUFFERS = 427, 0
_IORING_OP_WRITE, _GETEVENTS = 23, 1
IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED = 4, 5


def _address(buffer):
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))



def syscall(number, *arguments):
    return call("syscall", ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])


class Aio:
    name = "libaio"

    def __init__(self, depth):
        if _AIO is None:
            raise Skip(f"system calls of {_machine} are not known here")
        self.context = ctypes.c_ulong(0)
        self.kept = {}
        syscall(_AIO[0], depth, ctypes.byref(self.context))

    def submit(self, fd, buffer, pos, length, tag=0, offset=0, rw_flags=0):
        block = ctypes.create_string_buffer(struct.pack(
            "=QIIHhIQQqQII", tag, 0, rw_flags, 1, 0, fd, _address(buffer) + offset, length, pos, 0, 0, 0), 64)
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(block))
        self.kept[tag] = (block, pointers)
        same(syscall(_AIO[3], self.context.value, 1, pointers), 1, "io_submit")

    def wait(self, count):
        events = ctypes.create_string_buffer(32 * max(count, 1))
        done = []
        while len(done) < count:
            got = syscall(_AIO[2], self.context.value, 1, count - len(done), events, None)
            done += [struct.unpack_from("=QQqq", events, 32 * i)[0:3:2] for i in range(got)]
        return done

    def close(self):
        syscall(_AIO[1], self.context.value)


class Uring:
    name = "io_uring"

    def __init__(self, depth):
        params = ctypes.create_string_buffer(120)
        self.fd = syscall(_URING_SETUP, depth, params)
        self.entries, self.cq_entries = struct.unpack_from("=II", params, 0)
        sq, cq = struct.unpack_from("=10I", params, 40), struct.unpack_from("=10I", params, 80)
        self.sq_tail_at, self.sq_mask_at, self.array_at = sq[1], sq[2], sq[6]
        self.cq_head_at, self.cq_tail_at, self.cq_mask_at, self.cqes_at = cq[0], cq[1], cq[2], cq[5]
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        self.sq = mmap.mmap(self.fd, self.array_at + 4 * self.entries, flags, offset=0)
        self.cq = mmap.mmap(self.fd, self.cqes_at + 16 * self.cq_entries, flags, offset=0x8000000)
        self.sqes = mmap.mmap(self.fd, 64 * self.entries, flags, offset=0x10000000)

    def register(self, buffer):
        """As the only fixed buffer: its pages are pinned from now on."""
        vector = ctypes.create_string_buffer(struct.pack("=QQ", _address(buffer), len(buffer)))
        syscall(_URING_REGISTER, self.fd, _REGISTER_BUFFERS, vector, 1)

    def submit(self, fd, buffer, pos, length, tag=0, offset=0, rw_flags=0, opcode=_IORING_OP_WRITE):
        (tail,) = struct.unpack_from("=I", self.sq, self.sq_tail_at)
        (mask,) = struct.unpack_from("=I", self.sq, self.sq_mask_at)
        slot = tail & mask
        struct.pack_into("=BBHiQQIIQ24x", self.sqes, 64 * slot, opcode, 0, 0, fd, pos,
                         _address(buffer) + offset, length, rw_flags, tag)
        struct.pack_into("=I", self.sq, self.array_at + 4 * slot, slot)
        struct.pack_into("=I", self.sq, self.sq_tail_at, (tail + 1) & 0xffffffff)
        same(syscall(_URING_ENTER, self.fd, 1, 0, 0, None, 0), 1, "io_uring_enter")

    def wait(self, count):
        done = []
        while len(done) < count:
            (head,) = struct.unpack_from("=I", self.cq, self.cq_head_at)
            (tail,) = struct.unpack_from("=I", self.cq, self.cq_tail_at)
            if head == tail:
                syscall(_URING_ENTER, self.fd, 0, 1, _GETEVENTS, None, 0)
                continue
            (mask,) = struct.unpack_from("=I", self.cq, self.cq_mask_at)
            done.append(struct.unpack_from("=Qi", self.cq, self.cqes_at + 16 * (head & mask)))
            struct.pack_into("=I", self.cq, self.cq_head_at, (head + 1) & 0xffffffff)
        return done

    def close(self):
        for memory in (self.sq, self.cq, self.sqes):
            memory.close()
        os.close(self.fd)


QUEUES = (Aio, Uring)
