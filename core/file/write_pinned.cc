#include "core/file/write_pinned.h"

#include <memory>

#include "core/file/fsync.h"

namespace fusefs {
namespace {

struct OverPins final : WriteStash::Work {
  WriteStash write;
  FsyncStash sync;  // its writeback is of the range
  bool stored = false;
};

}  // namespace

Attempt<size_t> write_over_pins(FileContext& context, Inode& inode, const WriteRequest& request,
                                WriteStash& stash) {
  using Phase = FsyncStash::Phase;
  if (!stash.work) {
    auto work = std::make_unique<OverPins>();
    work->write.checked = true;
    work->sync.writeback.bounce = true;
    stash.work = std::move(work);
  }
  auto& work = static_cast<OverPins&>(*stash.work);
  WriteRequest rest = request;
  rest.data = request.data.subspan(stash.done);
  rest.append = request.append && stash.done == 0;
  rest.pos = (request.append ? stash.pos : request.pos) + stash.done;
  if (!work.stored) {
    const Attempt<size_t> written = write_buffered(context, inode, rest, work.write);
    if (!written.ok()) return written;
    if (stash.done == 0) stash.pos = work.write.pos;
    work.stored = true;
  }
  // What the kernel writes back needs no more than to be in memory.
  if (!request.kernel_writeback && work.sync.phase == Phase::writing) {
    const uint64_t pos = work.write.pos;
    const FileRange range{file_block_at(pos), file_block_end(pos + work.write.done)};
    ATTEMPT_OK(write_back(context, inode, range, work.sync.writeback));
    work.sync.phase = Phase::saving;
  }
  if (request.sync != SyncLevel::none) {
    ATTEMPT_OK(make_durable(context, inode, request.sync == SyncLevel::data, work.sync));
  }
  return stash.done + work.write.done;
}

}  // namespace fusefs
