// What the ioctls of ops_ioctl.cc, ops_remap.cc, ops_clone.cc and ops_window.cc have in common:
// arguments in, answers out.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "fusefs/fusefs_ioctl.h"
#include "fusefs/operation.h"
#include "fusefs/snapshots.h"

namespace fusefs {

// What an ioctl copies out, up to the room the kernel has made from the command's size.
struct IoctlStash {
  int errno_value = 0;  // not one of the core's: ENOTTY, ESTALE
  std::vector<std::byte> out;
};

inline void answer_ioctl(Reply& reply, IoctlStash& stash) {
  if (stash.errno_value != 0) return reply.error(stash.errno_value);
  const fuse_ioctl_out head{};
  reply.data(bytes_of(head), stash.out);
}

template <class T>
void set_out(FuseOperation& op, IoctlStash& stash, const T& object) {
  const size_t room = op.request().arg<fuse_ioctl_in>().out_size;
  const ConstBytes bytes = bytes_of(object).first(std::min(sizeof(T), room));
  stash.out.assign(bytes.begin(), bytes.end());
}

// What the caller handed in, zeroes behind it.
template <class T>
T get_in(FuseOperation& op) {
  T object{};
  const auto& in = op.request().arg<fuse_ioctl_in>();
  const ConstBytes bytes = op.request().after(sizeof(in)).first(in.in_size);
  std::memcpy(&object, bytes.data(), std::min(sizeof(T), bytes.size()));
  return object;
}

// The piece that `piece` asks for, of a snapshot of `uid`'s; ESTALE when that has gone.
//   Errors  invalid_argument: beyond its end
Attempt<void> answer_piece(FuseOperation& op, IoctlStash& stash, fusefs_stats_piece& piece,
                           uint32_t uid = Snapshots::kAnybody);

// An ioctl that needs no more than the inode and an answer.
template <class Stash, class Fn>
void serve_ioctl(Fn fn) {
  struct All : IoctlStash {
    Stash own;
  };
  serve<All>([fn](FuseOperation& op, All& stash) { return fn(op, stash, stash.own); },
             [](Reply& reply, All& stash) { answer_ioctl(reply, stash); });
}

// ops_remap.cc, ops_clone.cc, ops_window.cc: true when the command is one of its own, and an
// operation has been made of it.
bool serve_remap_ioctl(unsigned command);
bool serve_clone_ioctl(unsigned command);
bool serve_window_ioctl(unsigned command);
// The same for those that a control file of a window takes.
bool serve_window_file_ioctl(unsigned command);

}  // namespace fusefs
