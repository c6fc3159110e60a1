// What the tests of the journal share: a journal on a simulated device, a checkpointer that frees
// its ring, operations that append, and a model of what must be read back.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/io/health.h"
#include "core/io/write_cache.h"
#include "core/journal/journal.h"
#include "core/journal/journal_reader.h"
#include "tests/support/sim_world.h"

namespace fusefs {

inline constexpr uint64_t kTestRingFirst = 16;
inline constexpr uint64_t kTestDataFirst = 4096;

inline JournalLayout test_ring(uint64_t blocks) {
  return {BlockNo(kTestRingFirst), BlockCount(blocks), 0xfeedu};
}
inline JournalMark ring_start() { return {BlockNo(kTestRingFirst), 1}; }

// A transaction's content, different for each id.
ChangeEncoder changes_of(uint64_t id);
// The content of the data block that the transaction `id` shows, and its place.
AlignedBuffer data_of(uint64_t id);
uint64_t data_addr(uint64_t id);

struct LogEntry {
  uint64_t seq;
  uint64_t id;
  bool intact;  // its changes are changes_of(id)
  friend bool operator==(const LogEntry&, const LogEntry&) = default;
};

struct LogRead {
  Result<void> outcome;
  std::vector<LogEntry> entries;
  JournalMark head;
  uint64_t read_bytes = 0;
};

// Reads the log of `image` from `tail`, in a world of its own.
LogRead read_log(const SimImage& image, const JournalLayout& layout, const JournalMark& tail,
                 double forced = 0.0, uint64_t seed = 1);

// What a superblock and the promises so far say.
struct JournalModel {
  JournalMark tail = ring_start();  // durable
  uint64_t tail_seq = 1;            // of the first transaction behind it
  uint64_t confirmed_seq = 0;       // the last one that wait_durable() confirmed
  uint64_t checkpoint_count = 0;
  std::map<uint64_t, uint64_t> id_of;  // seq -> id, as appended
  std::set<uint64_t> shows_data;       // ids
};

class JournalRig {
 public:
  // `head` and `next_seq` as replay has found them.
  JournalRig(uint64_t seed, const SimWorldOptions& options, const JournalLayout& layout,
             JournalModel& model, SimImage image = {}, JournalMark head = ring_start(),
             uint64_t next_seq = 1);
  ~JournalRig();

  // Starts a background operation that makes checkpoints as they are wanted.
  void start_checkpointer();
  // One attempt to append the transaction `id`.
  Attempt<JournalSeq> append(uint64_t id, WriteStamp stamp = 0);
  // Appends `id` and, if `waits`, waits until it is durable.
  Result<void> append_now(uint64_t id, bool waits = true);

  JournalModel& model;
  SimWorld world;
  WriteCache cache;
  Health health;
  Journal journal;
};

// Appends `count` transactions, one after the other: every third shows a data block that it has
// written before, two of three wait until they are durable.
class Appender {
 public:
  Appender(JournalRig& rig, uint64_t first_id, uint64_t count)
      : rig_(&rig), id_(first_id), end_(first_id + count) {}
  Attempt<void> operator()();

 private:
  Attempt<void> append_one();
  Attempt<void> write_data();

  JournalRig* rig_;
  uint64_t id_;
  uint64_t end_;
  // Of the transaction under way.
  AlignedBuffer data_;
  Ref<IoTicket> data_write_;
  WriteStamp stamp_ = 0;
  bool appended_ = false;
  JournalSeq seq_;
};

}  // namespace fusefs
