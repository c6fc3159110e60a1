// A pinned range in a simulated volume, somebody who stores into it whenever he gets the chance,
// and what the pages have looked like.
//
// Or a mapped range, and somebody whose loads and stores fault: a simulated MMU says what he may do
// with each page. It checks all the time that he may store into no page that could be clean.
//
// A state of a page is one word for each of its sectors: sectors hold one word repeated. All that a
// page has looked like is remembered, so that what a clone, a read or the device has after a power
// cut can be found in it. A page that is a mixture of two states is none of them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "core/file/pin.h"
#include "tests/sim/file_content.h"

#include <doctest/doctest.h>

namespace fusefs {

inline constexpr size_t kPinSectors = 8;
inline constexpr size_t kPinSectorBytes = kPageBytes / kPinSectors;
using PageState = std::array<uint64_t, kPinSectors>;

// The state of the page at `bytes`; none if a sector is torn.
inline std::optional<PageState> state_of(const std::byte* bytes) {
  PageState state{};
  for (size_t sector = 0; sector < kPinSectors; ++sector) {
    const std::byte* at = bytes + sector * kPinSectorBytes;
    std::memcpy(&state[sector], at, sizeof(uint64_t));
    for (size_t i = 0; i < kPinSectorBytes; i += sizeof(uint64_t)) {
      if (std::memcmp(at + i, &state[sector], sizeof(uint64_t)) != 0) return std::nullopt;
    }
  }
  return state;
}

inline void put_sector(std::byte* page, size_t sector, uint64_t word) {
  for (size_t i = 0; i < kPinSectorBytes; i += sizeof(uint64_t)) {
    std::memcpy(page + sector * kPinSectorBytes + i, &word, sizeof(uint64_t));
  }
}

inline Content pages_of(const std::vector<PageState>& states) {
  Content content(states.size() * kPageBytes);
  for (size_t page = 0; page < states.size(); ++page) {
    for (size_t sector = 0; sector < kPinSectors; ++sector) {
      put_sector(content.data() + page * kPageBytes, sector, states[page][sector]);
    }
  }
  return content;
}

// All that each page of a file has looked like.
class PageHistory {
 public:
  explicit PageHistory(uint64_t pages) : states_(pages), durable_(pages) {}

  void add(uint64_t page, const PageState& state) {
    std::vector<PageState>& of = states_[page];
    if (of.empty() || of.back() != state) of.push_back(state);
  }
  uint64_t pages() const { return states_.size(); }
  const PageState& last(uint64_t page) const { return states_[page].back(); }
  // Where each page is now: what comes to be known at or after this moment lies here or later.
  std::vector<size_t> now() const {
    std::vector<size_t> at;
    for (const auto& of : states_) at.push_back(of.empty() ? 0 : of.size() - 1);
    return at;
  }
  void made_durable(const std::vector<size_t>& since) { durable_ = since; }
  const std::vector<size_t>& durable() const { return durable_; }

  // Whether page `page` looked like this at or after `since`.
  bool has(uint64_t page, const std::optional<PageState>& state, size_t since) const {
    if (!state) return false;
    const std::vector<PageState>& of = states_[page];
    return std::find(of.begin() + static_cast<ptrdiff_t>(since), of.end(), *state) != of.end();
  }
  // Of a whole file.
  void require(const Content& content, const std::vector<size_t>& since) const {
    REQUIRE(content.size() % kPageBytes == 0);
    for (uint64_t page = 0; page < content.size() / kPageBytes; ++page) {
      const auto state = state_of(content.data() + page * kPageBytes);
      if (has(page, state, since[page])) continue;
      CAPTURE(page);
      CAPTURE(state ? (*state)[0] : 0);
      CAPTURE(states_[page].size() - since[page]);
      REQUIRE(state.has_value());
      FAIL("a state that the page has not had");
    }
  }

