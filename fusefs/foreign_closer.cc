#include "fusefs/foreign_closer.h"

#include <system_error>
#include <thread>
#include <utility>

namespace fusefs {

void ForeignCloser::close(uint32_t uid, OwnedFd fd) {
  if (!fd) return;
  const std::lock_guard<std::mutex> lock(state_->mutex);
  User& user = state_->users[uid];
  user.waiting.push_back(std::move(fd));
  ++user.count;
  ++state_->count;
  if (user.has_thread) return;
  try {
    std::thread([state = state_, uid] { run(*state, uid); }).detach();
    user.has_thread = true;
  } catch (const std::system_error&) {
    // No thread: with his next one.
  }
}

void ForeignCloser::run(State& state, uint32_t uid) {
  while (true) {
    OwnedFd fd;
    {
      const std::lock_guard<std::mutex> lock(state.mutex);
      User& user = state.users[uid];
      if (user.waiting.empty()) {
        state.users.erase(uid);
        return;
      }
      fd = std::move(user.waiting.front());
      user.waiting.pop_front();
    }
    fd = OwnedFd();
    const std::lock_guard<std::mutex> lock(state.mutex);
    --state.users[uid].count;
    --state.count;
  }
}

size_t ForeignCloser::count() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->count;
}

size_t ForeignCloser::count_of(uint32_t uid) const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  const auto found = state_->users.find(uid);
  return found == state_->users.end() ? 0 : found->second.count;
}

}  // namespace fusefs
