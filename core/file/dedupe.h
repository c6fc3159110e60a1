// Dedupe: ranges that hold the same bytes come to share blocks.
//
//     source   |aaaa|bbbb|....|cccc|dddd|        .: hole or unwritten
//     target   |aaaa|xxxx|zzzz|....|....|
//               one  read read read nothing      read: both sides' bytes, zeroes for what is not
//              block  both      source           mapped
//
// Where the bytes are the same and the target has blocks of its own, it gets the source's (or a
// hole). Where nothing would be gained nothing is changed.
//
// The bytes are the same at the moment of sharing, and nobody waits for the comparison:
//
//     hold both   settle, walk both maps, note change counts     (nothing to compare: next piece)
//     let go      read, compare
//     hold both   same change counts and maps? share             else the piece starts over, at the
//     let go                                                     third time without letting go
//
// Whoever changes contents counts it in change_count; whoever moves blocks changes the map.
//
// Monitor held for every call.
#pragma once

#include "core/file/remap.h"
#include "core/io/aligned_buffer.h"

namespace fusefs {

// Bytes that are compared, and then shared, at a time.
inline constexpr uint64_t kDedupePieceBytes = 1 << 20;

struct DedupeStash {
  uint64_t done = 0;    // bytes that are the same; survives restarts and errors
  uint64_t shared = 0;  // of these, newly shared, or freed where the source has a hole
  bool same = true;     // false: the bytes behind `done` differ
  uint64_t len = 0;     // as clipped to what can be compared
  bool begun = false;
  NamespaceStash names;
  PairHold hold;
  std::unique_ptr<WritebackStash> from_writeback;
  std::unique_ptr<WritebackStash> to_writeback;
  // The piece under way.
  enum class Phase : uint8_t {
    start,
    flushing_source,
    flushing_target,
    planning,
    reading,
    comparing,
    verifying,
    sharing
  } phase = Phase::start;
  // Blocks that lie in different places, or on one side only.
  struct Pair {
    FileRange source{};
    FileBlock target;
    bool from_mapped = false;  // written
    bool to_mapped = false;
    BlockNo from_start;
    BlockNo to_start;
    friend bool operator==(const Pair&, const Pair&) = default;
  };
  std::vector<Pair> pairs;
  uint64_t piece_len = 0;
  uint64_t from_changes = 0;  // change counts when the piece was planned
  uint64_t to_changes = 0;
  uint32_t tries = 0;
  bool differs = false;
  bool settled = false;  // nothing of the piece is in memory only
  bool let_go = false;   // others could work on the files while it was compared
  AlignedBuffer from_bytes;
  AlignedBuffer to_bytes;
  IoGuard guard;
  Ref<IoTicket> ticket;
  size_t next_pair = 0;  // those before it are shared
  FileBlock cursor;      // of pairs[next_pair]
  PinnedSharing pinned;  // the same
};

// Makes [to_pos, to_pos + len) of `to` share blocks with [from_pos, from_pos + len) of `from` if
// they hold the same bytes; stash.same says whether, and the first piece that differs ends it.
// Positions are multiples of the block size; so is what is compared, but for a last block that
// ends both files. Changes no size and no times.
//   Returns   bytes that are the same; less than `len` where they differ, at the end of a file, or
//             when an error follows some progress
//   Restarts  two_state, writeback, data_io, folio_locked, node_load, journal_space, outside
//   Errors    invalid_argument (not aligned, beyond an end, not regular files),
//             overlapping_ranges, not_permitted (target immutable), io_failed, corrupt,
//             read_only_volume
Attempt<uint64_t> dedupe_range(FileContext& context, Inode& from, uint64_t from_pos, Inode& to,
                               uint64_t to_pos, uint64_t len, DedupeStash& stash);

}  // namespace fusefs
