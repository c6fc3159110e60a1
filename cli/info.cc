// fusefs info: what an image is, or what is mounted at a directory; with --udev for udev's rules.
//
// An image is only read, with plain system calls and without its lock: udev asks about devices
// that are in use, from a sandbox without io_uring.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "cli/mounted.h"
#include "cli/tool.h"
#include "core/tree/superblock_io.h"

namespace fusefs::cli {
namespace {

struct InfoArguments {
  std::string path;
  bool json = false;
  bool udev = false;
};

struct ImageFacts {
  FoundSuperblock found;
  uint64_t size_bytes = 0;
  bool in_use = false;
};

// Mounted, being checked or formatted. Whoever tries to lock it at this very moment tries again.
bool is_locked(int fd) {
  if (flock(fd, LOCK_SH | LOCK_NB) != 0) return errno == EWOULDBLOCK;
  flock(fd, LOCK_UN);
  return false;
}

SuperblockSlot read_slot(int fd, size_t slot, AlignedBuffer& buffer) {
  buffer = AlignedBuffer(kBlockBytes);
  const ssize_t got = pread(fd, buffer.data(), kBlockBytes,
                            static_cast<off_t>(block_addr(BlockNo(kSuperblockBlocks[slot]))));
  if (got < 0) return error_from_errno(errno);
  if (got < static_cast<ssize_t>(kBlockBytes)) return Error::not_a_volume;
  return SuperblockSlot(buffer.bytes());
}

//   Errors  of open(2), and of choose_superblock(); `message` is one line for people
Result<ImageFacts> read_image(const InfoArguments& arguments, std::string* message) {
  const std::string& path = arguments.path;
  const OwnedFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat st {};
  if (!fd || fstat(fd.get(), &st) != 0) {
    *message = path + ": " + std::strerror(errno);
    return error_from_errno(errno);
  }
  if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
    *message = path + ": neither a regular file nor a block device";
    return Error::not_supported;
  }
  ImageFacts facts;
  facts.size_bytes = static_cast<uint64_t>(lseek(fd.get(), 0, SEEK_END));
  std::array<AlignedBuffer, 2> buffers;
  const std::array<SuperblockSlot, 2> slots = {read_slot(fd.get(), 0, buffers[0]),
                                               read_slot(fd.get(), 1, buffers[1])};
  const Result<FoundSuperblock> found = choose_superblock(slots, facts.size_bytes);
  if (!found.ok()) {
    *message = open_error_text(path, found.error(), {});
    return found.error();
  }
  facts.found = found.value();
  if (!arguments.udev) facts.in_use = is_locked(fd.get());
  return facts;
}

std::string label_of(const Superblock& superblock) {
  const auto* label = reinterpret_cast<const char*>(superblock.label);
  return {label, strnlen(label, kLabelBytesMax)};
}

Json to_json(const std::string& path, const ImageFacts& facts) {
  const Superblock& superblock = facts.found.superblock;
  Json data;
  data["kind"] = "image";
  data["path"] = json_text(path);
  data["uuid"] = uuid_text(superblock.uuid);
  data["label"] = json_text(label_of(superblock));
  data["format_version"] = superblock.format_version.get();
  data["in_use"] = facts.in_use;
  data["clean"] = (superblock.flags & kVolumeClean) != 0;
  data["has_errors"] = (superblock.flags & kVolumeHasErrors) != 0;
  data["incompatible_features"] = json_id(superblock.incompatible_features);
  data["read_only_features"] = json_id(superblock.read_only_features);
  data["compatible_features"] = json_id(superblock.compatible_features);
  data["block_bytes"] = kBlockBytes;
  data["device_bytes"] = facts.size_bytes;
  data["size_bytes"] = superblock.block_count * kBlockBytes;
  data["free_bytes"] = superblock.free_blocks * kBlockBytes;
  data["shared_bytes"] = superblock.shared_blocks * kBlockBytes;
  data["journal_bytes"] = superblock.journal_blocks * kBlockBytes;
  data["group_count"] = superblock.group_count.get();
  data["tree_node_count"] = superblock.tree_node_count.get();
  data["checkpoint"] = superblock.checkpoint_no.get();
  data["created_unix_ns"] = superblock.created_sec * kNsPerSecond;
  data["mounted_unix_ns"] =
      superblock.mounted_sec == 0 ? Json(nullptr) : Json(superblock.mounted_sec * kNsPerSecond);
  data["mount_count"] = superblock.mount_count.get();
  data["superblock_slot"] = facts.found.slot;
  data["superblock_generation"] = superblock.header.generation.get();
  return data;
}

Json to_json(const std::string& path, const fusefs_info& info) {
  Json data;
  data["kind"] = "mounted";
  data["path"] = json_text(path);
  data["source"] = json_text(info.source);
  data["uuid"] = uuid_text(info.uuid);
  data["label"] = json_text(info.label);
  data["daemon_pid"] = info.daemon_pid;
  data["daemon_version"] = json_text(info.tool_version);
  data["read_only"] = (info.flags & FUSEFS_INFO_READ_ONLY) != 0;
  data["has_errors"] = (info.flags & FUSEFS_INFO_FAILED) != 0;
  data["fuseblk"] = (info.flags & FUSEFS_INFO_FUSEBLK) != 0;
  data["block_bytes"] = info.block_bytes;
  data["size_bytes"] = info.volume_blocks * info.block_bytes;
  data["mounted_unix_ns"] = unix_ns({info.mounted_sec, info.mounted_nsec});
  return data;
}

// One "key=value" per line, as mkfs prints its geometry.
void print_text(const Json& data) {
  for (const auto& [key, value] : data.items()) {
    const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    std::printf("%s=%s\n", key.c_str(), text.c_str());
  }
}

// Everything but letters, digits and a few marks as \xNN: what udev does to make links of it.
std::string udev_encoded(const std::string& text) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string encoded;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0 || std::strchr("#+-.:=@_", c) != nullptr || byte >= 0x80) {
      encoded += c;
    } else {
      encoded += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return encoded;
}

