#include "core/file/late_rights.h"

#include <algorithm>
#include <utility>

#include "core/engine/operation.h"
#include "core/file/placement.h"

namespace fusefs {
namespace {

constexpr BlockCount kOne{1};
// Pages that one attempt makes ordinary.
constexpr uint64_t kBatchPages = 64;

uint64_t now_ns(const FileContext& context) { return context.scheduler.clock().monotonic_ns(); }

// Makes the pages of one pin ordinary again that are storable because its rights were late.
class MakeOrdinary final : public Operation {
 public:
  MakeOrdinary(FileContext& context, Inode& inode, std::shared_ptr<MappedRights> rights)
      : context_(context), inode_(&inode), rights_(std::move(rights)) {}
  ~MakeOrdinary() override { context_.scheduler.cancel_timer(timer_); }

  const char* name() const override { return "late_rights"; }
  bool is_background() const override { return true; }

  Attempt<void> attempt() override {
    context_.scheduler.cancel_timer(timer_);
    const uint64_t due_ns = rights_->storable_since_ns + kStorableNs;
    const bool late = are_late(context_, *rights_);
    if (late || now_ns(context_) < due_ns) {
      cursor_ = FileBlock(0);
      if (!late) timer_ = context_.scheduler.wake_at(due_ns, rights_->changed);
      return restart_after(rights_->changed, RestartReason::idle);
    }
    TwoStateHold hold;
    ATTEMPT_INTO(hold, inode_->pages_lock.add());
    for (uint64_t i = 0; i < kBatchPages; ++i) {
      const FolioRef folio = inode_->mapping.next_storable(cursor_);
      if (!folio) {
        rights_->returning = false;
        return {};
      }
      // Beyond the end it would be clean, while somebody may still store: it stays as it is.
      const bool ours = folio->is_mapped() && folio->pinned->rights == rights_ &&
                        file_pos(folio->index) < inode_->attr.size;
      if (ours && (folio->locked || folio->writeback)) {
        return restart_after(
            folio->changed, folio->locked ? RestartReason::folio_locked : RestartReason::writeback);
      }
      if (ours) make_ordinary(context_, *inode_, *folio);
      cursor_ = folio->index + kOne;
      note_progress();
    }
    return restart_now();
  }

 private:
  FileContext& context_;
  const InodeRef inode_;
  const std::shared_ptr<MappedRights> rights_;
  FileBlock cursor_;  // what is before it has been dealt with
  Scheduler::TimerId timer_ = 0;
};

}  // namespace

bool are_late(const FileContext& context, const MappedRights& rights) {
  return rights.is_late(now_ns(context));
}

void make_storable(FileContext& context, Inode& inode, Folio& folio) {
  CHECK(folio.is_mapped() && !folio.is_storable());
  context.cache.pin(folio, true);
  folio.pinned->device_sum.reset();
  ++context.pins.counters().late_pages;
  MappedRights& rights = *folio.pinned->rights;
  rights.storable_since_ns = now_ns(context);
  if (std::exchange(rights.returning, true)) return;
  context.scheduler.start(std::make_unique<MakeOrdinary>(context, inode, folio.pinned->rights));
}

void make_ordinary(FileContext& context, Inode& inode, Folio& folio) {
  CHECK(folio.is_mapped() && folio.is_storable());
  context.cache.set_storable_dirty(folio, true);
  context.cache.unpin(folio, true);
  context.inodes.mark_pages_dirty(inode);
}

// ---- Waiting ----

bool RightsWait::is_over(FileContext& context, const MappedRights& rights) {
  const uint64_t now = now_ns(context);
  if (!began_ns_) began_ns_ = now;
  return rights.is_late(now) || now - *began_ns_ >= rights.wait_ns;
}

Restart RightsWait::restart(FileContext& context, const std::shared_ptr<MappedRights>& rights) {
  cancel();
  if (rights->wait_ns != kNeverNs) {
    const uint64_t due_ns = std::min(*began_ns_ + rights->wait_ns, rights->late_at_ns());
    rights_ = rights;
    scheduler_ = &context.scheduler;
    timer_ = scheduler_->wake_at(due_ns, rights->changed);
  }
  return restart_after(rights->changed, RestartReason::rights);
}

void RightsWait::reset() {
  cancel();
  began_ns_.reset();
}

void RightsWait::cancel() {
  if (rights_) scheduler_->cancel_timer(timer_);
  rights_.reset();
}

// ---- Taking ----

void TakenRights::Question::end() {
  if (std::exchange(answered, true)) return;
  rights->end_call(call);
}

// Goes on also when nobody waits for the answer any more.
class TakenRights::Asking final : public Operation {
 public:
  explicit Asking(Ref<Question> question) : question_(std::move(question)) {}
  ~Asking() override { question_->end(); }

  const char* name() const override { return "take_rights"; }
  Attempt<void> attempt() override {
    if (std::exchange(asked_, true)) {
      question_->end();
      return {};
    }
    return restart_after_outside([&question = *question_] {
      for (const FileRange range : question.ranges) question.rights->protect(range);
    });
  }

 private:
  const Ref<Question> question_;
  bool asked_ = false;
};

void TakenRights::ask(FileContext& context, const std::vector<FolioRef>& folios) {
  reset();
  for (const FolioRef& folio : folios) {
    if (!folio->is_mapped()) continue;
    const auto& rights = folio->pinned->rights;
    const FileRange page = file_range(folio->index, kOne);
    ++context.pins.counters().protected_pages;
    const auto same = std::find_if(questions_.begin(), questions_.end(), [&](const auto& question) {
      return question->rights == rights;
    });
    if (same == questions_.end()) {
      questions_.push_back(make_ref<Question>());
      questions_.back()->rights = rights;
      questions_.back()->ranges = {page};
    } else if ((*same)->ranges.back().end == page.first) {
      (*same)->ranges.back().end = page.end;
    } else {
      (*same)->ranges.push_back(page);
    }
  }
  for (const Ref<Question>& question : questions_) {
    question->call = question->rights->begin_call(now_ns(context));
    context.scheduler.start(std::make_unique<Asking>(question));
  }
}

Attempt<bool> TakenRights::wait(FileContext& context) {
  bool all = true;
  for (const Ref<Question>& question : questions_) {
    if (question->answered) continue;
    if (!wait_.is_over(context, *question->rights)) return wait_.restart(context, question->rights);
    all = false;
  }
  wait_.reset();
  return all;
}

bool TakenRights::has(const Folio& folio) const {
  return std::none_of(questions_.begin(), questions_.end(), [&](const auto& question) {
    return question->rights == folio.pinned->rights && !question->answered;
  });
}

void TakenRights::reset() {
  questions_.clear();
  wait_.reset();
}

}  // namespace fusefs
