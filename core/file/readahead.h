// Readahead: pages read before anybody asks for them, for reads that fill the kernel's page cache.
//
//     read --> ReadStreams: what comes next --> operations of up to kReadaheadStepBytes each
//                                                   |
//        look up extents --> take spare frames, mark them as being read --> read --> clean pages
//
// It only ever helps: it waits for nobody's lock (a file that is blocked is left alone), takes
// only frames that are free or hold what nobody used again, and drops an error. Who needs a page
// that is being read ahead waits for that page, as for any page being read; who cuts or replaces
// what it stands for removes it.
//
// Pages of private blocks go into the file's mapping and are the first to be reclaimed once they
// have been read: the kernel has them then. Pages of shared blocks go to SharedBlocks.
//
// Monitor held for every call.
#pragma once

#include "core/file/file_context.h"

namespace fusefs {

// Of one operation: its pages become readable together.
inline constexpr uint64_t kReadaheadStepBytes = 256 << 10;

// [pos, pos + len) is about to be read: starts what should be read ahead. To be called once for
// each read, not for each attempt of it.
void read_ahead(FileContext& context, OpenFile& file, uint64_t pos, uint64_t len);

}  // namespace fusefs
