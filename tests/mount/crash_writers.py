"""Writers that log what was promised, the daemon's death in the middle of them, and the comparison.

A writer is a process that works in a directory of its own and appends a line to a log on another
filesystem after each promise: fsync has returned, or a synchronous write. Its verify function reads
the log and the directory, after the next mount, and returns how many promises it found kept.
"""
import fcntl, os, random, time
from mounts import *

SECTOR = 512  # what a power cut leaves whole
LINES_MIN = 60  # in the log of each writer before the daemon dies


def content(writer, number, length):
    return pattern(length, writer * 1000003 + number)


def sync_path(path):
    with opened(path, os.O_RDONLY) as fd:
        os.fsync(fd)


def write_files(writer, directory, log, choose):
    """New files, some replaced by rename, some removed, each step fsynced and then logged."""
    number = 0
    while True:
        number += 1
        length = choose.choice([0, 1, 100, 4096, 5000, 70000, 300000])
        path = f"{directory}/{number}"
        with opened(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
            os.write(fd, content(writer, number, length))
            os.fsync(fd)
        os.rename(path + ".new", path)
        sync_path(directory)
        os.write(log, b"file %d %d\n" % (number, length))
        if number % 5 == 0:
            os.write(log, b"removing %d\n" % (number - 4))
            os.unlink(f"{directory}/{number - 4}")
            sync_path(directory)
            os.write(log, b"removed %d\n" % (number - 4))


def overwrite(writer, directory, log, choose):
    """One file of numbered blocks written over and over, by fsync, O_DSYNC and O_DIRECT in turn."""
    flags = [0, os.O_DSYNC, os.O_SYNC | os.O_DIRECT]
    buffer = aligned(4096)
    fds = [os.open(f"{directory}/over", os.O_RDWR | os.O_CREAT | flag) for flag in flags]
    sync_path(directory)
    number = 0
    while True:
        number += 1
        block, way = choose.randrange(512), choose.randrange(3)
        buffer[:] = content(writer, number, 4096)
        os.write(log, b"writing %d %d\n" % (block, number))
        os.pwritev(fds[way], [buffer], block * 4096)
        if way == 0:
            os.fsync(fds[0])
        os.write(log, b"block %d %d\n" % (block, number))


def clone_and_append(writer, directory, log, choose):
    """A journal that grows by appending, and clones of it: each clone is a snapshot."""
    with opened(f"{directory}/log", os.O_RDWR | os.O_CREAT | os.O_APPEND) as fd:
        number = size = 0
        while True:
            number += 1
            length = choose.randrange(1, 20000)
            os.write(fd, content(writer, number, length))
            os.fsync(fd)
            size += length
            os.write(log, b"length %d %d\n" % (number, length))
            if number % 4 == 0:
                with opened(f"{directory}/clone{number}", os.O_RDWR | os.O_CREAT) as to:
                    done = 0
                    while done < size:
                        done += os.copy_file_range(fd, to, size - done, done, done)
                    os.fsync(to)
                sync_path(directory)
                os.write(log, b"clone %d %d\n" % (number, size))
            if number % 32 == 0:
                os.ftruncate(fd, 0)
                size = 0
                os.fsync(fd)
                os.write(log, b"cut\n")


def churn(writer, directory, log, choose):
    """Nothing promised: names, sparse files, attributes, so that the kill meets work under way."""
    while True:
        name = f"{directory}/{choose.randrange(200)}"
        try:
            step = choose.randrange(7)
            if step == 0: write_file(name, bytes(choose.randrange(100000)))
            elif step == 1: os.rename(name, f"{directory}/{choose.randrange(200)}")
            elif step == 2: os.unlink(name)
            elif step == 3: os.truncate(name, choose.randrange(1 << 30))
            elif step == 4: os.setxattr(name, "user.x", bytes(choose.randrange(9000)))
            elif step == 5: os.link(name, f"{directory}/{choose.randrange(200)}")
            else: os.symlink("x" * choose.randrange(1, 300), name)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EEXIST, errno.EPERM, errno.ENAMETOOLONG):
                raise