 private:
  std::vector<std::vector<PageState>> states_;
  std::vector<size_t> durable_;
};

enum class PageRight : uint8_t { none, load, store };

// Pins a range of a file for writing, or maps it, and stores into it, by itself or when it is told
// to.
class Pinner {
 public:
  Pinner(SimVolume& sim, const InodeRef& inode, FileRange range, PageHistory& history)
      : sim_(sim),
        inode_(inode),
        range_(range),
        history_(history),
        random_(sim.world().random().fork()) {}
  ~Pinner() { stop(); }

  // Memory of its own for the pages, as a window has.
  void use_frames() {
    const auto pages = static_cast<size_t>(block_bytes(range_.count()));
    frames_ = std::make_shared<AlignedBuffer>(pages);
  }
  // Stores fault.
  void use_faults() {
    use_frames();
    rights_.assign(range_.count().value(), PageRight::none);
  }
  bool is_mapped() const { return !rights_.empty(); }
  Result<void> pin() {
    // Outside work may take any time here. Where that does not matter nobody is late by it.
    sim_.files().pins.rights_wait_ns = may_be_late_ ? kRightsWaitNs : kNeverNs;
    PinRequest request;
    request.range = range_;
    request.kind = is_mapped() ? PinKind::mapped : PinKind::write;
    request.uid = 1000;
    request.stores = stores_allowed_;
    if (is_mapped()) request.protect = [this](FileRange range) { protect(range); };
    if (frames_) {
      request.frames = frames_->data();
      request.frames_owner = frames_;
    }
    PinStash stash;
    auto pinned =
        sim_.world().run([&] { return begin_pin(sim_.files(), *inode_, request, stash); });
    sim_.world().inside([&] { stash.pin.reset(); });
    if (!pinned.ok()) return pinned.error();
    pin_ = std::move(pinned).value();
    sim_.world().inside([this] { observe(); });
    return {};
  }
  Result<void> unpin() {
    stop();
    sim_.world().inside([this] { observe(); });
    const Result<void> ended = sim_.world().run([this] { return end_pin(sim_.files(), *pin_); });
    if (ended.ok()) forget();
    return ended;
  }
  // The volume is gone, or about to go.
  void forget() {
    kept_.clear();  // nobody waits for them any more
    stop();
    sim_.world().inside([this] {
      pin_.reset();
      inode_.reset();
    });
  }
  // Where the words that it stores begin.
  void set_serial(uint64_t serial) { serial_ = serial; }

  // One sector of one page.
  void store() {
    const FileBlock page = range_.first + BlockCount(random_.below(range_.count().value()));
    store(page.value());
  }
  // Of a mapped page, faults until it may.
  void store(uint64_t page) {
    while (is_mapped() && right(page) != PageRight::store) {
      REQUIRE(fault(page, PinAccess::store).ok());
    }
    store_now(page);
  }
  // One fault of a mapped page.
  Result<void> fault(uint64_t page, PinAccess access) {
    auto stash = std::make_unique<PinFaultStash>();
    const Result<void> faulted =
        sim_.world().run([&] { return fault_attempt(page, access, *stash); });
    sim_.world().inside([&] { stash.reset(); });
    return faulted;
  }
  // The same, beside what the test does then.
  void spawn_fault(uint64_t page, PinAccess access, std::function<void()> on_done) {
    sim_.world().spawn(
        [=, this, stash = std::make_shared<PinFaultStash>()] {
          return fault_attempt(page, access, *stash);
        },
        [on_done = std::move(on_done)](const Result<void>& faulted) {
          REQUIRE(faulted.ok());
          on_done();
        });
  }
  PageRight right(uint64_t page) const { return rights_[page - range_.first.value()]; }
  uint64_t faults() const { return faults_; }
  void store_all() {
    for (FileBlock at = range_.first; at < range_.end; ++at) store(at.value());
  }
  // Into mapped pages without a fault.
  void store_where_allowed() {
    for (FileBlock at = range_.first; at < range_.end; ++at) {
      if (right(at.value()) == PageRight::store) store_now(at.value());
    }
  }
  uint64_t stores() const { return stores_; }
  std::byte* frame(uint64_t page) { return pin_->frame(FileBlock(page)); }
  // Loads only.
  void forbid_stores() { stores_allowed_ = false; }

