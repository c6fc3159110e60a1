// FuseStats: what the kernel asked for and what was negotiated with it. Plain numbers; fusefs/
// fills them in, and this folder knows no FUSE.
#pragma once

#include <cstdint>
#include <string>

#include "core/stats/histogram.h"

namespace fusefs {

// Requests of one opcode.
struct FuseOpStats {
  uint64_t count = 0;  // answered, or not to be answered (forget)
  uint64_t errors_count = 0;
  uint64_t bytes = 0;    // of data read, written or listed, of those that succeeded
  Histogram latency_ns;  // from receiving the request to the answer
};

// What the self-test has found active: negotiated, and served.
struct KernelFacts {
  uint32_t protocol_minor = 0;
  std::string libfuse_version;
  std::string transport;       // "dev_fuse", "io_uring"
  uint64_t init_flags = 0;     // as answered, both words
  bool handshake_raw = false;  // INIT answered by hand, not by libfuse
  bool fuseblk = false;
  uint64_t max_write_bytes = 0;
  uint64_t max_readahead_bytes = 0;
  uint32_t max_pages = 0;
  uint32_t max_background = 0;
  uint32_t congestion_threshold = 0;
  uint64_t mmap_dirty_bytes_max = 0;  // of this mount's pages, in the kernel; 0: unknown
  bool async_read = false;
  bool async_dio = false;
  bool parallel_direct_writes = false;
  bool direct_io_allow_mmap = false;
  bool killpriv_v2 = false;
  bool parallel_dirops = false;
  bool readdirplus = false;
  bool readdirplus_auto = false;
  bool cache_symlinks = false;
  bool posix_acl = false;
  bool setxattr_ext = false;
  bool writeback_cache = false;
  bool export_support = false;
  bool passthrough = false;
  bool create_supp_group = false;
  bool allow_idmap = false;
  bool syncfs = false;
  bool statx = false;
  bool tmpfile = false;
  bool copy_file_range = false;
  bool copy_file_range_64 = false;
};

}  // namespace fusefs
