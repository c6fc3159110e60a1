// The allocator against a model that knows the state of every block.
#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "tests/sim/space_rig.h"
#include "tests/support/test_options.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kMiB = 1 << 20;

enum class State : uint8_t { free, handed_out, allocated, released, node, node_released, trimmed };

// One volume, random operations on it, and what every block must be.
class OracleRun {
 public:
  OracleRun(const TestSeed& seed, uint64_t volume_bytes)
      : rig_(seed.seed, seed.forced_restart_probability, volume_bytes),
        random_(seed.seed * 77 + 1),
        blocks_((rig_.space().data_end() - rig_.space().data_first()).value(), State::free) {
    set({BlockNo(rig_.superblock().tree_root), BlockNo(rig_.superblock().tree_root + kNodeBlocks)},
        State::free, State::node);
    nodes_.push_back(BlockNo(rig_.superblock().tree_root));
    durable_model_ = committed();
  }

  void run(int steps) {
    for (int i = 0; i < steps; ++i) {
      step();
      compare_counts();
    }
    finish();
  }

 private:
  void step() {
    const uint64_t dice = random_.below(100);
    if (dice < 35) {
      allocate();
    } else if (dice < 45) {
      settle_handed_out(random_.chance(0.8));
    } else if (dice < 65) {
      release();
    } else if (dice < 75) {
      durable_ = std::min(seq_, durable_ + random_.below(8));
      rig_.world().inside([&] { rig_.durability().set_durable(durable_); });
    } else if (dice < 80) {
      toggle_guard();
    } else if (dice < 90) {
      checkpoint();
    } else if (dice < 95) {
      trim();
    } else if (dice < 97) {
      reopen();
    } else {
      const BlockNo at = random_block();
      const Result<bool> allocated = rig_.is_allocated(at);
      REQUIRE(allocated.ok());
      CHECK_EQ(allocated.value(), is_committed(state(at)));
    }
  }

  // ---- The model ----

  State& state(BlockNo block) { return blocks_[(block - rig_.space().data_first()).value()]; }
  static bool is_committed(State state) {
    return state == State::allocated || state == State::node;
  }
  BlockNo random_block() {
    return rig_.space().data_first() + BlockCount(random_.below(blocks_.size()));
  }
  void set(BlockRange range, State from, State to) {
    for (BlockNo at = range.first; at < range.end; ++at) {
      REQUIRE(state(at) == from);
      state(at) = to;
    }
  }
  // What a crash would leave of the present if it were checkpointed now.
  std::vector<State> committed() const {
    std::vector<State> result = blocks_;
    for (State& state : result) {
      if (!is_committed(state)) state = State::free;
    }
    return result;
  }

  struct Released {
    BlockRange blocks;
    uint64_t seq;
    std::set<uint64_t> guards;
  };
  // Released blocks that may be used again become free: the allocator sees it when it is asked.
  void settle_released() {
    while (!released_.empty()) {
      const Released& oldest = released_.front();
      const bool guarded = std::any_of(oldest.guards.begin(), oldest.guards.end(),
                                       [&](uint64_t id) { return guards_.contains(id); });
      if (oldest.seq > durable_ || guarded) return;
      set(oldest.blocks, State::released, State::free);
      released_.erase(released_.begin());
    }
  }
  void compare_counts() {
    settle_released();
    REQUIRE(rig_.reserve(0).ok());  // asking is what makes the allocator look
    const SpaceStats stats = rig_.space().stats();
    const auto count = [&](State wanted) {
      return static_cast<uint64_t>(std::count(blocks_.begin(), blocks_.end(), wanted));
    };
    REQUIRE_EQ(stats.free_blocks, count(State::free));
    REQUIRE_EQ(stats.releasing_blocks, count(State::released));
  }

  // ---- Operations ----

