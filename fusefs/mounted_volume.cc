#include "fusefs/mounted_volume.h"

#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "fusefs/handshake.h"
#include "fusefs/kernel_limits.h"
#include "fusefs/process_setup.h"
#include "fusefs/window_memory.h"

namespace fusefs {
namespace {

bool is_block_device(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0 && S_ISBLK(status.st_mode);
}

// A volume that cannot be opened: what it is, and what to do about it.
std::string open_failure(const std::string& source, Error error, const std::string& detail) {
  const std::string text = source + ": " + std::string(error_text(error));
  const std::string where = detail.empty() ? "" : " (" + detail + ")";
  switch (error) {
    case Error::not_a_volume:
      return text + "; make one with fusefs mkfs";
    case Error::corrupt:
      return text + where + "; run fusefs check";
    case Error::newer_version:
      return text + "; mount it with that one";
    case Error::read_only_volume:
      return text + "; it was not unmounted and needs recovery, try -o norecovery";
    default:
      return text + where;
  }
}

// Negotiated is not allowed: in a container root may lack the capability.
bool can_back_files(Channel& channel) {
  const auto memory = WindowMemory::create(channel, kBlockBytes, true);
  return memory.ok() && memory.value()->backing() != 0;
}

uint32_t threads_for(const MountOptions& options) {
  if (options.threads != 0) return options.threads;
  return std::clamp(std::thread::hardware_concurrency(), 1u, kThreadsMax);
}

}  // namespace

MountedVolume::MountedVolume(MountOptions options, std::function<void(const std::string&)> log)
    : options_(std::move(options)),
      log_(std::move(log)),
      thread_count_(threads_for(options_)),
      monitor_(clock_),
      scheduler_(clock_),
      finished_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  CHECK(finished_);
}

MountedVolume::~MountedVolume() {
  stop();
  end_faults();
  if (server_) server_->fault_gate()->close();
  for (std::thread& thread : threads_) thread.join();
  if (server_) server_->window_socket().stop();
  if (server_) server_->notifier().stop();
  fuse_source_.reset();
  {
    // Operations that wait for what never comes, and background ones, before what they refer to.
    const MonitorHold hold(monitor_);
    scheduler_.abandon();
    server_.reset();
    volume_.reset();
  }
  session_.reset();  // closes the channel: who still uses the mount gets ENOTCONN
  if (unmounter_.joinable()) unmounter_.join();
}

// ---- The volume ----

Result<void> MountedVolume::open(const std::string& source, std::string* message) {
  source_ = source;
  const bool block_device = is_block_device(source);
  if (options_.fuseblk == true && !block_device) {
    *message = "mount option 'fuseblk': " + source + " is not a block device";
    return Error::invalid_argument;
  }
  if (options_.fuseblk == true && geteuid() != 0) {
    *message = "mount option 'fuseblk': only root can mount this way";
    return Error::not_permitted;
  }
  fuseblk_ = block_device && geteuid() == 0 && options_.fuseblk.value_or(true);
  TRY_OK(open_device(message));
  return open_volume(message);
}

Result<void> MountedVolume::open_device(std::string* message) {
  DeviceOptions device;
  device.read_only = options_.read_only;
  device.direct = options_.direct;
  device.iopoll = options_.iopoll;
  device.claim = !fuseblk_;  // the kernel's mount claims it
  device.volatile_cache_seed = options_.volatile_cache_seed;
  TRY(device_, UringDevice::open(source_, device, message));
  return {};
}

