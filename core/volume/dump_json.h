// What lies on the device as JSON: one function per structure of core/format.
//
// They take what was read as it is, verified or not, and stay inside it. Whether a structure's
// checksum is right is the caller's to know and to say; here it is a member of what has one.
#pragma once

#include "core/format/item_format.h"
#include "core/format/node_format.h"
#include "core/format/space_format.h"
#include "core/format/superblock_format.h"
#include "core/journal/journal_reader.h"
#include "core/stats/json.h"

namespace fusefs {

// kind, place and generation as the header has them, and whether the checksum is right.
Json dump_header(ConstBytes block, BlockKind kind, BlockNo at, uint64_t checksum_seed);

Json dump_superblock(const Superblock& superblock);
// Header, counts, and its items or children.
Json dump_node(ConstBytes node, BlockNo at, uint64_t checksum_seed);
// A key, and its value by the key's type; bytes that make no sense in hexadecimal.
Json dump_item(const Key& key, ConstBytes value);
Json dump_transaction(const LoggedTransaction& transaction);
Json dump_summary(const GroupSummary& summary);
// The runs of zero bits, as blocks of the volume.
Json dump_free_runs(const BitmapPage& page, BlockNo group_first);

}  // namespace fusefs