  void allocate() {
    settle_released();
    const uint64_t want = random_.chance(0.5) ? random_.between(1, 8) : random_.between(1, 2000);
    // Asking for more than is left would wait for what only this test can do.
    if (want + 64 > rig_.space().stats().available_blocks -
                        std::min(rig_.space().stats().available_blocks,
                                 rig_.space().stats().releasing_blocks + trimmed_blocks())) {
      return;
    }
    std::optional<BlockNo> goal;
    if (random_.chance(0.7) && !extents_.empty()) goal = extents_.back().end;
    if (random_.chance(0.2)) goal = random_block();
    const Result<BlockRange> got = rig_.allocate(want, goal);
    REQUIRE(got.ok());
    REQUIRE(!got.value().empty());
    REQUIRE_LE(got.value().count().value(), want);
    set(got.value(), State::free, State::handed_out);
    handed_out_.push_back(got.value());
    if (random_.chance(0.7)) settle_handed_out(true);
  }

  void settle_handed_out(bool commit) {
    if (handed_out_.empty()) return;
    const BlockRange blocks = handed_out_.back();
    handed_out_.pop_back();
    if (commit) {
      REQUIRE(rig_.commit(blocks).ok());
      set(blocks, State::handed_out, State::allocated);
      extents_.push_back(blocks);
    } else {
      rig_.world().inside([&] { rig_.space().cancel(blocks); });
      set(blocks, State::handed_out, State::free);
    }
  }

  // A piece of an extent, often a single block: so the volume becomes fragmented.
  void release() {
    if (extents_.empty()) return;
    const size_t index = random_.below(extents_.size());
    const BlockRange extent = extents_[index];
    const uint64_t first = random_.below(extent.count().value());
    const uint64_t rest = extent.count().value() - first;
    const uint64_t len = random_.chance(0.5) ? rest : random_.between(1, rest);
    const BlockRange piece = block_range(extent.first + BlockCount(first), BlockCount(len));
    extents_.erase(extents_.begin() + static_cast<ptrdiff_t>(index));
    if (extent.first != piece.first) extents_.push_back({extent.first, piece.first});
    if (piece.end != extent.end) extents_.push_back({piece.end, extent.end});
    REQUIRE(rig_.release(piece, ++seq_).ok());
    set(piece, State::allocated, State::released);
    std::set<uint64_t> live;
    for (const auto& [id, guard] : guards_) live.insert(id);
    released_.push_back({piece, seq_, live});
  }

  void toggle_guard() {
    if (guards_.size() > 2 || (random_.chance(0.5) && !guards_.empty())) {
      rig_.world().inside([&] { guards_.erase(guards_.begin()); });
    } else {
      rig_.world().inside([&] { guards_.emplace(++next_guard_, rig_.space().guard_io()); });
    }
  }

  void checkpoint() {
    if (frozen_) {
      const bool durable = random_.chance(0.7);
      rig_.end_checkpoint(*frozen_, durable);
      if (durable) {
        for (BlockNo node : frozen_released_) {
          set(block_range(node, BlockCount(kNodeBlocks)), State::node_released, State::free);
        }
        frozen_released_.clear();
        durable_model_ = frozen_model_;
      }
      frozen_.reset();
      return;
    }
    const uint64_t count = random_.between(0, 30);
    std::vector<BlockNo> released;
    while (!nodes_.empty() && random_.chance(0.9)) {
      const size_t index = random_.below(nodes_.size());
      released.push_back(nodes_[index]);
      nodes_.erase(nodes_.begin() + static_cast<ptrdiff_t>(index));
    }
    settle_released();
    Result<SpaceRig::Checkpoint> begun = rig_.begin_checkpoint(count, released);
    REQUIRE(begun.ok());
    for (BlockNo node : begun.value().nodes) {
      const BlockRange blocks = block_range(node, BlockCount(kNodeBlocks));
      CHECK_EQ((node - rig_.space().data_first()).value() % kGroupBlocks % kNodeBlocks, 0);
      set(blocks, State::free, State::node);
      nodes_.push_back(node);
    }
    for (BlockNo node : released) {
      set(block_range(node, BlockCount(kNodeBlocks)), State::node, State::node_released);
      frozen_released_.push_back(node);
    }
    frozen_ = begun.value();
    frozen_model_ = committed();
    CHECK_EQ(
        frozen_->superblock.free_blocks.get(),
        static_cast<uint64_t>(std::count(frozen_model_.begin(), frozen_model_.end(), State::free)));
  }

