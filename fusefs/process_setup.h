// What the process asks of the system for itself: to be left alive when memory is short, and not
// to wait for its own writeback. Each as far as it is permitted; none is needed to work.
#pragma once

#include <sys/types.h>

namespace fusefs {

// Before there are threads: limits, out-of-memory score, PR_SET_IO_FLUSHER (inherited by threads).
void set_up_process();

// After the mount, as root: the kernel's readahead for it. 128 KiB is the rule for FUSE, and makes
// eight requests of what the device does in one.
void set_readahead(dev_t mount);

}  // namespace fusefs
