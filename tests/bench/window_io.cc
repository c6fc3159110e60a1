// bench_window_io: how fast bytes get from files to memory and back, a piece at a time: by windows
// of fusefs, and by the ways that there are elsewhere.
//
//   bench_window_io prepare FILE MIB CONTENT
//       makes it, written and durable
//       CONTENT  noise; half: of each page one half is noise, the other zeroes; zeroes
//   bench_window_io DIRECTION HOW SOURCE TARGET MIB PIECE-KIB MEMORY-MIB SECONDS THREADS
//       DIRECTION  read (SOURCE to memory), write (memory, filled from SOURCE, to TARGET), copy
//       HOW        window (fusefs_io, a pinned window), mapped (the same, a mapped one), buffered
//                  (pread and pwrite, an fdatasync with each pass), cold (the same of files that
//                  the kernel does not have in its cache), direct (O_DIRECT, also of devices);
//                  window-huge, direct-huge, ...: the same with memory made of huge pages by the
//                  program (pinned windows of 2 MiB or more consist of them anyhow)
//       MIB        of each; if SOURCE is TARGET, half of that, the first and the second
//       MEMORY-MIB of each thread, of which piece after piece is used
//       THREADS    have parts of both, and memory of their own
//
// The memory is a memfd in any case: a window is one. Prints `MiB/s median-us`, the latter
// of a piece.
#include <fcntl.h>
#include <sys/mman.h>
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
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "fusefs/client/fusefs.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMib = 1 << 20;
constexpr size_t kHugeBytes = 2 << 20;
constexpr size_t kPageWords = 4096 / 8;

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "bench_window_io: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

double us_since(Clock::time_point begun) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begun).count();
}

void prepare(const std::string& path, size_t mib, const std::string& content) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) die(path);
  const size_t noise_words = content == "noise"  ? kPageWords
                             : content == "half" ? kPageWords / 2
                                                 : 0;
  std::mt19937_64 random(1);
  std::vector<uint64_t> chunk(kMib / 8);
  for (size_t i = 0; i < mib; ++i) {
    for (size_t at = 0; at < chunk.size(); ++at) {
      chunk[at] = at % kPageWords < noise_words ? random() : 0;
    }
    if (write(fd, chunk.data(), kMib) != static_cast<ssize_t>(kMib)) die(path);
  }
  if (fsync(fd) != 0) die(path);
  close(fd);
}

struct Plan {
  bool reads = false;
  bool writes = false;
  std::string how;
  std::string source;
  std::string target;
  size_t bytes = 0;
  size_t piece = 0;
  double seconds = 0;
  size_t threads = 1;

  bool huge = false;

  bool by_window() const { return how == "window" || how == "mapped"; }
  size_t memory = 0;
  // Whole pieces, of which none goes past the end.
  size_t memory_bytes() const {
    const size_t least = huge ? (kHugeBytes + piece - 1) / piece * piece : piece;
    return std::max(least, memory / piece * piece);
  }
};

struct File {
  File(const std::string& path, int flags) : fd(open(path.c_str(), O_RDWR | O_CLOEXEC | flags)) {
    if (fd < 0) die(path);
    const off_t end = lseek(fd, 0, SEEK_END);
    bytes = end > 0 ? static_cast<size_t>(end) : 0;
  }
  const int fd;
  size_t bytes = 0;
};

// One thread: its memory, and its part of the files.
class Mover {
 public:
  Mover(const Plan& plan, const File& source, const File& target, size_t number)
      : plan_(plan), source_(source), target_(target) {
    const bool same = plan.source == plan.target;
    const size_t bytes = plan.bytes / (same ? 2 : 1);
    if (std::min(source.bytes, target.bytes) < plan.bytes) die("too short");
    part_bytes_ = bytes / plan.threads / plan.piece * plan.piece;
    if (part_bytes_ == 0) die("too short");
    from_ = number * part_bytes_;
    to_ = from_ + (same ? bytes : 0);
    make_memory(number);
    if (plan.huge) make_huge();
    // What is written is of the same kind as what is read.
    for (size_t pos = 0; pos < std::min(plan.memory_bytes(), part_bytes_); pos += plan.piece)
      get(pos);
  }
  ~Mover() {
    if (!window_path_.empty()) unlink(window_path_.c_str());
  }

  void run(const std::atomic<bool>& stop) {
    while (!stop) {
      if (plan_.how == "cold") forget();
      for (size_t pos = 0; pos < part_bytes_ && !stop; pos += plan_.piece) {
        const auto begun = Clock::now();
        if (plan_.reads) get(pos);
        if (plan_.writes) put(pos);
        times_.push_back(us_since(begun));
      }
      // Pages that are dirty count when they are written.
      const bool dirties = plan_.how == "buffered" || plan_.how == "cold";
      if (plan_.writes && dirties && fdatasync(target_.fd) != 0) die("fdatasync");
    }
  }

  const std::vector<double>& times() const { return times_; }

 private:
  void forget() const {
    for (const int fd : {source_.fd, target_.fd}) {
      if (posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0) die("posix_fadvise");
    }
  }

