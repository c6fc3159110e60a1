// A pinned range in a simulated volume, somebody who stores into it whenever he gets the chance,
// and what the pages have looked like.
//
// A state of a page is one word for each of its sectors: sectors hold one word repeated. All that a
// page has looked like is remembered, so that what a clone, a read or the device has after a power
// cut can be found in it. A page that is a mixture of two states is none of them.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
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

// Pins a range of a file for writing and stores into it, by itself or when it is told to.
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
  Result<void> pin() {
    PinRequest request{range_, PinKind::write, 1000, false, nullptr, nullptr};
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
  void store(uint64_t page) {
    observe(page);
    put_sector(pin_->frame(FileBlock(page)), random_.below(kPinSectors), ++serial_);
    ++stores_;
    observe(page);
  }
  void store_all() {
    for (FileBlock at = range_.first; at < range_.end; ++at) store(at.value());
  }
  uint64_t stores() const { return stores_; }
  std::byte* frame(uint64_t page) { return pin_->frame(FileBlock(page)); }

  // Stores all the time until stop(), between whatever else happens.
  void start() {
    auto running = std::make_shared<bool>(true);
    running_ = running;
    timer_ = std::make_shared<Waitable>();
    ended_ = std::make_shared<bool>(false);
    auto count = std::make_shared<uint64_t>(0);
    auto alarm = std::make_shared<Scheduler::TimerId>(0);
    sim_.world().spawn(
        [this, running, timer = timer_, ended = ended_, count, alarm]() -> Attempt<void> {
          Scheduler& scheduler = sim_.world().scheduler();
          scheduler.cancel_timer(*alarm);  // it may not have been what has woken us
          if (!*running) {
            *ended = true;
            return {};
          }
          store();
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
    for (FileBlock at = range_.first; at < range_.end; ++at) observe(at.value());
  }

 private:
  void observe(uint64_t page) {
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
  REQUIRE(sim.write(*inode, 0, pages_of(states), How::direct).ok());
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
