// InodeTable: finding, loading, keeping and evicting inodes, and the list of dirty ones.
#include <algorithm>
#include <utility>

#include "core/inode/inode.h"

namespace fusefs {
namespace {

constexpr size_t kBucketsMin = 1024;
// How many idle inodes one call looks at for one to evict: those with pages or dirt are passed
// over, to the end of the list, and must not make a release expensive.
constexpr int kTrimLooksMax = 8;

}  // namespace

// ---- InodeList ----

void InodeList::push_back(Inode& inode) {
  Inode** links = inode.*links_;
  links[0] = last_;
  links[1] = nullptr;
  (last_ != nullptr ? (last_->*links_)[1] : first_) = &inode;
  last_ = &inode;
  ++size_;
}

void InodeList::remove(Inode& inode) {
  Inode** links = inode.*links_;
  (links[0] != nullptr ? (links[0]->*links_)[1] : first_) = links[1];
  (links[1] != nullptr ? (links[1]->*links_)[0] : last_) = links[0];
  links[0] = links[1] = nullptr;
  --size_;
}

// ---- InodeTable ----

InodeTable::InodeTable(Store& store, Space& space, const Clock& clock)
    : store_(store),
      space_(space),
      clock_(clock),
      buckets_(kBucketsMin),
      idle_(&Inode::idle_links_),
      dirty_(&Inode::dirty_links_) {}

InodeTable::~InodeTable() {
  size_t left = count_;
  while (Inode* inode = idle_.front()) {
    idle_.remove(*inode);
    if (inode->life != Inode::Life::removed) --left;
    delete inode;
  }
  CHECK_MSG(left == 0, "an inode is still referenced");
}

size_t InodeTable::bucket_of(InodeNo ino) const {
  return ino.value() & (buckets_.size() - 1);  // numbers are handed out in turn
}

Inode* InodeTable::find(InodeNo ino) const {
  Inode* inode = buckets_[bucket_of(ino)];
  while (inode != nullptr && inode->ino != ino) inode = inode->hash_next_;
  return inode;
}

void InodeTable::insert(Inode& inode) {
  if (count_ >= buckets_.size()) grow_buckets();
  Inode*& bucket = buckets_[bucket_of(inode.ino)];
  inode.hash_next_ = std::exchange(bucket, &inode);
  ++count_;
}

void InodeTable::unlink(Inode& inode) {
  Inode** place = &buckets_[bucket_of(inode.ino)];
  while (*place != &inode) place = &(*place)->hash_next_;
  *place = inode.hash_next_;
  inode.hash_next_ = nullptr;
  --count_;
}

void InodeTable::grow_buckets() {
  std::vector<Inode*> old = std::exchange(buckets_, std::vector<Inode*>(buckets_.size() * 2));
  for (Inode* chain : old) {
    while (Inode* inode = chain) {
      chain = inode->hash_next_;
      Inode*& bucket = buckets_[bucket_of(inode->ino)];
      inode->hash_next_ = std::exchange(bucket, inode);
    }
  }
}

InodeRef InodeTable::reference(Inode& inode) {
  if (inode.is_idle_) {
    idle_.remove(inode);
    inode.is_idle_ = false;
  }
  return InodeRef(&inode);
}

Attempt<InodeRef> InodeTable::get(InodeNo ino, NodePins& pins) {
  if (Inode* inode = find(ino)) return reference(*inode);
  if (ino.value() == 0 || ino.value() > kInodeNoMax) return Error::not_found;
  ATTEMPT(const std::optional<ItemView> item, store_.tree().find(inode_key(ino), pins));
  if (!item) return Error::not_found;
  TRY(const InodeAttr attr, decode_inode(*item));
  ++load_count_;
  auto* inode = new Inode(*this, attr);
  // It may have been here before, and what was written then not be durable yet. Nobody knows any
  // more, so its first fsync waits for everything that has been done until now.
  const Store::LastChange last = store_.last_change();
  inode->changed_seq = inode->data_seq = last.seq;
  inode->data_stamp = last.stamp;
  insert(*inode);
  return InodeRef(inode);
}

InodeRef InodeTable::peek(InodeNo ino) {
  Inode* inode = find(ino);
  return inode != nullptr ? reference(*inode) : InodeRef();
}

InodeRef InodeTable::adopt(const InodeAttr& attr, JournalSeq seq) {
  CHECK(find(attr.ino) == nullptr);
  auto* inode = new Inode(*this, attr);
  inode->changed_seq = inode->data_seq = seq;
  insert(*inode);
  return InodeRef(inode);
}

void InodeTable::removed(Inode& inode) {
  CHECK(inode.life != Inode::Life::removed && inode.ref_count() != 0);
  inode.life = Inode::Life::removed;
  inode.attr_dirty = false;
  unlist_dirty(inode);
  unlink(inode);
}

void InodeTable::unreferenced(Inode& inode) {
  if (inode.life == Inode::Life::removed && inode.mapping.empty()) {
    delete &inode;
    return;
  }
  inode.is_idle_ = true;
  idle_.push_back(inode);
  trim_cache();
}

bool InodeTable::is_evictable(const Inode& inode) {
  return !inode.attr_dirty && !inode.cut_pending && inode.mapping.empty();
}

void InodeTable::trim_cache() {
  for (int looks = 0; idle_.size() > cached_max_ && looks < kTrimLooksMax; ++looks) {
    Inode& oldest = *idle_.front();
    idle_.remove(oldest);
    if (oldest.atime_lazy) mark_attr_dirty(oldest);
    if (!is_evictable(oldest)) {
      idle_.push_back(oldest);
      continue;
    }
    unlist_dirty(oldest);
    if (oldest.life != Inode::Life::removed) unlink(oldest);
    delete &oldest;
  }
}

InodeNo InodeTable::take_inode_no() {
  const InodeNo taken = next_inode_no_;
  next_inode_no_ = taken.next();
  store_.set_next_inode(next_inode_no_);
  return taken;
}

void InodeTable::set_next_inode_no(InodeNo next) {
  next_inode_no_ = next;
  store_.set_next_inode(next);
}

void InodeTable::put_attr(Transaction& txn, const InodeAttr& attr, uint64_t size) {
  InodeValue value = attr.to_value();
  value.size = size;
  txn.put(inode_key(attr.ino), bytes_of(value));
}

void InodeTable::put_inode(Transaction& txn, const Inode& inode, uint64_t size) {
  CHECK(inode.life != Inode::Life::removed);  // its item would come back, without a name
  put_attr(txn, inode.attr, size);
}

void InodeTable::saved(Inode& inode, JournalSeq seq, uint64_t size, bool data_changed) {
  inode.changed_seq = seq;
  if (data_changed) inode.data_seq = seq;
  if (size > inode.disk_size) inode.tail_unknown = false;
  inode.disk_size = size;
  if (size == inode.attr.size) {
    inode.attr_dirty = false;
  } else {
    mark_attr_dirty(inode);
  }
}

void InodeTable::mark_attr_dirty(Inode& inode) {
  if (inode.life == Inode::Life::removed) return;  // nothing is left to be saved
  inode.attr_dirty = true;
  inode.atime_lazy = false;
  list_dirty(inode);
}

void InodeTable::mark_lazy_dirty() {
  for (Inode* chain : buckets_) {
    for (Inode* inode = chain; inode != nullptr; inode = inode->hash_next_) {
      if (inode->atime_lazy) mark_attr_dirty(*inode);
    }
  }
}

void InodeTable::list_dirty(Inode& inode) {
  if (inode.is_listed_dirty_ || inode.life == Inode::Life::removed) return;
  inode.is_listed_dirty_ = true;
  inode.dirty_since_ns_ = clock_.monotonic_ns();
  dirty_.push_back(inode);
}

void InodeTable::unlist_dirty(Inode& inode) {
  if (!inode.is_listed_dirty_) return;
  inode.is_listed_dirty_ = false;
  dirty_.remove(inode);
}

std::vector<InodeRef> InodeTable::dirty_inodes(size_t max) {
  return dirty_inodes_until(UINT64_MAX, max);
}

std::vector<InodeRef> InodeTable::dirty_inodes_until(uint64_t deadline_ns, size_t max) {
  std::vector<InodeRef> found;
  Inode* next = dirty_.front();
  while (next != nullptr && found.size() < max && next->dirty_since_ns_ <= deadline_ns) {
    Inode& inode = *next;
    next = dirty_.after(inode);
    // saved() leaves clean inodes in the list: only here it matters, and their pages may still be
    // under writeback then, to become dirty again if that fails.
    const bool clean = !inode.attr_dirty && inode.mapping.dirty_count() == 0 &&
                       inode.mapping.writeback_count() == 0;
    if (clean) {
      unlist_dirty(inode);
    } else {
      found.push_back(reference(inode));
    }
  }
  return found;
}

InodeTableStats InodeTable::stats() const {
  return {count_, lookups_.inode_count(), dirty_.size(), load_count_};
}

}  // namespace fusefs
