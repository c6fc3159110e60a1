#include "fusefs/remap_source.h"

namespace fusefs {

void find_source(FuseOperation& op, const fusefs_source_token& token, InodeRef& source) {
  if (source) return;
  const OpenFile* file = op.server().open_files().find_by_secret(token.handle, token.secret);
  if (file != nullptr) source = file->inode;
}

Attempt<void> find_source(FuseOperation& op, int64_t descriptor, DescriptorStash& stash,
                          InodeRef& source) {
  if (source) return {};
  const CallerFiles* files = op.server().caller_files();
  if (files == nullptr) return Error::not_supported;
  const uint32_t thread = op.request().header().pid;
  if (!stash.looked) {
    stash.looked = true;
    return restart_after_outside(
        [&stash, files, thread, descriptor] { stash.ino = files->find(thread, descriptor); });
  }
  TRY(const InodeNo ino, stash.ino);
  const InodeRef inode = op.volume().inodes().peek(ino);
  // Another thread of the caller has closed it.
  if (!inode || inode->open_count == 0) return Error::bad_descriptor;
  source = inode;
  return {};
}

Attempt<void> fetch_mapped(FuseOperation& op, const Inode& inode, uint64_t pos, uint64_t len,
                           Notifier::Stash& stash) {
  Server& server = op.server();
  const bool may_have =
      server.kernel().writeback_cache || (server.open_files().may_be_mapped_writable(inode.ino) &&
                                          server.has_kernel_pages(inode.ino, pos, len));
  if (!stash && !may_have) return {};
  return server.notifier().invalidate(inode.ino, pos, len, stash);
}

}  // namespace fusefs
