// EdgeBlocks: blocks that direct writes change in part, while they can still take others' bytes.
//
// Two writes that meet within a block would each read it, put their bytes in and write it, one
// after the other. The kernel makes such pairs: a buffer of 1 MiB that does not begin on a page is
// sent as 1048528 and 48 bytes. The second gives its bytes to the first and waits for one write:
//
//     write A   |......aaaa|aaaaaaaa|aaaa....|
//     write B                            bbbb|bbbbbbbb|
//     device    A's blocks, the last with    |B's     |      each block once
//               bytes of both
//
//     open --close()--> closed --end(true)--> written
//       |                 |
//       +--end(false)-----+-----------------> abandoned: who joined writes all of it again
//
// A block is open from the moment its writer has its busy range until its bytes go to the device,
// so that there is one writer of an open block. Who joined waits for the writer, never the other
// way round.
//
// The end of the file that the writer commits covers what was added: the next who writes a part of
// the block takes what lies beyond the end for zeroes.
//
//     A writes [0, 100), B joins with [100, 200), C wants [300, 400) of the same block
//     A done: size = 100 --> C reads the block, zeroes it from 100 on --> B done: size = 200
//                                                 B's bytes are lost
//
// Monitor held for every call.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/ref.h"
#include "core/base/units.h"
#include "core/engine/attempt.h"
#include "core/engine/waitable.h"

namespace fusefs {

class EdgeBlocks;

class EdgeBlock : public RefCounted {
 public:
  // Bytes of another write, copied. Requires that it is open.
  void add(uint32_t offset, ConstBytes bytes) {
    CHECK(state_ == State::open);
    added_.push_back({offset, {bytes.begin(), bytes.end()}});
  }
  // Puts what was added into the block's bytes, and takes no more.
  inline void close(std::byte* block);
  // Once; without effect after that.
  inline void end(bool written);
  // How many have joined so far, and how far their bytes reach within the block.
  size_t joined_count() const { return added_.size(); }
  size_t joined_end() const {
    size_t end = 0;
    for (const Added& added : added_) end = std::max(end, added.offset + added.bytes.size());
    return end;
  }

  // Whether it has been written.
  //   Restarts  data_io: until that is known
  Attempt<bool> wait() {
    if (state_ == State::open || state_ == State::closed) {
      return restart_after(ended_, RestartReason::data_io);
    }
    return state_ == State::written;
  }

 private:
  friend class EdgeBlocks;
  using Key = std::pair<InodeNo, FileBlock>;
  enum class State : uint8_t { open, closed, written, abandoned };
  struct Added {
    uint32_t offset;
    std::vector<std::byte> bytes;
  };
  EdgeBlocks* owner_ = nullptr;
  Key key_{};
  State state_ = State::open;
  std::vector<Added> added_;
  Waitable ended_;
};

class EdgeBlocks {
 public:
  // The open one, or null.
  Ref<EdgeBlock> find(InodeNo ino, FileBlock at) const {
    const auto found = open_.find({ino, at});
    return Ref<EdgeBlock>(found == open_.end() ? nullptr : found->second);
  }
  // Requires that there is none.
  Ref<EdgeBlock> open(InodeNo ino, FileBlock at) {
    Ref<EdgeBlock> block = make_ref<EdgeBlock>();
    block->owner_ = this;
    block->key_ = {ino, at};
    CHECK(open_.emplace(block->key_, block.get()).second);
    return block;
  }

 private:
  friend class EdgeBlock;
  std::map<EdgeBlock::Key, EdgeBlock*> open_;
};

inline void EdgeBlock::close(std::byte* block) {
  CHECK(state_ == State::open);
  for (const Added& added : added_) {
    std::memcpy(block + added.offset, added.bytes.data(), added.bytes.size());
  }
  owner_->open_.erase(key_);
  state_ = State::closed;
}

inline void EdgeBlock::end(bool written) {
  if (state_ == State::written || state_ == State::abandoned) return;
  if (state_ == State::open) owner_->open_.erase(key_);
  state_ = written ? State::written : State::abandoned;
  ended_.wake_all();
}

}  // namespace fusefs