Result<void> MountedVolume::open_volume(std::string* message) {
  VolumeOptions volume;
  volume.read_only = options_.read_only;
  volume.skip_recovery = options_.skip_recovery;
  volume.discard = options_.discard;
  volume.lazytime = options_.lazytime;
  volume.atime = options_.atime;
  volume.fault_policy = options_.fault_policy;
  volume.completion = options_.completion;
  volume.self_io = options_.self_io;
  volume.lock_delay_ns = options_.lock_delay_ns;
  volume.cache_bytes = options_.cache_bytes;
  volume.readahead_bytes = options_.readahead_bytes;
  volume.pin_limit_bytes = options_.pin_limit_bytes;
  volume.pin_limit_bytes_per_user = options_.pin_limit_bytes_per_user;
  volume.pinned_policy = options_.pinned_policy;
  volume_ =
      std::make_unique<Volume>(scheduler_, *device_, clock_, volume,
                               [this](const std::string& text) { log_(source_ + ": " + text); });
  Result<std::unique_ptr<SyncRunner>> runner = SyncRunner::create(monitor_, scheduler_, *device_);
  if (!runner.ok()) {
    *message = source_ + ": io_uring is not available: " + std::string(error_text(runner.error()));
    return runner.error();
  }
  const Result<void> mounted = runner.value()->run("mount", [this] { return volume_->mount(); });
  if (mounted.ok()) return {};
  *message = open_failure(source_, mounted.error(), volume_->error_detail());
  return mounted.error();
}

// ---- Serving ----

Result<void> MountedVolume::attach(const std::string& mount_point, bool debug,
                                   std::string* message) {
  TRY(session_, Session::create(source_, options_, fuseblk_, debug, message));
  TRY_OK(session_->mount(mount_point, message));
  channel_ = std::make_unique<FdChannel>(session_->fd());
  server_ = std::make_unique<Server>(*volume_, monitor_, scheduler_, *channel_, clock_, options_,
                                     MountFacts{source_, mount_point, clock_.wall()});
  return begin_serving(message);
}

Result<void> MountedVolume::attach_descriptor(int fd, std::string* message) {
  TRY(session_, Session::create(source_, options_, fuseblk_, false, message));
  TRY_OK(session_->adopt(fd));
  channel_ = std::make_unique<FdChannel>(session_->fd());
  server_ = std::make_unique<Server>(*volume_, monitor_, scheduler_, *channel_, clock_, options_,
                                     MountFacts{source_, "", clock_.wall()});
  return begin_serving(message);
}

Result<void> MountedVolume::begin_serving(std::string* message) {
  HandshakeOptions handshake;
  handshake.patch = options_.init_patch;
  handshake.fuseblk = fuseblk_;
  handshake.max_background = options_.max_background;
  handshake.kernel_writeback = options_.kernel_writeback;
  handshake.passthrough = geteuid() == 0;
  TRY(server_->kernel(), shake_hands(*channel_, session_->get(), handshake, message));
  KernelFacts& kernel = server_->kernel();
  kernel.passthrough = kernel.passthrough && can_back_files(*channel_);

  const Bytes buffers = server_->buffers().region();
  const iovec registered{buffers.data(), buffers.size()};
  device_->register_buffers(std::span(&registered, 1));
  reactors_ = std::make_unique<ReactorGroup>(monitor_, scheduler_, *device_);
  server_->set_engine({device_.get(), reactors_.get(), thread_count_});
  fuse_source_ =
      std::make_unique<FuseSource>(*server_, session_->get(), [this] { reactors_->stop(); });
  server_->notifier().start([this] { reactors_->kick(); });
  for (size_t i = 0; i < thread_count_; ++i) {
    threads_.emplace_back([this] { serve(Reactor::Role::serving); });
  }
  if (options_.completion == CompletionPolicy::deferred) {
    threads_.emplace_back([this] { serve(Reactor::Role::completer); });
  }

  std::unique_lock<std::mutex> lock(start_mutex_);
  started_.wait(lock, [this] { return started_count_ == threads_.size(); });
  if (!start_error_) return {};
  *message = "io_uring refuses a ring per thread (" + std::string(error_text(*start_error_)) +
             "); use -o threads=1 or raise the limit of locked memory (ulimit -l)";
  return *start_error_;
}