  void make_memory(size_t number) {
    if (plan_.by_window()) {
      window_path_ = plan_.target + ".window" + std::to_string(number);
      const int fd = open(window_path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
      if (fd < 0 || ftruncate(fd, static_cast<off_t>(plan_.memory_bytes())) != 0) die(window_path_);
      auto* const make = plan_.how == "window" ? fusefs_pin : fusefs_map;
      memory_ = static_cast<char*>(make(fd, 0, plan_.memory_bytes(), FUSEFS_WRITE));
      if (memory_ == nullptr) die(fusefs_error());
      return;
    }
    const int fd = memfd_create("bench_window_io", MFD_CLOEXEC);
    const size_t bytes = plan_.memory_bytes();
    if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0) die("memfd");
    // Where huge pages can be.
    void* const reserved = mmap(nullptr, bytes + kHugeBytes, PROT_NONE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) die("mmap");
    const uintptr_t place =
        (reinterpret_cast<uintptr_t>(reserved) + kHugeBytes - 1) & ~(kHugeBytes - 1);
    void* const at = mmap(reinterpret_cast<void*>(place), bytes, PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_FIXED, fd, 0);
    if (at == MAP_FAILED) die("mmap");
    memory_ = static_cast<char*>(at);
  }

  void make_huge() const {
    constexpr int kCollapse = 25;  // MADV_COLLAPSE, of newer headers
    // Not where nothing is.
    for (size_t at = 0; at < plan_.memory_bytes(); at += kHugeBytes) memory_[at] = 1;
    if (madvise(memory_, plan_.memory_bytes() / kHugeBytes * kHugeBytes, kCollapse) != 0) {
      die("huge pages");
    }
  }

  char* memory_at(size_t pos) const { return memory_ + pos % plan_.memory_bytes(); }

  void get(size_t pos) const {
    const auto at = static_cast<off_t>(from_ + pos);
    const ssize_t got = plan_.by_window()
                            ? fusefs_io(memory_at(pos), plan_.piece, source_.fd, at, 0)
                            : pread(source_.fd, memory_at(pos), plan_.piece, at);
    if (got != static_cast<ssize_t>(plan_.piece)) die("reading");
  }
  void put(size_t pos) const {
    const auto at = static_cast<off_t>(to_ + pos);
    const ssize_t put = plan_.by_window()
                            ? fusefs_io(memory_at(pos), plan_.piece, target_.fd, at, FUSEFS_WRITE)
                            : pwrite(target_.fd, memory_at(pos), plan_.piece, at);
    if (put != static_cast<ssize_t>(plan_.piece)) die("writing");
  }

  const Plan& plan_;
  const File& source_;
  const File& target_;
  size_t part_bytes_ = 0;
  size_t from_ = 0;
  size_t to_ = 0;
  char* memory_ = nullptr;
  std::string window_path_;
  std::vector<double> times_;
};

void run(const Plan& plan) {
  const int direct = plan.how == "direct" ? O_DIRECT : 0;
  const File source(plan.source, direct);
  const File target(plan.target, direct);
  std::vector<std::unique_ptr<Mover>> movers;
  for (size_t i = 0; i < plan.threads; ++i) {
    movers.push_back(std::make_unique<Mover>(plan, source, target, i));
  }
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  const auto begun = Clock::now();
  for (const auto& mover : movers) threads.emplace_back([&mover, &stop] { mover->run(stop); });
  std::this_thread::sleep_for(std::chrono::duration<double>(plan.seconds));
  stop = true;
  for (std::thread& thread : threads) thread.join();
  const double seconds = us_since(begun) / 1e6;
  std::vector<double> times;
  for (const auto& mover : movers) {
    times.insert(times.end(), mover->times().begin(), mover->times().end());
  }
  std::sort(times.begin(), times.end());
  const double bytes = static_cast<double>(times.size()) * static_cast<double>(plan.piece);
  std::printf("%.1f %.1f\n", bytes / static_cast<double>(kMib) / seconds, times[times.size() / 2]);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() == 4 && words[0] == "prepare") {
    prepare(words[1], std::stoul(words[2]), words[3]);
    return 0;
  }
  if (words.size() != 9) {
    std::fprintf(stderr, "bench_window_io: see the head of tests/bench/window_io.cc\n");
    return 2;
  }
  Plan plan;
  plan.reads = words[0] == "read" || words[0] == "copy";
  plan.writes = words[0] == "write" || words[0] == "copy";
  const size_t suffix = words[1].find("-huge");
  plan.how = words[1].substr(0, suffix);
  plan.huge = suffix != std::string::npos;
  plan.source = words[2];
  plan.target = words[3];
  plan.bytes = std::stoul(words[4]) << 20;
  plan.piece = std::stoul(words[5]) << 10;
  plan.memory = std::stoul(words[6]) << 20;
  plan.seconds = std::stod(words[7]);
  plan.threads = std::stoul(words[8]);
  run(plan);
  return 0;
}
