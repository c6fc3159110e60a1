#include "core/engine/lock_checker.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/engine/operation.h"

namespace fusefs {
namespace {

using enum LockClass;
using Reason = RestartReason;

constexpr uint32_t reasons(std::initializer_list<Reason> list) {
  uint32_t bits = 0;
  for (const Reason reason : list) bits |= 1u << static_cast<unsigned>(reason);
  return bits;
}

// What an operation may wait for while it holds a lock of the class. None of these ends only
// after somebody else has got that lock. (The kernel is not among them: it may write any page to us
// before it drops it.) docs/ENGINE.md has the same table; a test compares them.
constexpr uint32_t kOwnIo = reasons({Reason::outside, Reason::data_io});
constexpr uint32_t kMetadata =
    reasons({Reason::node_load, Reason::bitmap_load, Reason::space, Reason::journal_space,
             Reason::dirty_nodes, Reason::durable});
constexpr uint32_t kFolios = reasons({Reason::folio_locked, Reason::writeback});
constexpr uint32_t kRange = reasons({Reason::busy_range});
constexpr uint32_t kRights = reasons({Reason::rights});  // ends by the clock
constexpr uint32_t kSecondInode = reasons({Reason::two_state});
constexpr std::array<uint32_t, kLockClassCount> kAllowed = {
    kOwnIo | kMetadata | kFolios | kRights | kRange,        // adder
    kOwnIo | kMetadata | kFolios | kRights | kRange,        // blocker
    kOwnIo | kMetadata | kFolios | kRights | kSecondInode,  // alone
    kOwnIo | kMetadata | kFolios,                           // busy_range
    kOwnIo,                                                 // folio_lock
    kOwnIo,                                                 // folio_read
    kOwnIo | kMetadata | kRights,                           // writeback_mark
};

constexpr std::array<std::string_view, kLockClassCount> kNames = {
    "two-state adder", "two-state blocker", "two-state alone", "busy range",
    "folio lock",      "folio being read",  "writeback mark",
};

// What has one place in the order.
enum Family : uint8_t { two_state, range, folio, mark };
constexpr int kFamilyCount = mark + 1;
constexpr std::array<std::string_view, kFamilyCount> kFamilyNames = {"two-state lock", "busy range",
                                                                     "folio", "writeback mark"};

Family family_of(LockClass lock_class) {
  switch (lock_class) {
    case adder:
    case blocker:
    case alone:
      return two_state;
    case busy_range:
      return range;
    case folio_lock:
    case folio_read:
      return folio;
    case writeback_mark:
      break;
  }
  return mark;
}

size_t index_of(LockClass lock_class) { return static_cast<size_t>(lock_class); }

std::string lock_text(LockClass lock_class, uint64_t order) {
  std::string text(lock_class_name(lock_class));
  if (order != 0) text += " of inode " + std::to_string(order);
  return text;
}

struct TwoStateHeld {
  LockClass lock_class;
  const void* lock;
  uint64_t order;
};

struct Held {
  std::array<uint32_t, kLockClassCount> counts = {};
  std::vector<TwoStateHeld> two_state;

  bool empty() const {
    return std::all_of(counts.begin(), counts.end(), [](uint32_t count) { return count == 0; });
  }
  std::string describe() const {
    std::string text;
    const auto add = [&text](const std::string& part) {
      text += (text.empty() ? "" : ", ") + part;
    };
    for (const TwoStateHeld& held : two_state) add(lock_text(held.lock_class, held.order));
    for (size_t i = index_of(busy_range); i < counts.size(); ++i) {
      if (counts[i] == 0) continue;
      add(std::string(kNames[i]) + (counts[i] == 1 ? "" : " x " + std::to_string(counts[i])));
    }
    return text;
  }
};

void print_and_stop(const std::string& report) {
  std::fprintf(stderr, "lock checker: %s\n", report.c_str());
  std::abort();
}

}  // namespace

std::string_view lock_class_name(LockClass lock_class) { return kNames[index_of(lock_class)]; }

class LockChecker::Impl {
 public:
  void ask(const Operation& operation, LockClass lock_class, const void* lock, uint64_t order);
  void take(const Operation& operation, LockClass lock_class, const void* lock, uint64_t order);
  void check_owner(const Operation& operation, LockClass lock_class, const void* lock);
  void release_two_state(LockClass lock_class, const void* lock, const Operation& operation);
  void release(LockClass lock_class, const void* lock);
  void leave(const Operation& operation, const Restart& restart);
  void forget(const Operation& operation);
  std::string order() const;

  mutable std::mutex mutex;
  Sink sink;
  // Who made the edge first, and how. Empty: nobody has.
  std::array<std::array<std::string, kFamilyCount>, kFamilyCount> edges;

 private:
  using Lock = std::pair<size_t, const void*>;
  struct LockHash {
    size_t operator()(const Lock& lock) const {
      return std::hash<const void*>()(lock.second) * kLockClassCount + lock.first;
    }
  };

