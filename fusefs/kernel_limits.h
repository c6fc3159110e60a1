// What the kernel keeps of our mount, and how much: its backing device information in sysfs, which
// root may set.
//
// A store to a mapped page is told to nobody. How many such pages may be dirty at a time is the
// only bound there is on data that comes back to us unasked, and wants space then:
//
//     store --> dirty in the kernel --(limit_dirty)--> FUSE_WRITE --> Space's writeback reserve
//
// Each as far as it is permitted; none is needed to work.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace fusefs {

class KernelLimits {
 public:
  // Of the mount with device number `mount`.
  KernelLimits(dev_t mount, bool fuseblk);

  // The kernel's readahead. 128 KiB is the rule for FUSE, and makes eight requests of what the
  // device does in one.
  void set_readahead() const;

  // Makes the bytes that may be dirty `bytes`, about: the kernel keeps a share of memory. False if
  // that is not ours to set.
  bool limit_dirty(uint64_t bytes) const;
  // How many that is now; an estimate from the size of memory where the kernel does not say.
  uint64_t dirty_bytes_max() const;

 private:
  const std::string directory_;
};

}  // namespace fusefs
