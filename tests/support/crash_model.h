// CrashModel: what a volume may look like after the power was cut, as far as it was told.
//
// Names: every change of a name is one transaction, and transactions survive in order. So the
// names are those after some change k, where k is at least the last one that was made durable.
//
// Contents: a file is an array of sectors, each of them one word repeated, which names the file,
// the place and the write. After a cut a sector holds the word that was last made durable there,
// or any that was written since; the size likewise. Anything else is stale, foreign or torn.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/base/units.h"

namespace fusefs {

inline constexpr uint64_t kSectorBytes = 512;

class CrashFile {
 public:
  explicit CrashFile(uint64_t id) : id_(id) {}

  uint64_t size() const { return size_.back(); }
  // What the sector holds now; zero is a hole, or was never written.
  uint64_t word(uint64_t sector) const;

  // The changes, told before they are attempted. Positions and lengths in sectors.
  std::vector<uint64_t> write(uint64_t first, uint64_t count);  // the words to write
  void put(uint64_t first, const std::vector<uint64_t>& words);
  void zero(uint64_t first, uint64_t end);
  void set_size(uint64_t sectors);  // shrinking zeroes what is cut off
  // Everything told so far is durable.
  void made_durable();
  // So are these sectors, and a size that has them.
  void made_durable(uint64_t first, uint64_t count);

  // Empty, or what is wrong with this content.
  std::string compare(uint64_t size_bytes, const std::vector<std::byte>& content) const;

 private:
  bool allowed(uint64_t sector, uint64_t word) const;

  const uint64_t id_;
  uint64_t serial_ = 0;
  std::vector<uint64_t> size_{0};                      // durable, then later ones
  std::map<uint64_t, std::vector<uint64_t>> sectors_;  // the same; absent: zero
};

// The names: path -> file, by a number of the test's own.
using CrashNames = std::map<std::string, uint64_t>;

class CrashModel {
 public:
  CrashModel() { states_.emplace_back(); }

  const CrashNames& names() const { return states_.back(); }
  uint64_t new_id() { return ++last_id_; }
  // A change of names, told before it is attempted. What failed is taken back.
  void change(CrashNames names) { states_.push_back(std::move(names)); }
  void take_back() { states_.pop_back(); }
  size_t change_count() const { return states_.size(); }
  // The first `count` changes are durable (all: change_count()).
  void made_durable(size_t count);

  CrashFile& file(uint64_t id) { return files_.try_emplace(id, id).first->second; }
  // Which file has this inode number; set when it is known.
  void set_inode(uint64_t id, InodeNo ino) { inodes_[id] = ino; }
  std::optional<uint64_t> id_of(InodeNo ino) const;

  // Whether some state from the durable one on has exactly these paths and inodes.
  bool names_allowed(const std::map<std::string, InodeNo>& found) const;

 private:
  std::vector<CrashNames> states_;
  size_t durable_ = 1;
  uint64_t last_id_ = 0;
  std::map<uint64_t, CrashFile> files_;
  std::map<uint64_t, InodeNo> inodes_;
};

}  // namespace fusefs
