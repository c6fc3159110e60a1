#include "fusefs/notifier.h"

#include <array>

#include "core/engine/operation.h"
#include "fusefs/protocol.h"

namespace fusefs {

void Notifier::start(std::function<void()> woken) {
  woken_ = std::move(woken);
  running_ = true;
  thread_ = std::thread([this] { run(); });
}

void Notifier::start_unthreaded() {
  const std::lock_guard<std::mutex> lock(mutex_);
  running_ = true;
}

void Notifier::stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    running_ = false;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Attempt<void> Notifier::queue_drop(InodeNo ino, uint64_t pos, uint64_t len, Stash& stash) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!running_) return {};
  if (queue_.size() >= kNotifyQueueMax) return restart_after(room_, RestartReason::kernel);
  stash = std::make_shared<Job>();
  stash->ino = ino;
  stash->pos = static_cast<int64_t>(pos);
  stash->len = static_cast<int64_t>(len);
  pages_.begin(stash->drop, ino, pos, len);
  queue_.push_back(stash);
  changed_.notify_one();
  return {};
}

Attempt<void> Notifier::invalidate(InodeNo ino, uint64_t pos, uint64_t len, Stash& stash) {
  if (!stash) {
    const Attempt<void> queued = queue_drop(ino, pos, len, stash);
    if (!queued.ok() || !stash) return queued;
  }
  if (!stash->done) return restart_after(stash->finished, RestartReason::kernel);
  return {};
}

Attempt<void> Notifier::invalidate_soon(InodeNo ino, uint64_t pos, uint64_t len) {
  Stash job;
  return queue_drop(ino, pos, len, job);
}

Attempt<void> Notifier::forget_name(InodeNo directory, std::string name) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!running_) return {};
  if (queue_.size() >= kNotifyQueueMax) return restart_after(room_, RestartReason::kernel);
  auto job = std::make_shared<Job>();
  job->ino = directory;
  job->name = std::move(name);
  queue_.push_back(std::move(job));
  changed_.notify_one();
  return {};
}

Attempt<void> Notifier::invalidate_attr(InodeNo ino, Stash& stash) {
  if (!stash) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!running_) return {};
    }
    stash = std::make_shared<Job>();
    stash->ino = ino;
    stash->pos = -1;
  }
  if (stash->done) return {};
  return restart_after_outside([this, job = stash] {
    send(*job);
    job->done = true;
  });
}

void Notifier::run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return !queue_.empty() || !running_; });
    if (queue_.empty()) return;
    lock.unlock();
    send_next();
    woken_();
    lock.lock();
  }
}

bool Notifier::send_next() {
  Stash job;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (queue_.empty()) return false;
    job = std::move(queue_.front());
    queue_.pop_front();
  }
  const bool sent = send(*job);
  MonitorHold hold(monitor_);
  job->drop.end(sent);
  job->done = true;
  job->finished.wake_all();
  job.reset();  // a waitable goes away with the monitor held
  room_.wake_all();
  return true;
}

bool Notifier::send_name(const Job& job) {
  fuse_notify_inval_entry_out body{};
  body.parent = job.ino.value();
  body.namelen = static_cast<uint32_t>(job.name.size());
  const size_t name_bytes = job.name.size() + 1;
  fuse_out_header header{};
  header.len = static_cast<uint32_t>(sizeof(header) + sizeof(body) + name_bytes);
  header.error = FUSE_NOTIFY_INVAL_ENTRY;
  const std::array<iovec, 3> message = {iovec{&header, sizeof(header)}, iovec{&body, sizeof(body)},
                                        iovec{const_cast<char*>(job.name.c_str()), name_bytes}};
  const Result<void> sent = channel_.write(message);
  counters_.note_notify();
  return sent.ok() || sent.error() == Error::not_found;
}

bool Notifier::send(const Job& job) {
  if (!job.name.empty()) return send_name(job);
  fuse_notify_inval_inode_out body{};
  body.ino = job.ino.value();
  body.off = job.pos;
  body.len = job.len;
  fuse_out_header header{};
  header.len = sizeof(header) + sizeof(body);
  header.error = FUSE_NOTIFY_INVAL_INODE;
  const std::array<iovec, 2> message = {iovec{&header, sizeof(header)}, iovec{&body, sizeof(body)}};
  const Result<void> sent = channel_.write(message);
  counters_.note_notify();
  // not_found: the kernel has no such inode, so it has nothing cached.
  return sent.ok() || sent.error() == Error::not_found;
}

}  // namespace fusefs