  void learn(Family from, Family to, const std::string& chain);
  // Families from `from` to `to` along edges; empty if there is no way.
  std::vector<Family> path(Family from, Family to) const;
  void check_two_state(const Operation& operation, const Held& held, LockClass lock_class,
                       const void* lock, uint64_t order) const;
  void drop(const Operation& operation, LockClass lock_class);
  void report(const std::string& text) const { sink ? sink(text) : print_and_stop(text); }

  std::unordered_map<const Operation*, Held> held_;
  std::unordered_map<Lock, const Operation*, LockHash> owners_;  // of locks that only one can have
};

void LockChecker::Impl::ask(const Operation& operation, LockClass lock_class, const void* lock,
                            uint64_t order) {
  const auto found = held_.find(&operation);
  if (found == held_.end()) return;
  const Held& held = found->second;
  const Family to = family_of(lock_class);
  if (to == two_state) check_two_state(operation, held, lock_class, lock, order);
  for (size_t i = 0; i < held.counts.size(); ++i) {
    const Family from = family_of(static_cast<LockClass>(i));
    if (held.counts[i] == 0 || from == to || !edges[from][to].empty()) continue;
    learn(from, to,
          std::string(operation.name()) + " holds " + held.describe() + " and asks for " +
              lock_text(lock_class, order));
  }
}

void LockChecker::Impl::check_two_state(const Operation& operation, const Held& held,
                                        LockClass lock_class, const void* lock,
                                        uint64_t order) const {
  for (const TwoStateHeld& mine : held.two_state) {
    const std::string chain = std::string(operation.name()) + " holds " + held.describe() +
                              " and asks for " + lock_text(lock_class, order);
    if (mine.lock == lock) {
      const bool again = mine.lock_class == lock_class && lock_class != alone;
      if (!again) report("recursion: " + chain + ", which only it can give\n");
    } else if (mine.order != 0 && order != 0 && mine.order > order) {
      report("inodes out of order: " + chain + "\n");
    }
  }
}

void LockChecker::Impl::learn(Family from, Family to, const std::string& chain) {
  const std::vector<Family> back = path(to, from);
  if (back.empty()) {
    edges[from][to] = chain;
    return;
  }
  std::string text = "order: a cycle of locks\n  now:    " + chain + "\n";
  for (size_t i = 0; i + 1 < back.size(); ++i) {
    text += "  before: " + edges[back[i]][back[i + 1]] + "\n";
  }
  report(text);
}

std::vector<Family> LockChecker::Impl::path(Family from, Family to) const {
  std::array<std::optional<Family>, kFamilyCount> came_from;
  std::vector<Family> reached = {from};
  for (size_t i = 0; i < reached.size(); ++i) {
    for (int next = 0; next < kFamilyCount; ++next) {
      const auto family = static_cast<Family>(next);
      if (family == from || came_from[family] || edges[reached[i]][family].empty()) continue;
      came_from[family] = reached[i];
      reached.push_back(family);
    }
  }
  if (!came_from[to]) return {};
  std::vector<Family> way = {to};
  while (way.back() != from) way.push_back(*came_from[way.back()]);
  std::reverse(way.begin(), way.end());
  return way;
}

void LockChecker::Impl::take(const Operation& operation, LockClass lock_class, const void* lock,
                             uint64_t order) {
  Held& held = held_[&operation];
  ++held.counts[index_of(lock_class)];
  if (family_of(lock_class) == two_state) {
    held.two_state.push_back({lock_class, lock, order});
  } else {
    owners_[{index_of(lock_class), lock}] = &operation;
  }
}

// Whether what is waited for is one's own.
void LockChecker::Impl::check_owner(const Operation& operation, LockClass lock_class,
                                    const void* lock) {
  const auto owner = owners_.find({index_of(lock_class), lock});
  if (owner == owners_.end() || owner->second != &operation) return;
  report("recursion: " + std::string(operation.name()) + " waits for a " +
         std::string(lock_class_name(lock_class)) + ", which only it can give\n");
}

void LockChecker::Impl::release_two_state(LockClass lock_class, const void* lock,
                                          const Operation& operation) {
  const auto found = held_.find(&operation);
  if (found == held_.end()) return;
  std::vector<TwoStateHeld>& mine = found->second.two_state;
  const auto same = [&](const TwoStateHeld& held) {
    return held.lock == lock && held.lock_class == lock_class;
  };
  const auto at = std::find_if(mine.begin(), mine.end(), same);
  if (at == mine.end()) return;
  mine.erase(at);
  drop(operation, lock_class);
}

void LockChecker::Impl::release(LockClass lock_class, const void* lock) {
  const auto owner = owners_.find({index_of(lock_class), lock});
  if (owner == owners_.end()) return;
  const Operation& operation = *owner->second;
  owners_.erase(owner);
  drop(operation, lock_class);
}

void LockChecker::Impl::drop(const Operation& operation, LockClass lock_class) {
  const auto found = held_.find(&operation);
  if (found == held_.end()) return;
  --found->second.counts[index_of(lock_class)];
  if (found->second.empty()) held_.erase(found);
}

void LockChecker::Impl::leave(const Operation& operation, const Restart& restart) {
  if (restart.on == nullptr && restart.reason != Reason::outside) return;  // does not wait
  const auto found = held_.find(&operation);
  if (found == held_.end()) return;
  const Held& held = found->second;
  for (size_t i = 0; i < held.counts.size(); ++i) {
    if (held.counts[i] == 0 || (kAllowed[i] & reasons({restart.reason})) != 0) continue;
    report("wait: " + std::string(operation.name()) + " waits for " +
           std::string(restart_reason_name(restart.reason)) + " and holds " + held.describe() +
           ": a " + std::string(kNames[i]) + " must not be held across that\n");
  }
}

void LockChecker::Impl::forget(const Operation& operation) {
  if (held_.erase(&operation) == 0) return;
  std::erase_if(owners_, [&](const auto& owner) { return owner.second == &operation; });
}

std::string LockChecker::Impl::order() const {
  std::string text;
  for (int from = 0; from < kFamilyCount; ++from) {
    for (int to = 0; to < kFamilyCount; ++to) {
      if (edges[static_cast<size_t>(from)][static_cast<size_t>(to)].empty()) continue;
      text += std::string(kFamilyNames[static_cast<size_t>(from)]) + " -> " +
              std::string(kFamilyNames[static_cast<size_t>(to)]) + "\n";
    }
  }
  return text;
}

// ---- LockChecker ----

LockChecker::LockChecker() : impl_(std::make_unique<Impl>()) {}
LockChecker::~LockChecker() = default;

LockChecker& LockChecker::instance() {
  static auto* const checker = new LockChecker;  // operations may end after static objects
  return *checker;
}

void LockChecker::ask(LockClass lock_class, const void* lock, uint64_t order) {
  const Operation* operation = Operation::current();
  if (operation == nullptr) return;
  const std::lock_guard guard(impl_->mutex);
  impl_->ask(*operation, lock_class, lock, order);
}

void LockChecker::take(LockClass lock_class, const void* lock, uint64_t order) {
  const Operation* operation = Operation::current();
  if (operation == nullptr) return;
  const std::lock_guard guard(impl_->mutex);
  impl_->take(*operation, lock_class, lock, order);
}

void LockChecker::ask_and_take(LockClass lock_class, const void* lock) {
  const Operation* operation = Operation::current();
  if (operation == nullptr) return;
  const std::lock_guard guard(impl_->mutex);
  impl_->ask(*operation, lock_class, lock, 0);
  impl_->take(*operation, lock_class, lock, 0);
}

void LockChecker::wait(RestartReason reason, const void* waitable) {
  const Operation* operation = Operation::current();
  if (operation == nullptr) return;
  if (reason != Reason::folio_locked && reason != Reason::writeback) return;
  const LockClass lock_class = reason == Reason::writeback ? writeback_mark : folio_lock;
  ask(lock_class, waitable);
  wait(lock_class, waitable);
  if (lock_class == folio_lock) wait(folio_read, waitable);
}

void LockChecker::wait(LockClass lock_class, const void* lock) {
  const Operation* operation = Operation::current();
  if (operation == nullptr) return;
  const std::lock_guard guard(impl_->mutex);
  impl_->check_owner(*operation, lock_class, lock);
}

void LockChecker::release_two_state(LockClass lock_class, const void* lock,
                                    const Operation& operation) {
  const std::lock_guard guard(impl_->mutex);
  impl_->release_two_state(lock_class, lock, operation);
}

void LockChecker::release(LockClass lock_class, const void* lock) {
  const std::lock_guard guard(impl_->mutex);
  impl_->release(lock_class, lock);
}

void LockChecker::leave(const Operation& operation, const Restart& restart) {
  const std::lock_guard guard(impl_->mutex);
  impl_->leave(operation, restart);
}

void LockChecker::forget(const Operation& operation) {
  const std::lock_guard guard(impl_->mutex);
  impl_->forget(operation);
}

void LockChecker::set_sink(Sink sink) {
  const std::lock_guard guard(impl_->mutex);
  impl_->sink = std::move(sink);
}

void LockChecker::forget_order() {
  const std::lock_guard guard(impl_->mutex);
  impl_->edges = {};
}

std::string LockChecker::order() const {
  const std::lock_guard guard(impl_->mutex);
  return impl_->order();
}

std::string LockChecker::allowed_waits(LockClass lock_class) {
  std::string text;
  for (int i = 0; i < kRestartReasonCount; ++i) {
    if ((kAllowed[index_of(lock_class)] >> i & 1u) == 0) continue;
    text += (text.empty() ? "" : ", ") + std::string(restart_reason_name(static_cast<Reason>(i)));
  }
  return text;
}

}  // namespace fusefs
