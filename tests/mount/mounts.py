"""Shared by the mount tests in Python: cases, a volume, system calls that Python lacks.

    from mounts import *
    @case("a sentence that is true")
    def _(d): ...            # `d`: a fresh directory of the mounted volume; an exception fails it
    run_cases()              # mounts, runs every case, unmounts, checks the volume, exits

Each case prints one line: `ok SENTENCE`, `not ok SENTENCE` or `skip SENTENCE: why`.
"""
import atexit, ctypes, errno, fcntl, mmap, os, select, shutil, signal, stat, subprocess, sys, tempfile, time, traceback

FUSEFS = os.environ["FUSEFS"]
SCRATCH = tempfile.mkdtemp(prefix="fusefs-test.", dir=os.environ.get("TMPDIR", "/tmp"))
IMAGE, MNT = SCRATCH + "/image", SCRATCH + "/mnt"
NOBODY = 65534
OPTIONS = os.environ.get("FUSEFS_OPTIONS", "")  # mount options of every mount
LONG = os.environ.get("FUSEFS_LONG") == "1"
HANG = 300  # seconds; what lasts longer will never end, however busy the machine is
libc = ctypes.CDLL(None, use_errno=True)
_cases = []


class Skip(Exception):
    """Raised by a case that cannot run here, with the reason."""


def case(sentence):
    def add(function):
        _cases.append((sentence, function))
        return function
    return add


def run(*words, check=True, **more):
    """Runs a command, returns what it wrote; a failure shows the command's own words."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def mount(options=""):
    options = ",".join(word for word in (OPTIONS, options) if word)
    run(FUSEFS, "mount", IMAGE, MNT, *(["-o", options] if options else []))


def is_mounted():
    """Also when nobody serves the mount any more; os.path.ismount() says no then."""
    with open("/proc/self/mounts", encoding="utf-8") as table:
        return any(line.split()[1] == MNT for line in table)


def umount():
    run(FUSEFS, "umount", MNT)


def remount(options=""):
    umount()
    mount(options)


def wait_until(condition, what, seconds=HANG):
    """Returns the first value of condition() that is true."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError("never came: " + what)
        time.sleep(0.01)


def kill_and_wait(pid):
    """Kills a daemon of IMAGE. Returns when the next can have it: the kernel takes the io_uring of a
    dead process down, and with it the lock, some time after it has gone."""
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        assert poller.poll(HANG * 1000), f"process {pid} does not end"
    finally:
        os.close(pidfd)
    wait_unlocked()


def wait_unlocked():
    def lock():
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
    with opened(IMAGE, os.O_RDONLY) as fd:
        wait_until(lock, "the image that nobody uses")


def fails(wanted, function, *arguments, **more):
    """Expects OSError `wanted` of function(*arguments)."""
    try:
        result = function(*arguments, **more)
    except OSError as error:
        same(errno.errorcode.get(error.errno), errno.errorcode[wanted])
        return
    raise AssertionError(f"expected {errno.errorcode[wanted]}, got {result!r}")


def same(got, wanted, what=""):
    if got != wanted:
        raise AssertionError(f"{what + ': ' if what else ''}got {short(got)}, wanted {short(wanted)}")


def short(value):
    text = repr(value)
    return text if len(text) < 200 else text[:120] + f"... ({len(text)} characters)"


def call(name, *arguments):
    """A function of libc; a result of -1 becomes OSError."""
    function = getattr(libc, name)
    function.restype = ctypes.c_long if name in ("syscall", "lseek") else ctypes.c_int
    result = function(*[a.encode() if isinstance(a, str) else a for a in arguments])
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def write_file(path, data=b"", mode=0o644):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(fd, "wb") as file:
        file.write(data)
    return path


def read_file(path):
    with open(path, "rb") as file:
        return file.read()


class opened:
    """with opened(path, flags[, mode]) as fd; it may outlive its daemon"""
    def __init__(self, path, flags=os.O_RDWR | os.O_CREAT, mode=0o644):
        self.fd = os.open(path, flags, mode)

    def __enter__(self):
        return self.fd

    def __exit__(self, *_):
        try:
            os.close(self.fd)
        except OSError as error:
            same(errno.errorcode.get(error.errno), "ENOTCONN")


