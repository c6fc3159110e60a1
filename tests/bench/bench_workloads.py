"""What is done on each filesystem. Each workload returns {metric: value}; units are in the name:
_iops and _mib_s are better when larger, _s (seconds) when smaller.
"""

import json
import os
import signal
import subprocess
import time

from bench_filesystems import BenchError, run

MIB = 1 << 20


def fio(path, seconds, **job):
    """One fio job on `path`; the numbers of its only direction."""
    words = ["fio", "--name=job", f"--filename={path}", "--direct=1", "--output-format=json",
             "--randrepeat=1", "--norandommap", "--refill_buffers"]
    if seconds:
        words += ["--time_based", f"--runtime={seconds}", "--ramp_time=0.5"]
    words += [f"--{name}={value}" for name, value in job.items()]
    out = run(*words)
    found = json.loads(out[out.index("{"):])["jobs"][0]
    return found["read"] if found["read"]["io_bytes"] else found["write"]


class Workloads:
    """All workloads on one mounted filesystem. `settings` are compare's arguments."""

    def __init__(self, filesystem, settings):
        self.filesystem, self.settings = filesystem, settings
        self.root = filesystem.mount_point
        self.large = os.path.join(self.root, "large")

    def run(self, names):
        found = {}
        for name in names:
            found.update(getattr(self, name)())
        return found

    def remount(self):
        self.filesystem.unmount()
        self.filesystem.mount()

    def large_file(self):
        if not os.path.exists(self.large):
            fio(self.large, 0, rw="write", bs="1M", size=f"{self.settings.file_mib}M",
                ioengine="psync", fallocate="none", end_fsync=1)

    def random(self):
        """4 KiB O_DIRECT random reads at queue depths 1 and 32."""
        self.large_file()
        found = {}
        for metric, engine, depth in (("randread_qd1_iops", "psync", 1),
                                      ("randread_qd32_iops", "libaio", 32)):
            job = fio(self.large, self.settings.seconds, rw="randread", bs="4k", ioengine=engine,
                      iodepth=depth, size=f"{self.settings.file_mib}M")
            found[metric] = job["iops"]
        return found

    def sequential(self):
        """1 MiB O_DIRECT: a new file written, then read; queue depths 1 and 4."""
        found = {}
        size = f"{self.settings.file_mib}M"
        path = os.path.join(self.root, "sequential")
        for suffix, engine, depth in (("", "psync", 1), ("_qd4", "libaio", 4)):
            job = fio(path, 0, rw="write", bs="1M", size=size, ioengine=engine, iodepth=depth,
                      fallocate="none")
            found[f"seqwrite{suffix}_mib_s"] = job["bw_bytes"] / MIB
            job = fio(path, 0, rw="read", bs="1M", size=size, ioengine=engine, iodepth=depth,
                      loops=2)
            found[f"seqread{suffix}_mib_s"] = job["bw_bytes"] / MIB
            os.unlink(path)
        return found

    def files(self):
        """create, stat, stat after mounting again, unlink; in one directory and in 1,000."""
        found = {}
        for suffix, directories in (("1dir", 1), ("1000dirs", 1000)):
            for phase in ("create", "stat", "stat_cold", "unlink"):
                if phase == "stat_cold":
                    self.remount()
                out = run(self.settings.helper, phase.removesuffix("_cold"), self.root,
                          self.settings.files, directories, 1024)
                found[f"{phase}_{suffix}_s"] = float(out)
        return found

    def unpack(self):
        """A source tree out of an archive that lies in memory, and until it is on the device."""
        target = os.path.join(self.root, "tree")
        os.mkdir(target)
        start = time.monotonic()
        run("tar", "-xf", self.settings.archive, "-C", target)
        found = {"unpack_s": time.monotonic() - start}
        run("sync", "-f", target)
        found["unpack_sync_s"] = time.monotonic() - start
        run("rm", "-rf", target)
        return found

    def memory(self):
        """The daemon's largest resident memory after everything above."""
        if self.filesystem.daemon_pid is None:
            return {}
        return {"daemon_memory_mib": self.filesystem.memory_bytes()[0] / MIB}


def recover(tool, directory, size, settings):
    """Mount time after a crash on a sparse volume of `size`: kill -9 in the middle of creates."""
    image = os.path.join(directory, "crash.img")
    mount_point = os.path.join(directory, "mnt")
    found = {"size": size}
    try:
        run(tool, "mkfs", "-q", "-f", "--size", size, image)
        daemon = subprocess.Popen([tool, "mount", "-f", image, mount_point],
                                  stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for _ in range(100):
            if os.path.ismount(mount_point):
                break
            time.sleep(0.1)
        run(settings.helper, "create", mount_point, settings.files // 4, 1, 1024)
        time.sleep(1.5)  # the last commit, so that every size replays about the same
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
        run("umount", "-l", mount_point, check=False)
        start = time.monotonic()
        run(tool, "mount", image, mount_point)
        found["mount_s"] = time.monotonic() - start
        stats = json.loads(run(tool, "stats", "--json", mount_point))["data"]
        found["recovery"] = stats["volume"]["recovery"]
        names = len(os.listdir(os.path.join(mount_point, "d0")))
        if names != settings.files // 4:
            raise BenchError(f"{names} names after the crash of a {size} volume")
        run(tool, "umount", mount_point)
    finally:
        run("umount", "-l", mount_point, check=False)
        if os.path.exists(image):
            os.unlink(image)
    return found
