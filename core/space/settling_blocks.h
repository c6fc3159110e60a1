// SettlingBlocks: blocks that have one owner left, by a transaction that is not durable yet.
//
//     file A and its clone B share block 7
//     B is written elsewhere: block 7 is A's alone        transaction 41, in the journal's buffer
//     A is overwritten in place: block 7 has A's new data
//     -- power fails, 41 was not written --
//     B has block 7 again, with bytes that were never B's
//
// So such blocks count as shared until the transaction is durable: A's write goes elsewhere too.
//
// It knows no journal: the caller says what is durable.
#pragma once

#include <map>

#include "core/base/units.h"

namespace fusefs {

class SettlingBlocks {
 public:
  // `blocks` have one owner since transaction `seq`, which is the latest.
  void add(BlockRange blocks, JournalSeq seq);

  // Whether blocks.first is settling while everything up to `durable` is durable, and for how
  // many blocks from there on the answer holds.
  struct Answer {
    BlockCount count;
    bool settling = false;
  };
  Answer at(BlockRange blocks, JournalSeq durable) const;

  // Forgets what is settled.
  void prune(JournalSeq durable);
  bool empty() const { return ranges_.empty(); }

 private:
  struct Entry {
    BlockNo end;
    JournalSeq seq;
  };
  void cut(BlockRange blocks);

  std::map<BlockNo, Entry> ranges_;  // by first block, without overlaps
};

}  // namespace fusefs
