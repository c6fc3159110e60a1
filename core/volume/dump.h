// Dump: any structure of a volume as JSON, as it lies on the device.
//
// For people who look at a volume, damaged or not: nothing is repaired, replayed or guessed, and
// every block says whether its checksum is right. It reads the last checkpoint by itself (NodeWalk,
// JournalReader) and never goes through Tree or Space. Large answers leave piece by piece.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/engine/attempt.h"
#include "core/io/block_device.h"
#include "core/stats/json.h"

namespace fusefs {

enum class DumpSubject : uint8_t {
  overview,    // superblocks, areas, groups
  superblock,  // both slots
  journal,     // what the next mount would replay
  tree,        // every node with its items
  inode,       // the items of inode `number`
  path,        // the entries along `path`, and the items of the inode it leads to
  group,       // summary entry and both bitmap pages of group `number`
  node,        // the tree node at block `number`, whatever is there
  orphans,
  shared,
};

struct DumpRequest {
  DumpSubject subject = DumpSubject::overview;
  uint64_t number = 0;
  std::string path;
};

// Takes the members of one JSON object in order; lists come item by item.
class DumpSink {
 public:
  virtual ~DumpSink() = default;
  virtual void member(const char* key, Json value) = 0;
  virtual void begin_list(const char* key) = 0;
  virtual void item(Json value) = 0;
  virtual void end_list() = 0;
};

// One dump; the object is its own stash. The device must stay as it is meanwhile.
class Dump {
 public:
  Dump(BlockDevice& device, const DumpRequest& request, DumpSink& sink);
  ~Dump();

  //   Restarts  on reads
  //   Errors    not_a_volume, corrupt, newer_version (no superblock that says where things are;
  //             the superblocks themselves are shown even so), io_failed,
  //             not_found (no such path or inode), invalid_argument (no such block or group)
  Attempt<void> run();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fusefs