def in_child(function, uid=0, gid=None, groups=(), directory=None):
    """Runs function() in a child process as that user; its exception fails the caller."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        text = ""
        try:
            if directory:
                os.chdir(directory)
            if uid:
                os.setgroups(list(groups))
                os.setresgid(*[uid if gid is None else gid] * 3)
                os.setresuid(uid, uid, uid)
            function()
        except BaseException:
            text = traceback.format_exc()
        os.write(writer, text[-3000:].encode() or b"\0")
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    assert text == b"\0", "in the child: " + (text.decode() or "no answer")


def as_nobody(function, **more):
    in_child(function, uid=NOBODY, **more)


def command_of_nobody():
    """A copy of the command: the build may lie where only root may look, as in /root."""
    command = SCRATCH + "/fusefs"
    if not os.path.exists(command):
        shutil.copy(FUSEFS, command)
        os.chmod(command, 0o755)
    return command


def as_nobody_with_fuse(function, scratch):
    """As nobody, where /dev/fuse is open to everybody; mounts are nobody else's either."""
    def in_namespace():
        call("unshare", 0x20000)  # CLONE_NEWNS
        run("mount", "--make-rprivate", "/")
        os.mkdir(scratch)
        run("mount", "-t", "tmpfs", "none", scratch)
        run("mknod", "-m", "666", scratch + "/fuse", "c", "10", "229")
        run("mount", "--bind", scratch + "/fuse", "/dev/fuse")
        as_nobody(function)
    in_child(in_namespace)


def pattern(length, seed=1):
    """Bytes of which no two blocks are the same."""
    out = bytearray()
    for block in range((length + 4095) // 4096):
        out += (b"%08x-%08x " % (seed, block)) * 228
    return bytes(out[:length]) if length <= len(out) else bytes(out.ljust(length, b"."))


def aligned(length):
    """A buffer that O_DIRECT accepts: pages of anonymous memory."""
    return mmap.mmap(-1, length)


def used_bytes(path=MNT):
    """Blocks in use, those promised to dirty pages too."""
    info = os.statvfs(path)
    return (info.f_blocks - info.f_bfree) * info.f_frsize


def _clean_up():
    subprocess.run([FUSEFS, "umount", MNT], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if is_mounted():
        subprocess.run(["umount", "-l", MNT], stderr=subprocess.DEVNULL)
    shutil.rmtree(SCRATCH, ignore_errors=True)


def run_cases(size="2G"):
    os.umask(0o022)
    os.chmod(SCRATCH, 0o755)
    os.mkdir(MNT)
    wanted = sys.argv[1:]
    chosen = [c for c in _cases if not wanted or any(word in c[0] for word in wanted)]
    if not os.path.exists("/dev/fuse") or os.geteuid() != 0:
        required = os.environ.get("FUSEFS_REQUIRE_MOUNT") == "1"
        for sentence, _ in chosen:
            print(f"{'not ok' if required else 'skip'} {sentence}: needs /dev/fuse and root")
        sys.exit(required)
    atexit.register(_clean_up)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run(FUSEFS, "mkfs", "-q", "--size", size, IMAGE)
    mount()
    failed = sum(not _run_case(number, *c) for number, c in enumerate(chosen))
    failed += not _run_case(None, "the volume has no fault after all this", _unmount_and_check)
    sys.exit(failed > 0)


def _unmount_and_check(_):
    umount()
    run(FUSEFS, "check", "-n", IMAGE)


def _run_case(number, sentence, function):
    directory = f"{MNT}/{number}"
    try:
        if number is not None:
            os.mkdir(directory)
            os.chmod(directory, 0o777)
        function(directory)
        print("ok", sentence, flush=True)
    except Skip as why:
        print(f"skip {sentence}: {why}", flush=True)
    except BaseException as problem:
        if isinstance(problem, (KeyboardInterrupt, SystemExit)):
            raise
        print("not ok", sentence, flush=True)
        for line in traceback.format_exc().splitlines()[-12:]:
            print("    " + line, flush=True)
        if not is_mounted():
            subprocess.run([FUSEFS, "mount", IMAGE, MNT])
        return False
    return True
