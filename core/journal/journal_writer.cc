#include "core/journal/journal_writer.h"

#include <algorithm>
#include <utility>

namespace fusefs {

Journal::Writer::~Writer() {
  if (journal_ == nullptr) return;
  journal_->writer_ = nullptr;
  journal_->writing_ = nullptr;
}

Attempt<void> Journal::Writer::attempt() {
  if (journal_ == nullptr) return {};
  if (!batch_) {
    batch_ = journal_->take_closed();
    if (!batch_) return restart_after(journal_->work_, RestartReason::idle);
  }
  const Attempt<void> made = make_durable();
  if (made.must_restart()) return made;
  flush_.reset();
  write_.reset();
  counted_flush_ = false;
  note_progress();
  if (made.failed()) {
    journal_->batch_failed(std::move(batch_), made.error());
  } else {
    journal_->batch_durable(std::move(batch_));
  }
  return restart_now();
}

Attempt<void> Journal::Writer::make_durable() {
  WriteCache& cache = journal_->write_cache_;
  if (!std::exchange(counted_flush_, true) && !cache.durable(batch_->data_stamp())) {
    ++journal_->stats_.flush_count;
  }
  // Asked for first, waited for last: the checksum is computed while the device flushes.
  const Attempt<void> flushed = cache.flush(batch_->data_stamp(), flush_);
  if (!batch_->sealed()) {
    const uint64_t seed = journal_->layout_.checksum_seed;
    if (batch_->image().size() > kSealInsideBytesMax) {
      return restart_after_outside([batch = batch_.get(), seed] { batch->seal(seed); });
    }
    batch_->seal(seed);
  }
  ATTEMPT_OK(flushed);
  if (!write_) submit();
  ATTEMPT_OK(write_->wait());
  return {};
}

// A batch that wraps around the ring's end is two writes, in flight together, and a power cut may
// leave any blocks of them old. That needs no order between the two: the checksum in the header
// covers every block of the batch, so it verifies only when all of them are new, and until then the
// batch is not durable and nothing is written behind it.
void Journal::Writer::submit() {
  const Bytes image = batch_->image();
  const JournalLayout& layout = journal_->layout_;
  const BlockNo end = layout.first + layout.blocks;
  const size_t first_len =
      std::min<size_t>(image.size(), (end - batch_->at()).value() * kBlockBytes);
  write_ = make_ref<IoTicket>();
  journal_->device_.submit(
      IoRequest::write(batch_->at().value() * kBlockBytes, image.data(), first_len, true), write_);
  if (first_len == image.size()) return;
  const Bytes rest = image.subspan(first_len);
  journal_->device_.submit(
      IoRequest::write(layout.first.value() * kBlockBytes, rest.data(), rest.size(), true), write_);
}

}  // namespace fusefs
