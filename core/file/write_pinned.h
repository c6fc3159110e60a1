// Writes past the page cache that meet pinned pages: the bytes go into the pages, which stay, and
// the blocks are written from them, by copies where somebody may be storing into them.
//
// Monitor held for every call.
#pragma once

#include "core/file/write.h"

namespace fusefs {

// What is left of the request: on its way past every cache of ours when it returns, and durable as
// request.sync says. Called with no hold and no stash.work of anybody else's.
//   Restarts, Errors  as write_buffered(), write_back(), make_durable(). After an error of the
//   device
//                     the bytes are in memory, and dirty.
Attempt<size_t> write_over_pins(FileContext& context, Inode& inode, const WriteRequest& request,
                                WriteStash& stash);

}  // namespace fusefs
