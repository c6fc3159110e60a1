// A random history, done to a volume and told to the model, until the power is cut.
//
// Names and contents of a few small files, with pins on some of them that are stored into between
// the other steps.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/file/pin.h"
#include "tests/support/crash_model.h"
#include "tests/support/sim_volume.h"

#include <doctest/doctest.h>

namespace fusefs {

class CrashHistory {
 public:
  CrashHistory(SimVolume& sim, CrashModel& model, uint64_t seed);

  // False when the power has gone.
  bool step();
  void drop_references() { open_.clear(); }

 private:
  using How = SimVolume::How;
  // A pinned range, and who has it: a program in whose memory the pages may lie.
  struct Pinned {
    Ref<Pin> pin;
    std::shared_ptr<AlignedBuffer> frames;
    std::vector<bool> may_store;  // of a mapped range: each page
  };
  struct Open {
    OpenFile file;
    size_t change = 0;  // of names, that made it
    std::shared_ptr<Pinned> pinned;
  };

  // Each returns false when the power has gone.
  bool create(bool directory);
  bool remove();
  bool rename();
  bool write();
  bool read();
  bool truncate();
  bool punch();
  bool clone();
  bool dedupe();
  bool unshare();
  bool fsync();
  bool sync();
  bool pin_or_unpin();
  bool begin_pin(uint64_t id, Open& open);
  bool end_pin(Open& open);
  bool store();
  bool store_page(uint64_t id, Open& open, FileBlock page);

  Open* random_open(uint64_t* id);
  How random_how();
  bool write_words(Open& open, uint64_t first, const std::vector<uint64_t>& words, How how);

  std::string random_name() { return "n" + std::to_string(random_.below(8)); }
  std::string random_directory() {
    auto at = directories_.begin();
    std::advance(at, static_cast<ptrdiff_t>(random_.below(directories_.size())));
    return at->first;
  }
  std::string random_path() { return random_directory() + "/" + random_name(); }
  static std::string directory_of(const std::string& path) {
    return path.substr(0, path.rfind('/'));
  }
  static std::string name_of(const std::string& path) { return path.substr(path.rfind('/') + 1); }
  InodeNo inode_of_directory(const std::string& path) { return directories_.at(path); }

  // The outcome of a change of names that the model was told of.
  template <class T>
  bool settle(const Result<T>& result) {
    if (result.ok()) return true;
    if (sim_.world().dead()) return false;
    model_.take_back();
    CAPTURE(error_name(result.error()));
    CHECK((result.error() == Error::exists || result.error() == Error::directory_not_empty ||
           result.error() == Error::is_a_directory || result.error() == Error::not_a_directory ||
           result.error() == Error::invalid_argument || result.error() == Error::not_found));
    return true;
  }

  // FUSEFS_TRACE=1 shows the history of a seed that fails.
  template <class... Args>
  void trace(const char* format, Args... args) {
    static const bool on = std::getenv("FUSEFS_TRACE") != nullptr;
    if (on) std::fprintf(stderr, format, args...);
  }

  static unsigned long long ull(uint64_t value) { return value; }

  SimVolume& sim_;
  CrashModel& model_;
  Random random_;
  std::map<std::string, InodeNo> directories_;  // path -> inode
  std::map<uint64_t, Open> open_;
};

}  // namespace fusefs
