#include "tests/sim/journal_rig.h"

#include <algorithm>
#include <utility>

namespace fusefs {
namespace {

class Checkpointer final : public Operation {
 public:
  explicit Checkpointer(JournalRig& rig) : rig_(rig) {}
  const char* name() const override { return "test checkpointer"; }
  bool is_background() const override { return true; }

  Attempt<void> attempt() override {
    Journal& journal = rig_.journal;
    if (sealed_ == 0) {
      if (!journal.wants_checkpoint()) {
        return restart_after(journal.checkpoint_wanted(), RestartReason::idle);
      }
      sealed_seq_ = journal.last_seq().value();
      sealed_ = journal.seal();
    }
    ATTEMPT(const JournalMark mark, journal.mark_of(sealed_));
    // The superblock's write takes no time here.
    rig_.model.tail = mark;
    rig_.model.tail_seq = sealed_seq_ + 1;
    ++rig_.model.checkpoint_count;
    journal.release_before(mark);
    sealed_ = 0;
    return restart_now();
  }

 private:
  JournalRig& rig_;
  uint64_t sealed_ = 0;
  uint64_t sealed_seq_ = 0;
};

std::vector<std::byte> encode_again(const std::vector<Change>& changes) {
  ChangeEncoder encoder;
  for (const Change& change : changes) {
    switch (change.kind) {
      case ChangeKind::put:
        encoder.put(change.key, change.value);
        break;
      case ChangeKind::erase:
        encoder.erase(change.key);
        break;
      case ChangeKind::allocate:
        encoder.allocate(change.blocks);
        break;
      case ChangeKind::release:
        encoder.release(change.blocks);
        break;
    }
  }
  return {encoder.bytes().begin(), encoder.bytes().end()};
}

LogEntry entry_of(const LoggedTransaction& txn) {
  LogEntry entry{txn.seq.value(), 0, false};
  if (txn.changes.empty() || txn.changes.front().kind != ChangeKind::put) return entry;
  entry.id = txn.changes.front().key.object;
  const ChangeEncoder expected = changes_of(entry.id);
  entry.intact = std::ranges::equal(encode_again(txn.changes), expected.bytes());
  return entry;
}

}  // namespace

ChangeEncoder changes_of(uint64_t id) {
  Random random(id);
  ChangeEncoder encoder;
  const uint64_t puts = random.between(1, 5);
  for (uint64_t i = 0; i < puts; ++i) {
    std::vector<std::byte> value(random.below(random.chance(0.2) ? 4096 : 300));
    for (std::byte& byte : value) byte = static_cast<std::byte>(random.next());
    encoder.put(Key{id, KeyType::xattr, i}, value);
  }
  encoder.erase(Key{id, KeyType::inode, 0});
  encoder.allocate(block_range(BlockNo(id), BlockCount(1)));
  return encoder;
}

AlignedBuffer data_of(uint64_t id) {
  AlignedBuffer data(kBlockBytes);
  Random random(~id);
  for (std::byte& byte : data.bytes()) byte = static_cast<std::byte>(random.next());
  return data;
}

uint64_t data_addr(uint64_t id) { return (kTestDataFirst + id) * kBlockBytes; }

LogRead read_log(const SimImage& image, const JournalLayout& layout, const JournalMark& tail,
                 double forced, uint64_t seed) {
  SimWorldOptions options;
  options.forced_restart_probability = forced;
  SimWorld world(seed, options, image);
  JournalReader reader(world.device(), layout, tail);
  LogRead log;
  log.outcome = world.run([&]() -> Attempt<void> {
    for (;;) {
      ATTEMPT(const LoggedTransaction* txn, reader.current());
      if (txn == nullptr) return {};
      log.entries.push_back(entry_of(*txn));
      reader.advance();
      Operation::current()->note_progress();
    }
  });
  log.head = reader.head();
  log.read_bytes = reader.read_bytes();
  return log;
}

JournalRig::JournalRig(uint64_t seed, const SimWorldOptions& options, const JournalLayout& layout,
                       JournalModel& model_of, SimImage image, JournalMark head, uint64_t next_seq)
    : model(model_of),
      world(seed, options, std::move(image)),
      cache(world.device()),
      health(false),
      journal(world.scheduler(), world.device(), cache, health, layout, model.tail, head,
              JournalSeq(next_seq)) {
  world.inside([&] { journal.start(); });
}

JournalRig::~JournalRig() { world.abandon(); }

void JournalRig::start_checkpointer() { world.start(std::make_unique<Checkpointer>(*this)); }

Attempt<JournalSeq> JournalRig::append(uint64_t id, WriteStamp stamp) {
  const ChangeEncoder changes = changes_of(id);
  ATTEMPT_OK(journal.prepare(static_cast<uint32_t>(changes.bytes().size())));
  const JournalSeq seq = journal.append(changes.bytes(), changes.count(), stamp);
  model.id_of[seq.value()] = id;
  return seq;
}

Result<void> JournalRig::append_now(uint64_t id, bool waits) {
  return world.run([this, id, waits, seq = JournalSeq()]() mutable -> Attempt<void> {
    if (seq == JournalSeq()) {
      const Attempt<JournalSeq> appended = append(id);
      if (!appended.ok()) return Unfinished(appended);
      seq = Attempt<JournalSeq>(appended).value();
    }
    if (!waits) return {};
    ATTEMPT_OK(journal.wait_durable(seq));
    model.confirmed_seq = std::max(model.confirmed_seq, seq.value());
    return {};
  });
}

Attempt<void> Appender::operator()() {
  while (id_ < end_) {
    ATTEMPT_OK(append_one());
    ++id_;
    data_write_.reset();
    stamp_ = 0;
    appended_ = false;
    Operation::current()->note_progress();
  }
  return {};
}

Attempt<void> Appender::append_one() {
  JournalModel& model = rig_->model;
  if (!appended_) {
    if (id_ % 3 == 0) ATTEMPT_OK(write_data());
    Attempt<JournalSeq> appended = rig_->append(id_, stamp_);
    if (!appended.ok()) return Unfinished(appended);
    seq_ = appended.value();
    if (stamp_ != 0) model.shows_data.insert(id_);
    appended_ = true;
  }
  if (id_ % 3 == 1) return {};
  ATTEMPT_OK(rig_->journal.wait_durable(seq_));
  model.confirmed_seq = std::max(model.confirmed_seq, seq_.value());
  return {};
}

Attempt<void> Appender::write_data() {
  if (!data_write_) {
    data_ = data_of(id_);
    data_write_ = make_ref<IoTicket>();
    rig_->world.device().submit(IoRequest::write(data_addr(id_), data_.data(), data_.size()),
                                data_write_);
  }
  ATTEMPT_OK(data_write_->wait());
  if (stamp_ == 0) stamp_ = rig_->cache.note_write();
  return {};
}

}  // namespace fusefs
