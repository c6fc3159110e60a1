#include "core/file/page_reads.h"

#include <utility>

#include "core/file/placement.h"

namespace fusefs {

void PageReads::add(FileContext& context, FolioRef folio, BlockNo block) {
  cache_ = &context.cache;
  cache_->begin_read(*folio);
  pages_.push_back(std::move(folio));
  blocks_.push_back(block);
}

void PageReads::submit(FileContext& context) {
  CHECK(!pages_.empty() && !ticket_);
  ticket_ = make_ref<IoTicket>();
  guard_ = context.space.guard_io();
  IoGather reads(context.device, IoKind::read, ticket_);
  for (size_t i = 0; i < pages_.size(); ++i) reads.add(blocks_[i], pages_[i]->frame, kPageBytes);
}

void PageReads::end(bool uptodate) {
  for (const FolioRef& page : pages_) cache_->end_read(*page, uptodate);
  pages_.clear();
  blocks_.clear();
  ticket_.reset();
  guard_.release();
}

}  // namespace fusefs
