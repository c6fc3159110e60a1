#include "fusefs/server.h"

#include <fcntl.h>

#include "fusefs/window_end.h"

namespace fusefs {

Server::Server(Volume& volume, Monitor& monitor, Scheduler& scheduler, Channel& channel,
               const Clock& clock, const MountOptions& options, MountFacts facts)
    : volume_(volume),
      monitor_(monitor),
      scheduler_(scheduler),
      channel_(channel),
      clock_(clock),
      options_(options),
      facts_(std::move(facts)),
      buffers_(kMaxWriteBytes),
      notifier_(channel, monitor, counters_, kernel_pages_),
      fault_gate_(std::make_shared<FaultGate>(monitor,
                                              [this] {
                                                if (engine_.reactors != nullptr)
                                                  engine_.reactors->kick();
                                              })),
      window_socket_(*this) {
  windows_.on_gone = [this](std::shared_ptr<WindowHolder> holder) {
    scheduler_.start(std::make_unique<EndWindowOperation>(*this, std::move(holder)));
  };
}

void Server::add_lookup(InodeNo ino) {
  if (is_window_node(ino.value())) return windows_.add_lookup(ino.value());
  volume_.inodes().lookups().add(ino, 1);
}

void Server::forget(InodeNo ino, uint64_t count) {
  if (is_window_node(ino.value())) return windows_.forget(ino.value(), count);
  if (volume_.inodes().lookups().forget(ino, count) != 0) return;
  kernel_reads_.erase(ino);
  kernel_pages_.forget(ino);
  if (unlinked_.erase(ino) != 0) volume_.release_inode(ino);
}

void Server::close_file(uint64_t handle) {
  windows_.close_descriptor(handle);
  const InodeRef inode = open_files_.close(handle);
  if (!inode || inode->open_count != 0 || inode->attr.link_count != 0) return;
  // Usually the kernel still knows it, and forgets it in a moment.
  volume_.release_inode(inode->ino);
}

void Server::note_unlinked(const Inode& inode) {
  if (inode.attr.link_count != 0) return;
  if (volume_.inodes().lookups().count(inode.ino) == 0) {
    volume_.release_inode(inode.ino);
  } else {
    unlinked_.insert(inode.ino);
  }
}

Attempt<void> Server::settle(JournalSeq seq, const Inode& inode) {
  const uint32_t asking = kInodeSync | (inode.attr.is_directory() ? kInodeDirSync : 0);
  const bool wait = options_.sync || (inode.attr.flags & asking) != 0 ||
                    (options_.dirsync && inode.attr.is_directory());
  if (!wait || seq == JournalSeq()) return {};
  return volume_.store().journal().wait_durable(seq);
}

SyncLevel Server::sync_level(int open_flags, const Inode& inode) const {
  const bool always = options_.sync || (inode.attr.flags & kInodeSync) != 0;
  if (always || (open_flags & O_SYNC) == O_SYNC) return SyncLevel::all;
  return (open_flags & O_DSYNC) != 0 ? SyncLevel::data : SyncLevel::none;
}

Attempt<void> Server::settle_contents(OpenFile& file, FsyncStash& stash) {
  const SyncLevel wanted = sync_level(file.flags, *file.inode);
  if (wanted == SyncLevel::none) return {};
  return fsync(volume_.files(), file, wanted == SyncLevel::data, stash);
}

Attempt<void> Server::settle_names(JournalSeq seq, InodeNo directory) {
  const InodeRef inode = volume_.inodes().peek(directory);
  const bool flagged = inode && (inode->attr.flags & (kInodeSync | kInodeDirSync)) != 0;
  if (!options_.sync && !options_.dirsync && !flagged) return {};
  return volume_.store().journal().wait_durable(seq);
}

}  // namespace fusefs
