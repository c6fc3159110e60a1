// The journal's writer: a background operation that makes one batch after the other durable.
//
//     idle --> flush of the data shown --+--> write (FUA) --> durable --> next batch, or idle
//              checksum, meanwhile     --+
//
// Its stash is the batch, the flush and the write. Journal and Writer may be destroyed in either
// order; without its journal the writer ends.
#pragma once

#include <memory>

#include "core/journal/journal.h"

namespace fusefs {

// Larger batches are summed up outside the monitor: at 10 GB/s this is two microseconds.
inline constexpr size_t kSealInsideBytesMax = 16 * 1024;

class Journal::Writer final : public Operation {
 public:
  explicit Writer(Journal& journal) : journal_(&journal) {}
  ~Writer() override;

  const char* name() const override { return "journal writer"; }
  bool is_background() const override { return true; }
  Attempt<void> attempt() override;

  // The journal goes away.
  void detach() { journal_ = nullptr; }

 private:
  Attempt<void> make_durable();
  void submit();

  Journal* journal_;
  std::unique_ptr<Batch> batch_;
  bool counted_flush_ = false;
  Ref<IoTicket> flush_;
  Ref<IoTicket> write_;
};

}  // namespace fusefs
