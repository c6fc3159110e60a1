// Replies: from what the core knows to what the kernel reads.
//
// We encode them ourselves: libfuse 3.14 can say neither the newer open flags nor what belongs to
// the requests it does not know, and data goes from its buffer to the kernel in one writev.
#pragma once

#include <sys/uio.h>

#include <optional>
#include <span>

#include "core/inode/inode.h"
#include "fusefs/channel.h"
#include "fusefs/protocol.h"

namespace fusefs {

// How long the kernel may believe what it was told: the volume has one owner, and whatever we
// change behind the kernel we tell it (notifier.h). A day, so that no mistake lives for ever.
inline constexpr uint64_t kValidSeconds = 24 * 3600;

// An inode's attributes at one moment; may leave the monitor.
struct NodeView {
  InodeAttr attr;
  BlockCount delayed_blocks;

  NodeView() = default;
  explicit NodeView(const Inode& inode) : attr(inode.attr), delayed_blocks(inode.delayed_blocks) {}
  explicit NodeView(const InodeAttr& loaded) : attr(loaded) {}
};

// Linux's 32-bit device number: 12 bits of major and 20 of minor.
uint32_t wire_device(uint64_t device);
uint64_t core_device(uint32_t device);

fuse_attr wire_attr(const NodeView& node);
fuse_attr_out wire_attr_out(const NodeView& node);
fuse_entry_out wire_entry(const NodeView& node);
// The kernel remembers that the name does not exist.
fuse_entry_out wire_no_entry();
wire::StatxOut wire_statx(const NodeView& node);

// The answer to one request; sent once.
class Reply {
 public:
  Reply(Channel& channel, uint64_t unique) : channel_(channel), unique_(unique) {}

  void error(int errno_value) { send(-errno_value, {}); }
  void empty() { send(0, {}); }
  void data(ConstBytes bytes);
  template <class T>
  void object(const T& object) {
    data(bytes_of(object));
  }
  template <class T, class U>
  void objects(const T& first, const U& second) {
    data(bytes_of(first), bytes_of(second));
  }
  void data(ConstBytes first, ConstBytes second);

  bool sent() const { return sent_; }
  // False when nobody waited for it any more.
  bool delivered() const { return delivered_; }
  int error_sent() const { return -error_; }
  size_t bytes_sent() const { return bytes_; }

 private:
  void send(int error, std::span<const ConstBytes> parts);

  Channel& channel_;
  const uint64_t unique_;
  bool sent_ = false;
  bool delivered_ = false;
  int error_ = 0;
  size_t bytes_ = 0;
};

}  // namespace fusefs
