// bench_windows: stores into windows of fusefs against the ways that other filesystems have, timed.
//
//   bench_windows prepare FILE MIB
//       makes it, written and durable
//   bench_windows sync HOW FILE PAGES SECONDS
//       stores a word into so many pages at random, then makes them durable, again and again
//       HOW    pin, map (windows; fdatasync), mmap (msync), pwrite (fdatasync)
//   bench_windows held WAYS DIRECTORY PAGES SECONDS
//       the same with files of so many pages, each of them stored into. WAYS are some HOW, by
//       commas: they have a file each, and take turns. Prints `HOW median-us p99-us count` twice
//       for each: with the stores, and of what makes them durable alone
//   bench_windows fault HOW FILE KIND
//       touches every eighth page of the file for the first time, in random order
//       HOW    map, mmap, pin (faults of the CPU only)
//       KIND   load, store
//
// Prints `median-us p99-us count`.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "fusefs/client/fusefs.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kPageBytes = 4096;
constexpr size_t kMib = 1 << 20;

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "bench_windows: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

double us_since(Clock::time_point begun) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begun).count();
}

void print_times(std::vector<double> times) {
  if (times.empty()) die("nothing was timed");
  std::sort(times.begin(), times.end());
  std::printf("%.2f %.2f %zu\n", times[times.size() / 2], times[times.size() * 99 / 100],
              times.size());
}

struct File {
  explicit File(const std::string& path, int flags = O_RDWR)
      : fd(open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    if (fd < 0) die(path);
    const off_t end = lseek(fd, 0, SEEK_END);
    bytes = end > 0 ? static_cast<size_t>(end) : 0;
  }
  int fd;
  size_t bytes = 0;
};

// Half of it noise: zram keeps no memory for what is all alike.
void write_noise(const std::string& path, size_t bytes) {
  const File file(path, O_RDWR | O_CREAT | O_TRUNC);
  std::mt19937_64 random(1);
  std::vector<uint64_t> chunk(std::min(bytes, kMib) / 8);
  const size_t piece = chunk.size() * 8;
  for (size_t pos = 0; pos < bytes; pos += piece) {
    for (size_t at = 0; at < chunk.size(); ++at) chunk[at] = at / 256 % 2 == 0 ? random() : 0;
    if (write(file.fd, chunk.data(), piece) != static_cast<ssize_t>(piece)) die(path);
  }
  if (fsync(file.fd) != 0) die(path);
}

// The file's memory, in the way that is asked for; null for pwrite.
char* memory_of(const std::string& how, const File& file) {
  void* at = nullptr;
  if (how == "pwrite") return nullptr;
  if (how == "pin") at = fusefs_pin(file.fd, 0, 0, FUSEFS_WRITE);
  if (how == "map") at = fusefs_map(file.fd, 0, 0, FUSEFS_WRITE);
  if (how == "mmap") {
    at = mmap(nullptr, file.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd, 0);
    if (at == MAP_FAILED) die("mmap");
  }
  if (at == nullptr) die(how + ": " + fusefs_error());
  return static_cast<char*>(at);
}

std::vector<size_t> shuffled(size_t count, uint64_t seed) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::shuffle(order.begin(), order.end(), std::mt19937_64(seed));
  return order;
}

void make_durable(const std::string& how, const File& file, char* memory) {
  const int status = how == "mmap" ? msync(memory, file.bytes, MS_SYNC) : fdatasync(file.fd);
  if (status != 0) die("sync");
}

void store_word(const File& file, char* memory, size_t pos, uint64_t word) {
  if (memory != nullptr) {
    std::memcpy(memory + pos, &word, sizeof(word));
  } else if (pwrite(file.fd, &word, sizeof(word), static_cast<off_t>(pos)) < 0) {
    die("pwrite");
  }
}

void time_syncs(const std::string& how, const std::string& path, size_t pages, double seconds) {
  const File file(path);
  char* const memory = memory_of(how, file);
  std::mt19937_64 random(2);
  std::uniform_int_distribution<size_t> any(0, file.bytes / kPageBytes - 1);
  std::vector<double> times;
  const auto begun = Clock::now();
  for (uint64_t round = 1; us_since(begun) < seconds * 1e6; ++round) {
    const auto from = Clock::now();
    for (size_t i = 0; i < pages; ++i) {
      store_word(file, memory, any(random) * kPageBytes, round);
    }
    make_durable(how, file, memory);
    times.push_back(us_since(from));
  }
  print_times(std::move(times));
}

// A file whose every page is stored into, in one way.
struct Held {
  std::string how;
  File file;
  char* memory;
  std::vector<double> whole = {};    // times of a round
  std::vector<double> durable = {};  // of what comes after its stores
};

void time_held(const std::string& ways, const std::string& directory, size_t pages,
               double seconds) {
  std::vector<Held> all;
  for (size_t at = 0; at < ways.size();) {
    const size_t end = std::min(ways.find(',', at), ways.size());
    const std::string how = ways.substr(at, end - at);
    const std::string path = directory + "/held-" + how;
    write_noise(path, pages * kPageBytes);
    File file(path);
    char* const memory = memory_of(how, file);
    all.push_back({how, file, memory});
    at = end + 1;
  }
  const auto begun = Clock::now();
  for (uint64_t round = 1; us_since(begun) < seconds * 1e6; ++round) {
    for (Held& held : all) {
      const auto from = Clock::now();
      for (size_t i = 0; i < pages; ++i) store_word(held.file, held.memory, i * kPageBytes, round);
      const auto stored = Clock::now();
      make_durable(held.how, held.file, held.memory);
      held.whole.push_back(us_since(from));
      held.durable.push_back(us_since(stored));
    }
  }
  for (Held& held : all) {
    std::printf("%s ", held.how.c_str());
    print_times(std::move(held.whole));
    std::printf("%s ", held.how.c_str());
    print_times(std::move(held.durable));
    unlink((directory + "/held-" + held.how).c_str());
  }
}

void time_faults(const std::string& how, const std::string& path, bool store) {
  const File file(path);
  char* const memory = memory_of(how, file);
  // Neighbours are mapped along with a page.
  if (how == "mmap") madvise(memory, file.bytes, MADV_RANDOM);
  std::vector<double> times;
  uint64_t sum = 0;
  for (const size_t eighth : shuffled(file.bytes / kPageBytes / 8, 3)) {
    auto* const word = reinterpret_cast<volatile uint64_t*>(memory + eighth * 8 * kPageBytes);
    const auto from = Clock::now();
    if (store) {
      *word = eighth;
    } else {
      sum += *word;
    }
    times.push_back(us_since(from));
  }
  if (sum == 1) std::puts("");
  print_times(std::move(times));
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  const std::string what = words.empty() ? "" : words[0];
  if (what == "prepare" && words.size() == 3) {
    write_noise(words[1], std::stoul(words[2]) * kMib);
  } else if (what == "sync" && words.size() == 5) {
    time_syncs(words[1], words[2], std::stoul(words[3]), std::stod(words[4]));
  } else if (what == "held" && words.size() == 5) {
    time_held(words[1], words[2], std::stoul(words[3]), std::stod(words[4]));
  } else if (what == "fault" && words.size() == 4) {
    time_faults(words[1], words[2], words[3] == "store");
  } else {
    std::fprintf(stderr, "bench_windows: see the head of tests/bench/windows.cc\n");
    return 2;
  }
  return 0;
}
