#include "cli/tool.h"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace fusefs::cli {
namespace {

constexpr uint64_t kProgressFirstNs = kNsPerSecond;  // nothing for what is done sooner
constexpr uint64_t kProgressEveryNs = kNsPerSecond / 5;

}  // namespace

void Output::say(MessageSeverity severity, std::string_view text) {
  std::fprintf(stderr, "fusefs %s: %s%.*s\n", command_.c_str(),
               severity == MessageSeverity::warning ? "warning: " : "",
               static_cast<int>(text.size()), text.data());
  messages_.push_back({severity, std::string(text)});
}

void Output::warn(std::string_view text) { say(MessageSeverity::warning, text); }

void Output::complain(std::string_view text) { say(MessageSeverity::error, text); }

int Output::fail(std::string_view text, int exit_code) {
  complain(text);
  return done(Json::object(), exit_code);
}

int Output::done(Json data, int exit_code) {
  if (json_) {
    const Json document = envelope(exit_code, std::move(data));
    std::fputs(dump_json(document, JsonLayout::pretty).c_str(), stdout);
  }
  return exit_code;
}

Json Output::envelope(int exit_code, Json data) const {
  return make_envelope({"fusefs." + command_, 1, 0}, SystemClock().wall(), exit_code, messages_,
                       std::move(data));
}

std::string open_error_text(const std::string& path, Error error, const std::string& detail) {
  std::string text = path + ": ";
  if (!detail.empty()) text += detail + ": ";
  text += error_text(error);
  switch (error) {
    case Error::not_a_volume:
      return text + "; see what it is with: blkid -p " + path;
    case Error::corrupt:
      return text + "; look at it with: fusefs check -n " + path;
    case Error::newer_version:
      return text + "; use the fusefs that made it, or a later one";
    case Error::truncated_volume:
      return text + "; restore its full size before anything else";
    default:
      return text;
  }
}

Image::Image() : monitor_(clock_), scheduler_(clock_) {}

Image::~Image() { drop_background(); }

void Image::drop_background() {
  MonitorHold hold(monitor_);
  scheduler_.drop_background();
}

std::unique_ptr<Image> Image::open(const std::string& path, const DeviceOptions& options,
                                   std::string* message) {
  std::unique_ptr<Image> image(new Image());
  auto device = UringDevice::open(path, options, message);
  if (!device.ok()) return nullptr;
  image->device_ = std::move(device).value();
  auto runner = SyncRunner::create(image->monitor_, image->scheduler_, *image->device_);
  if (!runner.ok()) {
    *message = path + ": io_uring is not to be had: " + std::string(error_text(runner.error()));
    return nullptr;
  }
  image->runner_ = std::move(runner).value();
  return image;
}

Progress::Progress(std::string what, bool quiet)
    : what_(std::move(what)),
      active_(!quiet && isatty(STDERR_FILENO) == 1),
      started_ns_(SystemClock().monotonic_ns()),
      shown_ns_(started_ns_ + kProgressFirstNs - kProgressEveryNs) {}

Progress::~Progress() {
  if (printed_) std::fprintf(stderr, "\r\033[K");
}

void Progress::show(uint64_t done, uint64_t total) {
  if (!active_ || total == 0) return;
  const uint64_t now_ns = SystemClock().monotonic_ns();
  if (now_ns < shown_ns_ + kProgressEveryNs) return;
  shown_ns_ = now_ns;
  printed_ = true;
  const double part = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const double elapsed = static_cast<double>(now_ns - started_ns_) / 1e9;
  const double left = part > 0.01 ? elapsed / part - elapsed : 0.0;
  std::fprintf(stderr, "\r\033[K%s: %.0f %%, %.0f s left", what_.c_str(), part * 100, left);
}

bool parse_uuid(const std::string& text, unsigned char* uuid) {
  size_t digits = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash != (text[i] == '-')) return false;
    if (dash) continue;
    const char c = text[i];
    int value = -1;
    if (c >= '0' && c <= '9') value = c - '0';
    if (c >= 'a' && c <= 'f') value = c - 'a' + 10;
    if (c >= 'A' && c <= 'F') value = c - 'A' + 10;
    if (value < 0) return false;
    const size_t at = digits / 2;
    uuid[at] = static_cast<unsigned char>(digits % 2 == 0 ? value << 4 : uuid[at] | value);
    ++digits;
  }
  return text.size() == 36;
}

std::string human_bytes(uint64_t bytes) {
  static constexpr std::array<const char*, 7> kUnits = {"B",   "KiB", "MiB", "GiB",
                                                        "TiB", "PiB", "EiB"};
  size_t unit = 0;
  double value = static_cast<double>(bytes);
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  std::array<char, 32> text;
  const bool whole = value == static_cast<double>(static_cast<uint64_t>(value));
  std::snprintf(text.data(), text.size(), whole ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text.data();
}

}  // namespace fusefs::cli
