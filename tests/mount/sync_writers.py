"""Writers whose every write is durable when it returns: O_SYNC, O_DSYNC, RWF_DSYNC, O_DIRECT with them.

Their writes overlap, at any alignment. Each has an id, and bytes that only this id has; the log
knows when each began and ended (one clock for all processes). A byte may show, after a cut, any
write of it that no other write began after and finished: `judge` decides, sector by sector.
"""
import time
from mounts import *
from crash_writers import SECTOR, sync_path

FILE_BYTES = 48 << 10
WRITERS_OF_ONE_FILE = 4


def bytes_of(number, pos, length):
    """What write `number` puts at pos: every 16 bytes of the file the same 16 of its own."""
    word = (number * 0x9E3779B97F4A7C15 % (1 << 64)).to_bytes(8, "little") + number.to_bytes(8, "big")
    first = pos % 16
    return (word * ((length + first) // 16 + 1))[first:first + length]


# How a write becomes durable: flags of the open, flags of the write.
WAYS = [(os.O_DSYNC, 0), (os.O_SYNC, 0), (0, os.RWF_DSYNC), (0, os.RWF_SYNC),
        (os.O_DIRECT | os.O_DSYNC, 0), (os.O_DIRECT | os.O_SYNC, 0)]


def write_for_ever(path, log, choose, first_id, step):
    """Writes of any place and length into a file that others write, too."""
    fds = [os.open(path, os.O_RDWR | os.O_CREAT | flags) for flags, _ in WAYS]
    buffer = aligned(64 << 10)
    number = first_id
    while True:
        number += step
        length = choose.choice([1, 100, 511, 512, 513, 4095, 4096, 4097, 9000, 16384])
        pos = choose.randrange(FILE_BYTES - length + 1)
        if choose.random() < 0.6:
            length = min(length + 4095 & ~4095, 16384)
            pos = pos & ~4095
        way = choose.randrange(len(WAYS))
        start = choose.choice([0, 0, 512, 7]) if WAYS[way][0] & os.O_DIRECT else 0
        buffer[start:start + length] = bytes_of(number, pos, length)
        os.write(log, b"begin %d %d %d %d\n" % (time.monotonic_ns(), number, pos, length))
        done = os.pwritev(fds[way], [memoryview(buffer)[start:start + length]], pos, WAYS[way][1])
        assert done == length, f"{done} of {length}"
        os.write(log, b"end %d %d\n" % (time.monotonic_ns(), number))


def overlap(writer, directory, log, choose):
    """Several processes, one file."""
    path = f"{directory}/shared"
    with opened(path) as fd:
        os.ftruncate(fd, FILE_BYTES)
        os.pwrite(fd, bytes_of(1, 0, FILE_BYTES), 0)
        os.fsync(fd)
    sync_path(directory)
    os.write(log, b"begin 0 1 0 %d\nend 1 1\n" % FILE_BYTES)
    run_writers(path, log, choose)


def overlap_in_clone(writer, directory, log, choose):
    """The same in a clone, whose every block is shared at first; the original stays as it is."""
    with opened(f"{directory}/original") as fd, opened(f"{directory}/shared") as to:
        os.pwrite(fd, bytes_of(1, 0, FILE_BYTES), 0)
        same(os.copy_file_range(fd, to, FILE_BYTES, 0, 0), FILE_BYTES)
        os.fsync(fd), os.fsync(to)
    sync_path(directory)
    os.write(log, b"begin 0 1 0 %d\nend 1 1\n" % FILE_BYTES)
    run_writers(f"{directory}/shared", log, choose)


def overlap_in_holes(writer, directory, log, choose):
    """The same into nothing: holes, and blocks that are allocated and not written."""
    path = f"{directory}/shared"
    with opened(path) as fd:
        os.ftruncate(fd, FILE_BYTES)
        call("fallocate", fd, 1, ctypes.c_long(FILE_BYTES // 2), ctypes.c_long(FILE_BYTES // 4))
        os.fsync(fd)
    sync_path(directory)
    os.write(log, b"zero\n")
    run_writers(path, log, choose)


def run_writers(path, log, choose):
    children = []
    for first_id in range(2, 2 + WRITERS_OF_ONE_FILE):
        seed = choose.random()
        children.append(os.fork())
        if children[-1] == 0:
            try:
                write_for_ever(path, log, __import__("random").Random(seed), first_id, WRITERS_OF_ONE_FILE)
            except OSError as error:
                os._exit(0 if error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EINTR) else 1)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    os._exit(0 if statuses == [0] * len(children) else 1)


def append(writer, directory, log, choose):
    """A file that grows by synchronous writes, each as long as the log says when it has returned."""
    fds = [os.open(f"{directory}/log", os.O_RDWR | os.O_CREAT | os.O_APPEND | flags)
           for flags in (os.O_DSYNC, os.O_SYNC)]
    number = size = 0
    while True:
        number += 1
        length = choose.choice([1, 100, 4096, 5000, 20000])
        os.write(fds[number % 2], bytes_of(number, size, length))
        size += length
        os.write(log, b"%d %d\n" % (number, length))


def judge(data, writes, zero_allowed):
    """Raises unless each sector's part of each range between two writes' ends is of one write allowed there.

    `writes`: id -> [begin, end or None, pos, length]."""
    edges = sorted({0, FILE_BYTES, *range(0, FILE_BYTES, SECTOR)}
                   | {w[2] for w in writes.values()} | {w[2] + w[3] for w in writes.values()})
    order = sorted(writes.items(), key=lambda item: item[1][2])
    at, active = 0, {}
    for first, last in zip(edges, edges[1:]):
        while at < len(order) and order[at][1][2] <= first:
            active[order[at][0]] = order[at][1]
            at += 1
        active = {number: w for number, w in active.items() if w[2] + w[3] > first}
        # The last that began among those that ended: what ended before it began is gone.
        latest = max((w[0] for w in active.values() if w[1] is not None), default=-1)
        allowed = [number for number, w in active.items() if w[1] is None or w[1] >= latest]
        got = data[first:last]
        if any(got == bytes_of(number, first, last - first) for number in allowed):
            continue
        if zero_allowed and latest < 0 and got == bytes(last - first):
            continue
        seen = [n for n in writes if got[:16] and got == bytes_of(n, first, last - first)]
        raise AssertionError(f"bytes {first} to {last} show {'write %s' % seen if seen else short(got)}, "
                             f"allowed: {allowed}")


def verify_overlap(writer, directory, log):
    writes, zero = {}, False
    for line in read_file(log).decode().split("\n")[:-1]:
        kind, *rest = line.split()
        if kind == "begin":
            begin, number, pos, length = map(int, rest)
            writes[number] = [begin, None, pos, length]
        elif kind == "end":
            writes[int(rest[1])][1] = int(rest[0])
        else:
            zero = True
    if not writes:
        return 0
    if os.path.exists(f"{directory}/original"):
        same(read_file(f"{directory}/original") == bytes_of(1, 0, FILE_BYTES), True, "the original")
    data = read_file(f"{directory}/shared")
    same(len(data), FILE_BYTES)
    judge(data, writes, zero)
    return sum(w[1] is not None for w in writes.values())


def verify_append(writer, directory, log):
    done = [tuple(map(int, line.split())) for line in read_file(log).decode().split("\n")[:-1]]
    if not done:
        return 0
    data = read_file(f"{directory}/log")
    pos = 0
    for number, length in done:
        assert data[pos:pos + length] == bytes_of(number, pos, length), f"append {number} at {pos}"
        pos += length
    assert len(data) <= pos + 20000, f"{len(data)} bytes, {pos} were written"
    # The one under way: any sectors of it, and zeroes.
    for at in range(pos, len(data), 1):
        assert data[at] in (0, bytes_of(done[-1][0] + 1, at, 1)[0]), f"a foreign byte at {at}"
    return len(done)


SYNC_WRITERS = [(overlap, verify_overlap), (overlap_in_clone, verify_overlap),
                (overlap_in_holes, verify_overlap), (append, verify_append)]
