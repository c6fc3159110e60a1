// Writing: buffered into folios, or direct from the caller's buffer to the device.
//
// Buffered: each page is made ready (read first if it is written in part and has data), space is
// reserved, the bytes are copied outside the monitor into locked folios, and the pages are dirty:
// ENOSPC appears here and not later. Size and times change in memory; the tree follows with the
// data (writeback.h).
//
// Direct: whole blocks go from the caller's buffer to the device, in place where the extent is
// private, else to new blocks that the commit maps after the data is there. Blocks written in part
// are read, patched and written in a buffer of their own. Overlapping folios are written and
// dropped first, under the blocker state of the inode's two-state lock. Where pages are pinned it
// goes through them: write_pinned.h.
//
// Monitor held for every call.
#pragma once

#include "core/file/file_context.h"
#include "core/file/tail.h"

namespace fusefs {

// What is durable before a write returns.
enum class SyncLevel : uint8_t {
  none,
  data,  // O_DSYNC: its bytes, and what it takes to find them
  all,   // O_SYNC: times as well
};

// Where a direct write has its bytes if they are not just memory: pages of a mapping (mapped_io.h).
// Monitor held for every call.
class WriteSource {
 public:
  virtual uint64_t len() const = 0;
  // With the target blocked, and its pages of the range gone: keeps the bytes from `at` on, at most
  // `len`, in memory, as far as that needs no wait. Returns how many.
  virtual uint64_t hold(uint64_t at, uint64_t len) = 0;
  // A run of held bytes that begins with `at`.
  virtual ConstBytes bytes(uint64_t at) const = 0;
  // What is held does not change until let_go().
  //   Restarts  folio_locked, writeback; with nothing kept from changing
  virtual Attempt<void> lock() = 0;
  virtual void let_go() = 0;
  // Whether some of what is held changes all the same: somebody else has it in his hands.
  virtual bool may_change() const = 0;
  // Nothing could be held at `at`, and the write has let go of everything: does what is needed.
  // False: the write ends there.
  virtual Attempt<bool> fetch(uint64_t at) = 0;

 protected:
  ~WriteSource() = default;
};

struct WriteRequest {
  uint64_t pos = 0;
  ConstBytes data;            // valid and unchanged until the operation ends
  bool append = false;        // pos is the end of the file
  bool kill_suid = false;     // the caller has no CAP_FSETID
  bool appends_only = false;  // as far as the kernel knows; for files that allow nothing else
  // Writeback of mapped pages by the kernel: data that somebody has stored already, so it may take
  // from the writeback reserve.
  bool kernel_writeback = false;
  // write_through() and write_direct() see to it; write_buffered() leaves it to fsync().
  SyncLevel sync = SyncLevel::none;
  WriteSource* source = nullptr;  // in place of `data`; write_direct() only

  uint64_t len() const { return source != nullptr ? source->len() : data.size(); }
};

// An operation that its write may end at the completion, without another attempt
// (core/io/completion.h). Lives as long as the stash.
class WriteEnd {
 public:
  // Monitor held, no operation is current.
  // Whether the kernel has pages, or attributes, that it must be told to drop.
  virtual bool must_invalidate() = 0;
  // The write is done: what is left is to answer.
  virtual void ended(size_t written) = 0;

 protected:
  ~WriteEnd() = default;
};

// Is told of each part of a write, in order, before anybody else can write there: it is part of the
// file now. Monitor held. Lives as long as the stash.
class WriteWatch {
 public:
  virtual void written(uint64_t pos, uint64_t len) = 0;

 protected:
  ~WriteWatch() = default;
};

struct WriteStash {
  WriteWatch* watch = nullptr;  // of a buffered or a direct write; null: nobody
  WriteEnd* end = nullptr;      // of a direct write or writethrough; null: it returns to its caller
  NamespaceStash names;
  TailStash tail;
  bool checked = false;    // that the write is allowed
  uint64_t pos = 0;        // where its first byte went, once known (append)
  uint64_t done = 0;       // bytes finished: the write goes on from there after a restart
  bool to_memory = false;  // a writethrough that the device refused, and that must not be lost
  bool over_pins = false;  // a write past the page cache that has met pinned pages (write_pinned.h)
  // The part under way; of write.cc, write_direct.cc, write_through.cc or write_pinned.cc.
  struct Work {
    virtual ~Work() = default;
  };
  std::unique_ptr<Work> work;
};

//   Returns   bytes written; short only when space or an error ends it after some
//   Restarts  node_load, data_io, folio_locked, writeback, two_state, memory (dirty limit), space
//   Errors    no_space, file_too_large, io_failed, corrupt, read_only_volume, is_a_directory,
//             invalid_argument (not a regular file), not_permitted (immutable; append-only without
//             append)
// An appending write that finds less memory than it needs at once may have others' bytes between
// its own, never over them.
Attempt<size_t> write_buffered(FileContext& context, Inode& inode, const WriteRequest& request,
                               WriteStash& stash);
// The same, and the bytes are past every cache of ours when it returns: durable as far as
// `request.sync` says, else after a flush, as any O_DIRECT write.
Attempt<size_t> write_direct(FileContext& context, Inode& inode, const WriteRequest& request,
                             WriteStash& stash);

// For both: whether the write is allowed at all; takes suid, sgid and capabilities away.
Attempt<void> check_write(FileContext& context, Inode& inode, const WriteRequest& request,
                          WriteStash& stash);
// How many bytes a write of `len` at `pos` may have.
//   Errors  file_too_large
Result<uint64_t> clip_write(uint64_t pos, uint64_t len);
// Before pages are made dirty, with nothing held: waits while too much is dirty.
//   Restarts  memory;  Errors  read_only_volume, io_failed: the device takes nothing any more
Attempt<void> throttle_dirtier(FileContext& context);
// The contents have changed now.
void touch_contents(FileContext& context, Inode& inode);

}  // namespace fusefs