// The variables that udev's builtin blkid sets for the filesystems that it knows. What is not
// ours fails, and then udev sets nothing.
int print_udev(const Superblock& superblock) {
  const std::string uuid = uuid_text(superblock.uuid);
  std::printf("ID_FS_USAGE=filesystem\nID_FS_TYPE=fusefs\nID_FS_VERSION=%u\n",
              superblock.format_version.get());
  std::printf("ID_FS_UUID=%s\nID_FS_UUID_ENC=%s\n", uuid.c_str(), uuid.c_str());
  const std::string label = label_of(superblock);
  if (!label.empty()) {
    const std::string encoded = udev_encoded(label);
    std::printf("ID_FS_LABEL=%s\nID_FS_LABEL_ENC=%s\n", encoded.c_str(), encoded.c_str());
  }
  return kExitOk;
}

int run_info(const InfoArguments& arguments) {
  Output out("info", arguments.json);
  std::string message;
  struct stat st {};
  Json data;
  if (stat(arguments.path.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) {
    const std::optional<Mounted> mounted = open_mounted(arguments.path, &message);
    if (!mounted) return out.fail(message);
    data = to_json(arguments.path, mounted->info);
  } else {
    const Result<ImageFacts> facts = read_image(arguments, &message);
    if (!facts.ok()) return out.fail(message);
    if (arguments.udev) return print_udev(facts.value().found.superblock);
    data = to_json(arguments.path, facts.value());
  }
  if (!arguments.json) print_text(data);
  return out.done(std::move(data));
}

}  // namespace

void add_info(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<InfoArguments>();
  CLI::App* command =
      app.add_subcommand("info", "Tell what an image is, or what is mounted at a directory");
  command->add_option("PATH", arguments->path, "Image, block device, or mounted directory")
      ->required();
  auto* json = command->add_flag("--json", arguments->json, "Print one JSON document");
  command->add_flag("--udev", arguments->udev, "Print the variables that a udev rule imports")
      ->excludes(json);
  command->callback([arguments, &exit_code] { exit_code = run_info(*arguments); });
}

}  // namespace fusefs::cli
