// fusefs mkfs: refuses to overwrite what libblkid recognises, creates the file, formats.
#include <blkid/blkid.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "cli/tool.h"
#include "core/stats/json.h"
#include "core/volume/format_volume.h"
#include "fusefs/mount_options.h"

namespace fusefs::cli {
namespace {

struct MkfsArguments {
  std::string path;
  std::string size;
  std::string label;
  std::string uuid;
  bool force = false;
  bool no_discard = false;
  bool quiet = false;
  bool json = false;
  bool dry_run = false;
};

// "ext4 filesystem", "gpt partition table", or nothing.
std::string existing_content(int fd) {
  blkid_probe probe = blkid_new_probe();
  if (probe == nullptr) return {};
  std::string found;
  if (blkid_probe_set_device(probe, fd, 0, 0) == 0) {
    blkid_probe_enable_superblocks(probe, 1);
    blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE);
    blkid_probe_enable_partitions(probe, 1);
    const char* value = nullptr;
    if (blkid_do_safeprobe(probe) == 0) {
      if (blkid_probe_lookup_value(probe, "TYPE", &value, nullptr) == 0) {
        found = std::string(value) + " filesystem";
      } else if (blkid_probe_lookup_value(probe, "PTTYPE", &value, nullptr) == 0) {
        found = std::string(value) + " partition table";
      }
    }
  }
  blkid_free_probe(probe);
  return found;
}

// What is on the device by our own reading: libblkid does not know this filesystem.
bool holds_fusefs(int fd) {
  for (const uint64_t block : kSuperblockBlocks) {
    Superblock superblock{};
    const ssize_t got =
        pread(fd, &superblock, sizeof(superblock), static_cast<off_t>(block_addr(BlockNo(block))));
    if (got == static_cast<ssize_t>(sizeof(superblock)) &&
        superblock.signature == kSuperblockSignature) {
      return true;
    }
  }
  return false;
}

// Opens or creates the file; `created` says which. Returns an exit code, kExitOk to go on.
int prepare_file(const MkfsArguments& arguments, uint64_t size_bytes, bool* created, Output& out) {
  struct stat st {};
  const bool there = stat(arguments.path.c_str(), &st) == 0;
  if (!there && errno != ENOENT) {
    return out.fail(arguments.path + ": " + std::strerror(errno));
  }
  if (!there && size_bytes == 0) {
    return out.fail(arguments.path + ": no such file; give --size to create it", kExitUsage);
  }
  if (there && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
    return out.fail(arguments.path + ": neither a regular file nor a block device", kExitUsage);
  }
  const int fd =
      open(arguments.path.c_str(), O_RDWR | O_CLOEXEC | (there ? 0 : O_CREAT | O_EXCL), 0600);
  if (fd < 0) return out.fail(arguments.path + ": " + std::strerror(errno));
  *created = !there;
  int exit_code = kExitOk;
  if (there && !arguments.force) {
    const std::string found = holds_fusefs(fd) ? "fusefs filesystem" : existing_content(fd);
    if (!found.empty()) {
      exit_code = out.fail(arguments.path + ": holds a " + found + "; give -f to overwrite it");
    }
  }
  // A file grows to the size asked for; it never shrinks, that would cut off somebody's data.
  const bool grows =
      !there || (S_ISREG(st.st_mode) && static_cast<uint64_t>(st.st_size) < size_bytes);
  if (exit_code == kExitOk && !arguments.dry_run && size_bytes != 0 && grows &&
      ftruncate(fd, static_cast<off_t>(size_bytes)) != 0) {
    exit_code = out.fail(arguments.path + ": cannot be made " + human_bytes(size_bytes) +
                         " large: " + std::strerror(errno));
  }
  close(fd);
  return exit_code;
}

Json geometry_json(const std::string& path, const Superblock& superblock) {
  Json data;
  data["path"] = json_text(path);
  data["uuid"] = uuid_text(superblock.uuid);
  const auto* label = reinterpret_cast<const char*>(superblock.label);
  data["label"] = json_text(std::string_view(label, strnlen(label, kLabelBytesMax)));
  data["format_version"] = superblock.format_version.get();
  data["block_bytes"] = kBlockBytes;
  data["block_count"] = superblock.block_count.get();
  data["size_bytes"] = superblock.block_count * kBlockBytes;
  data["journal_bytes"] = superblock.journal_blocks * kBlockBytes;
  data["group_count"] = superblock.group_count.get();
  data["group_bytes"] = uint64_t{kGroupBlocks} * kBlockBytes;
  data["data_first_block"] = superblock.data_first.get();
  data["free_bytes"] = superblock.free_blocks * kBlockBytes;
  return data;
}

int report(const MkfsArguments& arguments, const Superblock& superblock, Output& out) {
  const Json data = geometry_json(arguments.path, superblock);
  if (!arguments.json && !arguments.quiet) {
    for (const auto& [key, value] : data.items()) {
      std::printf("%s=%s\n", key.c_str(),
                  value.is_string() ? value.get<std::string>().c_str() : value.dump().c_str());
    }
  }
  return out.done(data);
}

int format(const MkfsArguments& arguments, const FormatOptions& options, Output& out) {
  std::string message;
  const std::unique_ptr<Image> image = Image::open(arguments.path, {}, &message);
  if (!image) return out.fail(message);
  VolumeFormatter formatter(image->device(), options);
  const Result<void> result = image->runner().run("format", [&] { return formatter.run(); });
  if (!result.ok()) {
    const uint64_t size = image->device().geometry().size_bytes;
    if (size < kVolumeBytesMin) {
      return out.fail(arguments.path + ": " + human_bytes(size) +
                      " is too small; a volume has at least " + human_bytes(kVolumeBytesMin));
    }
    return out.fail(arguments.path + ": " + std::string(error_text(result.error())));
  }
  return report(arguments, formatter.superblock(), out);
}

int run_mkfs(const MkfsArguments& arguments) {
  Output out("mkfs", arguments.json);
  FormatOptions options;
  options.label = arguments.label;
  options.discard = !arguments.no_discard;
  options.created = SystemClock().wall();
  options.root_uid = getuid();
  options.root_gid = getgid();
  if (!arguments.size.empty()) {
    const Result<uint64_t> size = parse_size(arguments.size);
    if (!size.ok()) {
      return out.fail("--size " + arguments.size + ": not a size; say 512M or 10G", kExitUsage);
    }
    options.size_bytes = size.value();
    if (options.size_bytes < kVolumeBytesMin) {
      return out.fail("--size " + arguments.size + ": too small; a volume has at least " +
                          human_bytes(kVolumeBytesMin),
                      kExitUsage);
    }
  }
  if (arguments.label.size() > kLabelBytesMax) {
    return out.fail("-L: a label has at most " + std::to_string(kLabelBytesMax) + " bytes",
                    kExitUsage);
  }
  if (!arguments.uuid.empty()) {
    std::array<unsigned char, 16> uuid{};
    if (!parse_uuid(arguments.uuid, uuid.data())) {
      return out.fail("-U " + arguments.uuid + ": not a UUID", kExitUsage);
    }
    options.uuid = uuid;
  }
  bool created = false;
  int exit_code = prepare_file(arguments, options.size_bytes, &created, out);
  if (exit_code == kExitOk && !arguments.dry_run) exit_code = format(arguments, options, out);
  if ((exit_code != kExitOk || arguments.dry_run) && created) unlink(arguments.path.c_str());
  return exit_code;
}

}  // namespace

void add_mkfs(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<MkfsArguments>();
  CLI::App* command = app.add_subcommand("mkfs", "Make a volume in a file or on a block device");
  command->add_option("PATH", arguments->path, "File or block device")->required();
  command->add_option("-s,--size", arguments->size,
                      "Create or grow the file to this size (512M, 10G)");
  command->add_option("-L,--label", arguments->label, "Label, at most 64 bytes");
  command->add_option("-U,--uuid", arguments->uuid, "UUID instead of a random one");
  command->add_flag("-f,--force", arguments->force, "Overwrite what is there");
  command->add_flag("-K,--nodiscard", arguments->no_discard, "Do not discard the device first");
  command->add_flag("-q,--quiet", arguments->quiet, "Do not print the geometry");
  command->add_flag("-N,--dry-run", arguments->dry_run, "Only look whether it would be done");
  command->add_flag("--json", arguments->json, "Print one JSON document");
  command->callback([arguments, &exit_code] { exit_code = run_mkfs(*arguments); });
}

}  // namespace fusefs::cli
