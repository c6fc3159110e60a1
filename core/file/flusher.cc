// The flusher, and the writers it starts: one operation per inode, several at a time.
//
//     timer, pressure,       +--- writer(inode 17) --- write_back, save_attr ---+
//     a writer has ended --> |--- writer(inode 17) ---                          |--> flusher
//                            +--- writer(inode 42) ---                          |
//
// A large file gets several writers: each takes the next run that no other has begun, so that one
// writes while another allocates or commits.
//
// An inode whose pages the device refuses is left alone for kRetryNs; it never makes the flusher
// spin, and it does not hold up the others.
#include <algorithm>
#include <deque>

#include "core/file/placement.h"
#include "core/file/writeback.h"

namespace fusefs {
namespace {

constexpr uint64_t kDirtyNsMax = kNsPerSecond;
constexpr uint64_t kRoundIntervalNs = kDirtyNsMax / 2;
constexpr uint64_t kRetryNs = 5 * kNsPerSecond;
constexpr size_t kWritersPerInode = 3;
// Inodes looked at in one round.
constexpr size_t kRoundMax = 1024;

size_t writers_for(const Inode& inode) {
  const uint64_t runs = inode.mapping.dirty_count() * kPageBytes / kWritebackRunBytes;
  return std::clamp<size_t>(runs, 1, kWritersPerInode);
}

}  // namespace

// ---- InodeWriters ----

class InodeWriters::Writer final : public Operation {
 public:
  Writer(Ref<InodeWriters> group, InodeRef inode, bool bounce)
      : group_(std::move(group)), inode_(std::move(inode)) {
    writeback_.bounce = bounce;
  }
  ~Writer() override {
    if (group_) end(Error::shut_down);
  }

  const char* name() const override { return "writer"; }
  bool is_background() const override { return true; }

  Attempt<void> attempt() override {
    FileContext& context = group_->context_;
    if (!written_) {
      const Attempt<void> write = write_back(context, *inode_, kWholeFile, writeback_);
      if (write.must_restart()) return write;
      if (write.failed()) error_ = write.error();
      written_ = true;
    }
    if (writeback_.bounce) note_pending_size(context, *inode_);
    const Attempt<void> save =
        save_attr(context, *inode_, writeback_.pins, writeback_.bounced_size);
    if (save.must_restart()) return save;
    if (save.failed() && !error_) error_ = save.error();
    end(error_);
    return {};
  }

 private:
  void end(std::optional<Error> error) {
    Ref<InodeWriters> group = std::move(group_);
    group->note_ended(inode_->ino, error);
  }

  Ref<InodeWriters> group_;
  const InodeRef inode_;  // before the stash: its holds are the inode's
  WritebackStash writeback_;
  bool written_ = false;
  std::optional<Error> error_;
};

void InodeWriters::start(const InodeRef& inode) {
  const size_t count = inode->attr.is_regular() ? writers_for(*inode) : 1;
  for (size_t i = 0; i < count && (i == 0 || has_room()); ++i) {
    ++running_;
    ++active_[inode->ino];
    context_.scheduler.start(
        std::make_unique<Writer>(Ref<InodeWriters>(this), inode, bounce_ && i == 0));
  }
}

void InodeWriters::note_ended(InodeNo ino, std::optional<Error> error) {
  --running_;
  auto it = active_.find(ino);
  if (--it->second == 0) active_.erase(it);
  if (error) {
    failed_.push_back(ino);
    if (!error_) error_ = error;
  }
  ended_.wake_all();
  if (also_ != nullptr) also_->wake_all();
}

std::vector<InodeNo> InodeWriters::take_failed() { return std::exchange(failed_, {}); }

// ---- Flusher ----

namespace {

class Flusher final : public Operation {
 public:
  explicit Flusher(FileContext& context)
      : context_(context), writers_(make_ref<InodeWriters>(context)) {
    writers_->wake_also(context.cache.writeback_wanted());
  }
  ~Flusher() override { disarm(); }

  const char* name() const override { return "flusher"; }
  bool is_background() const override { return true; }

  Attempt<void> attempt() override {
    const uint64_t now_ns = context_.scheduler.clock().monotonic_ns();
    note_failures(now_ns);
    if (now_ns >= next_round_ns_) {
      next_round_ns_ = now_ns + kRoundIntervalNs;
      begin_round(now_ns > kDirtyNsMax ? now_ns - kDirtyNsMax : 0, false);
    }
    if (round_.empty() && context_.cache.wants_writeback()) begin_round(now_ns, true);
    start_writers();
    arm(next_round_ns_);
    return restart_after(context_.cache.writeback_wanted(), RestartReason::idle);
  }

 private:
  void note_failures(uint64_t now_ns) {
    for (InodeNo ino : writers_->take_failed()) retry_ns_[ino] = now_ns + kRetryNs;
    std::erase_if(retry_ns_, [now_ns](const auto& entry) { return entry.second <= now_ns; });
  }

  // What became dirty at `deadline_ns` or before.
  void begin_round(uint64_t deadline_ns, bool pages_only) {
    round_.clear();
    for (const InodeRef& inode : context_.inodes.dirty_inodes_until(deadline_ns, kRoundMax)) {
      if (!pages_only || inode->mapping.dirty_count() != 0) round_.push_back(inode->ino);
    }
  }

  void start_writers() {
    while (!round_.empty() && writers_->has_room()) {
      const InodeNo ino = round_.front();
      round_.pop_front();
      if (writers_->is_writing(ino) || retry_ns_.contains(ino)) continue;
      if (InodeRef inode = context_.inodes.peek(ino)) writers_->start(inode);
    }
  }

  void arm(uint64_t deadline_ns) {
    if (armed_ns_ == deadline_ns) return;
    disarm();
    timer_ = context_.scheduler.wake_at(deadline_ns, context_.cache.writeback_wanted());
    armed_ns_ = deadline_ns;
  }
  void disarm() {
    if (armed_ns_ != 0) context_.scheduler.cancel_timer(timer_);
    armed_ns_ = 0;
  }

  FileContext& context_;
  const Ref<InodeWriters> writers_;
  std::deque<InodeNo> round_;  // to be written, next first
  std::unordered_map<InodeNo, uint64_t> retry_ns_;
  uint64_t next_round_ns_ = 0;
  uint64_t armed_ns_ = 0;
  Scheduler::TimerId timer_ = 0;
};

}  // namespace

std::unique_ptr<Operation> make_flusher(FileContext& context) {
  return std::make_unique<Flusher>(context);
}

}  // namespace fusefs
