// WindowFaults in a simulated world: programs that fault, are slow to take their rights, refuse to
// give them back, come and die, while others sync, cut and fill the volume. Their page tables are
// played here; at every step nobody may store into a page that could be clean.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/file/fsync.h"
#include "core/file/pin.h"
#include "fusefs/window_faults.h"
#include "tests/sim/pinnable_file.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

using Change = FaultChannel::Change;

constexpr FileRange kWindow = kRange;
constexpr uint64_t kWindowPages = 8;

// A window and its memory.
struct WindowBed : PinnableFile {
  explicit WindowBed(const TestSeed& a_seed) : PinnableFile(a_seed) {
    frames = std::make_shared<AlignedBuffer>(kWindowPages * kPageBytes);
    gate = std::make_shared<FaultGate>(sim.world().monitor(), [] {});
    faults = std::make_shared<WindowFaults>(gate, sim.world().scheduler(), sim.files(), stats,
                                            kWindow, 1000);
    PinRequest request;
    request.range = kWindow;
    request.kind = PinKind::mapped;
    request.uid = 1000;
    request.frames = frames->data();
    request.frames_owner = frames;
    request.protect = [window = std::weak_ptr<WindowFaults>(faults)](FileRange pages) {
      if (const auto there = window.lock()) there->protect(pages);
    };
    PinStash stash;
    auto pinned = sim.world().run([&] { return begin_pin(sim.files(), *inode, request, stash); });
    sim.world().inside([&] { stash.pin.reset(); });
    REQUIRE(pinned.ok());
    pin = std::move(pinned).value();
    sim.world().inside([&] { faults->set_pin(pin); });
  }

  std::byte* frame(uint64_t page) const { return frames->data() + page * kPageBytes; }
  // What a page of the window looks like, if it is known to nobody yet.
  void observe(uint64_t page) {
    const auto state = state_of(frame(page));
    if (!state) FAIL("a torn page");
    history.add(kWindow.first.value() + page, *state);
  }

  std::shared_ptr<AlignedBuffer> frames;
  std::shared_ptr<FaultGate> gate;
  WindowStats stats;
  std::shared_ptr<WindowFaults> faults;
  Ref<Pin> pin;
  uint64_t serial = 1'000'000;
};

// A program that loads and stores, and its channel, which takes its time.
class FakeProgram final : public FaultChannel, public std::enable_shared_from_this<FakeProgram> {
 public:
  FakeProgram(WindowBed& bed, OnFault on_fault)
      : bed_(bed),
        on_fault_(std::move(on_fault)),
        random_(bed.sim.world().random().fork()),
        rights_(kWindowPages, PageRight::none) {}

  bool give(Order order) override {
    if (ended_) return false;
    orders_.push_back(std::move(order));
    return true;
  }
  void note_served() override {
    REQUIRE(in_flight_ != 0);
    --in_flight_;
  }
  void end() override {
    if (std::exchange(ended_, true)) return;
    rights_.assign(kWindowPages, PageRight::none);
    for (const Order& order : std::exchange(orders_, {})) {
      if (order.done) order.done();
    }
    timer_.wake_all();
    waiting_.reset();
  }

  // Both until it has ended, or is told to stop. Keep it.
  void start() {
    const auto self = shared_from_this();
    bed_.sim.world().spawn([self, alarm = Alarm()]() mutable { return self->live(alarm); });
    bed_.sim.world().spawn([self, alarm = Alarm()]() mutable { return self->answer(alarm); });
  }
  void stop() { stopping_ = true; }
  bool is_idle() const { return !waiting_ && orders_.empty() && in_flight_ == 0; }
  void be_deaf(bool deaf) { deaf_ = deaf; }
  bool may_store(uint64_t page) const { return rights_[page] == PageRight::store; }
  uint64_t stores() const { return stores_; }
  uint64_t refusals() const { return refusals_; }

 private:
  struct Alarm {
    Scheduler::TimerId id = 0;
  };

  bool is_over() const { return ended_ || stopping_; }
  Restart sleep(Alarm& alarm, uint64_t delay_ns) {
    Scheduler& scheduler = bed_.sim.world().scheduler();
    Operation::current()->note_progress();
    alarm.id = scheduler.wake_at(scheduler.clock().monotonic_ns() + 1 + delay_ns, timer_);
    return restart_after(timer_, RestartReason::idle);
  }

