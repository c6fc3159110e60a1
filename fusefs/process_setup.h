// What the process asks of the system for itself: to be left alive when memory is short, and not
// to wait for its own writeback. Each as far as it is permitted; none is needed to work.
#pragma once

namespace fusefs {

// Before there are threads: limits, out-of-memory score, PR_SET_IO_FLUSHER (inherited by threads).
void set_up_process();

}  // namespace fusefs