  // Nobody waits for it for long; before pin(). It answers calls at once, until it is deaf: then it
  // keeps them, and stores where it may already.
  void may_be_late() { may_be_late_ = true; }
  void be_deaf() { deaf_ = true; }
  // Answers what it has kept, in order, and does not keep any more.
  void listen() {
    sim_.world().inside([this] { answer(); });
    deaf_ = false;
  }
  // The same in an attempt.
  void answer() {
    for (auto& [ticket, change] : std::exchange(kept_, {})) {
      change();
      ticket.done();
    }
  }
  size_t kept_count() const { return kept_.size(); }
  // As one that has gone: what it has been asked is done, and it has no rights.
  void hang_up() {
    sim_.world().inside([this] {
      gone_ = true;
      for (auto& [ticket, change] : std::exchange(kept_, {})) ticket.done();
      rights_.assign(rights_.size(), PageRight::none);
    });
  }
  Pin& pinned() { return *pin_; }
  std::weak_ptr<AlignedBuffer> frames() const { return frames_; }

  // Stores all the time until stop(), between whatever else happens.
  void start() {
    auto running = std::make_shared<bool>(true);
    running_ = running;
    timer_ = std::make_shared<Waitable>();
    ended_ = std::make_shared<bool>(false);
    auto count = std::make_shared<uint64_t>(0);
    auto alarm = std::make_shared<Scheduler::TimerId>(0);
    sim_.world().spawn([this, running, timer = timer_, ended = ended_, count, alarm,
                        fault = std::make_shared<FaultUnderWay>()]() -> Attempt<void> {
      Scheduler& scheduler = sim_.world().scheduler();
      scheduler.cancel_timer(*alarm);  // it may not have been what has woken us
      if (!*running && !fault->begun) {
        *ended = true;
        return {};
      }
      const Attempt<void> stored = store_or_fault(*fault);
      if (stored.must_restart()) return stored;
      Operation::current()->note_progress();
      // Dense at first; what lasts for seconds would take for ever otherwise.
      const uint64_t delay_ns = random_.below(++*count < 500 ? 20'000 : 20'000'000);
      *alarm = scheduler.wake_at(scheduler.clock().monotonic_ns() + 1 + delay_ns, *timer);
      return restart_after(*timer, RestartReason::idle);
    });
  }
  void stop() {
    if (running_ && !sim_.world().dead()) {
      *running_ = false;
      sim_.world().inside([this] { timer_->wake_all(); });
      sim_.world().run_until([this] { return *ended_; });
    }
    running_.reset();
  }

  // What the pages look like now, if it is known to nobody yet.
  void observe() {
    check_rights();
    for (FileBlock at = range_.first; at < range_.end; ++at) observe(at.value());
  }

 private:
  struct FaultUnderWay {
    bool begun = false;
    uint64_t page = 0;
    PinAccess access = PinAccess::store;
    std::unique_ptr<PinFaultStash> stash;
  };

  void store_now(uint64_t page) {
    observe(page);
    put_sector(pin_->frame(FileBlock(page)), random_.below(kPinSectors), ++serial_);
    ++stores_;
    observe(page);
  }
  // A store into any page, or the fault that has to come before it.
  Attempt<void> store_or_fault(FaultUnderWay& fault) {
    if (!fault.begun) {
      fault.page = (range_.first + BlockCount(random_.below(range_.count().value()))).value();
      if (!is_mapped() || right(fault.page) == PageRight::store) {
        store_now(fault.page);
        return {};
      }
      if (deaf_ || gone_) return {};
      fault.access = random_.chance(0.3) ? PinAccess::load : PinAccess::store;
      fault.stash = std::make_unique<PinFaultStash>();
      fault.begun = true;
    }
    const Attempt<void> faulted = fault_attempt(fault.page, fault.access, *fault.stash);
    if (faulted.must_restart()) return faulted;
    fault.stash.reset();
    fault.begun = false;
    // The right may have been taken back already: then it faults again some time.
    if (right(fault.page) == PageRight::store) store_now(fault.page);
    return {};
  }
  Attempt<void> fault_attempt(uint64_t page, PinAccess access, PinFaultStash& stash) {
    check_rights();
    return fault_pinned(
        sim_.files(), *pin_, FileBlock(page), access, [=, this] { grant(page, access); }, stash);
  }
  // Without the monitor, as protect().
  void grant(uint64_t page, PinAccess access) {
    if (gone_) return;
    if (deaf_) return keep([=, this] { grant_now(page, access); });
    grant_now(page, access);
  }
  void protect(FileRange range) {
    if (gone_) return;
    if (deaf_) return keep([=, this] { protect_now(range); });
    protect_now(range);
  }
  void keep(std::function<void()> change) {
    kept_.emplace_back(hand_on_outside(), std::move(change));
  }
  void grant_now(uint64_t page, PinAccess access) {
    PageRight& right = rights_[page - range_.first.value()];
    if (access == PinAccess::store) {
      right = PageRight::store;
    } else if (right == PageRight::none) {
      right = PageRight::load;
    }
    ++faults_;
  }
  void protect_now(FileRange range) {
    for (FileBlock at = range.first; at < range.end; ++at) {
      PageRight& right = rights_[(at - range_.first).value()];
      if (right != PageRight::store) continue;
      if (random_.chance(0.5)) store_now(at.value());  // the last one
      right = PageRight::load;
    }
  }
  // Who may store into a page without a fault stores into one that will be written.
  void check_rights() {
    for (FileBlock at = range_.first; is_mapped() && at < range_.end; ++at) {
      if (right(at.value()) != PageRight::store) continue;
      const FolioRef folio = inode_->mapping.find(at);
      if (!folio || !folio->is_mapped() || !(folio->dirty || folio->writeback)) {
        CAPTURE(at.value());
        FAIL("a page that may be stored into, and that nobody will write");
      }
    }
  }
  void observe(uint64_t page) {
    if (is_mapped() && right(page) == PageRight::none) return;
    const auto state = state_of(pin_->frame(FileBlock(page)));
    if (!state) FAIL("a torn page");
    history_.add(page, *state);
  }

  SimVolume& sim_;
  InodeRef inode_;
  const FileRange range_;
  PageHistory& history_;
  Random random_;
  std::shared_ptr<AlignedBuffer> frames_;
  Ref<Pin> pin_;
  std::shared_ptr<bool> running_;
  std::shared_ptr<bool> ended_;
  std::shared_ptr<Waitable> timer_;
  uint64_t serial_ = 1'000'000;
  uint64_t stores_ = 0;
  bool stores_allowed_ = true;
  std::vector<PageRight> rights_;  // of each page of a mapped range
  uint64_t faults_ = 0;
  bool may_be_late_ = false;
  bool deaf_ = false;
  bool gone_ = false;
  std::vector<std::pair<OutsideTicket, std::function<void()>>> kept_;
};

// A file of `pages` pages on the device and nowhere else, page i of states {first + i, ...}.
inline InodeRef pinnable_file(SimVolume& sim, const char* name, uint64_t pages, uint64_t first,
                              PageHistory* history = nullptr) {
  std::vector<PageState> states(pages);
  for (uint64_t page = 0; page < pages; ++page) {
    states[page].fill(first + page);
    if (history != nullptr) history->add(page, states[page]);
  }
  const InodeRef inode = sim.create(name);
  // From memory that the device can take, wherever the allocator has put that of `content`.
  const Content content = pages_of(states);
  AlignedBuffer buffer(content.size());
  std::copy(content.begin(), content.end(), buffer.data());
  REQUIRE(sim.write(*inode, 0, buffer.bytes(), How::direct).ok());
  REQUIRE(sim.sync().ok());
  return inode;
}

inline Result<void> fsync(SimVolume& sim, const InodeRef& inode, PageHistory* history = nullptr) {
  std::vector<size_t> since;
  if (history != nullptr) since = history->now();
  OpenFile file;
  file.inode = inode;
  file.write_errors_seen = inode->write_error_count;
  const Result<void> synced = sim.fsync(file);
  if (synced.ok() && history != nullptr) history->made_durable(since);
  return synced;
}

}  // namespace fusefs
