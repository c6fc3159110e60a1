// Reads the source: an include goes down the list of folders or stays in its folder; errno stays
// at the edges; files and lines stay short.
#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

namespace fusefs {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLinesMax = 800;
constexpr size_t kColumnsMax = 100;

// Folders of core/ by height: an include goes to a lower one. An inode has a mapping, so it stands
// above the memory.
const std::map<std::string, int> kHeights = {
    {"base", 0}, {"stats", 1}, {"engine", 2}, {"format", 3}, {"io", 3},   {"journal", 4},
    {"tree", 5}, {"space", 6}, {"memory", 7}, {"inode", 8},  {"file", 9}, {"volume", 10},
};

// The memory knows no disk: of what is below it, only the device seam and the reservation of space
// that a dirty folio owns.
const std::map<std::string, std::set<std::string>> kForbidden = {
    {"memory", {"journal", "tree", "format"}},
    {"format", {"engine", "io"}},
};

struct SourceFile {
  std::string path;  // from the root of the source
  std::vector<std::string> lines;
};

std::vector<SourceFile> source_files() {
  const fs::path root = FUSEFS_SOURCE_DIR;
  std::vector<SourceFile> files;
  for (const char* top : {"core", "fusefs", "cli", "tests"}) {
    if (!fs::exists(root / top)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / top)) {
      const std::string extension = entry.path().extension().string();
      if (extension != ".cc" && extension != ".h" && extension != ".c") continue;
      SourceFile file;
      file.path = fs::relative(entry.path(), root).string();
      std::ifstream in(entry.path());
      for (std::string line; std::getline(in, line);) file.lines.push_back(line);
      files.push_back(std::move(file));
    }
  }
  std::sort(files.begin(), files.end(), [](auto& a, auto& b) { return a.path < b.path; });
  return files;
}

bool is_under(const std::string& path, const std::string& folder) {
  return path.starts_with(folder + "/");
}

// core/tree/node.h -> tree
std::string core_folder(const std::string& path) {
  const size_t first = path.find('/') + 1;
  return path.substr(first, path.find('/', first) - first);
}

// Why `from` may not include `to`; empty if it may.
std::string why_not(const std::string& from, const std::string& to) {
  if (is_under(from, "tests")) return "";
  if (is_under(to, "tests")) return "tests are not part of the program";
  if (is_under(from, "cli")) return "";
  if (is_under(to, "cli")) return "nothing knows the command line";
  if (is_under(from, "fusefs/client")) {
    if (is_under(to, "fusefs/client") || to == "fusefs/fusefs_ioctl.h") return "";
    return "the library for programs knows the ioctls only";
  }
  if (is_under(to, "fusefs/client")) return "the library is for programs";
  if (is_under(from, "fusefs")) return "";
  if (is_under(to, "fusefs")) return "the core knows no FUSE";
  if (!is_under(from, "core") || !is_under(to, "core")) return "";

  const std::string folder = core_folder(from);
  const std::string target = core_folder(to);
  if (folder == target) return "";
  if (!kHeights.contains(folder) || !kHeights.contains(target)) return "a folder without a height";
  if (kHeights.at(target) >= kHeights.at(folder)) return "not downwards";
  const auto forbidden = kForbidden.find(folder);
  if (forbidden != kForbidden.end() && forbidden->second.contains(target)) {
    return folder + " does not know " + target;
  }
  return "";
}

TEST_CASE("the order of the folders is what the design says") {
  CHECK(why_not("core/volume/a.h", "core/file/b.h").empty());
  CHECK(why_not("core/tree/a.h", "core/journal/b.h").empty());
  CHECK(why_not("core/io/a.h", "core/io/b.h").empty());
  CHECK(why_not("core/journal/a.h", "core/stats/b.h").empty());
  CHECK(why_not("core/memory/a.h", "core/io/b.h").empty());
  CHECK(why_not("fusefs/a.cc", "core/volume/b.h").empty());
  CHECK_FALSE(why_not("core/journal/a.h", "core/tree/b.h").empty());
  CHECK_FALSE(why_not("core/memory/a.h", "core/inode/b.h").empty());
  CHECK(why_not("core/inode/a.h", "core/memory/b.h").empty());
  CHECK_FALSE(why_not("core/inode/a.h", "core/file/b.h").empty());
  CHECK_FALSE(why_not("core/memory/a.h", "core/tree/b.h").empty());
  CHECK_FALSE(why_not("core/format/a.h", "core/io/b.h").empty());
  CHECK_FALSE(why_not("core/base/a.h", "core/engine/b.h").empty());
  CHECK_FALSE(why_not("core/file/a.h", "fusefs/b.h").empty());
  CHECK_FALSE(why_not("fusefs/a.h", "cli/b.h").empty());
  CHECK(why_not("fusefs/client/a.c", "fusefs/client/b.h").empty());
  CHECK(why_not("fusefs/client/a.c", "fusefs/fusefs_ioctl.h").empty());
  CHECK_FALSE(why_not("fusefs/client/a.c", "fusefs/protocol.h").empty());
  CHECK_FALSE(why_not("fusefs/client/a.c", "core/base/error.h").empty());
  CHECK_FALSE(why_not("fusefs/daemon.cc", "fusefs/client/a.h").empty());
  CHECK_FALSE(why_not("core/file/a.h", "tests/support/b.h").empty());
}

