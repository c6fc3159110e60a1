#include "fusefs/windows.h"

#include <fcntl.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "core/base/random.h"

namespace fusefs {
namespace {

bool overlap(const FileRange& a, const FileRange& b) { return a.first < b.end && b.first < a.end; }

constexpr size_t kSecretDigits = 32;

std::optional<WindowSecret> parse_secret(std::string_view digits) {
  WindowSecret secret{};
  for (size_t i = 0; i < kSecretDigits; ++i) {
    const char c = digits[i];
    const bool decimal = c >= '0' && c <= '9';
    if (!decimal && (c < 'a' || c > 'f')) return std::nullopt;
    const auto value = static_cast<uint64_t>(decimal ? c - '0' : c - 'a' + 10);
    uint64_t& word = secret[i / 16];
    word = (word << 4) | value;
  }
  return secret;
}

}  // namespace

std::string window_name(const WindowSecret& secret) {
  char digits[kSecretDigits + 1];
  std::snprintf(digits, sizeof(digits), "%016llx%016llx",
                static_cast<unsigned long long>(secret[0]),
                static_cast<unsigned long long>(secret[1]));
  return std::string(kWindowNamePrefix) + digits;
}

// ---- Coming ----

std::shared_ptr<Window> Windows::find_window(const WindowRequest& request,
                                             Window** in_the_way) const {
  const auto [first, last] = windows_.equal_range(request.inode->ino);
  for (auto at = first; at != last; ++at) {
    Window& window = *at->second;
    if (!overlap(window.range, request.range)) continue;
    const bool same = window.range.first == request.range.first &&
                      window.range.end == request.range.end && window.kind == request.kind &&
                      window.uid == request.uid;
    if (same) return at->second;
    *in_the_way = &window;
  }
  return nullptr;
}

Attempt<std::shared_ptr<WindowHolder>> Windows::add(const WindowRequest& request) {
  Window* in_the_way = nullptr;
  std::shared_ptr<Window> window = find_window(request, &in_the_way);
  // The pin of a mapped one ends once.
  if (window && window->kind == WindowKind::mapped) in_the_way = window.get();
  if (in_the_way != nullptr) {
    const bool is_going = std::none_of(holders_.begin(), holders_.end(), [&](const auto& entry) {
      return entry.second->window.get() == in_the_way &&
             entry.second->phase != WindowHolder::Phase::ending;
    });
    if (is_going) return restart_after(in_the_way->changed, RestartReason::data_io);
    if (!window) return Error::too_busy;
  }
  if (holders_.size() >= kWindowHoldersMax) return Error::no_memory;
  const auto found = of_user_.find(request.uid);
  const OfUser had = found != of_user_.end() ? found->second : OfUser();
  if (had.holders >= kWindowHoldersMaxPerUser) return Error::no_memory;
  const uint64_t more = window ? 0 : block_bytes(request.range.count());
  if (!window && windows_.size() >= kWindowsMax) return Error::no_memory;
  if (more > kWindowBytesMaxPerUser - had.bytes || more > kWindowBytesMax - bytes_) {
    return Error::no_memory;
  }

  of_user_[request.uid] = {had.holders + 1, had.bytes + more};
  bytes_ += more;
  if (!window) {
    window = std::shared_ptr<Window>(new Window{++last_window_, request.inode, request.range,
                                                request.kind, request.uid, request.now});
    windows_.emplace(request.inode->ino, window);
  }
  ++window->holder_count;
  if (request.writable) ++window->writer_count;
  const std::shared_ptr<WindowHolder> holder(new WindowHolder{++last_holder_,
                                                              window,
                                                              {entropy(), entropy()},
                                                              request.writable,
                                                              request.gid,
                                                              request.pid,
                                                              request.now});
  holder->by_file = request.by_file;
  holder->file.inode = request.inode;
  holder->file.flags = request.writable ? O_RDWR : O_RDONLY;
  holder->file.writable = request.writable;
  holder->file.write_errors_seen = request.inode->write_error_count;
  holder->descriptor = request.descriptor;
  by_descriptor_.emplace(request.descriptor, holder->number);
  holders_.emplace(holder->number, holder);
  return holder;
}

void Windows::set_open(const std::shared_ptr<WindowHolder>& holder, Ref<Pin> pin) {
  CHECK(holder->phase == WindowHolder::Phase::opening);
  holder->pin = std::move(pin);
  holder->phase = WindowHolder::Phase::open;
  by_secret_.emplace(holder->secret, holder);
  ++stats_.opened_count;
  look_after(holder);
}

// ---- Going ----

void Windows::look_after(const std::shared_ptr<WindowHolder>& holder) {
  if (holder->phase == WindowHolder::Phase::open && !holder->is_kept()) end(holder);
}

void Windows::end(const std::shared_ptr<WindowHolder>& holder) {
  if (holder->phase == WindowHolder::Phase::ending) return;
  holder->phase = WindowHolder::Phase::ending;
  by_secret_.erase(holder->secret);
  note_taken(holder);
  if (on_gone) on_gone(holder);
}

std::shared_ptr<WindowMemory> Windows::remove(const std::shared_ptr<WindowHolder>& holder) {
  CHECK(holder->phase == WindowHolder::Phase::ending);
  if (holders_.erase(holder->number) == 0) return nullptr;
  ++stats_.ended_count;
  Window& window = *holder->window;
  const auto of_user = of_user_.find(window.uid);
  const bool is_last = window.holder_count == 1;
  if (is_last) {
    bytes_ -= window.len();
    of_user->second.bytes -= window.len();
  }
  if (--of_user->second.holders == 0) of_user_.erase(of_user);
  if (holder->writable) --window.writer_count;
  if (holders_.empty()) emptied_.wake_all();
  --window.holder_count;
  if (!is_last) return nullptr;
  const auto [first, last] = windows_.equal_range(window.inode->ino);
  windows_.erase(
      std::find_if(first, last, [&](const auto& entry) { return entry.second.get() == &window; }));
  window.changed.wake_all();
  return std::move(window.memory);
}

void Windows::end_all() {
  std::vector<std::shared_ptr<WindowHolder>> all;
  for (const auto& [number, holder] : holders_) all.push_back(holder);
  // One that is being opened ends with the operation that opens it, which finds no descriptor.
  for (const auto& holder : all) end(holder);
}

void Windows::end_faults() {
  for (const auto& [ino, window] : windows_) {
    if (window->faults) window->faults->end();
  }
}

// ---- Who is it? ----

std::shared_ptr<WindowHolder> Windows::find(uint64_t window, const WindowSecret& secret) const {
  const auto found = by_secret_.find(secret);
  if (found == by_secret_.end() || found->second->window->id != window) return nullptr;
  return found->second;
}

std::shared_ptr<WindowHolder> Windows::find_name(std::string_view name) const {
  if (holders_.empty() || !name.starts_with(kWindowNamePrefix)) return nullptr;
  name.remove_prefix(kWindowNamePrefix.size());
  if (name.size() != kSecretDigits) return nullptr;
  const std::optional<WindowSecret> secret = parse_secret(name);
  if (!secret) return nullptr;
  const auto found = by_secret_.find(*secret);
  if (found == by_secret_.end() || !found->second->by_file) return nullptr;
  return found->second;
}

std::shared_ptr<WindowHolder> Windows::find_number(uint64_t number) const {
  const auto found = holders_.find(number);
  return found == holders_.end() ? nullptr : found->second;
}

// ---- What keeps them ----

void Windows::add_lookup(uint64_t node) {
  if (const auto holder = find_node(node)) ++holder->lookups;
}

void Windows::forget(uint64_t node, uint64_t count) {
  const auto holder = find_node(node);
  if (!holder) return;
  holder->lookups -= std::min(count, holder->lookups);
  look_after(holder);
}

void Windows::close_descriptor(uint64_t handle) {
  if (by_descriptor_.empty()) return;
  std::vector<std::shared_ptr<WindowHolder>> opened;
  const auto [first, last] = by_descriptor_.equal_range(handle);
  for (auto at = first; at != last; ++at) opened.push_back(find_number(at->second));
  for (const auto& holder : opened) give_back(holder);
}

void Windows::give_back(const std::shared_ptr<WindowHolder>& holder) {
  note_taken(holder);
  look_after(holder);
}

void Windows::note_taken(const std::shared_ptr<WindowHolder>& holder) {
  if (holder->descriptor == 0) return;
  const auto [first, last] = by_descriptor_.equal_range(std::exchange(holder->descriptor, 0));
  by_descriptor_.erase(
      std::find_if(first, last, [&](const auto& entry) { return entry.second == holder->number; }));
}

void Windows::drop_connection(uint64_t number) {
  const auto holder = find_number(number);
  if (!holder) return;
  CHECK(holder->connections != 0);
  --holder->connections;
  look_after(holder);
}

// ---- What there is ----

std::vector<Windows::ByteRange> Windows::stored_ranges(InodeNo ino) const {
  std::vector<ByteRange> ranges;
  const auto [first, last] = windows_.equal_range(ino);
  for (auto at = first; at != last; ++at) {
    const Window& window = *at->second;
    if (window.writer_count != 0) ranges.push_back({window.pos(), window.len()});
  }
  return ranges;
}

const WindowStats& Windows::stats() {
  stats_.open = windows_.size();
  stats_.holders = holders_.size();
  stats_.memory_bytes = stats_.huge_bytes = 0;
  for (const auto& [ino, window] : windows_) {
    stats_.memory_bytes += window->len();
    if (window->memory) stats_.huge_bytes += window->memory->huge_bytes();
  }
  return stats_;
}

}  // namespace fusefs
