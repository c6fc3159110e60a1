// WindowRig: a FuseRig with a file, and what a program says to have windows of it.
#pragma once

#include <fcntl.h>

#include <algorithm>
#include <cstdint>

#include "fusefs/fusefs_ioctl.h"
#include "tests/support/fake_kernel.h"

#include <doctest/doctest.h>

namespace fusefs {

inline constexpr uint64_t kRoot = wire::kRootNode;
inline constexpr uint64_t kPage = kBlockBytes;
inline constexpr uint32_t kPinned = FUSEFS_WINDOW_PINNED;
inline constexpr uint32_t kWrite = FUSEFS_WINDOW_WRITE;

// A rig with one file of 16 pages of 'a'.
struct WindowRig : FuseRig {
  explicit WindowRig(const TestSeed& seed, bool passthrough = true) : FuseRig(seed) {
    kernel().set_backs_files(passthrough);
    server().kernel().passthrough = passthrough;
    node = create("file", &handle).nodeid;
    model.assign(16 * kPage, std::byte{'a'});
    REQUIRE(write(node, handle, 0, model).error == 0);
  }

  FakeReply try_open(uint64_t descriptor, uint32_t flags, uint64_t pos = 0, uint64_t len = 0) {
    const uint64_t unique = send_open(descriptor, flags, pos, len);
    serve();
    return kernel().reply(unique);
  }
  // The number of the request, which is not served yet.
  uint64_t send_open(uint64_t descriptor, uint32_t flags, uint64_t pos = 0, uint64_t len = 0) {
    fusefs_window_open in{};
    in.version = 1;
    in.flags = flags;
    in.pos = pos;
    in.len = len;
    return send_ioctl(node, descriptor, FUSEFS_IOC_WINDOW_OPEN, in);
  }
  fusefs_window_open open_window(uint64_t descriptor, uint32_t flags, uint64_t pos = 0,
                                 uint64_t len = 0) {
    const FakeReply reply = try_open(descriptor, flags, pos, len);
    REQUIRE(reply.error == 0);
    return reply.as<fusefs_window_open>(sizeof(fuse_ioctl_out));
  }
  // The window's memory, as a program would map it.
  std::byte* memory(const fusefs_window_open& window) {
    return sim().world().inside([&] {
      const auto holder =
          server().windows().find(window.window, {window.secret[0], window.secret[1]});
      REQUIRE(holder);
      return holder->window->memory->frames();
    });
  }
  size_t holder_count() {
    return sim().world().inside([&] { return server().windows().holders().size(); });
  }
  size_t pin_count() {
    return sim().world().inside([&] { return sim().files().pins.all().size(); });
  }
  FakeReply fsync(uint64_t at, uint64_t descriptor) {
    fuse_fsync_in in{};
    in.fh = descriptor;
    return call(FUSE_FSYNC, at, Body(in));
  }

  uint64_t node = 0;
  uint64_t handle = 0;
  Message model;
};

inline fusefs_window_ref ref_of(const fusefs_window_open& window) {
  return {window.window, {window.secret[0], window.secret[1]}};
}

}  // namespace fusefs
