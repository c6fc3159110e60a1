"""The device and the filesystems on it: each made, mounted, unmounted in the same way.

A Device is a zram device, a loop device over a file on disk, sparse or written, or such a file. A
Filesystem formats and mounts it. cleanup() of each is safe to call at any time, any number of times.
"""

import json
import os
import subprocess
import time


class BenchError(Exception):
    pass


def run(*command, check=True, timeout=900):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          timeout=timeout)
    if check and done.returncode != 0:
        raise BenchError(f"{' '.join(str(w) for w in command)}: {done.stderr.strip()[-400:]}")
    return done.stdout


def write_text(path, text):
    with open(path, "w", encoding="ascii") as file:
        file.write(str(text))


class ZramDevice:
    name = "zram"

    def __init__(self, size_bytes):
        self.number = None
        run("modprobe", "zram", check=False)
        try:
            with open("/sys/class/zram-control/hot_add", encoding="ascii") as file:
                self.number = int(file.read())
            write_text(f"/sys/block/zram{self.number}/disksize", size_bytes)
        except OSError as error:
            self.cleanup()
            raise BenchError(f"no zram device: {error}") from error
        self.path = f"/dev/zram{self.number}"

    def blank(self):
        """Every filesystem starts on a device without memory of the one before."""
        run("blkdiscard", "-f", self.path)

    def cleanup(self):
        if self.number is None:
            return
        for _ in range(50):
            try:
                write_text(f"/sys/block/zram{self.number}/reset", 1)
                write_text("/sys/class/zram-control/hot_remove", self.number)
                self.number = None
                return
            except OSError:
                time.sleep(0.1)


class LoopDevice:
    name = "loop"

    def __init__(self, backing, size_bytes):
        self.backing, self.path = backing, None
        self.made = not os.path.exists(backing)
        if not self.made:
            raise BenchError(f"{backing}: exists; name a file that may be made and removed")
        run("fallocate", "-l", size_bytes, backing)
        self.path = run("losetup", "--direct-io=on", "-f", "--show", backing).strip()

    def blank(self):
        run("blkdiscard", "-f", "-z", self.path, check=False)

    def cleanup(self):
        if self.path:
            run("losetup", "-d", self.path, check=False)
            self.path = None
        if self.made and os.path.exists(self.backing):
            os.unlink(self.backing)


class ImageFile:
    """A volume in a file, without a device in between: only for fusefs."""
    name = "file"

    def __init__(self, path, size_bytes):
        self.path, self.made = path, not os.path.exists(path)
        if not self.made:
            raise BenchError(f"{path}: exists; name a file that may be made and removed")
        run("fallocate", "-l", size_bytes, path)

    def blank(self):
        """Its blocks stay: writing to new ones costs the filesystem below more."""

    def cleanup(self):
        if self.made and os.path.exists(self.path):
            os.unlink(self.path)


class DiskDevice(LoopDevice):
    """A file on the disk whose blocks are all written: overwriting one changes nothing else there."""
    name = "disk"

    def __init__(self, backing, size_bytes):
        self.backing, self.path = backing, None
        self.made = not os.path.exists(backing)
        if not self.made:
            raise BenchError(f"{backing}: exists; name a file that may be made and removed")
        run("dd", "if=/dev/zero", f"of={backing}", "bs=1M", f"count={size_bytes >> 20}", "oflag=direct",
            "conv=fsync")
        self.path = run("losetup", "--direct-io=on", "-f", "--show", backing).strip()
        # A discard would take the blocks away again, and the next write would have to get them back.
        write_text(f"/sys/block/{os.path.basename(self.path)}/queue/discard_max_bytes", 0)

    def blank(self):
        run("dd", "if=/dev/zero", f"of={self.path}", "bs=1M", "count=8", "oflag=direct")


class Filesystem:
    """One kind of filesystem; `mount_point` is given for its life."""

    def __init__(self, name, device, mount_point, tool=None, options=""):
        self.name, self.device, self.mount_point = name, device, mount_point
        self.tool, self.options = tool, options
        self.daemon_pid = None

    def make(self):
        path = self.device.path
        commands = {
            "fusefs": (self.tool, "mkfs", "-f", "-q", path),
            "fuse2fs": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", path),
            "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", path),
            "xfs": ("mkfs.xfs", "-q", "-f", path),
            "btrfs": ("mkfs.btrfs", "-q", "-f", path),
        }
        run(*commands[self.name])

    def mount(self):
        path = self.device.path
        if self.name == "fusefs":
            options = ["-o", self.options] if self.options else []
            run(self.tool, "mount", path, self.mount_point, *options)
        elif self.name == "fuse2fs":
            run("fuse2fs", path, self.mount_point)
        else:
            run("mount", "-t", self.name, path, self.mount_point)
        self.daemon_pid = self.find_daemon()

    def find_daemon(self):
        if self.name not in ("fusefs", "fuse2fs"):
            return None
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    words = [word.decode(errors="replace") for word in file.read().split(b"\0")]
            except OSError:
                continue
            if self.mount_point in words and self.name in os.path.basename(words[0]):
                return int(entry)
        return None

    def is_mounted(self):
        with open("/proc/self/mounts", encoding="utf-8") as file:
            return any(line.split()[1] == self.mount_point for line in file)

    def unmount(self):
        """Returns when everything is on the device and the daemon, if any, has gone."""
        if self.name == "fusefs":
            run(self.tool, "umount", self.mount_point)
        else:
            run("umount", self.mount_point)
        for _ in range(600):
            if self.daemon_pid is None or not os.path.exists(f"/proc/{self.daemon_pid}"):
                break
            time.sleep(0.05)
        self.daemon_pid = None

    def stats(self):
        return json.loads(run(self.tool, "stats", "--json", self.mount_point))["data"]

    def memory_bytes(self):
        """Largest and present resident memory of the daemon."""
        found = {}
        with open(f"/proc/{self.daemon_pid}/status", encoding="ascii") as file:
            for line in file:
                if line.startswith(("VmHWM", "VmRSS")):
                    name, value = line.split(":")
                    found[name] = int(value.split()[0]) * 1024
        return found["VmHWM"], found["VmRSS"]

    def cleanup(self):
        for _ in range(50):
            if not self.is_mounted():
                return
            run("umount", self.mount_point, check=False)
            if self.is_mounted():
                time.sleep(0.1)
        run("umount", "-l", self.mount_point, check=False)