  Attempt<void> live(Alarm& alarm) {
    bed_.sim.world().scheduler().cancel_timer(alarm.id);
    if (is_over()) return {};
    if (!waiting_) touch(random_.below(kWindowPages), random_.chance(0.7));
    return sleep(alarm, random_.below(200'000));
  }
  void touch(uint64_t page, bool store) {
    if (rights_[page] == PageRight::none || (store && rights_[page] == PageRight::load)) {
      waiting_ = page;
      ++in_flight_;
      Fault fault;
      fault.page = page;
      fault.store = store;
      fault.was_there = rights_[page] != PageRight::none;
      return on_fault_(shared_from_this(), fault);
    }
    bed_.observe(page);
    if (store) this->store(page);
  }
  void store(uint64_t page) {
    put_sector(bed_.frame(page), random_.below(kPinSectors), ++bed_.serial);
    ++stores_;
    bed_.observe(page);
  }

  Attempt<void> answer(Alarm& alarm) {
    bed_.sim.world().scheduler().cancel_timer(alarm.id);
    if (ended_ || (stopping_ && is_idle())) return {};
    if (!deaf_ && !orders_.empty()) {
      const Order order = std::move(orders_.front());
      orders_.pop_front();
      carry_out(order);
      if (order.done) order.done();
    }
    return sleep(alarm, random_.below(random_.chance(0.02) ? 3 * kRightsWaitNs : 50'000));
  }
  void carry_out(const Order& order) {
    for (uint64_t page = order.first; page < order.first + order.count; ++page) {
      PageRight& right = rights_[page];
      switch (order.change) {
        case Change::load:
          if (right == PageRight::none) right = PageRight::load;
          break;
        case Change::store:
          right = PageRight::store;
          break;
        case Change::upgrade:
          if (right == PageRight::load) right = PageRight::store;
          break;
        case Change::protect:
          if (right != PageRight::store) continue;  // wakes nobody
          if (random_.chance(0.5)) store(page);     // the last one
          right = PageRight::load;
          continue;
        case Change::refuse:
          CHECK(order.errno_value != 0);
          ++refusals_;
          break;
      }
      if (waiting_ == page) waiting_.reset();
    }
  }

  WindowBed& bed_;
  const OnFault on_fault_;
  Random random_;
  std::vector<PageRight> rights_;
  std::deque<Order> orders_;
  std::optional<uint64_t> waiting_;  // in a fault of this page
  Waitable timer_;
  size_t in_flight_ = 0;
  bool ended_ = false;
  bool stopping_ = false;
  bool deaf_ = false;
  uint64_t stores_ = 0;
  uint64_t refusals_ = 0;
};

// Programs that come and go.
struct Programs {
  explicit Programs(WindowBed& a_bed) : bed(a_bed) {}
  void add() {
    std::shared_ptr<FakeProgram> program;
    const uint64_t holder = ++last_holder;
    REQUIRE(bed.faults
                ->attach(holder,
                         [&](FaultChannel::OnFault on_fault) {
                           program = std::make_shared<FakeProgram>(bed, std::move(on_fault));
                           return Result<std::shared_ptr<FaultChannel>>(program);
                         })
                .ok());
    program->start();
    all.emplace_back(holder, program);
  }
  // As one that dies.
  void kill(size_t which) {
    bed.sim.world().inside([&] { bed.faults->detach(all[which].first); });
    all.erase(all.begin() + static_cast<ptrdiff_t>(which));
  }
  FakeProgram& any(Random& random) { return *all[random.below(all.size())].second; }
  void check() {
    for (uint64_t page = 0; page < kWindowPages; ++page) {
      for (const auto& [holder, program] : all) {
        if (!program->may_store(page)) continue;
        const FolioRef folio = bed.inode->mapping.find(kWindow.first + BlockCount(page));
        REQUIRE(folio);
        CHECK(folio->is_mapped());
        CHECK((folio->dirty || folio->writeback));
      }
    }
  }
  // Everybody answers, and stores no more.
  void finish() {
    for (const auto& [holder, program] : all) {
      program->be_deaf(false);
      program->stop();
    }
    REQUIRE(bed.sim.world().run_until([&] {
      return std::all_of(all.begin(), all.end(),
                         [](const auto& entry) { return entry.second->is_idle(); });
    }));
  }

  WindowBed& bed;
  std::vector<std::pair<uint64_t, std::shared_ptr<FakeProgram>>> all;
  uint64_t last_holder = 0;
};

// The programs' connections end, then the pin, as in window_end.cc.
void end_window(WindowBed& bed) {
  bed.sim.world().inside([&] { bed.faults->end(); });
  REQUIRE(bed.sim.world().run([&] { return end_pin(bed.sim.files(), *bed.pin); }).ok());
  bed.sim.world().inside([&] { bed.pin.reset(); });
  CHECK(bed.inode->mapping.pinned_count() == 0);
}

void require_after_cut(WindowBed& bed, Programs& programs) {
  programs.all.clear();
  bed.sim.world().inside([&] {
    bed.faults->end();
    bed.faults.reset();
    bed.pin.reset();
  });
  bed.require_after_cut();
}

TEST_CASE("programs that share a window are served, whoever dies and comes, and lose nothing") {
  for_each_seed(12, [](const TestSeed& seed) {
    WindowBed bed(seed);
    Programs programs(bed);
    Random random(seed.seed);
    programs.add();
    programs.add();
    uint64_t stores = 0;
    for (int step = 0; step < 30; ++step) {
      switch (random.below(6)) {
        case 0:
          if (programs.all.size() < 4) programs.add();
          break;
        case 1:
          if (programs.all.size() > 1) programs.kill(random.below(programs.all.size()));
          break;
        case 2:
          programs.any(random).be_deaf(random.chance(0.4));
          break;
        case 3:
          bed.require_fsync();
          break;
        default:
          REQUIRE(bed.sim.world().run_for(random.below(5'000'000)));
      }
      bed.sim.world().inside([&] { programs.check(); });
    }
    for (const auto& [holder, program] : programs.all) stores += program->stores();
    CHECK(stores + bed.stats.store_fault_count + bed.stats.upgrade_fault_count > 0);
    CHECK(bed.stats.refused_fault_count == 0);
    if (seed.seed % 2 == 0) return require_after_cut(bed, programs);
    programs.finish();
    const std::vector<size_t> since = bed.history.now();
    end_window(bed);
    bed.require_read(since);
    bed.require_fsync();
    require_after_cut(bed, programs);
  });
}

TEST_CASE("a window that ends in the middle of faults and protections leaves none of them behind") {
  for_each_seed(12, [](const TestSeed& seed) {
    WindowBed bed(seed);
    Programs programs(bed);
    for (int i = 0; i < 3; ++i) programs.add();
    REQUIRE(bed.sim.world().run_for(bed.sim.world().random().below(3'000'000)));
    if (seed.seed % 2 == 0) programs.all[0].second->be_deaf(true);
    if (seed.seed % 3 == 0) {  // protections, too
      bed.sim.world().spawn([&bed, stash = std::make_shared<FsyncStash>()] {
        return fsync_inode(bed.sim.files(), *bed.inode, *stash);
      });
    }
    REQUIRE(bed.sim.world().run_for(bed.sim.world().random().below(300'000)));
    bed.sim.world().inside([&] { programs.check(); });
    const std::vector<size_t> since = bed.history.now();
    end_window(bed);
    bed.require_read(since);
    CHECK(bed.faults->attach(77, OwnedFd(), 0, OwnedFd()).error() == Error::bad_address);
    REQUIRE(bed.sim.world().run_until_idle());
    require_after_cut(bed, programs);
  });
}

TEST_CASE(
    "stores for which there is no space are refused to each program, and come when there is") {
  for_each_seed(6, [](const TestSeed& seed) {
    WindowBed bed(seed);
    Programs programs(bed);
    // Every page of the window is a hole now.
    REQUIRE(bed.sim
                .fallocate(*bed.inode, FallocateMode::punch_hole, 2 * kPageBytes,
                           kWindowPages * kPageBytes, true)
                .ok());
    for (uint64_t page = 2; page < 10; ++page) bed.history.add(page, {});
    REQUIRE(bed.sim.sync().ok());
    Reservation all = bed.sim.take_space();
    programs.add();
    programs.add();
    const auto refused = [&](size_t which) { return programs.all[which].second->refusals(); };
    REQUIRE(bed.sim.world().run_until([&] { return refused(0) > 2 && refused(1) > 2; }));
    CHECK(bed.stats.refused_fault_count > 4);
    CHECK(bed.stats.store_fault_count + bed.stats.upgrade_fault_count == 0);
    bed.sim.world().inside([&] {
      programs.check();
      all.release();
    });
    REQUIRE(bed.sim.world().run_until([&] {
      return programs.all[0].second->stores() > 5 && programs.all[1].second->stores() > 5;
    }));
    bed.require_fsync();
    require_after_cut(bed, programs);
  });
}

TEST_CASE("a program that answers nothing holds up nobody, and the others of its window go on") {
  for_each_seed(6, [](const TestSeed& seed) {
    WindowBed bed(seed);
    Programs programs(bed);
    programs.add();
    programs.add();
    REQUIRE(bed.sim.world().run_for(5'000'000));
    programs.all[0].second->be_deaf(true);
    const uint64_t before = programs.all[1].second->stores();
    for (int i = 0; i < 4; ++i) {
      bed.require_fsync();
      REQUIRE(bed.sim.world().run_for(kNsPerSecond / 50));
    }
    CHECK(bed.sim.files().pins.stats().late_pages > 0);
    CHECK(programs.all[1].second->stores() > before);
    programs.kill(0);
    bed.require_fsync();
    programs.finish();
    end_window(bed);
    bed.require_read(bed.history.now());
    require_after_cut(bed, programs);
  });
}

}  // namespace
}  // namespace fusefs