def lines(log):
    """The complete lines of a log."""
    return [line.split() for line in read_file(log).decode().split("\n")[:-1]]


def verify_files(writer, directory, log):
    there, leaving = {}, set()
    for kind, number, *rest in lines(log):
        if kind == "file": there[int(number)] = int(rest[0])
        elif kind == "removing": leaving.add(int(number))
        else: there.pop(int(number)), same(os.path.exists(f"{directory}/{number}"), False, "removed")
    for number, length in there.items():
        path = f"{directory}/{number}"
        if number in leaving and not os.path.exists(path):
            continue
        same(read_file(path) == content(writer, number, length), True, path)
    return len(there)


def verify_overwrite(writer, directory, log):
    promised, maybe = {}, {}
    for kind, block, number in lines(log):
        (promised if kind == "block" else maybe)[int(block)] = int(number)
    if not promised:
        return 0
    data = read_file(directory + "/over")
    for block, number in promised.items():
        got = data[block * 4096:(block + 1) * 4096]
        allowed = [content(writer, n, 4096) for n in {number, maybe[block]}]
        for at in range(0, 4096, SECTOR):
            assert got[at:at + SECTOR] in [whole[at:at + SECTOR] for whole in allowed], \
                f"block {block} at {at}: not write {number} nor {maybe[block]}"
    return len(promised)


def verify_log(writer, directory, log):
    data, count = b"", 0
    for kind, *rest in lines(log):
        if kind == "length":
            data += content(writer, int(rest[0]), int(rest[1]))
        elif kind == "cut":
            data = b""
        else:
            same(read_file(f"{directory}/clone{rest[0]}") == data[:int(rest[1])], True, "a clone")
        count += 1
    got = read_file(directory + "/log") if count else b""
    last = lines(log)[-1] if count else [""]
    cut_under_way = last[0] in ("clone", "length") and int(last[1]) % 32 == 0
    assert got[:len(data)] == data or cut_under_way and got == b"", f"the log lost bytes: {len(got)}"
    return count


WRITERS = [(write_files, verify_files), (overwrite, verify_overwrite), (clone_and_append, verify_log),
           (churn, None)]


def daemon_pid(mount_point=MNT):
    with opened(mount_point, os.O_RDONLY) as fd:
        info = bytearray(4096 + 64 + 256 + 56)
        fcntl.ioctl(fd, (2 << 30) | (len(info) << 16) | (0xF5 << 8) | 1, info)
    return int.from_bytes(info[24:28], "little")


def start(function, writer, directory, log, seed):
    child = os.fork()
    if child == 0:
        try:
            fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            function(writer, directory, fd, random.Random(seed))
        except OSError as error:  # the daemon is gone
            os._exit(0 if error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EINTR) else 1)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def kill_daemon():
    kill_and_wait(daemon_pid())


def one_round(number, seconds, seed, writers=WRITERS):
    """Starts the writers, kills the daemon when so much time has gone and each has promised
    something, and leaves nothing mounted. Returns what to verify."""
    children, jobs = [], []
    for writer, (function, verify) in enumerate(writers):
        directory, log = f"{MNT}/{number}.{writer}", f"{SCRATCH}/log.{number}.{writer}"
        os.mkdir(directory)
        sync_path(MNT)
        write_file(log)
        jobs.append((writer, directory, log, verify))
    for (writer, directory, log, _), (function, _) in zip(jobs, writers):
        children.append(start(function, writer, directory, log, seed * 100 + number))
    time.sleep(seconds)
    for _, _, log, verify in jobs:
        wait_until(lambda: not verify or len(lines(log)) >= LINES_MIN, "promises in " + log)
    kill_daemon()
    # Before the dead mount goes: without it they would find no directory, rather than no daemon.
    statuses = [os.waitpid(child, 0)[1] for child in children]
    run("umount", "-l", MNT)
    same(statuses, [0] * len(children), "the writers end by the daemon's death only")
    return jobs


def verify_round(jobs):
    count = 0
    for writer, directory, log, verify in jobs:
        if verify:
            count += verify(writer, directory, log)
    return count
