// SEEK_DATA and SEEK_HOLE: extents, and pages that are ahead of them.
#include <algorithm>

#include "core/file/truncate.h"

namespace fusefs {
namespace {

// The first folio at or after `at` whose contents the device does not have yet.
std::optional<FileBlock> next_pending_page(const Inode& inode, FileBlock at) {
  FolioRef folio = inode.mapping.at_or_after(at);
  while (folio && !folio->dirty && !folio->writeback && !folio->is_storable()) {
    folio = inode.mapping.at_or_after(folio->index + BlockCount(1));
  }
  return folio ? std::optional<FileBlock>(folio->index) : std::nullopt;
}

// Whether block `at` has data, and up to where the answer holds.
struct Piece {
  bool data = false;
  FileBlock end;
};

Attempt<Piece> piece_at(FileContext& context, Inode& inode, FileBlock at, FileBlock end,
                        NodePins& pins) {
  ATTEMPT(const Extent extent, extent_at(context.store.tree(), inode.ino, at, end, pins));
  if (extent.state == ExtentState::written) return Piece{true, extent.range.end};
  const std::optional<FileBlock> pending = next_pending_page(inode, at);
  if (pending == at) return Piece{true, at + BlockCount(1)};
  return Piece{false, pending ? std::min(*pending, extent.range.end) : extent.range.end};
}

Attempt<uint64_t> seek(FileContext& context, Inode& inode, uint64_t pos, bool data,
                       NodePins& pins) {
  const uint64_t size = inode.attr.size;
  if (pos >= size) return Error::beyond_eof;
  const FileBlock end = file_block_end(size);
  FileBlock at = file_block_at(pos);
  while (at < end) {
    ATTEMPT(const Piece piece, piece_at(context, inode, at, end, pins));
    if (piece.data == data) return std::max(pos, file_pos(at));
    at = piece.end;
  }
  // Every file ends in a hole; none has data there.
  if (data) return Error::beyond_eof;
  return size;
}

}  // namespace

Attempt<uint64_t> seek_data(FileContext& context, Inode& inode, uint64_t pos, NodePins& pins) {
  return seek(context, inode, pos, true, pins);
}

Attempt<uint64_t> seek_hole(FileContext& context, Inode& inode, uint64_t pos, NodePins& pins) {
  return seek(context, inode, pos, false, pins);
}

}  // namespace fusefs
