#include "fusefs/ops.h"

namespace fusefs {
namespace {

void statfs(fuse_req_t req, fuse_ino_t) {
  struct Stash {
    VolumeStat stat;
  };
  serve<Stash>(
      req,
      [](FuseOperation& op, Stash& stash) -> Attempt<void> {
        ATTEMPT_INTO(stash.stat, op.volume().stat_volume());
        return {};
      },
      [](Reply& reply, Stash& stash) {
        fuse_statfs_out out{};
        out.st.blocks = stash.stat.block_count;
        out.st.bfree = stash.stat.free_blocks;
        out.st.bavail = stash.stat.available_blocks;
        out.st.files = stash.stat.inode_count_free;
        out.st.ffree = stash.stat.inode_count_free;
        out.st.bsize = kBlockBytes;
        out.st.frsize = kBlockBytes;
        out.st.namelen = kNameBytesMax;
        reply.object(out);
      });
}

}  // namespace

// Only for mounts of type fuseblk; the kernel has written its dirty pages before it asks.
void serve_syncfs() {
  serve<FsyncStash>(
      [](FuseOperation& op, FsyncStash& stash) { return sync_all(op.volume().files(), stash); },
      [](Reply& reply, FsyncStash&) { reply.empty(); });
}

void add_volume_ops(fuse_lowlevel_ops& ops) { ops.statfs = statfs; }

}  // namespace fusefs
