"""Windows (docs/WINDOWS.md) by plain system calls, and writers that store into them until the power
fails."""
import array, contextlib, fcntl, json, os, socket, struct
from mounts import *

PAGE = 4096
PINNED, MAPPED, WRITE, SOCKET = 1, 2, 4, 8
ROAD_FILE, ROAD_SOCKET = 1, 2
HAS_MEMORY, FLUSH = 1, 4


def ioc(direction, number, size):
    return direction << 30 | size << 16 | 0xF5 << 8 | number


OPEN_LAYOUT, REF_LAYOUT, IO_LAYOUT = "IIQQQQQQII64s64s", "QQQ", "IIQQQQQQQ"
OPEN = ioc(3, 8, struct.calcsize(OPEN_LAYOUT))
FLUSH_WINDOW = ioc(1, 9, struct.calcsize(REF_LAYOUT))
IO = ioc(3, 10, 64)
PINS = ioc(3, 11, 8192)


class Window:
    """What WINDOW_OPEN has answered."""
    def __init__(self, fd, flags, pos=0, length=0):
        data = bytearray(struct.pack(OPEN_LAYOUT, 1, flags, pos, length, *[0] * 6, b"", b""))
        fcntl.ioctl(fd, OPEN, data, True)
        answer = struct.unpack(OPEN_LAYOUT, data)
        self.writable = bool(flags & WRITE)
        self.window, self.secret, self.bytes, self.road = answer[4], answer[5:7], answer[7], answer[8]
        self.file = answer[10].split(b"\0")[0].decode()
        self.socket = answer[11].split(b"\0")[0].decode()

    @property
    def ref(self):
        return struct.pack(REF_LAYOUT, self.window, *self.secret)

    def map(self, fd):
        access = mmap.PROT_READ | (mmap.PROT_WRITE if self.writable else 0)
        return mmap.mmap(fd, self.bytes, mmap.MAP_SHARED, access)

    def by_file(self):
        assert self.road & ROAD_FILE
        with opened(f"{MNT}/{self.file}", os.O_RDWR if self.writable else os.O_RDONLY) as fd:
            return self.map(fd)

    def by_socket(self):
        """The memory, and the connection that keeps it."""
        connection = connect(self)
        error, fd = ask(connection, self.ref)
        if error:
            raise OSError(error, os.strerror(error))
        try:
            return self.map(fd), connection
        finally:
            os.close(fd)

    def flush(self, fd):
        fcntl.ioctl(fd, FLUSH_WINDOW, self.ref)


def connect(window):
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect("\0" + window.socket)
    return connection


def ask(connection, ref, flags=0):
    connection.send(struct.pack("II", 1, flags) + ref + struct.pack("Q", 0))
    data, rights, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(4))
    fd = array.array("i", rights[0][2])[0] if rights else -1
    return struct.unpack("iI", data)[0], fd


def has_control_files():
    return json.loads(run(FUSEFS, "stats", MNT, "--json"))["data"]["kernel"]["passthrough"]


def need_control_files():
    if not has_control_files():
        raise Skip("no FUSE_PASSTHROUGH here")


def window_io(fd, window, window_pos, file_pos, length, write):
    data = bytearray(struct.pack("IIQQQQQQQ", 1, int(write), window.window, *window.secret,
                                 window_pos, file_pos, length, 0))
    fcntl.ioctl(fd, IO, data, True)
    return struct.unpack_from("Q", data, 56)[0]


def stats():
    return json.loads(run(FUSEFS, "stats", MNT, "--json"))["data"]["windows"]


def pins():
    with opened(MNT, os.O_RDONLY) as fd:
        data = bytearray(8192)
        fcntl.ioctl(fd, PINS, data, True)
        length = struct.unpack_from("I", data, 24)[0]
        return json.loads(data[32:32 + length])


def no_windows():
    wait_until(lambda: stats()["holders"] == 0, "the end of all windows")
    same(pins(), {"pins": [], "windows": []})


@contextlib.contextmanager
def windowed(path, length=16 * PAGE, flags=PINNED | WRITE, road=ROAD_FILE):
    """The file's descriptor, the window, its memory; by the socket where there is nothing else."""
    if not has_control_files():
        road = ROAD_SOCKET
    write_file(path, pattern(length))
    with opened(path, os.O_RDWR) as fd:
        window = Window(fd, flags | (SOCKET if road == ROAD_SOCKET else 0))
        connection = None
        if road == ROAD_SOCKET:
            memory, connection = window.by_socket()
        else:
            memory = window.by_file()
        try:
            yield fd, window, memory
        finally:
            memory.close()
            if connection:
                connection.close()
    no_windows()


def roads():
    return (ROAD_FILE, ROAD_SOCKET) if has_control_files() else (ROAD_SOCKET,)


# ---- writers of power_cut_test ----

WINDOW_PAGES = 256


def store_and_sync(role, fd, memory, log, choose):
    """Pages of one's own, each filled with a number that only grows; what is stored before an fsync
    begins is promised when it returns."""
    number = 0
    while True:
        for _ in range(choose.randrange(1, 20)):
            number += 1
            page = 2 * choose.randrange(WINDOW_PAGES // 2) + role
            os.write(log, b"storing %d %d\n" % (page, number))
            memory[page * PAGE:(page + 1) * PAGE] = struct.pack("<Q", number) * (PAGE // 8)
        os.fsync(fd)
        os.write(log, b"synced %d\n" % role)


def store_in_window(writer, directory, log, choose):
    """Two processes that share a window: the parent's fsync writes what the child is storing."""
    path = f"{directory}/window"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, WINDOW_PAGES * PAGE)
        os.fsync(fd)
        sync_directory(directory)
        if writer % 2 and has_control_files():
            memory = Window(fd, PINNED | WRITE).by_file()
        else:
            memory, connection = Window(fd, PINNED | WRITE | SOCKET).by_socket()
        seed = choose.randrange(1 << 30)
        child = os.fork()
        choose.seed(seed + child)
        try:
            store_and_sync(0 if child else 1, fd, memory, log, choose)
        finally:
            if child:
                os.waitpid(child, 0)
            else:
                os._exit(0)


def sync_directory(path):
    with opened(path, os.O_RDONLY) as fd:
        os.fsync(fd)


def verify_window(writer, directory, log):
    """Every word of a page is one of the numbers from the last promised one on: stores are torn
    between words if an fsync looks on, and never lost."""
    stored, promised, count = {}, {}, 0
    for line in read_file(log).decode().split("\n")[:-1]:
        kind, first, *rest = line.split()
        if kind == "storing":
            stored[int(first)] = int(rest[0])
        else:
            promised.update({page: n for page, n in stored.items() if page % 2 == int(first)})
            count += 1
    if not count:
        return 0
    data = read_file(directory + "/window")
    same(len(data), WINDOW_PAGES * PAGE)
    for page in range(WINDOW_PAGES):
        low, high = promised.get(page, 0), stored.get(page, 0)
        for word in set(struct.unpack_from(f"<{PAGE // 8}Q", data, page * PAGE)):
            assert low <= word <= high, f"page {page}: {word}, wanted {low} to {high}"
    return count


WINDOW_WRITERS = [(store_in_window, verify_window), (store_in_window, verify_window)]
