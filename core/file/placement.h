// Placement: where the blocks of one write go, from planning to the commit that shows them.
//
//     plan ---> allocate ---> device writes, by the caller ---> commit ---> done
//                                      |                          |
//                                      +---- failed: cancel() <---+
//
//     hole, shared extent     fresh:    new blocks; the commit maps them in place of the old
//     unwritten extent        convert:  in place; the commit marks it written
//     private written extent  in_place: no commit
//
// Part of a stash: blocks handed out and not committed go back when it is destroyed.
//
// Requires, from planning on, that the extents of the range do not change: an adder hold together
// with writeback marks, or the blocker state together with a busy range.
//
// Monitor held for every call.
#pragma once

#include <vector>

#include "core/file/file_context.h"

namespace fusefs {

// What the device has for a piece of a file.
struct FilePiece {
  FileRange range{};
  ExtentState state = ExtentState::hole;
  bool shared = false;
  BlockNo start;  // of range.first; meaningless for a hole

  bool needs_new_blocks() const { return state == ExtentState::hole || shared; }
};

// Appends the pieces of `range`, in order.
//   Restarts node_load;  Errors io_failed, corrupt
Attempt<void> find_pieces(FileContext& context, const Inode& inode, FileRange range, NodePins& pins,
                          std::vector<FilePiece>& pieces);

class Placement {
 public:
  enum class Kind : uint8_t { in_place, convert, fresh };
  struct Segment {
    FileRange range{};
    Kind kind = Kind::in_place;
    BlockNo start;
    bool placed = false;  // `start` is known
  };

  Placement() = default;
  Placement(const Placement&) = delete;
  Placement& operator=(const Placement&) = delete;
  ~Placement() { cancel(); }

  // Forgets everything, after cancel().
  void reset();
  // Ascending in the file.
  void add(const FilePiece& piece);
  const std::vector<Segment>& segments() const { return segments_; }
  Reservation& reservation() { return reservation_; }

  // Finds places for what is fresh, out of reservation().
  //   Restarts bitmap_load, node_load;  Errors io_failed, corrupt
  Attempt<void> allocate(FileContext& context, Inode& inode, NodePins& pins);

  // True when a transaction must tell of it.
  bool needs_commit(const Inode& inode, uint64_t disk_size) const;
  // Maps and converts, in as many transactions as it takes; each takes the size on the device as
  // far as it has come, the last to `disk_size`.
  // `data_stamp` covers the data. May be called again once it is done.
  //   Restarts journal_space, node_load, dirty_nodes, bitmap_load
  //   Errors   io_failed, read_only_volume, corrupt: the steps before it stay
  Attempt<void> commit(FileContext& context, Inode& inode, uint64_t disk_size,
                       WriteStamp data_stamp, NodePins& pins);

  // Gives back what was handed out and not committed.
  void cancel();
  // Blocks of fresh segments that are not committed.
  BlockCount uncommitted_blocks() const;

 private:
  struct Step;
  Attempt<void> stage(Transaction& txn, const Inode& inode, Step& step) const;
  FileBlock mapped_until(const Step& step) const;
  void step_committed(const Step& step);
  void note_cow_break(FileContext& context) const;

  std::vector<Segment> segments_;
  Reservation reservation_;
  size_t next_to_place_ = 0;
  size_t next_to_commit_ = 0;
  bool committed_ = false;
  uint64_t replaced_blocks_ = 0;  // shared blocks that this write leaves behind
  Space* space_ = nullptr;
};

// Gathers device requests: what follows on the device becomes one request.
class IoGather {
 public:
  IoGather(BlockDevice& device, IoKind kind, Ref<IoTicket> ticket, bool fua = false);
  ~IoGather() { submit(); }
  IoGather(const IoGather&) = delete;
  IoGather& operator=(const IoGather&) = delete;
  // What is added from here on may be stored into while it is written.
  void set_may_change() { may_change_ = true; }
  void add(BlockNo start, const std::byte* data, size_t len);
  void submit();

 private:
  BlockDevice& device_;
  const IoKind kind_;
  const bool fua_;
  bool may_change_ = false;
  Ref<IoTicket> ticket_;
  IoRequest request_;
};

// More is done than at the last restart.
void note_progress();

}  // namespace fusefs
