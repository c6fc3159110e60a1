// bench_sync_writes: synchronous writes of one block, by many threads, timed.
//
//   bench_sync_writes prepare PATH FILES MIB
//       makes PATH.0, PATH.1, ... of MIB each, written and durable
//   bench_sync_writes KIND FLAG PATH FILES MIB WRITERS SECONDS
//       KIND   overwrite  blocks at random of files that exist
//              once       the same, each block at most once: of a clone it is shared until then
//              append     to the end of files, with O_APPEND
//       FLAG   dsync, sync (by the open), fdatasync (a plain write, and the call)
//
// Writer i works on file i % FILES, through a descriptor of its own. Prints
// `writes/s median-us p99-us count`. A small program, because an interpreter would be slower than
// what it measures.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kBlockBytes = 4096;

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "bench_sync_writes: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

struct Job {
  std::string kind, flag, path;
  unsigned files = 1, writers = 1;
  uint64_t blocks = 0;  // of each file
  double seconds = 1;

  std::string file(unsigned n) const { return path + "." + std::to_string(n); }
  int open_flags() const {
    int flags = O_WRONLY | O_CLOEXEC;
    if (flag == "dsync") flags |= O_DSYNC;
    if (flag == "sync") flags |= O_SYNC;
    if (kind == "append") flags |= O_APPEND | O_CREAT;
    return flags;
  }
};

// Half of it noise: zram keeps no memory for what is all alike, and takes time to press the rest.
std::vector<char> block_of(uint64_t number) {
  std::vector<char> block(kBlockBytes);
  std::mt19937_64 random(number);
  for (size_t at = 0; at < kBlockBytes / 2; at += 8) {
    const uint64_t word = random();
    std::memcpy(block.data() + at, &word, 8);
  }
  return block;
}

void prepare(const Job& job) {
  std::vector<char> chunk(256 * kBlockBytes);
  for (unsigned n = 0; n < job.files; ++n) {
    const int fd = open(job.file(n).c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0) die(job.file(n));
    for (uint64_t done = 0; done < job.blocks;) {
      const uint64_t count = std::min<uint64_t>(256, job.blocks - done);
      const std::vector<char> block = block_of(n * job.blocks + done);
      for (uint64_t i = 0; i < count; ++i) {
        std::memcpy(chunk.data() + i * kBlockBytes, block.data(), kBlockBytes);
      }
      const auto len = static_cast<ssize_t>(count * kBlockBytes);
      if (write(fd, chunk.data(), static_cast<size_t>(len)) != len) die(job.file(n));
      done += count;
    }
    if (fsync(fd) != 0 || close(fd) != 0) die(job.file(n));
  }
}

// The blocks that a writer goes through, over and over.
std::vector<uint32_t> blocks_of(const Job& job, unsigned writer) {
  std::vector<uint32_t> blocks;
  if (job.kind == "append") return {0};
  // Of those who share a file each has blocks of its own.
  const unsigned sharers = (job.writers + job.files - 1) / job.files;
  const unsigned rank = writer / job.files;
  for (uint64_t block = rank; block < job.blocks; block += sharers) {
    blocks.push_back(static_cast<uint32_t>(block));
  }
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937_64(writer + 1));
  return blocks;
}

struct Writer {
  std::vector<uint32_t> latencies_ns;
  Clock::time_point end;
};

void write_blocks(const Job& job, unsigned number, const std::atomic<bool>& go,
                  const std::atomic<bool>& stop, Writer& writer) {
  const std::string path = job.file(number % job.files);
  const int fd = open(path.c_str(), job.open_flags(), 0644);
  if (fd < 0) die(path);
  const std::vector<uint32_t> blocks = blocks_of(job, number);
  std::vector<char> block = block_of(number);
  writer.latencies_ns.reserve(1 << 18);
  while (!go.load(std::memory_order_acquire)) std::this_thread::yield();
  for (size_t i = 0; !stop.load(std::memory_order_relaxed); ++i) {
    if (i == blocks.size()) {
      if (job.kind == "once") break;
      if (job.kind != "append") i = 0;
    }
    std::memcpy(block.data(), &i, sizeof(i));
    const auto pos = static_cast<off_t>(job.kind == "append" ? 0 : blocks[i] * kBlockBytes);
    const Clock::time_point begin = Clock::now();
    const ssize_t done = job.kind == "append" ? write(fd, block.data(), kBlockBytes)
                                              : pwrite(fd, block.data(), kBlockBytes, pos);
    if (done != static_cast<ssize_t>(kBlockBytes)) die(path);
    if (job.flag == "fdatasync" && fdatasync(fd) != 0) die(path);
    const auto spent = std::chrono::nanoseconds(Clock::now() - begin).count();
    writer.latencies_ns.push_back(static_cast<uint32_t>(std::min<int64_t>(spent, UINT32_MAX)));
  }
  writer.end = Clock::now();
  close(fd);
}

void measure(const Job& job) {
  std::vector<Writer> writers(job.writers);
  std::vector<std::thread> threads;
  std::atomic<bool> go{false}, stop{false};
  for (unsigned i = 0; i < job.writers; ++i) {
    threads.emplace_back([&, i] { write_blocks(job, i, go, stop, writers[i]); });
  }
  // Opens and tables are made before the clock starts.
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  const Clock::time_point begin = Clock::now();
  go.store(true, std::memory_order_release);
  std::this_thread::sleep_for(std::chrono::duration<double>(job.seconds));
  stop.store(true);
  for (std::thread& thread : threads) thread.join();

  std::vector<uint32_t> all;
  Clock::time_point end = begin;
  for (const Writer& writer : writers) {
    all.insert(all.end(), writer.latencies_ns.begin(), writer.latencies_ns.end());
    end = std::max(end, writer.end);
  }
  if (all.empty()) die("nothing was written");
  std::sort(all.begin(), all.end());
  const double elapsed = std::chrono::duration<double>(end - begin).count();
  std::printf("%.1f %.2f %.2f %zu\n", static_cast<double>(all.size()) / elapsed,
              all[all.size() / 2] / 1e3, all[all.size() - 1 - all.size() / 100] / 1e3, all.size());
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  Job job;
  if (words.size() == 4 && words[0] == "prepare") {
    job.path = words[1];
    job.files = static_cast<unsigned>(std::stoul(words[2]));
    job.blocks = std::stoull(words[3]) * 256;
    prepare(job);
    return 0;
  }
  if (words.size() != 7) {
    std::fprintf(stderr,
                 "usage: bench_sync_writes prepare PATH FILES MIB\n"
                 "       bench_sync_writes KIND FLAG PATH FILES MIB WRITERS SECONDS\n");
    return 2;
  }
  job.kind = words[0], job.flag = words[1], job.path = words[2];
  job.files = static_cast<unsigned>(std::stoul(words[3]));
  job.blocks = std::stoull(words[4]) * 256;
  job.writers = static_cast<unsigned>(std::stoul(words[5]));
  job.seconds = std::stod(words[6]);
  measure(job);
  return 0;
}
