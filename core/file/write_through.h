// Writethrough: bytes that are on the device when the write returns, and were never dirty.
//
//     planning --> copying --> marking --> placing --> writing --> settling
//     old bytes    outside,               new blocks   device,     durable;
//     of edges;    folios                              commit      nothing held
//     space        locked
//
// One device write for what follows on the device, from where the bytes are: a block that is
// written as a whole and has no folio goes from the request's memory, and no folio is made for it;
// a block that has one (or is written in part) gets its bytes there, and is written from there.
// Such a folio is under writeback and not dirty; if it was dirty it is clean afterwards, for these
// bytes and its older ones have been written. Its neighbours stay as they are.
//
// From `marking` to the end of `writing` the write keeps an adder hold and a busy range: others
// read and write the rest of the file, readers have what is in memory, and whoever would change
// these blocks, or keep a page of them, waits. So no two device writes of one block are ever in
// flight, and each write of part of a block finds all bytes of the one before.
//
// A pure overwrite lets go of everything when the device is done, on the thread that reaps that,
// and ends there if it owes nothing more (core/io/completion.h).
//
// The size on the device grows to the end of the bytes, not of their block; in memory it grows at
// the same time, so nobody reads what a failed write would take back.
//
// Where pages are pinned it goes through them, as a bounce: write_pinned.h.
//
// Who uses it: O_SYNC and O_DSYNC writes of any alignment (durable_write.h says what makes them
// durable), and the kernel's writeback of mapped pages, which wants no durability.
//
// Monitor held for every call.
#pragma once

#include "core/file/write.h"

namespace fusefs {

//   Returns   bytes written, durable as request.sync says; short only when space or an error
//             ends it after some
//   Restarts  as write_buffered(), data_io, bitmap_load, journal_space, dirty_nodes, durable
//   Errors    as write_buffered(), and of the device and the journal. no_space: before anything
//             changed. After an error of the device the pages that were in memory are dirty, with
//             the new bytes; the rest is as after a torn write. Data of the kernel's writeback is
//             in memory in the end, whatever the device says.
Attempt<size_t> write_through(FileContext& context, Inode& inode, const WriteRequest& request,
                              WriteStash& stash);

}  // namespace fusefs
