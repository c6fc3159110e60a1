// MountedVolume: everything that one mount consists of, put together and taken apart in order.
//
//     open()    device, volume (recovered)
//     attach()  channel, handshake, threads; from here on requests are answered
//     ...       until finished() is readable: the kernel has unmounted, or stop() was called
//     close()   threads, volume (clean), the answer to DESTROY
//
// One thread calls all of it; the threads that serve are its own.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/io/run_sync.h"
#include "fusefs/fd_channel.h"
#include "fusefs/fuse_source.h"
#include "fusefs/session.h"

namespace fusefs {

class MountedVolume {
 public:
  // `log` gets sentences for people, also later, from any thread.
  MountedVolume(MountOptions options, std::function<void(const std::string&)> log);
  ~MountedVolume();
  MountedVolume(const MountedVolume&) = delete;
  MountedVolume& operator=(const MountedVolume&) = delete;

  // Opens and recovers what is at `source`; fuseblk if it is a block device and we may.
  // Errors here and below: `message` is one line for people.
  Result<void> open(const std::string& source, std::string* message);

  // Mounts on `mount_point`, absolute, and begins to serve.
  Result<void> attach(const std::string& mount_point, bool debug, std::string* message);
  // The same over a descriptor where requests come from already (tests).
  Result<void> attach_descriptor(int fd, std::string* message);
  // Once it answers, with its device number: readahead, and the reserve for mapped pages.
  void tune_mount(dev_t mount);

  // Readable when no request will come any more.
  int finished() const { return finished_.get(); }
  // Takes the mount out of the tree, on a thread of its own, while requests are served: users
  // that are still there keep it until they leave.
  void begin_unmount();
  // Ends serving, users or not. Any thread.
  void stop();
  void end_faults();

  // Everything to the device, volume clean, answer to who waits in umount(2).
  Result<void> close(std::string* message);

  Server& server() { return *server_; }
  uint32_t thread_count() const { return thread_count_; }

 private:
  Result<void> open_device(std::string* message);
  Result<void> open_volume(std::string* message);
  Result<void> begin_serving(std::string* message);
  void serve(Reactor::Role role);
  void note_finished();

  MountOptions options_;
  const std::function<void(const std::string&)> log_;
  std::string source_;
  bool fuseblk_ = false;
  uint32_t thread_count_ = 1;

  SystemClock clock_;
  Monitor monitor_;
  Scheduler scheduler_;
  std::unique_ptr<UringDevice> device_;
  std::unique_ptr<Volume> volume_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<FdChannel> channel_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<FuseSource> fuse_source_;
  std::unique_ptr<ReactorGroup> reactors_;
  std::vector<std::thread> threads_;
  std::thread unmounter_;
  OwnedFd finished_;

  // Of the threads' start.
  std::mutex start_mutex_;
  std::condition_variable started_;
  size_t started_count_ = 0;
  std::optional<Error> start_error_;
};

}  // namespace fusefs