  uint64_t trimmed_blocks() const { return trimmed_ ? trimmed_->count().value() : 0; }
  void trim() {
    if (trimmed_) {
      rig_.world().inside([&] { rig_.space().end_trim(*trimmed_); });
      set(*trimmed_, State::trimmed, State::free);
      trimmed_.reset();
      return;
    }
    settle_released();
    const BlockNo from = random_block();
    const BlockNo end = from + BlockCount(random_.below(5000));
    const BlockCount min(random_.between(1, 64));
    std::optional<std::optional<BlockRange>> found;
    const Result<void> outcome = rig_.world().run([&]() -> Attempt<void> {
      if (!found) ATTEMPT_INTO(found, rig_.space().begin_trim(from, end, min));
      return {};
    });
    REQUIRE(outcome.ok());
    if (!*found) return;
    trimmed_ = **found;
    CHECK(trimmed_->first >= from);
    CHECK(trimmed_->end <= end);
    CHECK(trimmed_->count() >= min);
    set(*trimmed_, State::free, State::trimmed);
  }

  // A crash: what the last durable checkpoint contains is there, and nothing else.
  void reopen() {
    rig_.world().inside([&] { guards_.clear(); });
    REQUIRE(rig_.open().ok());
    handed_out_.clear();
    released_.clear();
    frozen_released_.clear();
    frozen_.reset();
    trimmed_.reset();
    extents_.clear();
    nodes_.clear();
    blocks_ = durable_model_;
    for (size_t i = 0; i < blocks_.size();) {
      size_t end = i;
      while (end < blocks_.size() && blocks_[end] == blocks_[i]) ++end;
      const BlockNo first = rig_.space().data_first() + BlockCount(i);
      if (blocks_[i] == State::allocated)
        extents_.push_back(block_range(first, BlockCount(end - i)));
      for (; blocks_[i] == State::node && i < end; i += kNodeBlocks) {
        nodes_.push_back(rig_.space().data_first() + BlockCount(i));
      }
      i = end;
    }
  }

  void finish() {
    while (!handed_out_.empty()) settle_handed_out(true);
    if (frozen_) checkpoint();
    if (!frozen_) checkpoint();
    rig_.end_checkpoint(*frozen_, true);
    durable_model_ = frozen_model_;
    frozen_.reset();
    reopen();
    for (uint64_t i = 0; i < blocks_.size(); i += 1 + random_.below(7)) {
      const Result<bool> allocated = rig_.is_allocated(rig_.space().data_first() + BlockCount(i));
      REQUIRE(allocated.ok());
      REQUIRE_EQ(allocated.value(), durable_model_[i] != State::free);
    }
    CHECK(!rig_.health().failed());
    CHECK(!rig_.health().saw_corruption());
  }

  SpaceRig rig_;
  Random random_;
  std::vector<State> blocks_;
  std::vector<BlockRange> extents_;  // allocated
  std::vector<BlockRange> handed_out_;
  std::vector<Released> released_;
  std::vector<BlockNo> nodes_;
  std::vector<BlockNo> frozen_released_;
  std::map<uint64_t, IoGuard> guards_;
  uint64_t next_guard_ = 0;
  uint64_t seq_ = 0;
  uint64_t durable_ = 0;
  std::optional<BlockRange> trimmed_;
  std::optional<SpaceRig::Checkpoint> frozen_;
  std::vector<State> frozen_model_;
  std::vector<State> durable_model_;
};

TEST_CASE("no block is given to two, none is lost, and a crash finds the last checkpoint") {
  for_each_seed(4, [](const TestSeed& seed) { OracleRun(seed, 64 * kMiB).run(400); });
}

TEST_CASE("the same on a volume of several groups") {
  for_each_seed(2, [](const TestSeed& seed) { OracleRun(seed, 520 * kMiB).run(250); });
}

}  // namespace
}  // namespace fusefs