// The reserve is twice what the kernel may keep back: it counts a share of memory, which varies,
// and looks only now and then. Where the limit is ours to set it follows from the reserve, else the
// other way round.
void MountedVolume::tune_mount(dev_t mount) {
  const KernelLimits limits(mount, fuseblk_);
  limits.set_readahead();
  std::unique_ptr<CallerFiles> caller_files = open_caller_files(mount);
  {
    const MonitorHold hold(monitor_);
    server_->set_caller_files(std::move(caller_files));
  }
  if (options_.read_only) return;
  const auto keep = [this](uint64_t bytes) {
    const MonitorHold hold(monitor_);
    return block_bytes(volume_->space().keep_writeback_reserve(BlockCount(bytes / kBlockBytes)));
  };
  const uint64_t reserve = keep(options_.mmap_reserve_bytes.value_or(kMmapReserveBytes));
  const bool limited = reserve != 0 && limits.limit_dirty(reserve / 2);
  const uint64_t dirty_bytes_max = limits.dirty_bytes_max();
  if (!limited && !options_.mmap_reserve_bytes) keep(2 * dirty_bytes_max);
  const MonitorHold hold(monitor_);
  server_->kernel().mmap_dirty_bytes_max = dirty_bytes_max;
}

void MountedVolume::serve(Reactor::Role role) {
  Result<std::unique_ptr<Reactor>> reactor = Reactor::create(*reactors_, role);
  {
    const std::lock_guard<std::mutex> lock(start_mutex_);
    ++started_count_;
    if (!reactor.ok()) start_error_ = reactor.error();
    started_.notify_all();
  }
  if (!reactor.ok()) {
    reactors_->stop();
    return;
  }
  reactor.value()->run(role == Reactor::Role::serving ? fuse_source_.get() : nullptr);
  note_finished();
}

void MountedVolume::note_finished() {
  const uint64_t one = 1;
  (void)!write(finished_.get(), &one, sizeof(one));
}

void MountedVolume::begin_unmount() {
  if (unmounter_.joinable() || !server_) return;
  // For fuseblk umount(2) returns only after close() has answered DESTROY.
  session_->note_unmounted();
  unmounter_ = std::thread([this, path = server_->facts().mount_point] {
    Result<void> result = unmount_path(path, false);
    if (!result.ok()) {
      log_(source_ + ": in use; it is unmounted when the last user leaves it");
      result = unmount_path(path, true);
    }
    if (!result.ok())
      log_(source_ + ": cannot be unmounted: " + std::string(error_text(result.error())));
  });
}

void MountedVolume::stop() {
  if (reactors_) reactors_->stop();
  note_finished();
}

// No operation waits for a program from now on.
void MountedVolume::end_faults() {
  if (!server_) return;
  {
    const MonitorHold hold(monitor_);
    server_->windows().end_faults();
  }
  if (reactors_) reactors_->kick();
}

Result<void> MountedVolume::close(std::string* message) {
  stop();
  end_faults();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  if (server_) server_->window_socket().stop();
  if (server_) server_->notifier().stop();
  {
    const MonitorHold hold(monitor_);
    if (server_) {
      server_->close_all_files();
      server_->windows().end_all();
    }
  }
  TRY(const std::unique_ptr<SyncRunner> runner, SyncRunner::create(monitor_, scheduler_, *device_));
  if (server_) {
    (void)runner->run("end windows", [&windows = server_->windows()]() -> Attempt<void> {
      if (!windows.has_any()) return {};
      return restart_after(windows.emptied(), RestartReason::data_io);
    });
  }
  const Result<void> unmounted = runner->run("unmount", [this] { return volume_->unmount(); });
  if (fuse_source_) fuse_source_->answer_destroy();
  if (unmounted.ok()) return {};
  *message = source_ +
             ": not everything could be written: " + std::string(error_text(unmounted.error())) +
             "; what was synced is safe, the next mount recovers it";
  return unmounted.error();
}

}  // namespace fusefs
