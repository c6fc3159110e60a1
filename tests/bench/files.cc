// bench_files PHASE DIR COUNT DIRECTORIES [BYTES]: one phase of the small-file workload, timed.
//
//   create   makes the directories, then (timed) COUNT files of BYTES bytes, file n in directory
//            n % DIRECTORIES
//   stat     (timed) stats each of them by path
//   unlink   (timed) removes each of them, then the directories
//
// Prints the seconds of the timed part. Phases are separate processes, so that the caller may
// mount again in between. A small program, because an interpreter would be slower than the
// filesystems it is to compare.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace {

struct Workload {
  std::string directory;
  unsigned long count = 0;
  unsigned long directories = 1;
  std::vector<char> content;

  std::string directory_of(unsigned long n) const {
    return directory + "/d" + std::to_string(n % directories);
  }
  std::string file(unsigned long n) const { return directory_of(n) + "/f" + std::to_string(n); }
};

[[noreturn]] void die(const std::string& path) {
  std::fprintf(stderr, "bench_files: %s: %s\n", path.c_str(), std::strerror(errno));
  std::exit(1);
}

void create(const Workload& workload, const std::string& path) {
  const int fd = open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
  if (fd < 0) die(path);
  const size_t len = workload.content.size();
  if (len != 0 && write(fd, workload.content.data(), len) != static_cast<ssize_t>(len)) die(path);
  if (close(fd) != 0) die(path);
}

// The names are made before the clock starts.
double timed(const Workload& workload, const std::function<void(const std::string&)>& step) {
  std::vector<std::string> paths;
  paths.reserve(workload.count);
  for (unsigned long n = 0; n < workload.count; ++n) paths.push_back(workload.file(n));
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& path : paths) step(path);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: bench_files create|stat|unlink DIR COUNT DIRECTORIES [BYTES]\n");
    return 2;
  }
  const std::string phase = argv[1];
  Workload workload;
  workload.directory = argv[2];
  workload.count = std::strtoul(argv[3], nullptr, 10);
  workload.directories = std::strtoul(argv[4], nullptr, 10);
  if (workload.directories == 0) return 2;
  if (argc > 5) workload.content.assign(std::strtoul(argv[5], nullptr, 10), 'x');

  double seconds = 0;
  if (phase == "create") {
    for (unsigned long n = 0; n < workload.directories; ++n) {
      if (mkdir(workload.directory_of(n).c_str(), 0755) != 0) die(workload.directory_of(n));
    }
    seconds = timed(workload, [&](const std::string& path) { create(workload, path); });
  } else if (phase == "stat") {
    seconds = timed(workload, [](const std::string& path) {
      struct stat attr {};
      if (stat(path.c_str(), &attr) != 0) die(path);
    });
  } else if (phase == "unlink") {
    seconds = timed(workload, [](const std::string& path) {
      if (unlink(path.c_str()) != 0) die(path);
    });
    for (unsigned long n = 0; n < workload.directories; ++n) {
      if (rmdir(workload.directory_of(n).c_str()) != 0) die(workload.directory_of(n));
    }
  } else {
    return 2;
  }
  std::printf("%.6f\n", seconds);
  return 0;
}