// The path between the quotes of an #include line; empty if it is none.
std::string included_by(const std::string& line) {
  if (!line.starts_with("#include \"")) return "";
  const size_t first = line.find('"') + 1;
  return line.substr(first, line.find('"', first) - first);
}

TEST_CASE("every include goes down or stays in its folder") {
  size_t count = 0;
  for (const SourceFile& file : source_files()) {
    for (const std::string& line : file.lines) {
      const std::string included = included_by(line);
      if (included.empty()) continue;
      ++count;
      const std::string why = why_not(file.path, included);
      CHECK_MESSAGE(why.empty(), file.path, " includes ", included, ": ", why);
    }
  }
  CHECK(count > 20);  // it did read something
}

TEST_CASE("libfuse is included by fusefs/ only, io_uring by core/io and fusefs/") {
  for (const SourceFile& file : source_files()) {
    if (is_under(file.path, "tests") || is_under(file.path, "fusefs")) continue;
    for (const std::string& line : file.lines) {
      if (!line.starts_with("#include <")) continue;
      CHECK_MESSAGE(line.find("fuse") == std::string::npos, file.path, ": ", line);
      const bool may_ring = is_under(file.path, "core/io");
      CHECK_MESSAGE((may_ring || line.find("liburing") == std::string::npos), file.path, ": ",
                    line);
    }
  }
}

bool may_use_errno(const std::string& path) {
  return is_under(path, "tests") || is_under(path, "fusefs") || is_under(path, "cli") ||
         is_under(path, "core/io") || path == "core/base/error.cc";
}

// Whether `word` stands alone in the code of the line, not in a comment or a longer word.
bool uses_word(const std::string& line, const std::string& word) {
  const std::string code = line.substr(0, line.find("//"));
  auto in_word = [&](size_t at) {
    return at < code.size() &&
           (std::isalnum(static_cast<unsigned char>(code[at])) != 0 || code[at] == '_');
  };
  for (size_t at = code.find(word); at != std::string::npos; at = code.find(word, at + 1)) {
    if ((at == 0 || !in_word(at - 1)) && !in_word(at + word.size())) return true;
  }
  return false;
}

TEST_CASE("errno is used at the edges only") {
  CHECK(uses_word("  if (errno == EIO) {", "errno"));
  CHECK(uses_word("#include <errno.h>", "errno"));
  CHECK_FALSE(uses_word("  return error_errno(error);  // errno", "errno"));
  for (const SourceFile& file : source_files()) {
    if (may_use_errno(file.path)) continue;
    for (const std::string& line : file.lines) {
      const bool uses = uses_word(line, "errno") || uses_word(line, "cerrno");
      CHECK_MESSAGE(!uses, file.path, ": ", line);
    }
  }
}

TEST_CASE("no file is longer than 800 lines") {
  for (const SourceFile& file : source_files()) {
    CHECK_MESSAGE(file.lines.size() <= kLinesMax, file.path, " has ", file.lines.size(), " lines");
  }
}

TEST_CASE("no line is longer than 100 columns, nor is a comment, which clang-format leaves alone") {
  for (const SourceFile& file : source_files()) {
    for (size_t i = 0; i < file.lines.size(); ++i) {
      CHECK_MESSAGE(file.lines[i].size() <= kColumnsMax, file.path, ":", i + 1);
    }
  }
}

TEST_CASE("every source file of the program begins with what it is for") {
  for (const SourceFile& file : source_files()) {
    if (!file.path.ends_with(".h")) continue;
    REQUIRE(!file.lines.empty());
    const bool commented = file.lines[0].starts_with("//") || file.lines[0].starts_with("/*");
    CHECK_MESSAGE(commented, file.path);
  }
}

}  // namespace
}  // namespace fusefs
