// CloneRig: a FuseRig with a file of some bytes, and another one to get its blocks.
#pragma once

#include <cstdint>

#include "fusefs/fusefs_ioctl.h"
#include "tests/support/fake_kernel.h"

#include <doctest/doctest.h>

namespace fusefs {

// What an ioctl has copied out.
template <class T>
T answer_of(const FakeReply& reply) {
  return reply.as<T>(sizeof(fuse_ioctl_out));
}

struct CloneRig : FuseRig {
  explicit CloneRig(const TestSeed& seed) : FuseRig(seed) {
    source_node = create("source", &source_handle).nodeid;
    target_node = create("target", &target_handle).nodeid;
    REQUIRE(write(source_node, source_handle, 0, data).error == 0);
  }
  fusefs_source_token token() {
    return answer_of<fusefs_source_token>(
        ioctl(source_node, source_handle, FUSEFS_IOC_SOURCE_TOKEN, 0));
  }
  Message target_content() { return read(target_node, target_handle, 0, 1 << 20).body; }

  const Message data = Message(20'000, std::byte{7});
  uint64_t source_node = 0;
  uint64_t source_handle = 0;
  uint64_t target_node = 0;
  uint64_t target_handle = 0;
};

}  // namespace fusefs
